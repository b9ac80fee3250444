"""A file of `torch.export.save`.

What it holds besides the graph may be unpickled when it is loaded, which runs code: it is loaded only if it is the one
whose sha256 the operator wrote down.
"""

import pickle
import zipfile

import torch
from torch import Tensor, nn

from heatmill.catalogue.models import ModelSpec, Preprocessing, spec_labels
from heatmill.errors import ModelUnavailable
from heatmill_workers.engine.loaded_model import Built
from heatmill_workers.models.reasons import reason
from heatmill_workers.models.weights import checked_file


class Exported(nn.Module):
    """The exported graph, which knows no modes: it was in eval mode when it was exported, or it is of no use here."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, K)."""
        logits: Tensor = self.inner(images)
        return logits

    def train(self, mode: bool = True) -> "Exported":
        """Sets the flag only: the graph inside refuses to be asked."""
        self.training = mode
        return self


def build(spec: ModelSpec) -> Built:
    """The exported graph.

    Raises:
        ModelUnavailable: The file is another, no exported program, or takes one number of images only.
        WeightsUnavailable: There is no such file on this machine.
    """
    file = checked_file(spec)
    try:
        program = torch.export.load(file)
    except (RuntimeError, ValueError, KeyError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ModelUnavailable(f"model {spec.name}: {spec.weights} is no exported program: {reason(error)}") from error
    module, preprocessing = Exported(program.module()), spec.preprocessing or Preprocessing()
    _check_batches(spec, module, preprocessing)
    return Built(module, preprocessing, spec_labels(spec) or ())


def _check_batches(spec: ModelSpec, module: nn.Module, preprocessing: Preprocessing) -> None:
    try:
        with torch.no_grad():
            for count in (1, 3):
                module(torch.zeros(count, 3, *preprocessing.input_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelUnavailable(
            f"model {spec.name} does not take {count} images; export it with a dynamic batch of at least 1: "
            f"{reason(error)}"
        ) from error
