"""DeepLIFT attributions against background sets: what `deep_lift` and `deep_shap` share."""

import torch
from torch import Tensor

from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.deeplift.multipliers import multipliers
from heatmill_workers.models.loaded import LoadedModel


def deep_attributions(model: LoadedModel, images: Tensor, targets: Tensor, baselines: Tensor) -> Tensor:
    """Mean over each image's baselines of multiplier x (image - baseline), (N, 3, H, W).

    Args:
        model: Any whose operations have rules.
        images: (N, 3, H, W), on the model's device.
        targets: (N,) int64.
        baselines: (B, N, 3, H, W); row r of what is packed is baseline r % B of image r // B.

    Raises:
        UnsupportedOperation: The model computes something that has no rule.
    """
    count = len(baselines)
    total = torch.zeros_like(images)

    def shares(rows: range) -> Tensor:
        row = torch.arange(rows.start, rows.stop, device=images.device)
        image, starts = images[row // count], baselines[row % count, row // count]
        return multipliers(model.module, image, starts, targets[row // count]) * (image - starts)

    for rows, values in in_batches(shares, len(images) * count, model.batch_sizes, "deep"):
        for row, value in zip(rows, values, strict=True):
            total[row // count] += value / count
    return total
