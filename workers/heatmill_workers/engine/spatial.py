"""The last spatial map of a model, found by itself and reached without hooks.

A map is a float tensor of four dimensions, (N, C, h, w) or (N, h, w, C), with h and w above 1. A `TorchFunctionMode`
sees every call of torch's public functions that the current thread makes, at the outermost level, by a module or plain
code. It numbers the calls that put out four dimensions. `search` runs the model when it is loaded, and keeps the number
of the last map that everything flows through; `logits_above` replaces that call's output by a leaf, so that the trunk
below it runs without a graph and only the head above it is differentiated. The model is never touched.

The last map is no cut

- where something mixes the positions after it: attention, or what `mixing` finds. A patch grid that goes into a ViT's
  or a mixer's blocks says nothing about where the evidence is. Swin and MaxViT come out of their attention as a map
  again, and that one counts;
- where it is the image itself, as in a model that normalises it and hands it to several nets;
- where it does not follow the image (`locality`): the upper half of the image has to count in its upper half. This also
  says which of its axes are rows, columns and channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.introspection.cut import Counted, Cut, tensors
from heatmill_workers.engine.introspection.graph import is_learned, nodes_below, separates
from heatmill_workers.engine.introspection.locality import (
    CHANNELS_FIRST,
    Reading,
    composites,
    noise,
    read,
)
from heatmill_workers.engine.introspection.mixing import has_grid_after, mixer

__all__ = ["Cut", "Search", "find_cut", "logits_above", "search"]

ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}
# How many maps are tried, the last one first.
TRIED = 8
NO_ONE_LAYER = "there is no one layer that all evidence flows through"
AFTER_ATTENTION = "attention mixes positions after its last map"

Readings = Mapping[int, Reading | None]


@dataclass(frozen=True)
class Search:
    """What was found: the cut, or in words why there is none."""

    cut: Cut | None
    reason: str = ""


@dataclass
class _Seen:
    """What the probe keeps of each counted call; holding the tensor keeps its id from being used again."""

    outputs: list[Tensor] = field(default_factory=list)
    nodes: list[Node | None] = field(default_factory=list)
    # Each attention's node, and how many calls were counted before it.
    attention: list[tuple[Node | None, int]] = field(default_factory=list)
    # Of what each call puts out, and how many calls were counted up to it.
    shapes: list[tuple[int, torch.Size]] = field(default_factory=list)
    module_call: int | None = None


class _Observe(Counted):
    """Lists the counted calls of one forward pass."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()
        self.seen = seen

    def see(self, name: str, out: Any) -> None:
        self.seen.shapes += [(self.count, each.shape) for each in tensors(out)]
        # A softmax over classes is 2-D; over tokens it has heads or positions besides.
        if name in ATTENTION or (name == "softmax" and isinstance(out, Tensor) and out.ndim > 2):
            self.seen.attention.append((next(tensors(out)).grad_fn, len(self.seen.outputs)))

    def see_counted(self, name: str, out: Tensor, call: int) -> Tensor:
        self.see(name, out)
        self.seen.outputs.append(out)
        # Kept apart from the tensor: a later in-place call gives the same tensor another node.
        self.seen.nodes.append(out.grad_fn)
        return out


class _Keep(Counted):
    """Keeps chosen maps of a pass of two images."""

    def __init__(self, shapes: Mapping[int, torch.Size]) -> None:
        super().__init__()
        self.shapes = shapes
        self.maps: dict[int, Tensor] = {}

    def see_counted(self, name: str, out: Tensor, call: int) -> Tensor:
        shape = self.shapes.get(call)
        # Of a model that splits its batch, or computes otherwise for it, the call is another one.
        if shape is not None and tuple(out.shape) == (2, *shape[1:]):
            # The next call may work in place.
            self.maps[call] = out.clone()
        return out


