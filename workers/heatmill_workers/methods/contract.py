"""What a method is.

Shapes and types, the same for every method:

    images        (N, 3, H, W)  float32, normalised for the model, its order of colours, on its device, channels_last
    targets       (N,)          int64, the class to explain of each image, on the same device
    attributions  (N, C, h, w)  float32, signed, finite; C is 3 or 1; (h, w) may be coarser than (H, W)

A positive value says that the pixel speaks for the target's logit (or for what else the model puts out by its `head`),
a negative one that it speaks against it, as far as the method can tell. An image's result does not depend on the others
in its batch. A method never changes the model: no hooks, no `.backward()`, no attributes, no switch of the process;
several threads may use one model at once.

A method is one file in `methods/`. It holds a frozen pydantic `Params`, whose JSON Schema is the public contract,
and a function of the file's name under `@method`. The first line of the file's docstring is the method's title, the
first line of the function's is its summary. Others' methods come through the entry-point group `heatmill.explainers`.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from heatmill.catalogue.methods import MethodCost
from heatmill.errors import ItemError
from heatmill.schemas import Verdict
from heatmill_workers.engine.forward_pass import Origin
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.rounding import EPSILON, OF_FEW, Change

Capability = Literal["gradients", "spatial layer", "attention", "operations"]
Picture = Literal["signed", "magnitude", "positive"]
Checks = Mapping[str, float | int | str]
P = TypeVar("P", bound=BaseModel)


@dataclass(frozen=True)
class SelfCheck:
    """What a method found out about its own error on one image.

    Args:
        checks: Flat, finite numbers and short texts.
        verdict: None where the method has no error that can be measured.
    """

    checks: Checks = field(default_factory=dict)
    verdict: Verdict | None = None


@dataclass(frozen=True)
class MethodOutput:
    """What the function of a method returns for a batch.

    Args:
        values: One map per image, also where there is no answer.
        measured: One entry per image, or none at all. An error stands in for an image that has no answer.
        change: What each image's map is made of. A map that shows nothing but rounding is made one of zeros. None
            where the values are no differences, and are never small by cancellation.
    """

    values: Tensor
    measured: Sequence[SelfCheck | ItemError] = ()
    change: Change | None = None


@dataclass(frozen=True)
class Explanation:
    """One image's answer: (C, h, w) float32, how to draw it, what was measured; "blank" where nothing can be drawn."""

    attribution: NDArray[np.float32]
    picture: Picture
    checks: dict[str, float | int | str]
    verdict: Verdict | None


@dataclass(frozen=True)
class Method:
    """A method: its function, and what others must know of it.

    Args:
        picture: "signed": the sum over channels on a diverging map. "magnitude": the largest |value| over channels.
            "positive": the sum over channels, clipped at 0.
        needs: What the model must have.
        passes: Cost per image and target, in forward passes.
        gradient_at: Where it takes the one gradient that it needs, by `engine.passes.forward_pass`: the pass that
            predicts then serves it too.
        explains_scores: What it explains are probabilities, or a regression's values; else what the module puts out.
    """

    name: str
    title: str
    summary: str
    function: Callable[[LoadedModel, Tensor, Tensor, Any], MethodOutput]
    params: type[BaseModel]
    picture: Picture
    needs: tuple[Capability, ...]
    passes: MethodCost
    gradient_at: Origin | None = None
    explains_scores: bool = False


def method(  # noqa: PLR0913 - the declaration of a method, each by name
    params: type[P],
    *,
    picture: Picture,
    passes: MethodCost,
    needs: tuple[Capability, ...] = (),
    gradient_at: Origin | None = None,
    explains_scores: bool = False,
) -> Callable[[Callable[[LoadedModel, Tensor, Tensor, P], MethodOutput]], Method]:
    """Make a function a method; see `Method` for the arguments."""

    def decorate(function: Callable[[LoadedModel, Tensor, Tensor, P], MethodOutput]) -> Method:
        return Method(
            name=function.__name__,
            title=_first_line(sys.modules[function.__module__].__doc__),
            summary=_first_line(function.__doc__),
            function=function,
            params=params,
            picture=picture,
            needs=needs,
            passes=passes,
            gradient_at=gradient_at,
            explains_scores=explains_scores,
        )

    return decorate


def flattened(attribution: NDArray[np.float32], picture: Picture) -> NDArray[np.float32]:
    """What is drawn of an attribution (C, h, w): one value for each position, (h, w).

    Channels that cancel but for rounding add up to 0.
    """
    if picture == "magnitude":
        magnitude: NDArray[np.float32] = np.abs(attribution).max(axis=0)
        return magnitude
    total: NDArray[np.float32] = attribution.sum(axis=0, dtype=np.float32)
    if len(attribution) > 1:
        total[np.abs(total) <= OF_FEW * EPSILON * np.abs(attribution).sum(axis=0, dtype=np.float32)] = 0
    return total if picture == "signed" else np.maximum(total, 0)


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0].rstrip(".")
