"""Image classifiers of transformers, from a folder as `save_pretrained` writes it, or by their name on the hub.

Code that lies beside the weights is not run, and pickles are not read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from heatmill.catalogue.models import PROBLEM_TYPES, Interpolation, ModelSpec, Preprocessing, spec_labels
from heatmill.errors import ModelNotOnThisWorker, ModelUnavailable, WeightsUnavailable
from heatmill_workers.engine.loaded_model import Built
from heatmill_workers.models.loaders.timm import of_config
from heatmill_workers.models.oracle import (
    Disagreement,
    Process,
    agreeing,
    colours,
    output_size,
    processed,
    require_agreement,
    unsuitable,
)
from heatmill_workers.models.weights import fill, read_weights

# PIL's numbers, which image processors store.
FILTERS: Mapping[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
# LeViT's processor resizes the shorter side to so many times its `size`.
LEVIT_RATIO = 256 / 224
# As transformers chooses by itself, and Pillow's, which has filters that torchvision lacks.
BACKENDS = (None, "pil")


class Logits(nn.Module):
    """A transformers classifier as a module that maps images to logits."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, K)."""
        logits: Tensor = self.inner(pixel_values=images, return_dict=True).logits
        return logits

    def extra_repr(self) -> str:
        """What the weights do not show, such as the number of heads: by this, results in the cache are told apart."""
        return str(self.inner.config.to_json_string())


def build(spec: ModelSpec) -> Built:
    """The classifier with its own weights, or with the operator's file.

    Raises:
        ModelNotOnThisWorker: transformers is not installed.
        ModelUnavailable: The folder holds no whole image classifier, or its image processor does what heatmill cannot.
        WeightsUnavailable: The hub does not give the model to this machine now, or the operator's file is not there.
    """
    try:
        library: Any = import_module("transformers")
    except ImportError as error:
        raise ModelNotOnThisWorker(
            f"model {spec.name}: this worker has no transformers; install heatmill[zoo]"
        ) from error
    inner = _loaded(spec, library)
    _check_channels(spec, inner)
    if spec.weights:
        fill(spec, inner, read_weights(spec, spec.weights))
    preprocessing = spec.preprocessing or preprocessing_of(spec, _processors(spec, library))
    activation = PROBLEM_TYPES.get(inner.config.problem_type)
    return Built(Logits(inner), preprocessing, spec_labels(spec) or (), activation)


def preprocessing_of(spec: ModelSpec, processors: Iterable[Any]) -> Preprocessing:
    """What the model's image processor does, as it was seen to do it.

    Args:
        spec: For the message.
        processors: The same by several backends; the first counts that works.

    Raises:
        ModelUnavailable: Something that `Preprocessing` cannot say.
    """
    refusals = []
    for processor in processors:
        try:
            found = _measured(spec, processor)
        except Disagreement as error:
            refusals.append(unsuitable(spec, type(processor).__name__, f"{error}{_hint(processor)}"))
            continue
        # Every backend has this filter, and each decides in its own way which of two pixels that are as near is picked.
        if not refusals or found.interpolation != "nearest":
            return found
    raise refusals[0]


def _measured(spec: ModelSpec, processor: Any) -> Preprocessing:
    config = getattr(processor, "data_config", None)
    if config is not None:
        # A model of timm's in transformers' clothes.
        return require_agreement(spec, type(processor).__name__, _process(processor), of_config(spec, config))
    process = _process(processor)
    made = processed(process)
    crop = output_size(made)
    seen = colours(process, _declared(processor))
    candidates = (
        Preprocessing(
            **geometry,
            crop=crop,
            crop_rounding=rounding,
            interpolation=filter_,
            channel_order=seen.channel_order,
            mean=seen.mean,
            std=seen.std,
        )
        for geometry, filter_ in product(_geometries(processor), _filters(processor))
        # Without a crop nothing is left over.
        for rounding in (("even",) if geometry["resize"] == crop else ("down", "even"))
    )
    return agreeing(made, candidates)


def _hint(processor: Any) -> str:
    """What is likely to be the reason."""
    size = getattr(processor, "size", None) or {}
    if not getattr(processor, "do_resize", True):
        return " (its do_resize is false)"
    if size.get("longest_edge") or size.get("max_height"):
        return " (its size bounds the longer side)"
    return ""


