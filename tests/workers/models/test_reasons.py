"""What libraries say of a fault fits into one line of a message."""

import warnings
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from heatmill.errors import ModelRefused
from heatmill_workers.models.reasons import reason
from tests.workers.models.proof.subjects import Net, proved, seeded


class OfOneImage(Net):
    """Takes one image, as a file that was traced with one may."""

    def read(self, features: Tensor) -> Tensor:
        return features.mean((2, 3)).view(1, 8)


def traced(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        # torch says that one should export instead; such files are there all the same.
        warnings.simplefilter("ignore")
        return cast(nn.Module, torch.jit.trace(module, torch.zeros(1, 3, 24, 24)))  # type: ignore[no-untyped-call]


def test_a_refusal_of_a_torchscript_file_has_its_reason_and_no_traceback() -> None:
    with pytest.raises(
        ModelRefused, match=r"runs on one image, and not on a batch of 5: shape .* is invalid"
    ) as caught:
        proved(traced(seeded(OfOneImage)), loader="torchscript", weights="m.pt", sha256="0" * 64)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("wrong size\n  in layer 3"), "wrong size"),
        (RuntimeError("\n  \n no memory "), "no memory"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 1000), "x" * 300),
    ],
)
def test_the_first_line_says_what_is_wrong(error: Exception, said: str) -> None:
    assert reason(error) == said
