"""Any classifier of timm, by timm's name of it."""

from collections.abc import Mapping
from importlib import import_module
from math import floor
from typing import Any

from pydantic import ValidationError

from heatmill.catalogue.models import ModelSpec, Preprocessing, spec_labels
from heatmill.errors import ModelNotOnThisWorker, ModelUnavailable, WeightsUnavailable
from heatmill_workers.engine.loaded_model import Built
from heatmill_workers.models.oracle import require_agreement
from heatmill_workers.models.weights import are_of_one_output, fill, read_weights


def build(spec: ModelSpec) -> Built:
    """The architecture with the operator's weights, or else with timm's, which it downloads.

    Raises:
        ModelNotOnThisWorker: timm is not installed.
        ModelUnavailable: It has no such model or prepares photos as heatmill cannot, or the weights do not fit.
        WeightsUnavailable: They cannot be had on this machine now.
    """
    try:
        timm: Any = import_module("timm")
    except ImportError as error:
        raise ModelNotOnThisWorker(f"model {spec.name}: this worker has no timm; install heatmill[zoo]") from error
    if not timm.is_model(spec.builds):
        raise ModelUnavailable(f"model {spec.name}: timm has no model {spec.builds!r}; see `architecture`")
    labels = spec_labels(spec) or ()
    if spec.weights:
        module = timm.create_model(spec.builds, num_classes=len(labels))
        weights = read_weights(spec, spec.weights)
        if are_of_one_output(module, weights):
            module = timm.create_model(spec.builds, num_classes=1)
        fill(spec, module, weights)
    else:
        # Without num_classes: for another number timm would put random weights into the head.
        module = _downloaded(spec, timm)
    return Built(module, spec.preprocessing or _preprocessing(spec, timm, module), labels)


def _downloaded(spec: ModelSpec, timm: Any) -> Any:
    try:
        return timm.create_model(spec.builds, pretrained=True)
    except Exception as error:
        raise WeightsUnavailable(
            f"model {spec.name}: timm's weights of {spec.builds} cannot be had ({type(error).__name__}: {error}); "
            f"put the file on the worker and name it with `weights` in models.toml"
        ) from error


def _preprocessing(spec: ModelSpec, timm: Any, module: Any) -> Preprocessing:
    """What timm evaluates the model with.

    Raises:
        ModelUnavailable: Something that `Preprocessing` cannot say.
    """
    config = timm.data.resolve_model_data_config(module)
    process = timm.data.create_transform(**config, is_training=False)
    return require_agreement(spec, "timm.data.create_transform", process, of_config(spec, config))


def of_config(spec: ModelSpec, config: Mapping[str, Any]) -> Preprocessing:
    """What timm's settings of a model say.

    Raises:
        ModelUnavailable: Something that `Preprocessing` cannot say.
    """
    channels, height, width = config["input_size"]
    if channels != 3:
        raise ModelUnavailable(f"model {spec.name} reads images of {channels} channels; photos have 3")
    if config["crop_mode"] == "border":
        raise ModelUnavailable(
            f"model {spec.name}: timm shows it the whole photo in a border of its mean colour (`crop_mode` border), "
            f"which heatmill cannot; write [models.preprocessing] in models.toml"
        )
    resized = floor(height / config["crop_pct"]), floor(width / config["crop_pct"])
    stretched, square = config["crop_mode"] == "squash", resized[0] == resized[1]
    try:
        return Preprocessing(
            resize=resized[0] if square and not stretched else resized,
            fit="stretch" if square or stretched else "cover",
            crop=(height, width),
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )
    except ValidationError as error:
        fault = error.errors()[0]
        raise ModelUnavailable(
            f"model {spec.name}: timm's settings have {fault['loc'][0]} = {fault['input']!r}, which heatmill does not "
            f"know; write [models.preprocessing] in models.toml"
        ) from error
