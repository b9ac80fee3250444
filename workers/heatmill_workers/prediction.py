"""What a model says before anything is explained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.penultimate import penultimate
from heatmill_workers.models.loaded import LoadedModel


@dataclass(frozen=True)
class Prediction:
    """What one forward pass says of some images.

    Args:
        probabilities: (N, K) float32 on the CPU.
        features: (N, D) float32 on the CPU, what goes into the model's last layer; None where nobody asked.
        source: What the features are.
    """

    probabilities: Tensor
    features: Tensor | None = None
    source: str = ""

    def __getitem__(self, row: int) -> "Prediction":
        """Of one image: (K,) and (D,)."""
        features = None if self.features is None else self.features[row]
        return Prediction(self.probabilities[row], features, self.source)


def predict(model: LoadedModel, images: Tensor) -> Tensor:
    """Class probabilities, (N, K) float32 on the CPU.

    Args:
        model: Any.
        images: (N, 3, H, W) float32, normalised; moved to the model's device.

    Raises:
        ItemTooLargeForDevice: One image does not fit.
    """

    def said(rows: range) -> Tensor:
        with torch.no_grad():
            return probabilities(model.module(_on_device(model, images, rows)))

    if len(images) == 0:
        return torch.empty(0, len(model.labels))
    return torch.cat([batch for _, batch in in_batches(said, len(images), model.batch_sizes, "predict")])


def predict_with_features(model: LoadedModel, images: Tensor) -> Prediction:
    """Class probabilities and what goes into the last layer, by the same pass.

    Args:
        model: Any.
        images: As for `predict`; at least one.

    Raises:
        ItemTooLargeForDevice: One image does not fit.
    """

    def seen(rows: range) -> tuple[Tensor, Tensor, str]:
        found = penultimate(model.module, _on_device(model, images, rows))
        return probabilities(found.logits), found.features.cpu(), found.source

    batches = [batch for _, batch in in_batches(seen, len(images), model.batch_sizes, "predict")]
    said, features, sources = zip(*batches, strict=True)
    return Prediction(torch.cat(said), torch.cat(features), sources[0])


def probabilities(logits: Tensor) -> Tensor:
    """(N, K) on the CPU, of logits on any device."""
    return logits.detach().softmax(1).cpu()


def _on_device(model: LoadedModel, images: Tensor, rows: range) -> Tensor:
    return images[rows.start : rows.stop].to(model.device, memory_format=torch.channels_last)
