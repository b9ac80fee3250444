"""Any classifier of timm, by timm's name of it."""

from importlib import import_module
from math import floor
from typing import Any

from heatmill.errors import ModelUnavailable
from heatmill.models import ModelSpec, Preprocessing, spec_labels
from heatmill_workers.models.loaded import Built
from heatmill_workers.models.weights import are_of_one_output, fill, read_weights


def build(spec: ModelSpec) -> Built:
    """The architecture with the operator's weights, or else with timm's, which it downloads.

    Raises:
        ModelUnavailable: timm is not installed, has no such model, or the weights cannot be had or do not fit.
    """
    try:
        timm: Any = import_module("timm")
    except ImportError as error:
        raise ModelUnavailable(f"model {spec.name}: this worker has no timm; install heatmill[zoo]") from error
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
    config = timm.data.resolve_model_data_config(module)
    return Built(module, spec.preprocessing or _preprocessing(spec, config), labels)


def _downloaded(spec: ModelSpec, timm: Any) -> Any:
    try:
        return timm.create_model(spec.builds, pretrained=True)
    except Exception as error:
        raise ModelUnavailable(
            f"model {spec.name}: timm's weights of {spec.builds} cannot be had ({type(error).__name__}: {error}); "
            f"put the file on the worker and name it with `weights` in models.toml"
        ) from error


def _preprocessing(spec: ModelSpec, config: dict[str, Any]) -> Preprocessing:
    """What timm evaluates the model with.

    Raises:
        ModelUnavailable: Something that `Preprocessing` cannot say.
    """
    _, height, width = config["input_size"]
    known = config["crop_mode"] in {"center", "squash"} and config["interpolation"] in {"bilinear", "bicubic"}
    if not known or (height != width and config["crop_mode"] == "center"):
        raise ModelUnavailable(f"model {spec.name}: timm prepares images unusually; set `preprocessing` in models.toml")
    resized = floor(height / config["crop_pct"]), floor(width / config["crop_pct"])
    return Preprocessing(
        resize=resized if config["crop_mode"] == "squash" else resized[0],
        crop=(height, width),
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )
