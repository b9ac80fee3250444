"""What a method is, and the one way to call it.

Shapes and types, the same for every explainer:

    images        (N, 3, H, W)  float32, normalised for the model, its order of colours, on its device, channels_last
    targets       (N,)          int64, the class to explain of each image, on the same device
    attributions  (N, C, h, w)  float32, signed, finite; C is 3 or 1; (h, w) may be coarser than (H, W)

A positive value says that the pixel speaks for the target's logit (or for what else the model puts out by its `head`),
a negative one that it speaks against it, as far as the method can tell. An image's result does not depend on the others
in its batch. An explainer never changes the model: no hooks, no `.backward()`, no attributes, no switch of the process;
several threads may use one model at once.

A method is one file in `methods/`. It holds a frozen pydantic `Params`, whose JSON Schema is the public contract,
and a function of the file's name under `@explains`. The first line of the file's docstring is the method's title, the
first line of the function's is its summary. Others' methods come through the entry-point group `heatmill.explainers`.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from torch import Tensor

from heatmill.catalogue.catalogue import Passes
from heatmill.catalogue.models import CAPABILITIES
from heatmill.errors import BadAttribution, InvalidRequest, ItemError, UnknownMethod, UnsupportedOperation
from heatmill.schemas import Verdict
from heatmill_workers.engine.forward_pass import Origin
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.rounding import EPSILON, OF_FEW, Change

EXPLAINERS = "heatmill_workers.methods"
# Files beside the methods'.
NO_METHODS = {"contract", "self_check"}
ENTRY_POINTS = "heatmill.explainers"
# As a share of the changes that a map is made of.
NOTABLE_ROUNDING = 0.05

Capability = Literal["gradients", "spatial layer", "attention", "operations"]
Picture = Literal["signed", "magnitude", "positive"]
Checks = Mapping[str, float | int | str]
P = TypeVar("P", bound=BaseModel)


@dataclass(frozen=True)
class Measured:
    """What a method found out about its own error on one image.

    Args:
        checks: Flat, finite numbers and short texts.
        verdict: None where the method has no error that can be measured.
    """

    checks: Checks = field(default_factory=dict)
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Attributions:
    """What an explainer's function returns for a batch.

    Args:
        values: One map per image, also where there is no answer.
        measured: One entry per image, or none at all. An error stands in for an image that has no answer.
        change: What each image's map is made of. A map that shows nothing but rounding is made one of zeros. None
            where the values are no differences, and are never small by cancellation.
    """

    values: Tensor
    measured: Sequence[Measured | ItemError] = ()
    change: Change | None = None


@dataclass(frozen=True)
class Explained:
    """One image's answer: (C, h, w) float32, how to draw it, what was measured; "blank" where nothing can be drawn."""

    attribution: NDArray[np.float32]
    picture: Picture
    checks: dict[str, float | int | str]
    verdict: Verdict | None


@dataclass(frozen=True)
class Explainer:
    """A method: its function, and what others must know of it.

    Args:
        picture: "signed": the sum over channels on a diverging map. "magnitude": the largest |value| over channels.
            "positive": the sum over channels, clipped at 0.
        needs: What the model must have.
        passes: Cost per image and target, in forward passes.
        gradient_of: Where it takes the one gradient that it needs, by `engine.passes.forward_pass`: the pass that
            predicts then serves it too.
        explains_scores: What it explains are probabilities, or a regression's values; else what the module puts out.
    """

    name: str
    title: str
    summary: str
    function: Callable[[LoadedModel, Tensor, Tensor, Any], Attributions]
    params: type[BaseModel]
    picture: Picture
    needs: tuple[Capability, ...]
    passes: Passes
    gradient_of: Origin | None = None
    explains_scores: bool = False


def explains(  # noqa: PLR0913 - the declaration of a method, each by name
    params: type[P],
    *,
    picture: Picture,
    passes: Passes,
    needs: tuple[Capability, ...] = (),
    gradient_of: Origin | None = None,
    explains_scores: bool = False,
) -> Callable[[Callable[[LoadedModel, Tensor, Tensor, P], Attributions]], Explainer]:
    """Make a function a method; see `Explainer` for the arguments."""

    def decorate(function: Callable[[LoadedModel, Tensor, Tensor, P], Attributions]) -> Explainer:
        return Explainer(
            name=function.__name__,
            title=_first_line(sys.modules[function.__module__].__doc__),
            summary=_first_line(function.__doc__),
            function=function,
            params=params,
            picture=picture,
            needs=needs,
            passes=passes,
            gradient_of=gradient_of,
            explains_scores=explains_scores,
        )

    return decorate


@cache
def register() -> Mapping[str, Explainer]:
    """Every method by its public name: one per file in `methods/`, and those of installed packages.

    Raises:
        ValueError: Two methods have one name.
    """
    files = sorted({module.name for module in iter_modules(import_module(EXPLAINERS).__path__)} - NO_METHODS)
    found: list[Explainer] = [getattr(import_module(f"{EXPLAINERS}.{name}"), name) for name in files]
    found += [point.load() for point in entry_points(group=ENTRY_POINTS)]
    by_name = {method.name: method for method in found}
    if len(by_name) < len(found):
        names = [method.name for method in found]
        raise ValueError(f"two explainers are called {next(name for name in names if names.count(name) > 1)!r}")
    return by_name


