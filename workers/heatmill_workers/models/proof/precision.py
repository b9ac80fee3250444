"""In which precision a model runs: float32 or what the operator wants, else the one that it was made in."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heatmill_workers.engine.machine_faults import raise_machine_fault
from heatmill_workers.models.proof.calls import LOW_PRECISION
from heatmill_workers.models.proof.own_weights import check_unchanged, fingerprint
from heatmill_workers.models.proof.runs import FAILED


@dataclass(frozen=True)
class Precision:
    """How a model runs.

    Args:
        of_images: In which it takes images.
        converted: Its parameters were converted to that; else they are as it was made.
    """

    of_images: torch.dtype
    converted: bool


def find_precision(name: str, module: nn.Module, image: Tensor, wanted: torch.dtype) -> Precision:
    """Convert the module in place if it runs then.

    Some parameters of float64 among others stay as they are: a model has them for a reason.

    Args:
        name: Of the model, for messages.
        module: In eval mode.
        image: (1, C, H, W) float32.
        wanted: float32, unless the operator wants less.

    Raises:
        ModelRefused: It changes its own weights when it runs.
    """
    given = [(tensor, tensor.data) for tensor in _tensors(module)]
    if all(data.dtype == wanted for _, data in given):
        return Precision(wanted, converted=False)
    convert(module, wanted)
    if _runs(name, module, image.to(wanted)):
        return Precision(wanted, converted=True)
    for tensor, data in given:
        tensor.data = data
    lowest = next((data.dtype for _, data in given if data.dtype in LOW_PRECISION), torch.float32)
    return Precision(torch.float32 if _runs(name, module, image) else lowest, converted=False)


def convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert parameters and buffers in place; see `find_precision`."""
    for tensor in _tensors(module):
        tensor.data = tensor.data.to(dtype)


def _tensors(module: nn.Module) -> list[Tensor]:
    """Those of float32 or less; in a model that is float64 as a whole, all."""
    parts = module.modules()
    tensors = [each for part in parts for each in (*part.parameters(recurse=False), *part.buffers(recurse=False))]
    converted = [tensor for tensor in tensors if tensor.dtype in {*LOW_PRECISION, torch.float32}]
    return converted or [tensor for tensor in tensors if tensor.dtype == torch.float64]


def _runs(name: str, module: nn.Module, image: Tensor) -> bool:
    weights = fingerprint(module)
    try:
        with torch.no_grad():
            module(image.clone())
    except FAILED as error:
        raise_machine_fault(error)
        return False
    # Some do so when they run for the first time, which this is.
    check_unchanged(name, module, weights)
    return True
