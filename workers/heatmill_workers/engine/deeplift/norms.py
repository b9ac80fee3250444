"""Rules for normalisations, with the statistics of training or over the image's own values.

Of the latter: let u be a row on the image and u' on the baseline, centred where the function centres it,
q = mean(u^2) + eps and r = q^(-1/2). The row is put out as y = u r, and for every w

    y - y' = (w r + (1 - w) r') (u - u') + (w u' + (1 - w) u) (r - r').

The product rule's w = 1/2 would be complete, but where the baseline's row is constant its multipliers reach
1/sqrt(eps) and cancel each other: exact in float64, wrong in float32, and worse with every layer. The mean Jacobian of
the straight path is better, but grows by log(1/eps) a layer where the baseline's row is zero in all of them (biases
that start at zero, on a black image). w = q / (q + q') leaves no multiplier above sqrt(8 / (q + q')), since the larger
row decides, and is the gradient where both rows are one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.affine import affine
from heatmill_workers.engine.deeplift.pairs import Pair
from heatmill_workers.engine.deeplift.register import Function, rule


class _Normalised(torch.autograd.Function):
    """Normalised rows, given; backward is the product with the multipliers of these rows, centred already."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, given: tuple[Tensor, Tensor, float, bool]) -> Tensor:
        value, baseline, ctx.eps, ctx.centres = given
        ctx.save_for_backward(image, baseline)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        image, baseline = (_centred(side.double(), ctx.centres) for side in ctx.saved_tensors)
        g = gradient.double()
        q, q_baseline = (_mean(side * side) + ctx.eps for side in (image, baseline))
        roots, both = q.sqrt() + q_baseline.sqrt(), q + q_baseline
        # (r - r') / (q - q') = -1 / (sqrt(q q') (sqrt(q) + sqrt(q'))), and q - q' = mean((u + u') (u - u')).
        through_r = _mean((q * baseline + q_baseline * image) * g) / (both * (q * q_baseline).sqrt() * roots)
        found = roots / both * g - through_r * (image + baseline)
        return _centred(found, ctx.centres).to(gradient.dtype), None


@dataclass(frozen=True)
class _Scaling:
    """What follows the normalisation, as torch's functions take it."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5
    cudnn_enable: bool = True

    def apply(self, normalised: Any, shape: tuple[int, ...]) -> Any:
        """Times weight, plus bias, each in this shape."""
        weighted = normalised if self.weight is None else normalised * self.weight.view(shape)
        return weighted if self.bias is None else weighted + self.bias.view(shape)


@rule("batch_norm", row_wise=True)
def batch_norm(function: Function, source: Pair, mean: Any, variance: Any, *args: Any, **kwargs: Any) -> Any:
    """With running statistics it is affine."""
    training = args[2] if len(args) > 2 else kwargs.get("training", False)
    if training or mean is None:
        raise UnsupportedOperation("the model computes `batch_norm` with the statistics of its batch")
    return affine(function, source, mean, variance, *args, **kwargs)


@rule("layer_norm", pairs=("input", "normalized_shape", "weight", "bias"))
def layer_norm(function: Function, source: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
    """Rows over the last dimensions."""
    scaling = _Scaling(*args, **kwargs)
    normalised = _rows(functional.layer_norm, source, len(shape), scaling.eps)
    return scaling.apply(normalised, tuple(shape))


@rule("rms_norm", pairs=("input", "normalized_shape", "weight"))
def rms_norm(function: Function, source: Any, shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """As `layer_norm`, not centred."""
    eps = torch.finfo(source.dtype).eps if eps is None else eps
    return _Scaling(weight).apply(_rows(functional.rms_norm, source, len(shape), eps), tuple(shape))


@rule("group_norm", pairs=("input", "num_groups", "weight", "bias"))
def group_norm(function: Function, source: Any, groups: int, *args: Any, **kwargs: Any) -> Any:
    """Rows over groups of channels."""
    scaling = _Scaling(*args, **kwargs)
    rows = source.reshape(source.shape[0], groups, -1)
    normalised = functional.layer_norm(rows, rows.shape[-1:], eps=scaling.eps)
    return scaling.apply(normalised.view(source.shape), (-1, *[1] * (source.ndim - 2)))


@rule("instance_norm")
def instance_norm(  # noqa: PLR0913 - torch's arguments
    function: Function,
    source: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Rows over all positions of a channel; affine with running statistics."""
    if not use_input_stats:
        return affine(function, source, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    if running_mean is not None:
        raise UnsupportedOperation("the model computes `instance_norm` as in training")
    scaling = _Scaling(weight, bias)
    normalised = functional.layer_norm(source.flatten(2), (source.flatten(2).shape[-1],), eps=eps)
    return scaling.apply(normalised.view(source.shape), (-1, *[1] * (source.ndim - 2)))


@rule("local_response_norm")
def local_response_norm(  # noqa: PLR0913 - torch's arguments
    function: Function, source: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    """Divided by a power of the mean square over neighbouring channels."""
    squares = functional.pad(source.flatten(2).square().unsqueeze(1), (0, 0, size // 2, (size - 1) // 2))
    means = functional.avg_pool2d(squares, (size, 1), stride=1).squeeze(1).view(source.shape)
    return source / (means * alpha + k).pow(beta)


def _rows(normalise: Any, source: Any, dims: int, eps: float) -> Any:
    rows: Any = source.flatten(-dims)
    with torch.no_grad():
        value, baseline = (normalise(side, side.shape[-1:], eps=eps) for side in (rows.image, rows.baseline))
    given = (value, rows.baseline, eps, normalise is functional.layer_norm)
    return Pair(_Normalised.apply(rows.image, given), baseline).view(source.shape)


def _centred(rows: Tensor, centres: bool) -> Tensor:
    return rows - _mean(rows) if centres else rows


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(-1, keepdim=True)
