"""A store of one model that takes no time, for tests of what is around it."""

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from heatmill_workers.engine.loaded_model import LoadedModel
from tests.workers.small import loaded


class Linear(nn.Module):
    """The smallest classifier of photos that has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head((images**2).mean((2, 3)))
        return out


class OneModel:
    """Stands for the store of models."""

    @cache  # noqa: B019
    def get(self, name: str) -> LoadedModel:
        """The one."""
        return replace(loaded(Linear(), side=8), name=name)
