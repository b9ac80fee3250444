"""DeepLIFT attributions against background sets: what `deep_lift` and `deep_shap` share."""

from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch import Tensor, nn

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.autograd import select, target_logits
from heatmill_workers.engine.baselines import Answers, answers, baseline_checks
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.deeplift.convolutions import Convolutions
from heatmill_workers.engine.deeplift.multipliers import multipliers_and_outputs
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.rounding import of_outputs

# Largest difference between a plain pass and one of pairs, as a share of the larger logit; more where the model
# computes in half precision.
SAME_LOGITS, SAME_HALF_LOGITS = 1e-3, 0.05
# Models whose passes of pairs were held against plain ones; a shard's copies of a loaded model share the module.
_COMPARED: WeakSet[nn.Module] = WeakSet()


def deep_attributions(
    model: LoadedModel, images: Tensor, targets: Tensor, baselines: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, list[dict[str, str | float]]]:
    """Means over each image's baselines: of multiplier x (image - baseline), (N, 3, H, W); of the logit's change, (N,).

    Beside them the rounding of that logit, (N,), and what the model says of each image's baselines.

    Args:
        model: Any whose operations have rules.
        images: (N, 3, H, W), on the model's device.
        targets: (N,) int64.
        baselines: Each (N, 3, H, W), expanded where all images share it.

    Raises:
        UnsupportedOperation: The model computes something that has no rule, or something else on pairs.
    """

    def shares(rows: range) -> tuple[Tensor, Tensor, Tensor, list[dict[str, str | float]]]:
        batch = slice(rows.start, rows.stop)
        conv_cache = Convolutions() if len(baselines) > 1 else None
        total, change = torch.zeros_like(images[batch]), torch.zeros(len(rows), device=images.device)
        rounding = torch.zeros_like(change)
        said: list[Answers] = []
        for each in baselines:
            found, moved, outputs = multipliers_and_outputs(
                model.module, images[batch], each[batch], targets[batch], conv_cache
            )
            if model.module not in _COMPARED:
                _compare(model, images[batch], each[batch], targets[batch], moved)
            total += found * (images[batch] - each[batch])
            change += moved
            start = select(outputs, targets[batch])
            ends = torch.stack([start, start + moved], 1)
            rounding = torch.maximum(rounding, of_outputs(model, outputs, ends).amax(1))
            said.append(answers(model, outputs))
        _COMPARED.add(model.module)
        return total / len(baselines), change / len(baselines), rounding, baseline_checks(model, said)

    # A row takes as long as there are baselines.
    batches = in_batches(shares, len(images), model.batch_sizes, f"deep, {len(baselines)} baselines")
    values, changes, roundings, checks = zip(*(found for _, found in batches), strict=True)
    together = [each for of_batch in checks for each in of_batch]
    return torch.cat(values), torch.cat(changes), torch.cat(roundings), together


def _compare(model: LoadedModel, images: Tensor, baselines: Tensor, targets: Tensor, changes: Tensor) -> None:
    """Of a model's first batch: the logit's change, on which the check of each result relies, is the model's own."""
    end, start = (target_logits(model.module, side, targets) for side in (images, baselines))
    share = SAME_LOGITS if model.dtype == torch.float32 else SAME_HALF_LOGITS
    allowed = share * torch.maximum(end.abs(), start.abs()).clamp_min(1)
    # A logit that is not finite is found in the result.
    wrong = ~((changes - (end - start)).abs() <= allowed) & end.isfinite() & start.isfinite()
    if wrong.any():
        raise UnsupportedOperation(f"{model.name} computes other logits where DeepLIFT follows its operations")
