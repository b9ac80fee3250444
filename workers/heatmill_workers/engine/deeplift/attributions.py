"""DeepLIFT attributions against background sets: what `deep_lift` and `deep_shap` share."""

from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch import Tensor, nn

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.deeplift.convolutions import Convolutions
from heatmill_workers.engine.deeplift.multipliers import multipliers
from heatmill_workers.engine.gradients import target_logits
from heatmill_workers.models.loaded import LoadedModel

# Of the larger logit, between a plain pass and one of pairs.
SAME_LOGITS = 1e-3
_COMPARED: WeakSet[nn.Module] = WeakSet()


def deep_attributions(
    model: LoadedModel, images: Tensor, targets: Tensor, baselines: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Means over each image's baselines: of multiplier x (image - baseline), (N, 3, H, W); of the logit's change, (N,).

    Args:
        model: Any whose operations have rules.
        images: (N, 3, H, W), on the model's device.
        targets: (N,) int64.
        baselines: Each (N, 3, H, W), expanded where all images share it.

    Raises:
        UnsupportedOperation: The model computes something that has no rule, or something else on pairs.
    """
    if len(images) and model.module not in _COMPARED:
        _compare(model, images[:1], targets[:1], baselines[0][:1])
        _COMPARED.add(model.module)

    def shares(rows: range) -> tuple[Tensor, Tensor]:
        batch = slice(rows.start, rows.stop)
        known = Convolutions() if len(baselines) > 1 else None
        total, change = torch.zeros_like(images[batch]), torch.zeros(len(rows), device=images.device)
        for each in baselines:
            found, moved = multipliers(model.module, images[batch], each[batch], targets[batch], known)
            total += found * (images[batch] - each[batch])
            change += moved
        return total / len(baselines), change / len(baselines)

    values, changes = zip(
        *(found for _, found in in_batches(shares, len(images), model.batch_sizes, "deep")), strict=True
    )
    return torch.cat(values), torch.cat(changes)


def _compare(model: LoadedModel, image: Tensor, target: Tensor, baseline: Tensor) -> None:
    """Once for each model: the change of the logit, which the check of each result relies on, is the model's own."""
    _, change = multipliers(model.module, image, baseline, target)
    end, start = (target_logits(model.module, side, target) for side in (image, baseline))
    if (change - (end - start)).abs() > SAME_LOGITS * torch.maximum(end.abs(), start.abs()).clamp_min(1):
        raise UnsupportedOperation(f"{model.name} computes other logits where DeepLIFT follows its operations")
