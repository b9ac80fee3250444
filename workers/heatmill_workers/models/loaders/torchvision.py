"""Any classifier of torchvision.models, by torchvision's name of it."""

import pickle
import re
from typing import Any

import torchvision.models
from torch import nn

from heatmill.catalogue.models import ModelSpec, Preprocessing, spec_labels
from heatmill.errors import ModelUnavailable, WeightsUnavailable
from heatmill_workers.engine.loaded_model import Built
from heatmill_workers.models.oracle import require_agreement
from heatmill_workers.models.weights import WeightsByName, are_of_one_output, fill, read_weights, renamed

# Heads for training; the published weights have them, and eval mode does not use them.
AUXILIARY = re.compile(r"^(aux1|aux2|AuxLogits)\.")
# DenseNet's published weights still carry the names of 2017.
OLD_DENSENET_NAME = re.compile(r"\.(norm|relu|conv)\.([12])\.")


def build(spec: ModelSpec) -> Built:
    """The architecture with the operator's weights, or else with torchvision's default ones, which it downloads.

    Raises:
        ModelUnavailable: There is no such architecture, its preset does what heatmill cannot, or weights do not fit.
        WeightsUnavailable: They cannot be had on this machine now.
    """
    if spec.builds not in names():
        raise ModelUnavailable(f"model {spec.name}: torchvision has no classifier {spec.builds!r}; see `architecture`")
    preprocessing = spec.preprocessing or _checked_preprocessing(spec)
    labels = spec_labels(spec) or tuple(published(spec.builds).meta["categories"])
    module = architecture(spec.builds, len(labels), preprocessing.input_size[0])
    weights = _adapted(renamed(module, read_weights(spec, spec.weights)) if spec.weights else _download(spec))
    if are_of_one_output(module, weights):
        module = architecture(spec.builds, 1, preprocessing.input_size[0])
    fill(spec, module, weights)
    return Built(module, preprocessing, labels)


def names() -> list[str]:
    """The classifiers, quantized ones left out."""
    found: list[str] = torchvision.models.list_models(module=torchvision.models)
    return found


def architecture(name: str, classes: int, side: int) -> nn.Module:
    """The module with random weights, without the heads that only training uses.

    Args:
        name: One of `names()`.
        classes: How many logits.
        side: Of the input in pixels; only a ViT is built for one size.
    """
    options: dict[str, Any] = {"num_classes": classes}
    if name in {"googlenet", "inception_v3"}:
        # As torchvision sets them when it loads its own weights.
        options |= {"aux_logits": False, "init_weights": False, "transform_input": True}
    if name.startswith("vit_"):
        options["image_size"] = side
    module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return module


def published_preprocessing(name: str) -> Preprocessing:
    """What torchvision's default weights were evaluated with."""
    preset = published(name).transforms()
    return Preprocessing(
        resize=preset.resize_size[0],
        crop=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _checked_preprocessing(spec: ModelSpec) -> Preprocessing:
    weights = published(spec.builds)
    return require_agreement(spec, str(weights), weights.transforms(), published_preprocessing(spec.builds))


def published(name: str) -> Any:
    """Torchvision's entry of the default weights: their address, preprocessing and labels."""
    return torchvision.models.get_model_weights(name).DEFAULT


def _adapted(weights: WeightsByName) -> WeightsByName:
    return {
        OLD_DENSENET_NAME.sub(r".\1\2.", name): tensor
        for name, tensor in weights.items()
        if not AUXILIARY.match(name)
    }  # fmt: skip


def _download(spec: ModelSpec) -> WeightsByName:
    try:
        weights: WeightsByName = published(spec.builds).get_state_dict(
            progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsUnavailable(
            f"model {spec.name}: torchvision's weights of {spec.builds} cannot be had ({error}); "
            f"put the file on the worker and name it with `weights` in models.toml"
        ) from error
    return weights
