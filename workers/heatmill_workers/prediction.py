"""What a model says before anything is explained."""

import torch
from torch import Tensor

from heatmill_workers.engine.batching import in_batches
from heatmill_workers.models.loaded import LoadedModel


def predict(model: LoadedModel, images: Tensor) -> Tensor:
    """Class probabilities, (N, K) float32 on the CPU.

    Args:
        model: Any.
        images: (N, 3, H, W) float32, normalised; moved to the model's device.

    Raises:
        ItemTooLargeForDevice: One image does not fit.
    """

    def probabilities(rows: range) -> Tensor:
        batch = images[rows.start : rows.stop].to(model.device, memory_format=torch.channels_last)
        with torch.no_grad():
            logits: Tensor = model.module(batch)
        return logits.softmax(1).cpu()

    if len(images) == 0:
        return torch.empty(0, len(model.labels))
    return torch.cat([batch for _, batch in in_batches(probabilities, len(images), model.batch_sizes, "predict")])
