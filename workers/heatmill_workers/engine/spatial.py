"""The last spatial map of a model, found by itself and reached without hooks.

A map is a float tensor (N, C, h, w) with h and w above 1. A `TorchFunctionMode` sees every call of torch's public
functions that the current thread makes, at the outermost level, whether a module made it or plain code. It numbers
the calls that put out a map. `find_cut` runs the model once when it is loaded and keeps the number of the last map
that everything flows through; `logits_above` replaces that call's output by a leaf, so that the trunk below it runs
without a graph and only the head above it is differentiated. The model is never touched.

The last map is no cut where attention mixes the positions after it: a patch grid that goes into a ViT's blocks says
nothing about where the evidence is. Swin and MaxViT come out of their attention as a map again, and that one counts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from heatmill.errors import UnsupportedOperation

ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}


@dataclass(frozen=True)
class Cut:
    """Where Grad-CAM reads: the call, and the (C, h, w) that it puts out."""

    call: int
    shape: tuple[int, int, int]


@dataclass
class _Seen:
    """What the probe keeps of each map; holding the tensor keeps its id from being used again."""

    maps: list[Tensor] = field(default_factory=list)
    nodes: list[Node | None] = field(default_factory=list)
    attention_after: int = 0
    module_call: int | None = None


class _Observe(TorchFunctionMode):
    """Lists the maps of one forward pass."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if _is_attention(func, out):
            self.seen.attention_after = len(self.seen.maps)
        if _is_map(out):
            self.seen.maps.append(out)
            # Kept apart from the tensor: a later in-place call gives the same tensor another node.
            self.seen.nodes.append(out.grad_fn)
        return out


class _Replace(TorchFunctionMode):
    """Puts a leaf in the place of one map, or keeps it where it has a graph already."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.call = call
        self.count = 0
        self.leaf: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not _is_map(out):
            return out
        self.count += 1
        if self.count - 1 != self.call:
            return out
        self.leaf = out if out.requires_grad else out.detach().requires_grad_()
        # The clone lets the next call work in place, which autograd forbids on a leaf.
        return self.leaf.clone(memory_format=torch.preserve_format)


def find_cut(module: nn.Module, image: Tensor, cam_layer: str | None = None) -> Cut | None:
    """The model's last spatial map, or the one that a named module puts out.

    Only for a model that no other thread uses yet: a named module gets a hook while the probe runs.

    Args:
        module: In eval mode, parameters frozen.
        image: (1, 3, H, W); its values do not matter.
        cam_layer: Name of a module.

    Returns:
        None where there is no such map.

    Raises:
        ValueError: There is no module of that name, or it puts out no map, or one that the logits do not depend on.
    """
    seen = _Seen()
    probe = image.detach().clone().requires_grad_()
    hook = _watch(module, cam_layer, seen) if cam_layer else None
    try:
        with torch.enable_grad():
            # A model may change its input in place, which autograd forbids on a leaf.
            copy = probe.clone()
            with _Observe(seen):
                logits = module(copy)
    finally:
        if hook:
            hook.remove()
    calls = iter([_named(seen, cam_layer)]) if cam_layer else _bottlenecks(seen, logits)
    for call in calls:
        _, channels, height, width = seen.maps[call].shape
        cut = Cut(call, (channels, height, width))
        if _works(module, image, cut):
            return cut
    if cam_layer:
        raise ValueError(f"the logits do not depend on what module {cam_layer!r} puts out")
    return None


def logits_above(module: nn.Module, images: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
    """Logits (N, K) with a graph that starts at the cut, and the leaf (N, C, h, w) that it starts from.

    Of images that want gradients themselves the graph starts there, and goes through what is given back for the leaf.
    Call it, and differentiate, under `torch.enable_grad()`.

    Raises:
        UnsupportedOperation: The model took another way than when it was probed.
    """
    with _Replace(cut.call) as mode:
        logits = module(images)
    if mode.leaf is None or tuple(mode.leaf.shape[1:]) != cut.shape or not logits.requires_grad:
        raise UnsupportedOperation("the model computes differently for different images; its spatial layer moved")
    return logits, mode.leaf


def _is_map(out: object) -> bool:
    if not isinstance(out, Tensor) or out.ndim != 4 or not out.is_floating_point():
        return False
    return out.shape[2] > 1 and out.shape[3] > 1


def _is_attention(func: Callable[..., Any], out: object) -> bool:
    name = getattr(func, "__name__", "")
    # A softmax over classes is 2-D; over tokens it has heads or positions besides.
    return name in ATTENTION or (name == "softmax" and isinstance(out, Tensor) and out.ndim > 2)


def _watch(module: nn.Module, name: str, seen: _Seen) -> RemovableHandle:
    modules = dict(module.named_modules())
    if name not in modules:
        raise ValueError(f"there is no module {name!r}")

    def note(_module: nn.Module, _inputs: object, out: object) -> None:
        calls = [call for call, seen_map in enumerate(seen.maps) if seen_map is out]
        seen.module_call = calls[-1] if calls else None

    handle: RemovableHandle = modules[name].register_forward_hook(note)
    return handle


def _named(seen: _Seen, name: str) -> int:
    if seen.module_call is None:
        raise ValueError(f"module {name!r} puts out no map (N, C, h, w) with h and w above 1")
    return seen.module_call


def _bottlenecks(seen: _Seen, logits: Tensor) -> Iterator[int]:
    """The maps after the last attention that everything flows through, the last one first."""
    for call in range(len(seen.maps) - 1, seen.attention_after - 1, -1):
        if _separates(seen.nodes[call], logits.grad_fn):
            yield call


def _separates(node: Node | None, top: Node | None) -> bool:
    """Whether every path from the logits down to the image goes through the node."""
    if node is None or top is None:
        return False
    waiting, visited, met = [top], {top}, False
    while waiting:
        current = waiting.pop()
        if current is node:
            met = True
            continue
        # Parameters are frozen, so the only leaf is the image.
        if current.name() == "torch::autograd::AccumulateGrad":
            return False
        below = {child for child, _ in current.next_functions if child is not None} - visited
        visited |= below
        waiting.extend(below)
    return met


def _works(module: nn.Module, image: Tensor, cut: Cut) -> bool:
    """Whether the logits depend on the replaced output: a model may ignore what an in-place call returns."""
    with torch.enable_grad():
        try:
            logits_above(module, image, cut)
        except UnsupportedOperation:
            return False
    return True
