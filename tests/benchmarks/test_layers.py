"""Where Grad-CAM reads, on one architecture of every family: the library's own last features, or a reason."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.layers import HEADING, TIMM, TORCHVISION, calibrated, searched, transformers_sides
from heatmill_workers.engine.introspection.replaced import logits_from_layer

TABLE = Path(__file__).parents[2] / "docs" / "completeness.md"


def channels_first(features: Tensor, channels: int) -> Tensor:
    """The last features of a model of timm as (N, C, h, w)."""
    return features if features.shape[1] == channels else features.permute(0, 3, 1, 2)


@pytest.mark.verify
@pytest.mark.parametrize("name", TIMM)
def test_a_family_of_timm_is_read_at_its_own_features_or_a_reason_is_given(name: str) -> None:
    module: Any = calibrated("timm", name, TIMM[name])
    images = torch.randn(2, 3, TIMM[name], TIMM[name], generator=torch.Generator().manual_seed(0))

    found, _ = searched(module, TIMM[name])

    if found.cut is None:
        assert found.reason
        return
    with torch.enable_grad():
        _, leaf = logits_from_layer(module, images, found.cut)
    with torch.no_grad():
        features = module.forward_features(images)
    assert features.ndim == 4, "the features are tokens, and a map was read"
    wanted = channels_first(features, module.num_features)
    # Heads of some families begin with a convolution, whose map is the last one.
    assert leaf.shape[2:] == wanted.shape[2:]
    if leaf.shape == wanted.shape and not hasattr(module, "conv_head"):
        shown, theirs = leaf.detach().flatten(1), wanted.flatten(1)
        alike = torch.nn.functional.cosine_similarity(shown - shown.mean(0), theirs - theirs.mean(0))
        assert alike.min() > 0.5


@pytest.mark.verify
@pytest.mark.parametrize("name", TORCHVISION)
def test_a_family_of_torchvision_is_read_or_a_reason_is_given(name: str) -> None:
    found, tokens = searched(calibrated("torchvision", name, TORCHVISION[name]), TORCHVISION[name])

    assert (found.cut is None) == (name == "vit_b_32")
    assert (tokens.tokens is not None) == (name == "vit_b_32")


def test_the_kept_table_has_every_family() -> None:
    rows = [
        line.split(" | ") for line in TABLE.read_text("utf-8").partition(HEADING)[2].splitlines() if line[:2] == "| "
    ]

    assert {row[0].strip("| ") for row in rows[1:]} == {*TIMM, *TORCHVISION, *transformers_sides()}
    assert all(len(row) == 5 and all(cell.strip() for cell in row) for row in rows)
