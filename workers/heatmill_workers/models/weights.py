"""Weights from files: never an unchecked pickle, and known by their content."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from heatmill.catalogue.models import ModelSpec
from heatmill.errors import ModelUnavailable, WeightsUnavailable

WeightsByName = dict[str, Tensor]
UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError)


def read_weights(spec: ModelSpec, path: Path) -> WeightsByName:
    """The tensors in a .safetensors file, or in a .pth that holds tensors only.

    Raises:
        WeightsUnavailable: There is no such file on this machine.
        ModelUnavailable: Not the file that `sha256` names, or not readable as tensors alone.
    """
    if not path.is_file():
        raise WeightsUnavailable(f"model {spec.name}: there is no file {path}; correct `weights` in models.toml")
    _check_sha256(spec, path)
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise ModelUnavailable(f"model {spec.name}: {path} is no file of plain tensors: {reason}") from error
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not any(isinstance(value, Tensor) for value in weights.values()):
        raise ModelUnavailable(f"model {spec.name}: {path} holds no state dict")
    others = [f"{name} ({type(value).__name__})" for name, value in weights.items() if not isinstance(value, Tensor)]
    if others:
        quantised = any("_packed_params" in name for name in others)
        what = (
            "it is of a quantised model, whose layers torch cannot differentiate" if quantised else "save tensors only"
        )
        raise ModelUnavailable(f"model {spec.name}: {path} holds entries that are no tensors: {others[0]}; {what}")
    return dict(weights)


def checked_file(spec: ModelSpec) -> io.BytesIO:
    """A file whose format can run code, in memory: what was checked is what is loaded.

    Raises:
        WeightsUnavailable: There is no such file on this machine.
        ModelUnavailable: Not the file that `sha256` names.
    """
    if spec.weights is None or spec.sha256 is None:
        raise ModelUnavailable(f"model {spec.name}: {spec.loader} needs `weights` and `sha256` in models.toml")
    try:
        content = spec.weights.read_bytes()
    except OSError as error:
        raise WeightsUnavailable(f"model {spec.name}: {error}; correct `weights` in models.toml") from error
    _check_digest(spec, spec.weights, hashlib.sha256(content).hexdigest())
    return io.BytesIO(content)


def fill(spec: ModelSpec, module: nn.Module, weights: WeightsByName) -> None:
    """Put the weights into the module; every name and shape must match.

    Raises:
        ModelUnavailable: They are for another architecture.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnavailable(f"model {spec.name}: the weights are not {spec.builds}'s: {reason}") from error


def are_of_one_output(module: nn.Module, weights: WeightsByName) -> bool:
    """Whether the weights differ from the module's in one thing only: its last layer has two outputs, theirs one."""
    pairs = [(own, weights[name]) for name, own in module.state_dict().items() if name in weights]
    unequal = [(own.shape, given.shape) for own, given in pairs if own.shape != given.shape]
    return bool(unequal) and all(own == (2, *given[1:]) and given[:1] == (1,) for own, given in unequal)


def _read_pickle(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_sha256(spec: ModelSpec, path: Path) -> None:
    if spec.sha256 is None:
        return
    with path.open("rb") as file:
        _check_digest(spec, path, hashlib.file_digest(file, "sha256").hexdigest())


def _check_digest(spec: ModelSpec, path: Path, found: str) -> None:
    if found != spec.sha256:
        raise ModelUnavailable(
            f"model {spec.name}: {path} has sha256 {found}; `sha256` in models.toml is {spec.sha256}"
        )
