"""Every module of torch is complete, or refused by the name of what it computes."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import (
    activation,
    channelshuffle,
    conv,
    distance,
    dropout,
    flatten,
    fold,
    instancenorm,
    linear,
    normalization,
    padding,
    pixelshuffle,
    pooling,
    upsampling,
)

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.multipliers import multipliers
from tests.workers.engine.deeplift.modules import Net
from tests.workers.engine.deeplift.test_multipliers import TARGETS, batch, error

FILES: list[ModuleType] = [
    *(activation, channelshuffle, conv, distance, dropout, flatten, fold, instancenorm, linear, normalization),
    *(padding, pixelshuffle, pooling, upsampling),
]
# Modules of maps (N, 8, 8, 8) by their arguments; None where all are optional.
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "Threshold": (0.1, 0.5),
    "MultiheadAttention": (8, 2),
    "ChannelShuffle": (2,),
    "Unflatten": (1, (2, 4)),
    "Unfold": (3,),
    "Fold": ((9, 9), (2, 2)),
    "Linear": (8, 8),
    "Bilinear": (8, 8, 8),
    "LocalResponseNorm": (3,),
    "CrossMapLRN2d": (3,),
    "LayerNorm": (8,),
    "RMSNorm": (8,),
    "GroupNorm": (4, 8),
    "PixelShuffle": (2,),
    "PixelUnshuffle": (2,),
    "Upsample": (None, 2),
    "UpsamplingNearest2d": (None, 2),
    "UpsamplingBilinear2d": (None, 2),
    "Softmax": (1,),
    "LogSoftmax": (1,),
    "Softmin": (1,),
    "CosineSimilarity": (1,),
    "MaxUnpool1d": (2,),
    "MaxUnpool2d": (2,),
    "MaxUnpool3d": (2,),
    "FractionalMaxPool2d": (2, (4, 4)),
    "FractionalMaxPool3d": (2, (4, 4, 4)),
}
OF_A_KIND: dict[str, tuple[object, ...]] = {
    "Conv": (8, 8, 3),
    "InstanceNorm": (8,),
    "LPPool": (2, 2),
    "Adaptive": (2,),
    "ConstantPad": (1, 0.5),
    "Pool": (2,),
    "Pad": (1,),
}
# What has no rule, and the words of the refusal.
REFUSED = {
    "MaxUnpool1d": "max_unpool1d",
    "MaxUnpool2d": "max_unpool2d",
    "MaxUnpool3d": "max_unpool3d",
    "FractionalMaxPool2d": "fractional_max_pool2d",
    "FractionalMaxPool3d": "fractional_max_pool3d",
    "CrossMapLRN2d": "new",
}
# Of no layer that runs by itself, or of other shapes.
LEFT_OUT = {"Identity", "Lazy", "ConvTransposeMixin", "NonDynamicallyQuantizableLinear", "AdaptiveLogSoftmaxWithLoss"}


def classes() -> dict[str, type[nn.Module]]:
    found = {name: getattr(file, name) for file in FILES for name in file.__all__}
    return {name: kind for name, kind in found.items() if not any(name.startswith(left) for left in LEFT_OUT)}


def built(name: str) -> Any:
    arguments = ARGUMENTS.get(name)
    if arguments is None:
        arguments = next((given for kind, given in OF_A_KIND.items() if kind in name), ())
    torch.manual_seed(0)
    return classes()[name](*arguments).eval()


def body(name: str, module: Any) -> Callable[[Tensor], Tensor]:
    """It applied to maps, in the shape that it takes."""

    def applied(maps: Tensor) -> Any:
        if name in {"Bilinear", "CosineSimilarity", "PairwiseDistance"}:
            return module(maps, maps.flip(1).tanh()).reshape(len(maps), -1)
        if name == "MultiheadAttention":
            sequence = maps.flatten(2).permute(2, 0, 1)
            return module(sequence, sequence, sequence)[0].transpose(0, 1)
        if name.startswith("MaxUnpool"):
            pool = getattr(nn.functional, f"max_pool{name[-2]}d")
            return module(*pool(_shaped(name, maps), 2, return_indices=True)).reshape(len(maps), -1)
        return module(_shaped(name, maps)).reshape(len(maps), -1)

    return lambda maps: _eight(applied(maps))


@pytest.mark.parametrize("name", sorted(classes()))
def test_a_module_is_complete_or_refused_by_name(name: str) -> None:
    module = built(name)
    net = Net(body(name, module), module)

    if name in REFUSED:
        with pytest.raises(UnsupportedOperation, match=REFUSED[name]):
            multipliers(net, batch(0), batch(1), TARGETS)
    else:
        assert error(net, batch(0), batch(1)) < 1e-3


def _shaped(name: str, maps: Tensor) -> Tensor:
    if name == "Fold":
        return maps.reshape(len(maps), 8, 64)
    if "1d" in name:
        return maps.flatten(2)
    if "3d" in name:
        return maps.unsqueeze(2).expand(-1, -1, 8, -1, -1)
    if name == "UpsamplingNearest2d":
        return maps.sigmoid()
    return maps


def _eight(values: Tensor) -> Tensor:
    """Eight channels of what came out."""
    return values.flatten(1)[:, : values.flatten(1).shape[1] // 8 * 8].reshape(len(values), 8, -1) * 3
