"""The one way to call a method: checked before and after."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from torch import Tensor

from heatmill.catalogue.models import CAPABILITIES
from heatmill.errors import BadAttribution, InvalidRequest, ItemError, UnsupportedOperation
from heatmill.schemas import Verdict
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Explanation, Method, MethodOutput, SelfCheck, flattened
from heatmill_workers.methods.registry import explainer

# As a share of the changes that a map is made of.
NOTABLE_ROUNDING = 0.05


def explain(
    method: str, model: LoadedModel, images: Tensor, targets: Tensor, params: Mapping[str, Any]
) -> list[Explanation | ItemError]:
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
    measured = _with_rounding(found) or [SelfCheck()] * len(images)
    # Channels last, a picture takes twice as long to draw.
    maps = _in_rgb(model, _without_rounding(found)).contiguous().cpu().numpy()
    return [_item(known, one, of) for one, of in zip(maps, measured, strict=True)]


def _check_supported(known: Method, model: LoadedModel) -> None:
    missing = [need for need in known.needs if need not in model.supports]
    if missing:
        reason = model.why_missing(missing[0])
        raise UnsupportedOperation(
            f"{known.name} needs {CAPABILITIES[missing[0]]}, which {model.name} does not have{reason}"
        )


def _params(known: Method, params: Mapping[str, Any]) -> BaseModel:
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


def _check_shape(known: Method, images: Tensor, found: MethodOutput) -> None:
    shape = tuple(found.values.shape)
    if len(shape) != 4 or shape[0] != len(images) or shape[1] not in {1, 3} or found.values.dtype != torch.float32:
        raise ValueError(f"{known.name} returned {found.values.dtype} {shape} for {len(images)} images")


def _without_rounding(found: MethodOutput) -> Tensor:
    """The values; zeros where an image's are within the rounding of what they are computed from."""
    if found.change is None:
        return found.values
    return torch.where(found.change.is_real.view(-1, 1, 1, 1), found.values, 0)


def _with_rounding(found: MethodOutput) -> Sequence[SelfCheck | ItemError]:
    """What was measured; a map of which rounding may be a notable part is not precise, however well it adds up."""
    if found.change is None:
        return found.measured
    return [
        replace(of, checks={**of.checks, "rounding_error": share}, verdict="imprecise")
        if isinstance(of, SelfCheck) and of.verdict == "ok" and share > NOTABLE_ROUNDING
        else of
        for of, share in zip(found.measured, found.change.shares, strict=bool(found.measured))
    ]


def _in_rgb(model: LoadedModel, values: Tensor) -> Tensor:
    """The channels in the photo's order, which a model that reads BGR does not have."""
    reads_blue_first = model.preprocessing.channel_order == "BGR" and values.shape[1] == 3
    return values.flip(1) if reads_blue_first else values


def _item(known: Method, attribution: NDArray[np.float32], measured: SelfCheck | ItemError) -> Explanation | ItemError:
    if isinstance(measured, ItemError):
        return measured
    numbers = [value for value in measured.checks.values() if not isinstance(value, str)]
    if not np.isfinite(attribution).all() or not all(math.isfinite(number) for number in numbers):
        return BadAttribution(f"{known.name} came to values that are not finite on this image")
    # A heatmap of zeros answers nothing, however well it was computed.
    verdict: Verdict | None = measured.verdict if flattened(attribution, known.picture).any() else "blank"
    return Explanation(attribution, known.picture, dict(measured.checks), verdict)
