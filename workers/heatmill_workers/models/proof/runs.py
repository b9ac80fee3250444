"""One run of a model on proof inputs: what it puts out, and whether it wrote into what it was given."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from heatmill.errors import HeatmillError, ModelRefused, ModelUnavailable
from heatmill_workers.engine.batching import BatchSizes, in_batches
from heatmill_workers.models.proof.calls import Calls
from heatmill_workers.models.proof.comparison import usable
from heatmill_workers.models.proof.generators import States
from heatmill_workers.models.reasons import reason

# An operator's module may raise anything on a size or a batch that it was not built for.
FAILED = Exception


@dataclass
class Runs:
    """Runs a model on copies of images, without a graph.

    Args:
        name: Of the model, for messages.
        forward: The operator's module, adapted.
        sizes: How many images go through the device together.
        states: Where the generators stand that it may draw from; see `generators`.

    Attributes:
        writes: Whether a run changed the images that it was given.
        calls: What the runs called.
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    sizes: BatchSizes
    states: Callable[[], States]
    writes: bool = False
    calls: Calls = field(default_factory=Calls)
    _mode: AbstractContextManager[object] = field(default_factory=nullcontext)

    def __call__(self, images: Tensor) -> Tensor:
        """Outputs (N, K) float32 of images (N, C, H, W)."""
        before = self.states()
        with torch.no_grad():
            passes = in_batches(
                lambda rows: self._pass(images[rows.start : rows.stop]), len(images), self.sizes, "proof"
            )
            outputs = torch.cat([outputs for _, outputs in passes])
        moved = (name for name, state in self.states().items() if state != before[name])
        self.calls.draws += [name for name in moved if name not in self.calls.draws]
        return outputs.detach()

    def under(self, mode: TorchFunctionMode, images: Tensor) -> Tensor:
        """A run whose calls go through a mode, and not those that look at it."""
        return replace(self, _mode=mode)(images)

    def first(self, images: Tensor) -> Tensor:
        """The first run of all.

        Raises:
            ModelUnavailable: The model does not run on images of this size.
            ModelRefused: It runs on one image and not on several.
        """
        try:
            outputs = self(images)
        except HeatmillError:
            raise
        except FAILED as error:
            raise self._in_words(error, images) from error
        if len(outputs) != len(images):
            raise ModelRefused(
                f"model {self.name} puts out {len(outputs)} rows for {len(images)} images of "
                f"{images.shape[2]} x {images.shape[3]} pixels; see `preprocessing` in models.toml"
            )
        if not usable(outputs).any():
            raise ModelRefused(f"model {self.name} puts out values that are not finite for every input that was tried")
        return outputs

    def _pass(self, images: Tensor) -> Tensor:
        given = images.clone(memory_format=torch.preserve_format)
        with self._mode, self.calls:
            outputs = self.forward(given)
        self.writes |= not torch.equal(given, images)
        return outputs

    def _in_words(self, error: Exception, images: Tensor) -> ModelUnavailable | ModelRefused:
        (height, width), said = images.shape[2:], reason(error)
        try:
            self(images[:1])
        except FAILED:
            return ModelUnavailable(
                f"model {self.name} does not run on {height} x {width} pixels, neither on "
                f"{len(images)} images nor on one; see `preprocessing` in models.toml: {type(error).__name__}: {said}"
            )
        return ModelRefused(f"model {self.name} runs on one image, and not on a batch of {len(images)}: {said}")


def reader(name: str, output: str | int | None) -> Callable[[object, int], Tensor]:
    """What takes the logits out of a model's outputs for N images.

    `squeeze()` at the end of a model drops the axis of its one output, and that of a single image; a network of
    convolutions alone leaves axes of length 1 behind.

    Args:
        name: Of the model, for messages.
        output: `output` in models.toml: a key or a position.

    Raises (what it returns):
        ModelUnavailable: The outputs are no logits (N, K), or none of that name.
    """

    def read(outputs: object, images: int) -> Tensor:
        found = outputs if output is None else _picked(name, outputs, output)
        logits = _in_rows(found, images) if isinstance(found, Tensor) and found.is_floating_point() else None
        if logits is None:
            raise ModelUnavailable(f"model {name} puts out {_described(found)}; wanted are logits (N, classes)")
        return logits

    return read


def _in_rows(values: Tensor, images: int) -> Tensor | None:
    """As (N, K); None where that cannot be told."""
    if values.ndim == 2:
        return values
    if values.ndim < 2 and (images == 1 or values.shape == (images,)):
        return values.reshape(images, -1)
    if values.ndim > 2 and set(values.shape[2:]) == {1}:
        return values.flatten(1)
    return None


def _picked(name: str, outputs: object, output: str | int) -> object:
    if isinstance(output, str) and not isinstance(outputs, Mapping) and hasattr(outputs, output):
        return getattr(outputs, output)
    try:
        return outputs[output]  # type: ignore[index]
    except (KeyError, IndexError, TypeError) as error:
        raise ModelUnavailable(
            f"model {name} puts out {_described(outputs)}; `output` in models.toml is {output!r}"
        ) from error


def _described(outputs: object) -> str:
    if isinstance(outputs, Tensor):
        shape = ", ".join(["N", *map(str, outputs.shape[1:])]) + ("," if outputs.ndim == 1 else "")
        return f"({shape}) of {str(outputs.dtype).removeprefix('torch.')}"
    if isinstance(outputs, Mapping):
        return f"a dictionary with the keys {', '.join(map(str, outputs))} (name one with `output` in models.toml)"
    if isinstance(outputs, (list, tuple)):
        count = {2: "two", 3: "three"}.get(len(outputs), str(len(outputs)))
        return f"{count} outputs (number one with `output` in models.toml, from 0)"
    return f"a {type(outputs).__name__}"