def _process(processor: Any) -> Process:
    def process(picture: Image.Image) -> Tensor:
        made: Mapping[str, Any] = processor(picture, return_tensors="pt")
        if "pixel_values" not in made:
            raise Disagreement(f"makes {' and '.join(sorted(made))} of a photo, and no pixel_values")
        if len(made["pixel_values"]) != 1:
            raise Disagreement(f"makes {len(made['pixel_values'])} images of one photo")
        tensor: Tensor = made["pixel_values"][0]
        return tensor

    return process


def _geometries(processor: Any) -> list[Mapping[str, Any]]:
    """The ways in which processors of this library resize, by the settings that this one has."""
    size = getattr(processor, "size", None) or {}
    edge, pair = size.get("shortest_edge") or size.get("height"), (size.get("height"), size.get("width"))
    ways: list[Any] = [pair if all(pair) else edge]
    if ratio := getattr(processor, "crop_pct", None):
        # Of ConvNeXt, which from 384 pixels on does not crop, and of PoolFormer.
        ways += [int(edge / ratio), (edge, edge)] if edge else []
    if edge:
        ways.append(int(LEVIT_RATIO * edge))
    found: list[Mapping[str, Any]] = [{"resize": way} for way in ways if way]
    if short := getattr(processor, "resize_short", None):
        # Of PP-LCNet.
        found.insert(0, {"resize": (short, short), "fit": "cover"})
    return found


def _filters(processor: Any) -> Sequence[Interpolation]:
    """The one that its settings name, by Pillow's number or by name; else any."""
    resample = getattr(processor, "resample", None)
    named = getattr(resample, "value", resample)
    return tuple(name for number, name in FILTERS.items() if named in {number, name}) or tuple(FILTERS.values())


def _declared(processor: Any) -> tuple[Sequence[float], Sequence[float]] | None:
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    return (mean, std) if isinstance(mean, Sequence) and isinstance(std, Sequence) else None


def _processors(spec: ModelSpec, library: Any) -> Iterator[Any]:
    for backend in BACKENDS:
        try:
            yield library.AutoImageProcessor.from_pretrained(spec.builds, backend=backend)
        except Exception as error:
            if backend is not None:
                return
            reason = str(error).partition("\n")[0]
            raise _unavailable(spec)(
                f"model {spec.name}: transformers finds no image processor for {spec.builds} "
                f"({type(error).__name__}: {reason}); put its preprocessor_config.json there, or write "
                f"[models.preprocessing] in models.toml"
            ) from error


def _loaded(spec: ModelSpec, library: Any) -> Any:
    """The classifier."""
    auto = library.AutoModelForImageClassification
    try:
        if spec.weights:
            inner = auto.from_config(library.AutoConfig.from_pretrained(spec.builds), dtype=torch.float32)
            _name_outputs(inner)
            return inner
        # Tables that are computed and not stored would have the precision of the folder.
        options = {"use_safetensors": True, "output_loading_info": True, "dtype": torch.float32}
        inner, report = auto.from_pretrained(spec.builds, **options)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise _unavailable(spec)(
            f"model {spec.name}: transformers cannot load {spec.builds} ({type(error).__name__}: {reason}); "
            f"name a folder with its config.json and model.safetensors with `architecture` in models.toml"
        ) from error
    # transformers only warns, and goes on with random weights.
    _name_outputs(inner)
    if missing := sorted(str(name) for name in report["missing_keys"]):
        raise ModelUnavailable(f"model {spec.name}: {spec.builds} has no weights for {missing[0]}")
    return inner


def _name_outputs(inner: Any) -> None:
    """Have all parts name what they put out, though a config.json asks for tuples, which the models cannot read."""
    for config in [part.config for part in inner.modules() if hasattr(part, "config")]:
        config.return_dict = True


def _unavailable(spec: ModelSpec) -> type[ModelUnavailable | WeightsUnavailable]:
    """What is not in a folder is the operator's to mend; what a hub does not give, another machine may get."""
    return ModelUnavailable if Path(spec.builds).is_dir() else WeightsUnavailable


def _check_channels(spec: ModelSpec, inner: Any) -> None:
    channels = getattr(inner.config, "num_channels", 3)
    if channels != 3:
        raise ModelUnavailable(f"model {spec.name} reads images of {channels} channels; photos have 3")
