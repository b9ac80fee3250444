"""Image classifiers of transformers, from a folder as `save_pretrained` writes it, or by their name on the hub.

Code that lies beside the weights is not run, and pickles are not read.
"""

from importlib import import_module
from typing import Any

from torch import Tensor, nn

from heatmill.errors import ModelUnavailable
from heatmill.models import PROBLEM_TYPES, ModelSpec, Preprocessing, spec_labels
from heatmill_workers.models.loaded import Built
from heatmill_workers.models.weights import fill, read_weights

# PIL's numbers, which image processors store.
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
# From this size on ConvNeXt's processor does not crop.
CONVNEXT_UNCROPPED = 384


class Logits(nn.Module):
    """A transformers classifier as a module that maps images to logits."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, K)."""
        logits: Tensor = self.inner(pixel_values=images).logits
        return logits

    def extra_repr(self) -> str:
        """What the weights do not show, such as the number of heads: by this, results in the cache are told apart."""
        return str(self.inner.config.to_json_string())


def build(spec: ModelSpec) -> Built:
    """The classifier with its own weights, or with the operator's file.

    Raises:
        ModelUnavailable: transformers is not installed, the model cannot be had, or is no whole image classifier.
    """
    try:
        inner, processor = _loaded(spec)
    except ImportError as error:
        raise ModelUnavailable(f"model {spec.name}: this worker has no transformers; install heatmill[zoo]") from error
    if spec.weights:
        fill(spec, inner, read_weights(spec, spec.weights))
    return Built(
        Logits(inner),
        spec.preprocessing or preprocessing_of(spec, processor),
        spec_labels(spec) or (),
        PROBLEM_TYPES.get(inner.config.problem_type),
    )


def preprocessing_of(spec: ModelSpec, processor: Any) -> Preprocessing:
    """What the model's image processor does.

    Raises:
        ModelUnavailable: Something that `Preprocessing` cannot say.
    """
    try:
        resize, crop = _sizes(processor)
        return Preprocessing(
            resize=resize,
            crop=crop,
            interpolation=INTERPOLATIONS[int(processor.resample)],
            mean=tuple(processor.image_mean) if processor.do_normalize else (0, 0, 0),
            std=tuple(processor.image_std) if processor.do_normalize else (1, 1, 1),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelUnavailable(
            f"model {spec.name}: its image processor prepares images unusually; set `preprocessing` in models.toml"
        ) from error


def _loaded(spec: ModelSpec) -> tuple[Any, Any]:
    """The classifier, and its image processor unless the operator has a word on preprocessing."""
    library: Any = import_module("transformers")
    auto = library.AutoModelForImageClassification
    try:
        processor = None if spec.preprocessing else library.AutoImageProcessor.from_pretrained(spec.builds)
        if spec.weights:
            return auto.from_config(library.AutoConfig.from_pretrained(spec.builds)), processor
        inner, report = auto.from_pretrained(spec.builds, use_safetensors=True, output_loading_info=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ModelUnavailable(
            f"model {spec.name}: transformers cannot load {spec.builds} ({type(error).__name__}: {reason}); "
            f"name a folder with its config.json and model.safetensors with `architecture` in models.toml"
        ) from error
    # transformers only warns, and goes on with random weights.
    if missing := sorted(str(name) for name in report["missing_keys"]):
        raise ModelUnavailable(f"model {spec.name}: {spec.builds} has no weights for {missing[0]}")
    return inner, processor


def _sizes(processor: Any) -> tuple[Any, Any]:
    """Resize and crop; a size is (height, width) or a shorter side."""
    resize = _size(processor.size)
    ratio = getattr(processor, "crop_pct", None)
    if ratio is not None:
        return (int(resize / ratio), resize) if resize < CONVNEXT_UNCROPPED else ((resize, resize), resize)
    if getattr(processor, "do_center_crop", None):
        return resize, _size(processor.crop_size)
    if isinstance(resize, int):
        raise ValueError("images of different shapes, which make no batch")  # noqa: TRY004 - it is a wrong value
    return resize, resize


def _size(size: Any) -> Any:
    if size.get("shortest_edge"):
        return int(size["shortest_edge"])
    return int(size["height"]), int(size["width"])
