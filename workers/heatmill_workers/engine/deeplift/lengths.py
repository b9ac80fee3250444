"""Rules for lengths, distances, and what is divided by a length."""

from math import inf, prod
from typing import Any

import torch
from torch.nn import functional

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.deeplift.pairs import Pair, multiplied, sides
from heatmill_workers.engine.deeplift.register import Function, rule


@rule("norm", "linalg_vector_norm", "linalg_norm")
def norm(function: Function, source: Any, *args: Any, **kwargs: Any) -> Any:
    """Length of order p along some dimensions."""
    given = dict(zip(("p", "dim", "keepdim"), args, strict=False)) | kwargs
    power, dim = given.get("p", given.get("ord")), given.get("dim")
    if dim is None or _is_of_a_matrix(function.__name__, power, dim):
        raise UnsupportedOperation(f"the model computes `norm` with p = {power} and dim = {dim}")
    dims = list(dim) if isinstance(dim, (list, tuple)) else [dim]
    found = _length(source, 2 if power in {None, "fro"} else power, dims)
    return found if given.get("keepdim") else torch.squeeze(found, dims)


@rule("normalize")
def normalize(function: Function, source: Any, *args: Any, **kwargs: Any) -> Any:
    """Rows of length 1."""
    given = dict(zip(("p", "dim", "eps"), args, strict=False)) | kwargs
    length = torch.linalg.vector_norm(source, given.get("p", 2.0), given.get("dim", 1), keepdim=True)
    return source / length.clamp_min(given.get("eps", 1e-12))


@rule("var", "std")
def spread(function: Function, source: Any, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    """The length of what differs from the mean, over a number of values; its square."""
    given = dict(zip(("unbiased", "keepdim"), args, strict=False)) | kwargs
    name, dim = function.__name__, given.pop("axis", dim)
    if dim is None or isinstance(dim, bool):
        raise UnsupportedOperation(f"the model computes `{name}` over a whole batch")
    dims = list(dim) if isinstance(dim, (list, tuple)) else [dim]
    unbiased, correction = given.get("unbiased"), given.get("correction")
    correction = correction if correction is not None else int(unbiased is None or unbiased)
    count = prod(source.shape[each] for each in dims)
    centred = source - source.mean(dims, keepdim=True)
    if name.startswith("var"):
        found = centred.square().sum(dims, keepdim=True) / max(count - correction, 0)
    else:
        found = torch.linalg.vector_norm(centred, 2, dims, keepdim=True) / max(count - correction, 0) ** 0.5
    return found if given.get("keepdim") else torch.squeeze(found, dims)


@rule("var_mean", "std_mean")
def spread_and_mean(function: Function, source: Any, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Both, as in `var` and `std`."""
    found = (torch.var if function.__name__ == "var_mean" else torch.std)(source, dim, *args, **kwargs)
    keepdim = kwargs.get("keepdim", args[1] if len(args) > 1 else False)
    return found, source.mean(dim, keepdim=keepdim)


@rule("cosine_similarity", pairs=("x1", "x2"))
def cosine_similarity(function: Function, x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """The product of two rows of length 1."""
    both = torch.broadcast_shapes(x1.shape, x2.shape)  # type: ignore[no-untyped-call]
    one, other = (functional.normalize(each.expand(both), dim=dim, eps=eps) for each in (x1, x2))
    return (one * other).sum(dim)


@rule("pairwise_distance", pairs=("x1", "x2"))
def pairwise_distance(  # noqa: PLR0913 - torch's arguments
    function: Function, x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Any:
    """The length of a difference."""
    return torch.linalg.vector_norm(x1 - x2 + eps, p, -1, keepdim=keepdim)


@rule("cdist", pairs=("x1", "x2"))
def cdist(function: Function, x1: Any, x2: Any, p: float = 2.0, *_: Any, **__: Any) -> Any:
    """The lengths of all differences."""
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


@rule("lp_pool1d", "lp_pool2d", "lp_pool3d")
def lp_pool(  # noqa: PLR0913 - torch's arguments
    function: Function, source: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Any:
    """The lengths of windows."""
    dims = int(function.__name__[-2])
    pool: Any = getattr(functional, f"avg_pool{dims}d")
    size = kernel_size**dims if isinstance(kernel_size, int) else prod(kernel_size)
    if norm_type == 1:
        # torch sums the values themselves, not their sizes.
        return pool(source, kernel_size, stride, 0, ceil_mode) * size
    if norm_type % 2 == 0:
        return (pool(source.pow(norm_type), kernel_size, stride, 0, ceil_mode).relu() * size).pow(1 / norm_type)
    raise UnsupportedOperation(f"the model computes `{function.__name__}` with norm_type = {norm_type}")


def _length(source: Any, power: float, dims: list[int]) -> Any:
    """With the dimensions kept."""
    if power == 2:
        return _euclidean(source, dims)
    if power == 1:
        return source.abs().sum(dims, keepdim=True)
    if power == inf:
        return source.abs().amax(dims, keepdim=True)
    if not power > 1:
        raise UnsupportedOperation(f"the model computes `norm` with p = {power}")
    return source.abs().pow(power).sum(dims, keepdim=True).pow(1 / power)


def _euclidean(source: Pair, dims: list[int]) -> Pair:
    """Its change is the sum of (u + u') (u - u') over the sum of both lengths."""
    with torch.no_grad():
        value, baseline = (torch.linalg.vector_norm(side, 2, dims, keepdim=True) for side in sides(source))
        # Where both lengths are 0 so are all values, and their multipliers.
        multiplier = (source.image + source.baseline) / (value + baseline).clamp_min(torch.finfo(value.dtype).tiny)
    return Pair(multiplied((source.image * multiplier).sum(dims, keepdim=True), value), baseline)


def _is_of_a_matrix(name: str, power: Any, dim: Any) -> bool:
    is_of_two = isinstance(dim, (list, tuple)) and len(dim) == 2
    return power == "nuc" or (name == "linalg_norm" and is_of_two and power not in {None, "fro"})
