"""Whether a model changes its own weights when it runs, as one that initialises itself by the first images it sees."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from heatmill.errors import ModelRefused, ModelUnavailable
from heatmill_workers.engine.dense_parts import dense_parts

Fingerprint = dict[str, tuple[float, float]]


def fingerprint(module: nn.Module) -> Fingerprint:
    """Two sums of each floating parameter and buffer: enough to see a change, and quick. Counters may change."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    return {name: _sums(tensor) for name, tensor in tensors if tensor.is_floating_point() or tensor.is_complex()}


def check_unchanged(name: str, module: nn.Module, before: Fingerprint) -> None:
    """Refuse a model whose weights are others after it ran in eval mode.

    Raises:
        ModelRefused: The message names the first that changed.
    """
    after = fingerprint(module)
    changed = next((key for key, sums in before.items() if key in after and after[key] != sums), None)
    if changed is not None:
        raise ModelRefused(
            f"model {name} cannot be explained, since it changes its own weights ({changed}) when it runs in eval mode"
        )


def check_values(name: str, module: nn.Module) -> None:
    """Refuse a model whose parameters have no values yet.

    Raises:
        ModelUnavailable: They are on the meta device, or are lazy ones that no image has given a shape.
    """
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise ModelUnavailable(
                f"model {name}: {key} has no shape yet; run the model once before the factory returns it, and load its "
                f"weights"
            )
        if tensor.is_meta:
            raise ModelUnavailable(f"model {name}: {key} is on the meta device, and has no values")


def _sums(tensor: Tensor) -> tuple[float, float]:
    """Of the numbers and, of a sparse tensor, of their places too."""
    parts = [part.resolve_conj() for part in dense_parts(tensor.detach()).values()]
    real = [torch.view_as_real(part) if part.is_complex() else part for part in parts]
    values = [torch.nan_to_num(part.double()) for part in real]
    return sum(float(part.sum()) for part in values), sum(float(part.square().sum()) for part in values)
