"""What an operator writes about a model. The API reads it to know what exists, the workers to load it."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from heatmill.catalogue.labels import STOCK, config_labels, config_problem_type, read_labels, stock_labels
from heatmill.schemas.vocabulary import Activation

# Its weights come with the workers: what demo and submit explain where nothing else is said.
BUNDLED_MODEL = "efficientnet_lite0"

# What an image may be compared with.
Baseline = Literal["mean", "black", "white", "blur"]
# What SHAP compares an image with: a name, or an image by its URI.
BackgroundEntry = Annotated[
    str,
    Field(
        max_length=2048,
        pattern=r"^(mean|black|white|blur|upload://[0-9a-f]{64}|s3://[^/]+/.*[^/])$",
        description="mean, black, white, blur, or an image's upload:// or s3:// URI",
    ),
]
# What shap's own examples draw from a data set.
MAX_BACKGROUND = 100

Channels = tuple[float, float, float]
# What transformers calls the problem that a model was trained for; of one label a model may say nothing.
PROBLEM_TYPES: Mapping[str, Activation] = {"multi_label_classification": "sigmoid", "regression": "none"}
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Size = PositiveInt | tuple[PositiveInt, PositiveInt]

# What a model may have and a method may need, and how a message puts it after "needs".
CAPABILITIES: Mapping[str, str] = {
    "gradients": "gradients at the image",
    "spatial layer": "a spatial layer",
    "attention": "attention between all patches",
    "operations": "operations that can be followed one by one",
}
# A compiled file runs as one piece: what happens inside of it is nobody's to see.
OPAQUE_LOADERS = frozenset({"torch_export", "torchscript"})
Loader = Literal["bundled", "torchvision", "timm", "transformers", "python", "torch_export", "torchscript"]
# What the loader's library cannot know, or the API not without it.
COMPILED = ("weights", "sha256", "labels", "preprocessing")
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "timm": ("labels",),
    "python": ("architecture", "labels", "preprocessing"),
    "torch_export": COMPILED,
    "torchscript": COMPILED,
}


class Preprocessing(BaseModel):
    """How a photo becomes the tensor that the model sees: resize, centre crop, normalise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: Size = Field(256, description="Length of the shorter side in pixels, or (height, width).")
    crop: Size = Field(224, description="Side of the centre crop in pixels, or (height, width).")
    fit: Literal["stretch", "cover"] = Field(
        "stretch",
        description="How (height, width) of `resize` is met: each side by itself, or both sides by one factor, so that "
        "the photo covers them.",
    )
    crop_rounding: Literal["even", "down"] = Field(
        "even",
        description="Where the crop begins if half a pixel is left over: at the even pixel, as torchvision, or before "
        "it, as transformers.",
    )
    interpolation: Interpolation = Field("bilinear", description="Pillow's filters, antialiased except for nearest.")
    channel_order: Literal["RGB", "BGR"] = Field("RGB", description="In which order the model reads the colours.")
    mean: Channels = Field((0.485, 0.456, 0.406), description="Per channel in the model's order, for pixels in 0..1.")
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (0.229, 0.224, 0.225), description="Per channel in the model's order."
    )
    reduced_decoding: bool = Field(
        True, description="Decode a JPEG to 1/2, 1/4 or 1/8 of its size where that is twice `resize` or more."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.fit == "cover" and isinstance(self.resize, int):
            raise ValueError("`fit` needs `resize` as (height, width)")
        return self

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the model's input in pixels."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop


class ModelSpec(BaseModel):
    """One `[[models]]` entry of models.toml. Relative paths start at that file's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = Field(description="What callers write.")
    loader: Loader = Field(description="Where the architecture comes from.")
    architecture: str | None = Field(
        None, description="The loader's own name of it, where `name` is another; a folder; or `module:factory`."
    )
    weights: Path | None = Field(
        None, description="A .safetensors file, a .pth that holds tensors only, or the compiled file; or its s3:// URI."
    )
    weights_uri: str | None = Field(None, description="Where `weights` is an s3:// URI, that URI; never written.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="Of the weights file; a must where it has a URI or can hold code."
    )
    labels: Path | tuple[str, ...] | None = Field(
        None, description="Class names, a .json or .txt file of them, or `imagenet`."
    )
    cam_layer: str | None = Field(None, description="Module whose map Grad-CAM uses; found by itself where absent.")
    output: str | Annotated[int, Field(ge=0)] | None = Field(
        None, description="Which of a model's several outputs are the logits: a key, or a position from 0."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="The precision to run in, whatever that of the weights' file."
    )
    activation: Activation | None = Field(
        None, description="What turns the model's outputs into probabilities; found when the model is loaded if absent."
    )
    preprocessing: Preprocessing | None = Field(None, description="In place of the loader's own.")
    baseline: Baseline | None = Field(
        None,
        description="What integrated_gradients and deep_lift compare with, and what hides regions in partition_shap, "
        "where a job does not say.",
    )
    background: Annotated[tuple[BackgroundEntry, ...], Field(min_length=1, max_length=MAX_BACKGROUND)] | None = Field(
        None, description="What SHAP compares with where a job does not say: names or s3:// URIs of images."
    )

    @model_validator(mode="before")
    @classmethod
    def _tell_uri_from_path(cls, entry: Any) -> Any:
        if isinstance(entry, dict) and str(entry.get("weights", "")).startswith("s3://"):
            return {**entry, "weights": None, "weights_uri": entry["weights"]}
        return entry

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for field in REQUIRED.get(self.loader, ()):
            if getattr(self, field) is None and not (field == "weights" and self.weights_uri):
                raise ValueError(f"the loader {self.loader} needs `{field}`")
        if self.weights_uri and self.sha256 is None:
            raise ValueError("weights from a URI need `sha256`")
        return self

    @property
    def builds(self) -> str:
        """The loader's own name of the architecture."""
        return self.architecture or self.name

    @property
    def opaque(self) -> bool:
        """Whether only the logits and their gradients can be had."""
        return self.loader in OPAQUE_LOADERS


def read_models(path: Path) -> tuple[ModelSpec, ...]:
    """The entries of an operator's models.toml.

    Raises:
        ValueError: The file cannot be read, an entry is wrong, or two have one name.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if unknown := sorted(set(document) - {"models"}):
        raise ValueError(f"{path}: unknown key {unknown[0]!r}; only [[models]] is read")
    specs = tuple(_spec(path, number, entry) for number, entry in enumerate(document.get("models", [])))
    names = [spec.name for spec in specs]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{path}: two models are called {min(repeated)!r}")
    return specs


def spec_labels(spec: ModelSpec) -> tuple[str, ...] | None:
    """The class names that the operator gave, or that lie in a transformers model's folder; or None.

    One name is that of two classes, `not X` and `X`, which a model tells apart by one number; but a regression's value
    has one name.

    Raises:
        ValueError: The file of labels cannot be read.
    """
    names = given_labels(spec)
    if names is None or len(names) != 1 or "none" in {spec.activation, stated_activation(spec)}:
        return names
    # What follows a comma is another name of the same class.
    return f"not {names[0].partition(',')[0]}", names[0]


def given_labels(spec: ModelSpec) -> tuple[str, ...] | None:
    """The names as they were given: one for a model that has one output.

    Raises:
        ValueError: The file of labels cannot be read.
    """
    config = _config(spec)
    if spec.labels is None and config is not None:
        return config_labels(config)
    if isinstance(spec.labels, Path) and spec.labels.name in STOCK and not spec.labels.exists():
        return stock_labels(spec.labels.name)
    return read_labels(spec.labels) if isinstance(spec.labels, Path) else spec.labels


def stated_activation(spec: ModelSpec) -> Activation | None:
    """What the config.json of a transformers model's folder says of its outputs, where models.toml says nothing.

    Raises:
        ValueError: The file cannot be read.
    """
    config = None if spec.activation else _config(spec)
    return None if config is None else PROBLEM_TYPES.get(config_problem_type(config) or "")


def _config(spec: ModelSpec) -> Path | None:
    config = Path(spec.builds) / "config.json"
    return config if spec.loader == "transformers" and config.is_file() else None


def _spec(path: Path, number: int, entry: dict[str, Any]) -> ModelSpec:
    try:
        spec = ModelSpec.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "entry"
        raise ValueError(f"{path}: models[{number}].{field}: {first['msg']}") from error
    update = {"weights": _beside(path, spec.weights), "labels": _beside(path, spec.labels)}
    if spec.loader == "transformers" and (path.parent / spec.builds).is_dir():
        update["architecture"] = str(path.parent / spec.builds)
    return spec.model_copy(update=update)


def _beside(path: Path, value: Any) -> Any:
    return path.parent / value if isinstance(value, Path) else value
