"""The register of DeepLIFT's rules: which function has one, and in which of its arguments it takes pairs."""

from collections.abc import Callable
from typing import Any, Literal

import torch

from heatmill.errors import UnsupportedOperation

Function = Callable[..., Any]
Rule = Callable[..., Any]
Conditions = Literal["refused", "followed", "as numbers", "kept"]

COMPILED = "the model calls what was compiled by TorchScript, which DeepLIFT cannot follow"

# They hand values to Python, where nothing can be followed.
OUT_OF_TORCH = {"__bool__", "__float__", "__int__", "__index__", "__complex__", "__array__", "item", "tolist", "numpy"}

RULES: dict[str, Rule] = {}
"""By a function's name without what marks it as in-place. A rule is called as rule(function, *args, **kwargs),
and raises UnsupportedOperation for what it cannot follow."""

PAIRS: dict[str, tuple[str, ...]] = {}
"""The first arguments of each function with a rule, those which may be pairs."""

ROW_WISE: set[str] = set()
"""Functions whose rule takes a baseline that all rows share, and makes no view of it."""

ON_CONDITIONS: dict[str, Conditions] = {}
"""What the functions do with comparisons that depend on the image."""

ON_COMPLEX: set[str] = set()
"""Functions whose rule holds for complex numbers too."""


def rule(
    *names: str,
    pairs: tuple[str, ...] = ("input",),
    row_wise: bool = False,
    conditions: Conditions = "refused",
    complex_numbers: bool = False,
) -> Callable[[Rule], Rule]:
    """Register a rule for functions of these names, as torch calls them.

    Args:
        names: Of the functions.
        pairs: Their first arguments, those which may depend on the image.
        row_wise: They belong to `ROW_WISE`.
        conditions: "followed": the rule takes comparisons. "as numbers": as 0 and 1. "kept": so, and what it gives is a
            comparison again.
        complex_numbers: They belong to `ON_COMPLEX`.
    """

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        PAIRS.update(dict.fromkeys(names, pairs))
        ON_CONDITIONS.update(dict.fromkeys(names, conditions))
        if row_wise:
            ROW_WISE.update(names)
        if complex_numbers:
            ON_COMPLEX.update(names)
        return function

    return register


def rule_of(name: str) -> Rule:
    """The rule of a function.

    Raises:
        UnsupportedOperation: It has none.
    """
    if name in OUT_OF_TORCH:
        raise UnsupportedOperation(
            f"the model takes values of the image out of torch by `{name}`, as an `if` does; DeepLIFT cannot follow it"
        )
    if name not in RULES:
        raise UnsupportedOperation(f"the model computes `{name}`, for which DeepLIFT has no rule here")
    return RULES[name]


def plain_name(func: Function) -> tuple[str, bool]:
    """A function's name without what marks it as in-place, and whether it was marked.

    Raises:
        UnsupportedOperation: It is a method of a compiled part, which may have any name, or none.
    """
    if isinstance(func, torch.ScriptMethod):
        raise UnsupportedOperation(COMPILED)
    name: str = func.__name__
    if name == "__get__":
        return str(func.__self__.__name__), False  # type: ignore[attr-defined]
    if name == "__setitem__":
        return name, True
    if name.endswith("_") and not name.endswith("__"):
        return name.removesuffix("_"), True
    return name, False
