"""Gradients along straight paths from baselines to images, packed over images and steps into full batches."""

from dataclasses import dataclass

import torch
from torch import Tensor

from heatmill_workers.engine.autograd import input_gradients
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.loaded_model import LoadedModel


@dataclass(frozen=True)
class Path:
    """Where the gradients are taken.

    Args:
        points: (S,) float32, from 0 at the baseline to 1 at the image.
        weights: (S,) float32.
        baselines: (B, N, 3, H, W).
        choice: (S,) int64, the baseline of each step.
    """

    points: Tensor
    weights: Tensor
    baselines: Tensor
    choice: Tensor


def path_attributions(model: LoadedModel, images: Tensor, targets: Tensor, path: Path) -> Tensor:
    """Sum over the steps of weight x gradient x (image - baseline), (N, 3, H, W).

    Row r of what is packed is step r % S of image r // S, so memory does not grow with the steps.

    Args:
        model: Any.
        images: (N, 3, H, W), on the model's device.
        targets: (N,) int64.
        path: On the model's device.
    """
    steps = len(path.points)
    total = torch.zeros_like(images)

    def shares(rows: range) -> Tensor:
        row = torch.arange(rows.start, rows.stop, device=images.device)
        image, step = row // steps, row % steps
        start = path.baselines[path.choice[step], image]
        change = images[image] - start
        gradients = input_gradients(model.module, start + path.points[step].view(-1, 1, 1, 1) * change, targets[image])
        # A product instead of index_add_, whose order of summation varies on accelerators.
        owners = torch.arange((rows.stop - 1) // steps - rows.start // steps + 1, device=images.device)
        owned = (image - image[0] == owners.unsqueeze(1)) * path.weights[step]
        return torch.einsum("ir,rchw->ichw", owned, gradients * change)

    for rows, sums in in_batches(shares, len(images) * steps, model.batch_sizes, "path"):
        first = rows.start // steps
        total[first : first + len(sums)] += sums
    return total


def outputs_on(model: LoadedModel, images: Tensor) -> Tensor:
    """Each image's logits, (N, K), in batches, without a graph; one pass, expanded, where all rows are one image."""

    def outputs(rows: range) -> Tensor:
        with torch.no_grad():
            made: Tensor = model.module(images[rows.start : rows.stop].contiguous(memory_format=torch.channels_last))
        return made

    if len(images) > 1 and images.stride(0) == 0:
        return outputs(range(1)).expand(len(images), -1)
    return torch.cat([values for _, values in in_batches(outputs, len(images), model.batch_sizes, "predict")])
