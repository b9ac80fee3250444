"""Rows of one image: what several targets of it can share."""

import torch
from torch import Tensor


def group_ids(images: Tensor) -> Tensor:
    """Which distinct image each row shows, (N,) int64 on the CPU: 0, 0, 0, 1, 1, 2.

    The targets of one image stand next to each other, so neighbours are compared and nothing else.

    Args:
        images: (N, 3, H, W).
    """
    changes = torch.zeros(len(images), dtype=torch.int64)
    if len(images) > 1:
        changes[1:] = (images[1:] != images[:-1]).flatten(1).any(1).cpu()
    return changes.cumsum(0)


def group_starts(owner: Tensor) -> Tensor:
    """The first row of each distinct image."""
    rows: Tensor = torch.searchsorted(owner, torch.arange(int(owner[-1]) + 1))
    return rows
