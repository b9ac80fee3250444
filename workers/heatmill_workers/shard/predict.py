"""What a model says before anything is explained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from heatmill.schemas import Target
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.introspection.penultimate import penultimate
from heatmill_workers.engine.loaded_model import LoadedModel


@dataclass(frozen=True)
class Prediction:
    """What one forward pass says of some images.

    Args:
        scores: (N, K) float32 on the CPU: probabilities, or the values of a regression; not finite where the
            outputs of an image are not.
        features: (N, D) float32 on the CPU, what goes into the model's last layer; None where nobody asked.
        source: What the features are.
    """

    scores: Tensor
    features: Tensor | None = None
    source: str = ""

    def __getitem__(self, row: int) -> "Prediction":
        """Of one image: (K,) and (D,)."""
        features = None if self.features is None else self.features[row]
        return Prediction(self.scores[row], features, self.source)


def predict(model: LoadedModel, images: Tensor) -> Tensor:
    """Probabilities, or the values of a regression, (N, K) float32 on the CPU.

    Args:
        model: Any.
        images: (N, 3, H, W) float32, normalised; moved to the model's device.

    Raises:
        ItemTooLargeForDevice: One image does not fit.
    """

    def said(rows: range) -> Tensor:
        with torch.no_grad():
            return scores(model, model.module(_on_device(model, images, rows)))

    if len(images) == 0:
        return torch.empty(0, len(model.labels))
    return torch.cat([batch for _, batch in in_batches(said, len(images), model.batch_sizes, "predict")])


def predict_with_features(model: LoadedModel, images: Tensor) -> Prediction:
    """`predict`, and what goes into the last layer, by the same pass.

    Args:
        model: Any.
        images: As for `predict`; at least one.

    Raises:
        ItemTooLargeForDevice: One image does not fit.
    """

    def seen(rows: range) -> tuple[Tensor, Tensor, str]:
        channels = 1 if model.head.one_output else None
        found = penultimate(model.module, _on_device(model, images, rows), channels)
        return scores(model, found.logits), found.features.cpu(), found.source

    batches = [batch for _, batch in in_batches(seen, len(images), model.batch_sizes, "predict")]
    said, features, sources = zip(*batches, strict=True)
    return Prediction(torch.cat(said), torch.cat(features), sources[0])


def scores(model: LoadedModel, outputs: Tensor) -> Tensor:
    """(N, K) on the CPU, of the model's outputs on any device; a row of outputs with NaN or infinity has none."""
    outputs = outputs.detach()
    # A sigmoid of infinity is a number. Logits of classes that a model rules out may be minus infinity.
    known = (outputs < torch.inf).all(1, keepdim=True)
    return torch.where(known, model.head.scores(outputs), torch.nan).cpu()


def target(model: LoadedModel, of_image: Tensor, index: int) -> Target:
    """One class, or one value of a regression, as the rows say it.

    Args:
        model: Any.
        of_image: (K,), the scores of one image.
        index: Of the class.
    """
    score = of_image[index].item()
    if model.head.has_probabilities:
        return Target(index=index, label=model.labels[index], probability=score)
    return Target(index=index, label=model.labels[index], value=score)


def _on_device(model: LoadedModel, images: Tensor, rows: range) -> Tensor:
    return images[rows.start : rows.stop].to(model.device, memory_format=torch.channels_last)