def explainer(name: str) -> Explainer:
    """The method of that name.

    Raises:
        UnknownMethod: There is none.
    """
    try:
        return register()[name]
    except KeyError:
        raise UnknownMethod(f"this worker has no method {name!r}") from None


def explain(
    method: str, model: LoadedModel, images: Tensor, targets: Tensor, params: Mapping[str, Any]
) -> list[Explained | ItemError]:
    """Explain each image's own target.

    Args:
        method: A name in the register.
        model: Any that has what the method needs.
        images: (N, 3, H, W) float32, normalised; moved to the model's device.
        targets: (N,) int64.
        params: The method's; defaults are filled in.

    Returns:
        One entry per image, in order: its answer or its error. Where the method cannot be right on this model
        (`UnsupportedOperation`), or not even one image fits the device (`ItemTooLargeForDevice`), each has that error.
        Three channels of an answer are red, green and blue, also where the model reads BGR.

    Raises:
        UnknownMethod: There is no such method.
        InvalidRequest: The params are not the method's.
        ValueError: The arguments, or what the explainer returned, are not as documented above.
    """
    known = explainer(method)
    values = _params(known, params)
    _check_arguments(model, images, targets)
    if len(images) == 0:
        return []
    images = images.to(model.device, memory_format=torch.channels_last)
    try:
        _check_supported(known, model)
        found = known.function(model, images, targets.to(model.device), values)
    except ItemError as error:
        return [error] * len(images)
    _check_shape(known, images, found)
    measured = _with_rounding(found) or [Measured()] * len(images)
    # Channels last, a picture takes twice as long to draw.
    maps = _in_rgb(model, _without_rounding(found)).contiguous().cpu().numpy()
    return [_item(known, one, of) for one, of in zip(maps, measured, strict=True)]


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


def _check_supported(known: Explainer, model: LoadedModel) -> None:
    missing = [need for need in known.needs if need not in model.supports]
    if missing:
        reason = model.why_missing(missing[0])
        raise UnsupportedOperation(
            f"{known.name} needs {CAPABILITIES[missing[0]]}, which {model.name} does not have{reason}"
        )


def _params(known: Explainer, params: Mapping[str, Any]) -> BaseModel:
    try:
        return known.params.model_validate(params)
    except ValidationError as error:
        raise InvalidRequest(f"params of {known.name}: {error.errors()[0]['msg']}") from error


def _check_arguments(model: LoadedModel, images: Tensor, targets: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.float32:
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; wanted float32 (N, 3, H, W)")
    if targets.shape != images.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(f"targets are {targets.dtype} {tuple(targets.shape)}; wanted int64 ({len(images)},)")
    # An index out of range would be an assertion on an accelerator, which ends its whole context.
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(model.labels):
        raise ValueError(f"targets reach from {int(targets.min())} to {int(targets.max())}; {model.name} has fewer")


def _check_shape(known: Explainer, images: Tensor, found: Attributions) -> None:
    shape = tuple(found.values.shape)
    if len(shape) != 4 or shape[0] != len(images) or shape[1] not in {1, 3} or found.values.dtype != torch.float32:
        raise ValueError(f"{known.name} returned {found.values.dtype} {shape} for {len(images)} images")


def _without_rounding(found: Attributions) -> Tensor:
    """The values; zeros where an image's are within the rounding of what they are computed from."""
    if found.change is None:
        return found.values
    return torch.where(found.change.is_real.view(-1, 1, 1, 1), found.values, 0)


def _with_rounding(found: Attributions) -> Sequence[Measured | ItemError]:
    """What was measured; a map of which rounding may be a notable part is not precise, however well it adds up."""
    if found.change is None:
        return found.measured
    return [
        replace(of, checks={**of.checks, "rounding_error": share}, verdict="imprecise")
        if isinstance(of, Measured) and of.verdict == "ok" and share > NOTABLE_ROUNDING
        else of
        for of, share in zip(found.measured, found.change.shares, strict=bool(found.measured))
    ]


def _in_rgb(model: LoadedModel, values: Tensor) -> Tensor:
    """The channels in the photo's order, which a model that reads BGR does not have."""
    reads_blue_first = model.preprocessing.channel_order == "BGR" and values.shape[1] == 3
    return values.flip(1) if reads_blue_first else values


def _item(known: Explainer, attribution: NDArray[np.float32], measured: Measured | ItemError) -> Explained | ItemError:
    if isinstance(measured, ItemError):
        return measured
    numbers = [value for value in measured.checks.values() if not isinstance(value, str)]
    if not np.isfinite(attribution).all() or not all(math.isfinite(number) for number in numbers):
        return BadAttribution(f"{known.name} came to values that are not finite on this image")
    # A heatmap of zeros answers nothing, however well it was computed.
    verdict: Verdict | None = measured.verdict if flattened(attribution, known.picture).any() else "blank"
    return Explained(attribution, known.picture, dict(measured.checks), verdict)
