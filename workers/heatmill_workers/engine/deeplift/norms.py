"""Rules for normalisations over the image's own values: the mean of the Jacobian on the straight path, in closed form.

Composed of squares, roots and products, a layer norm would be complete too, but where the baseline's row is constant
its multipliers reach 1/sqrt(eps) and cancel each other: exact in float64, wrong in float32. Those of the path stay
moderate. Let u(t) = b + t d be the centred row on the path, q(t) = mean(u^2) + eps and r = q^(-1/2). The Jacobian
applied to g is

    r g - r^3 u mean(u g),  centred.

With a = mean(d^2), q is a s^2 cosh(v)^2 under t = t0 + s sinh(v), and the integrals over t of r, r^3, t r^3 and t^2 r^3
are elementary in v. Multiplier times change sums up to the change of the output, exactly.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.pairs import Function, Pair, rule

# Relative to the row's square: a shorter path is a point.
SHORTEST_PATH = 1e-12


class _OnPath(torch.autograd.Function):
    """Normalised rows, given; the gradient is the path's."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, given: tuple[Tensor, Tensor, float]) -> Tensor:
        value, baseline, ctx.eps = given
        ctx.save_for_backward(image, baseline)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        image, start = (_centred(side.double()) for side in ctx.saved_tensors)
        change, g = image - start, gradient.double()
        r, r3, t_r3, t2_r3 = _integrals(start, change, ctx.eps)
        on_start, on_change = (start * g).mean(-1, keepdim=True), (change * g).mean(-1, keepdim=True)
        bent = start * (r3 * on_start + t_r3 * on_change) + change * (t_r3 * on_start + t2_r3 * on_change)
        return _centred(r * g - bent).to(gradient.dtype), None


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


@rule("layer_norm")
def layer_norm(function: Function, source: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
    """Rows over the last dimensions."""
    scaling = _Scaling(*args, **kwargs)
    rows: Any = source.flatten(-len(shape))
    with torch.no_grad():
        value, baseline = (
            functional.layer_norm(side, side.shape[-1:], eps=scaling.eps) for side in (rows.image, rows.baseline)
        )
    normalised = Pair(_OnPath.apply(rows.image, (value, rows.baseline, scaling.eps)), baseline)
    return scaling.apply(normalised.view(source.shape), tuple(shape))


@rule("group_norm")
def group_norm(function: Function, source: Any, groups: int, *args: Any, **kwargs: Any) -> Any:
    """Rows over groups of channels."""
    scaling = _Scaling(*args, **kwargs)
    rows = source.reshape(source.shape[0], groups, -1)
    normalised = functional.layer_norm(rows, rows.shape[-1:], eps=scaling.eps)
    return scaling.apply(normalised.view(source.shape), (-1, *[1] * (source.ndim - 2)))


@rule("normalize")
def normalize(function: Function, source: Any, *args: Any, **kwargs: Any) -> Any:
    """Rows of length 1."""
    given = dict(zip(("p", "dim", "eps"), args, strict=False)) | kwargs
    if given.get("p", 2.0) != 2:
        raise UnsupportedOperation(f"the model computes `normalize` with p = {given['p']}")
    length = torch.sqrt(torch.sum(torch.square(source), given.get("dim", 1), keepdim=True))
    return source / length.clamp_min(given.get("eps", 1e-12))


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(-1, keepdim=True)


def _integrals(start: Tensor, change: Tensor, eps: float) -> list[Tensor]:
    """Integrals over t in 0..1 of r, r^3, t r^3 and t^2 r^3, each (..., 1) float64."""
    square = (start * start).mean(-1, keepdim=True) + eps
    a = (change * change).mean(-1, keepdim=True)
    still = a <= SHORTEST_PATH * square
    a = torch.where(still, 1, a)
    t0 = -(start * change).mean(-1, keepdim=True) / a
    nearest = start + t0 * change
    s = (((nearest * nearest).mean(-1, keepdim=True) + eps) / a).sqrt()
    low, high = -t0 / s, (1 - t0) / s
    low_cosh, high_cosh = (1 + low * low).sqrt(), (1 + high * high).sqrt()
    v = high.asinh() - low.asinh()
    tanh, sech = high / high_cosh - low / low_cosh, 1 / high_cosh - 1 / low_cosh
    scale = a.sqrt() ** 3
    integrals = (
        v / a.sqrt(),
        tanh / (scale * s * s),
        (t0 * tanh / s - sech) / (scale * s),
        (t0 * t0 * tanh / (s * s) - 2 * t0 * sech / s + v - tanh) / scale,
    )
    r = square.rsqrt()
    points = (r, r**3, r**3 / 2, r**3 / 3)
    return [torch.where(still, point, integral) for point, integral in zip(points, integrals, strict=True)]
