"""What is known of a method without torch: its params, what it needs, and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MethodCost:
    """Cost of a method, in forward passes of one image; a forward and backward pass counts as 2.5 (measured).

    Args:
        base: Whatever the params are.
        per_unit: What each unit of a param adds, or each entry of a list.
        upper_bound: A param that makes the method go on until it is met -> what bounds the cost then, in place of
            `per_unit`.
    """

    base: float
    per_unit: Mapping[str, float]
    upper_bound: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def estimate(self, params: Mapping[str, Any]) -> float:
        """The cost at these resolved params; the largest, where it is not known before.

        Params that an earlier version has resolved lack the bound that came later.
        """
        bounds = [bound for name, bound in self.upper_bound.items() if params.get(name) is not None]
        amounts = (
            sum(factor * _amount(params[name]) for name, factor in each.items()) for each in bounds or [self.per_unit]
        )
        return self.base + max(amounts)

    def is_fixed(self, params: Mapping[str, Any]) -> bool:
        """Whether the cost is the same for every image."""
        return all(params.get(name) is None for name in self.upper_bound)


@dataclass(frozen=True)
class Method:
    """A way to explain.

    Args:
        params: JSON Schema of its params.
        needs: Capabilities that the model must have, such as "spatial layer".
        picture: How the heatmap is drawn: "signed", "magnitude" or "positive".
    """

    name: str
    title: str
    summary: str
    params: Mapping[str, Any]
    needs: tuple[str, ...]
    picture: str
    passes: MethodCost


def method_of(entry: Mapping[str, Any]) -> Method:
    """A method as methods.json has it."""
    cost = entry["passes"]
    passes = MethodCost(cost["base"], cost["per"], cost.get("until", {}))
    return Method(**{**entry, "needs": tuple(entry["needs"]), "passes": passes})


def _amount(value: Any) -> float:
    return float(len(value) if isinstance(value, list) else value)