class _Replace(Counted):
    """Puts a leaf in the place of one map, or keeps it where it has a graph already."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.cut = cut
        self.leaf: Tensor | None = None

    def see_counted(self, name: str, out: Tensor, call: int) -> Tensor:
        if call != self.cut.call:
            return out
        leaf = self.cut.reading.channels_first(out)
        self.leaf = leaf if leaf.requires_grad else leaf.detach().requires_grad_()
        # The clone lets the next call work in place, which autograd forbids on a leaf.
        return self.cut.reading.as_it_was(self.leaf).clone(memory_format=torch.preserve_format)


def find_cut(module: nn.Module, image: Tensor, cam_layer: str | None = None) -> Cut | None:
    """`search`, without the reason."""
    return search(module, image, cam_layer).cut


def search(module: nn.Module, image: Tensor, cam_layer: str | None = None) -> Search:
    """The model's last spatial map, or the one that a named module puts out; at most four small passes.

    Only for a model that no other thread uses yet: a named module gets a hook while the probe runs.

    Args:
        module: In eval mode, parameters frozen.
        image: (1, 3, H, W); its values do not matter. On the meta device no map can be seen to follow it.
        cam_layer: Name of a module.

    Raises:
        ValueError: There is no module of that name, or what it puts out is no layer for Grad-CAM.
    """
    try:
        seen, logits = _observed(module, image, cam_layer)
    except RuntimeError as error:
        return Search(None, f"the model cannot be differentiated: {error}")
    calls = [_named(seen, cam_layer)] if cam_layer else list(islice(_bottlenecks(seen, logits), TRIED))
    readings = _readings(module, image, {call: seen.outputs[call].shape for call in calls})
    reasons = [] if calls else [_why_none(seen, logits)]
    for call in calls:
        if reason := _why_unusable(seen, image, call, readings):
            reasons.append(reason)
            continue
        reading = readings[call] or CHANNELS_FIRST
        cut = Cut(call, reading.sizes(seen.outputs[call].shape), reading)
        if not _works(module, image, cut):
            reasons.append("the logits do not depend on it")
            continue
        # What lies below it is mixed as well.
        mixed = (
            None if image.is_meta or not has_grid_after(seen.shapes, cut) else mixer(module, _noise_like(image), cut)
        )
        if mixed is None:
            return Search(cut)
        reasons.insert(0, f"`{mixed}` mixes positions after its last map")
        break
    if cam_layer:
        raise ValueError(f"what module {cam_layer!r} puts out is no layer for Grad-CAM: {reasons[0]}")
    return Search(None, reasons[0])


def logits_above(module: nn.Module, images: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
    """Logits (N, K) with a graph that starts at the cut, and the leaf (N, C, h, w) that it starts from.

    Of images that want gradients themselves the graph starts there, and goes through what is given back for the leaf.
    Call it, and differentiate, under `torch.enable_grad()`.

    Raises:
        UnsupportedOperation: The model took another way than when it was probed.
    """
    with _Replace(cut) as mode:
        logits = module(images)
    if mode.leaf is None or tuple(mode.leaf.shape) != (len(images), *cut.shape) or not logits.requires_grad:
        raise UnsupportedOperation("the model computes differently for different images; its spatial layer moved")
    return logits, mode.leaf


def _noise_like(image: Tensor) -> Tensor:
    # A net without biases makes nothing of zeros.
    return image if image.is_meta else noise(image.shape, image.device)


def _observed(module: nn.Module, image: Tensor, cam_layer: str | None) -> tuple[_Seen, Tensor]:
    seen = _Seen()
    probe = _noise_like(image).detach().clone().requires_grad_()
    hook = _watch(module, cam_layer, seen) if cam_layer else None
    try:
        with torch.enable_grad():
            # A model may change its input in place, which autograd forbids on a leaf.
            copy = probe.clone()
            with _Observe(seen):
                logits: Tensor = module(copy)
    finally:
        if hook:
            hook.remove()
    return seen, logits


def _watch(module: nn.Module, name: str, seen: _Seen) -> RemovableHandle:
    modules = dict(module.named_modules())
    if name not in modules:
        raise ValueError(f"there is no module {name!r}")

    def note(_module: nn.Module, _inputs: object, out: object) -> None:
        calls = [call for call, output in enumerate(seen.outputs) if output is out]
        seen.module_call = calls[-1] if calls else None

    handle: RemovableHandle = modules[name].register_forward_hook(note)
    return handle


def _named(seen: _Seen, name: str) -> int:
    if seen.module_call is None or not _is_map(seen.outputs[seen.module_call]):
        raise ValueError(f"module {name!r} puts out no map (N, C, h, w) or (N, h, w, C) with h and w above 1")
    return seen.module_call


def _is_map(out: Tensor) -> bool:
    return len(out) == 1 and sum(size > 1 for size in out.shape[1:]) > 1


def _attention_after(seen: _Seen, logits: Tensor) -> int:
    """How many calls were counted before the last attention that the logits use."""
    used = set(nodes_below(logits.grad_fn))
    return max((count for node, count in seen.attention if node is None or node in used), default=0)


def _bottlenecks(seen: _Seen, logits: Tensor) -> Iterator[int]:
    """The maps after the last attention that everything flows through, the last one first."""
    for call in range(len(seen.outputs) - 1, _attention_after(seen, logits) - 1, -1):
        if _is_map(seen.outputs[call]) and separates(seen.nodes[call], logits.grad_fn):
            yield call


def _why_none(seen: _Seen, logits: Tensor) -> str:
    if not logits.requires_grad:
        return "the logits have no gradient: the model detaches them from the image, as under torch.no_grad()"
    if any("CheckpointFunction" in node.name() for node in nodes_below(logits.grad_fn)):
        return "the model computes its maps under re-entrant checkpointing, which hides them"
    return AFTER_ATTENTION if _attention_after(seen, logits) else NO_ONE_LAYER


def _readings(module: nn.Module, image: Tensor, shapes: Mapping[int, torch.Size]) -> Readings:
    if image.is_meta or not shapes:
        return dict.fromkeys(shapes, CHANNELS_FIRST)
    height, width = image.shape[2:]
    images = composites((height, width), image.device)
    # Two at a time: a large model may have no memory for more.
    pairs = [_kept(module, pair, shapes) for pair in torch.split(images, 2)]
    kept = set.intersection(*map(set, pairs))
    return {call: read(torch.cat([pair[call] for pair in pairs])) for call in kept}


def _kept(module: nn.Module, images: Tensor, shapes: Mapping[int, torch.Size]) -> dict[int, Tensor]:
    seen = _Keep(shapes)
    with torch.no_grad(), seen:
        module(images)
    return seen.maps


def _why_unusable(seen: _Seen, image: Tensor, call: int, readings: Readings) -> str:
    """In words what speaks against a map, as far as its values and its graph tell."""
    out = seen.outputs[call]
    if out.shape == image.shape or not is_learned(seen.nodes[call]):
        return f"{NO_ONE_LAYER}; the last map that it does flow through is the image itself"
    if call not in readings:
        return f"{NO_ONE_LAYER} of a batch"
    shape = " x ".join(map(str, out.shape[1:]))
    return (
        "" if readings[call] else f"its last map, {shape}, does not follow the image: no part of it has a place there"
    )


def _works(module: nn.Module, image: Tensor, cut: Cut) -> bool:
    """Whether the logits depend on the replaced output: a model may ignore what an in-place call returns."""
    with torch.enable_grad():
        try:
            logits_above(module, _noise_like(image), cut)
        except UnsupportedOperation:
            return False
    return True
