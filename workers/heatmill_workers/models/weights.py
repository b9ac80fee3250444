"""Weights from files: never an unchecked pickle, and known by their content."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from heatmill.catalogue.models import ModelSpec
from heatmill.errors import ModelUnavailable, WeightsUnavailable

WeightsByName = dict[str, Tensor]
# What most people call it in a checkpoint.
STATE_DICT = "state_dict"
# How many models an average is of, beside their names in `torch.optim.swa_utils`.
AVERAGED = "n_averaged"
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
    weights = _state_dict(spec, path, content)
    others = [f"{name} ({type(value).__name__})" for name, value in weights.items() if not isinstance(value, Tensor)]
    if others:
        quantised = any("_packed_params" in name for name in others)
        what = (
            "it is of a quantised model, whose layers torch cannot differentiate" if quantised else "save tensors only"
        )
        raise ModelUnavailable(f"model {spec.name}: {path} holds entries that are no tensors: {others[0]}; {what}")
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}


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


def renamed(module: nn.Module, weights: WeightsByName) -> WeightsByName:
    """The weights without what wrappers put before all of their names: DataParallel, torch.compile, Lightning, SWA."""
    own = module.state_dict().keys()
    found = {name: tensor for name, tensor in weights.items() if name != AVERAGED}
    while found and not own & found.keys():
        before = {name.partition(".")[0] + "." for name in found}
        if len(before) > 1 or not all("." in name for name in found):
            return weights
        (prefix,) = before
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def fill(spec: ModelSpec, module: nn.Module, weights: WeightsByName) -> None:
    """Put the weights into the module; every name and shape must match.

    Raises:
        ModelUnavailable: They are for another architecture.
    """
    try:
        module.load_state_dict(renamed(module, weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnavailable(f"model {spec.name}: the weights are not {spec.builds}'s: {reason}") from error


def are_of_one_output(module: nn.Module, weights: WeightsByName) -> bool:
    """Whether the weights differ from the module's in one thing only: its last layer has two outputs, theirs one."""
    weights = renamed(module, weights)
    pairs = [(own, weights[name]) for name, own in module.state_dict().items() if name in weights]
    unequal = [(own.shape, given.shape) for own, given in pairs if own.shape != given.shape]
    return bool(unequal) and all(own == (2, *given[1:]) and given[:1] == (1,) for own, given in unequal)


def _state_dict(spec: ModelSpec, path: Path, content: object) -> Mapping[str, object]:
    """The state dict that a file is, or that stands in a checkpoint beside the optimizer's and the like."""
    if not isinstance(content, Mapping):
        raise ModelUnavailable(f"model {spec.name}: {path} holds a {type(content).__name__}, and no state dict")
    if _holds_tensors(content) and not any(map(_holds_tensors, content.values())):
        return content
    found = {name: value for name, value in content.items() if _holds_tensors(value)}
    if STATE_DICT in found:
        return found[STATE_DICT]
    if len(found) > 1:
        raise ModelUnavailable(f"model {spec.name}: {path} holds the state dicts {', '.join(found)}; save one alone")
    if not found:
        raise ModelUnavailable(f"model {spec.name}: {path} holds no state dict")
    return next(iter(found.values()))


def _holds_tensors(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values())


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
