"""Multipliers of a model's logits: what the methods of the DeepLIFT family call."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from heatmill.errors import HeatmillError, UnsupportedOperation
from heatmill_workers.engine.autograd import differentiable, differentiating, select

# The rules register themselves.
from heatmill_workers.engine.deeplift import (  # noqa: F401
    attention,
    comparisons,
    lengths,
    norms,
    pools,
    quotients,
)
from heatmill_workers.engine.deeplift.convolutions import Convolutions
from heatmill_workers.engine.deeplift.pairs import Pair, changed_in_place, rows_once, sides
from heatmill_workers.engine.deeplift.register import COMPILED
from heatmill_workers.engine.machine_faults import machine_fault


def multipliers(
    module: nn.Module, images: Tensor, baselines: Tensor, targets: Tensor, conv_cache: Convolutions | None = None
) -> tuple[Tensor, Tensor]:
    """Multipliers of each image's target logit against its own baseline, (N, 3, H, W), and that logit's change, (N,).

    Args:
        module: In eval mode, parameters frozen; it stays as it is, whatever happens.
        images: (N, 3, H, W).
        baselines: (N, 3, H, W); where all are one, expanded over the images, it goes through the model once.
        targets: (N,) int64.
        conv_cache: Of these images, from other baselines.

    Raises:
        UnsupportedOperation: The model computes something that has no rule; the message names it. Or its logits have
            no gradient.
    """
    found, change, _ = multipliers_and_outputs(module, images, baselines, targets, conv_cache)
    return found, change


def multipliers_and_outputs(
    module: nn.Module, images: Tensor, baselines: Tensor, targets: Tensor, conv_cache: Convolutions | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`multipliers`, and the logits of the baselines, (N, K).

    Raises:
        UnsupportedOperation: As `multipliers` does.
    """
    with differentiating():
        leaf = images.detach().requires_grad_()
        pair = Pair(leaf, _own(baselines, images))
        pair.conv_cache = conv_cache
        if conv_cache is not None:
            conv_cache.begin()
        with _refusing():
            outputs = module(pair)
        # What does not depend on the image is no pair.
        logits, of_baselines = sides(outputs)
        chosen = select(differentiable(logits), targets)
        try:
            (found,) = torch.autograd.grad(chosen.sum(), leaf)
        except RuntimeError as error:
            if changed_in_place(error):
                raise UnsupportedOperation(f"the model changes in place what it has computed with: {error}") from error
            if "is not implemented" in str(error):
                raise UnsupportedOperation(f"the model computes what torch cannot differentiate: {error}") from error
            raise
    return found, chosen.detach() - select(of_baselines, targets), of_baselines


@contextmanager
def _refusing() -> Iterator[None]:
    """A model that ran on tensors and does not run on pairs: whatever it raises now is about them.

    Raises:
        UnsupportedOperation: It raised something, and neither has memory ended nor a device failed.
    """
    try:
        yield
    except HeatmillError:
        raise
    except Exception as error:
        if machine_fault(error) is not None:
            raise
        # What a rule raises does not come out of its interpreter.
        if "TorchScript interpreter" in str(error):
            raise UnsupportedOperation(COMPILED) from error
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UnsupportedOperation(
            f"the model does not run on pairs of an image and a baseline, by which DeepLIFT follows it ({reason})"
        ) from error


def _own(baselines: Tensor, images: Tensor) -> Tensor:
    """A copy, laid out as the images are, in which rows that are one stay one."""
    rows = rows_once(baselines)
    return torch.empty_like(images[: len(rows)]).copy_(rows).expand_as(images)
