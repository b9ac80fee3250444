"""Interval arithmetic: the range of a result from the ranges of what an operation takes.

Bounds follow from the operations, as those of a sigmoid, of a mean of sigmoids, or of `1 - p`: numbers that lie within
0..1 on a few inputs may be small logits. An operation without a rule has no bounds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log, pi
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Range:
    """All values of a tensor lie in it.

    Args:
        attained: They come near both bounds for some images, as the outputs of a linear layer do; else the bounds may
            be wider than the values are.
        constant: The tensor is the same for every image.
        is_number: It is no tensor.
        mixed: Its columns are of several kinds, as probabilities beside a value are.
        of_distances: It is made of distances or cosines, whose bounds do not make probabilities of them.
    """

    low: float
    high: float
    attained: bool = True
    constant: bool = False
    is_number: bool = False
    mixed: bool = False
    of_distances: bool = False

    @property
    def is_linear(self) -> bool:
        """Whether the values take any sign and size, as those of a linear layer do."""
        return self.attained and self.low == -inf and self.high == inf

    def within(self, low: float, high: float) -> bool:
        """Whether no value can lie outside."""
        return low <= self.low and self.high <= high


ALL = Range(-inf, inf)
UNKNOWN = Range(-inf, inf, attained=False)
UNIT = Range(0, 1)
UNIT_AROUND_ZERO = Range(-1, 1)
COSINE = Range(-1, 1, of_distances=True)
DISTANCE = Range(0, inf, of_distances=True)
POSITIVE = Range(0, inf)

FIXED: dict[str, Range] = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d", "convolution", "addmm", "batch_norm", "layer_norm"), ALL),
    **dict.fromkeys(("group_norm", "instance_norm", "bilinear", "leaky_relu", "logsumexp"), ALL),
    **dict.fromkeys(("softmax", "sigmoid", "expit", "special_expit", "hardsigmoid", "softmin", "gumbel_softmax"), UNIT),
    **dict.fromkeys(("tanh", "softsign"), UNIT_AROUND_ZERO),
    **dict.fromkeys(("log_softmax", "logsigmoid", "log_sigmoid"), Range(-inf, 0)),
    **dict.fromkeys(
        ("norm", "linalg_norm", "linalg_vector_norm", "vector_norm", "cdist", "pairwise_distance"), DISTANCE
    ),
    **dict.fromkeys(("arccos", "acos"), Range(0, pi, of_distances=True)),
    "cosine_similarity": COSINE,
    "softplus": POSITIVE,
    "relu6": Range(0, 6),
}
# Each value of the result is one of the arguments' values, or a mean of such.
HULLS = {
    *("view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "t", "get", "contiguous", "clone"),
    *("detach", "to", "float", "double", "half", "bfloat16", "type", "type_as", "getitem", "select", "narrow", "slice"),
    *("expand", "expand_as", "repeat", "mean", "amax", "amin", "avg_pool2d", "adaptive_avg_pool2d", "max_pool2d"),
    *("dropout", "flip", "roll", "index_select", "gather", "view_as", "chunk", "split", "unbind", "tensor_split"),
    *("max", "min", "alias", "copy", "lift_fresh_copy"),
}
# Sums of products: as a linear layer's, but for weighted means of probabilities.
PRODUCTS = {
    *("matmul", "rmatmul", "mm", "bmm", "mv", "einsum", "tensordot", "inner", "dot", "multi_dot", "chain_matmul"),
    *("addmv", "addbmm", "baddbmm"),
}
# What distances are made of.
SQUARES = {"square", "pow", "ipow", "abs"}
CLAMPS = {"clamp", "clip", "clamp_min", "clamp_max", "hardtanh"}
BESIDE = {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack", "setitem"}
JOINS = {*BESIDE, "maximum", "minimum"}


def range_of(name: str, operands: Sequence[Range | None], *, bounds: Range = ALL, count: float = inf) -> Range | None:
    """The range of what an operation puts out; None where it has no rule.

    Args:
        name: Such as `mul`, without underscores.
        operands: Ranges of what it takes; None of what is not known. For `mul` and its kind exactly two.
        bounds: Of a clamp.
        count: How many numbers a sum adds up.
    """
    if name in FIXED or name in PRODUCTS:
        return FIXED.get(name, None if _makes_means(name, operands) else ALL)
    found = _of_rule(name, operands, bounds, count)
    if found is not None and (name in SQUARES or any(each and each.of_distances for each in operands)):
        found = replace(found, of_distances=True)
    is_mixed = any(each and each.mixed for each in operands) or (name in BESIDE and _are_of_two_kinds(operands))
    return replace(found or UNKNOWN, mixed=True) if is_mixed else found


def _of_rule(name: str, operands: Sequence[Range | None], bounds: Range, count: float) -> Range | None:
    known = [each for each in operands if each is not None]
    if not known or len(known) < len(operands):
        return None
    if name in ARITHMETIC:
        return ARITHMETIC[name](*known) if len(known) == 2 else None
    if name in HULLS or name in JOINS:
        return hull(known)
    if name in CLAMPS:
        return _clamped(known[0], bounds)
    return _of_one(name, known[0], count)


def _are_of_two_kinds(operands: Sequence[Range | None]) -> bool:
    """Whether tensors that are put beside one another have different kinds of bounds; a constant is padding."""
    kinds = {_kind(each) for each in operands if each is None or not each.constant}
    known = kinds - {None}
    # Numbers that are not negative, as of a relu, may be of the same kind as those of which nothing is known.
    return len(known) > 1 or (None in kinds and not known <= {(False, False), (True, False)})


def _kind(one: Range | None) -> tuple[bool, bool] | None:
    return None if one is None or one == UNKNOWN else (one.low > -inf, one.high < inf)


def _makes_means(name: str, operands: Sequence[Range | None]) -> bool:
    """Whether a product may put out weighted means of probabilities: nothing that it takes is negative or unbounded."""
    is_bounded = [each is not None and each.low >= 0 and (each.constant or each.high < inf) for each in operands]
    return name in PRODUCTS and all(is_bounded)


def clamp_bounds(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    """The bounds that a clamp is called with, after its input; none where they are tensors."""
    low_name, high_name = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
    names = (high_name,) if name == "clamp_max" else (low_name, high_name)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    low, high = given.get(low_name), given.get(high_name)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return ALL
    widest = UNIT_AROUND_ZERO if name == "hardtanh" else ALL
    return Range(widest.low if low is None else low, widest.high if high is None else high)


def _of_one(name: str, one: Range, count: float) -> Range | None:
    if name == "sum":
        return _sum(one, count)
    return MONOTONE[name](one) if name in MONOTONE else None


def hull(ranges: Sequence[Range]) -> Range:
    """The smallest range around some; at least one."""
    low, high = min(each.low for each in ranges), max(each.high for each in ranges)
    is_mixed, is_distance = any(each.mixed for each in ranges), any(each.of_distances for each in ranges)
    return Range(low, high, all(each.attained for each in ranges), mixed=is_mixed, of_distances=is_distance)


def _clamped(one: Range, bounds: Range) -> Range:
    low, high = (min(max(end, bounds.low), bounds.high) for end in (one.low, one.high))
    return Range(low, high, one.attained)


def _sum(one: Range, count: float) -> Range:
    return Range(one.low * count if one.low else 0, one.high * count if one.high else 0, one.attained)


def _add(a: Range, b: Range) -> Range:
    return _joined(a, b, a.low + b.low, a.high + b.high, both=True)


def _subtract(a: Range, b: Range) -> Range:
    return _joined(a, b, a.low - b.high, a.high - b.low, both=True)


def _multiply(a: Range, b: Range) -> Range:
    # 0 x inf is 0 here: no value is infinite.
    products = [x * y if x and y else 0.0 for x in (a.low, a.high) for y in (b.low, b.high)]
    return _joined(a, b, min(products), max(products))


def _divide(a: Range, b: Range) -> Range | None:
    if b.low < 0 < b.high or b.low == b.high == 0:
        return None
    inverse = Range(1 / b.high if b.high else -inf, 1 / b.low if b.low else inf, b.attained, b.constant)
    return _multiply(a, inverse)


def _joined(a: Range, b: Range, low: float, high: float, *, both: bool = False) -> Range:
    """Of two ranges; the bounds are attained if only one of them depends on the image, or both add up."""
    attained = a.attained and b.attained and (a.constant or b.constant or both)
    return Range(low, high, attained, a.constant and b.constant)


def _exp(one: Range) -> Range:
    return Range(exp(min(one.low, 700)), exp(one.high) if one.high < 700 else inf, one.attained)


def _log(one: Range) -> Range:
    low, high = (log(each) if 0 < each < inf else (inf if each > 0 else -inf) for each in (one.low, one.high))
    return Range(low, high, one.attained)


def _power(a: Range, b: Range) -> Range | None:
    if b.low != b.high or b.low not in {2.0, 0.5} or (b.low < 1 and a.low < 0):
        return None
    return _square(a) if b.low > 1 else Range(a.low**0.5, a.high**0.5, a.attained)


def _square(one: Range) -> Range:
    ends = (one.low**2, one.high**2)
    return Range(0 if one.low < 0 < one.high else min(ends), max(ends), one.attained)


def _abs(one: Range) -> Range:
    ends = (abs(one.low), abs(one.high))
    return Range(0 if one.low < 0 < one.high else min(ends), max(ends), one.attained)


def _reversed(rule: Callable[[Range, Range], Range | None]) -> Callable[[Range, Range], Range | None]:
    return lambda a, b: rule(b, a)


ARITHMETIC: dict[str, Callable[..., Range | None]] = {
    **dict.fromkeys(("add", "iadd", "radd"), _add),
    **dict.fromkeys(("sub", "isub", "subtract"), _subtract),
    "rsub": _reversed(_subtract),
    **dict.fromkeys(("mul", "imul", "rmul", "multiply"), _multiply),
    **dict.fromkeys(("div", "idiv", "truediv", "itruediv", "divide", "true_divide"), _divide),
    **dict.fromkeys(("rdiv", "rtruediv"), _reversed(_divide)),
    **dict.fromkeys(("pow", "ipow"), _power),
}
MONOTONE: dict[str, Callable[[Range], Range | None]] = {
    "neg": lambda one: Range(-one.high, -one.low, one.attained),
    "relu": lambda one: Range(max(one.low, 0), max(one.high, 0), one.attained),
    "square": _square,
    "abs": _abs,
    "exp": _exp,
    "log": _log,
    "sqrt": lambda one: _power(one, Range(0.5, 0.5, constant=True)),
    "reciprocal": lambda one: _divide(Range(1, 1, constant=True), one),
}
