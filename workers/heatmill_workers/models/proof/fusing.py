"""Batch norm, folded into the convolution before it: in eval mode both are affine, and one pass does for two.

What goes together is seen on one forward pass, by a `TorchFunctionMode`: a convolution by a parameter that no other
call takes, whose result one `nn.BatchNorm2d` takes and nothing else does. What is not exactly that stays as it is, such
as a convolution whose weights are standardised on the way, a batch norm with an activation of its own, modules that are
called twice, or weights that a hook or a parametrisation makes anew on each call. A model that did not call all of its
batch norms may take another way for another image, and is not folded at all. The outputs are compared afterwards; where
they differ, all is put back.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from heatmill_workers.models.proof.runs import FAILED


@dataclass(frozen=True)
class Fold:
    """A convolution and the batch norm after it, with their names; and what the convolution was."""

    conv_name: str
    norm_name: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    weight: Tensor
    bias: Tensor | None


@dataclass
class _Calls:
    """What one forward pass computed. Holding the tensors keeps their ids from being used again."""

    convolved: dict[int, int] = field(default_factory=dict)
    normalised: list[tuple[int, int]] = field(default_factory=list)
    uses: Counter[int] = field(default_factory=Counter)
    kept: list[Tensor] = field(default_factory=list)


class _Note(TorchFunctionMode):
    """Notes which tensor goes where."""

    def __init__(self, calls: _Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        taken = list(_tensors((args, kwargs)))
        # What asks for a shape or a device computes nothing.
        if next(_tensors(out), None) is not None:
            self.calls.kept += taken
            self.calls.uses.update({id(tensor) for tensor in taken})
        if func is torch.conv2d and len(taken) > 1:
            self.calls.kept.append(out)
            self.calls.convolved[id(out)] = id(taken[1])
        elif func is functional.batch_norm and len(taken) > 1:
            self.calls.normalised.append((id(taken[0]), id(taken[1])))
        return out


def fuse(
    module: nn.Module, run: Callable[[], Tensor], is_same: Callable[[Tensor], bool], cam_layer: str | None = None
) -> int:
    """Fold what can be folded, in place; say how much.

    Only for a model that no other thread uses yet.

    Args:
        module: In eval mode, parameters frozen, on its device.
        run: Runs it on every input that it is proved on, without a graph.
        is_same: Whether its outputs are what they were before.
        cam_layer: Name of a module that goes on putting out what it did.
    """
    calls = _Calls()
    with _Note(calls):
        run()
    # They hold every tensor of the pass.
    folds = [fold for fold in _folds(module, calls) if not _is_watched(fold, cam_layer)]
    visits_all = _visits_all_norms(module, calls)
    del calls
    if not folds or not visits_all:
        return 0
    for fold in folds:
        _apply(module, fold)
    if not _agrees(run, is_same):
        for fold in folds:
            _undo(module, fold)
        return 0
    return len(folds)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _tensors(entry)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _folds(module: nn.Module, calls: _Calls) -> Iterator[Fold]:
    # A module that has two names is there twice.
    named = list(module.named_modules(remove_duplicate=False))
    names = Counter(id(part) for _, part in named)
    convs = {id(part.weight): (name, part) for name, part in named if isinstance(part, nn.Conv2d)}
    # Exactly: a subclass does more, such as an activation.
    norms = {id(part.running_mean): (name, part) for name, part in named if type(part) is nn.BatchNorm2d}
    for source, mean in calls.normalised:
        conv_name, conv = convs.get(calls.convolved.get(source, 0), ("", None))
        norm_name, norm = norms.get(mean, ("", None))
        if conv is None or norm is None or norm.training:
            continue
        once = calls.uses[source] == calls.uses[id(conv.weight)] == calls.uses[mean] == 1
        if once and names[id(conv)] == names[id(norm)] == 1 and _is_plain(conv) and _is_plain(norm):
            yield Fold(conv_name, norm_name, conv, norm, conv.weight, conv.bias)


def _is_plain(part: nn.Module) -> bool:
    """Whether its weight is what it is called with: no hook and no parametrisation makes it."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    hooks = any(getattr(part, kind) for kind in kinds)
    return not hooks and dict(part.named_parameters(recurse=False)).get("weight") is getattr(part, "weight", None)


def _is_watched(fold: Fold, cam_layer: str | None) -> bool:
    """Whether a named module puts out the convolution's result, and not batch norm's."""
    if cam_layer is None:
        return False
    inside = [f"{name}.".startswith(f"{cam_layer}.") for name in (fold.conv_name, fold.norm_name)]
    return inside == [True, False]


def _apply(module: nn.Module, fold: Fold) -> None:
    norm, conv = fold.norm, fold.conv
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("batch norm without running statistics cannot be folded")
    scale = 1 / (variance.double() + norm.eps).sqrt()
    if norm.affine:
        scale = scale * norm.weight
    scale = scale.to(fold.weight.dtype)
    shift = -mean if fold.bias is None else fold.bias - mean
    bias = (norm.bias if norm.affine else 0) + shift * scale
    conv.weight = nn.Parameter(fold.weight * scale.view(-1, 1, 1, 1), requires_grad=False)
    conv.bias = nn.Parameter(bias, requires_grad=False)
    _put(module, fold.norm_name, nn.Identity().eval())


def _undo(module: nn.Module, fold: Fold) -> None:
    fold.conv.register_parameter("weight", nn.Parameter(fold.weight, requires_grad=False))
    bias = None if fold.bias is None else nn.Parameter(fold.bias, requires_grad=False)
    fold.conv.register_parameter("bias", bias)
    _put(module, fold.norm_name, fold.norm)


def _put(module: nn.Module, name: str, part: nn.Module) -> None:
    owner, _, own = name.rpartition(".")
    setattr(module.get_submodule(owner), own, part)


def _visits_all_norms(module: nn.Module, calls: _Calls) -> bool:
    visited = {mean for _, mean in calls.normalised}
    return all(id(part.running_mean) in visited for part in module.modules() if isinstance(part, nn.BatchNorm2d))


def _agrees(run: Callable[[], Tensor], is_same: Callable[[Tensor], bool]) -> bool:
    try:
        return is_same(run())
    # A module may ask its batch norm for more than its output.
    except FAILED:
        return False
