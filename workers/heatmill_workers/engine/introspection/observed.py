"""One pass of a model with a graph: its maps, what they were computed from, and the attention between them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from heatmill_workers.engine.autograd import NO_GRADIENT
from heatmill_workers.engine.introspection.cut import Counted, Place, tensors
from heatmill_workers.engine.introspection.graph import is_cropped, nodes_below, separates
from heatmill_workers.engine.introspection.locality import Reading, noise, noise_like

ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}
NO_ONE_LAYER = "there is no one layer that all evidence flows through"
AFTER_ATTENTION = "attention mixes positions after its last map"


@dataclass
class Seen:
    """What the probe keeps of one pass."""

    outputs: list[Tensor] = field(default_factory=list)
    nodes: list[Node | None] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    # Each attention's node, and how many calls were counted before it.
    attention: list[tuple[Node | None, int]] = field(default_factory=list)
    # The shape of what each call puts out, behind the number of calls that were counted up to it.
    shapes: list[tuple[int, torch.Size]] = field(default_factory=list)
    module_call: int | None = None
    # The image that went through the model, a leaf of the graph.
    image: Tensor | None = None


class _Observe(Counted):
    """Lists the counted calls of one forward pass."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def see(self, name: str, out: Any) -> None:
        self.seen.shapes += [(self.count, each.shape) for each in tensors(out)]
        # A softmax over classes is 2-D; over tokens it has heads or positions besides.
        is_attention = name in ATTENTION or (name == "softmax" and isinstance(out, Tensor) and out.ndim > 2)
        if is_attention and not _is_pooling(next(tensors(out)), name):
            self.seen.attention.append((next(tensors(out)).grad_fn, len(self.seen.outputs)))

    def see_counted(self, name: str, out: Tensor, call: int) -> Tensor:
        self.see(name, out)
        self.seen.outputs.append(out)
        self.seen.places.append(self.place)
        # Kept apart from the tensor: a later in-place call gives the same tensor another node.
        self.seen.nodes.append(out.grad_fn)
        return out


def observed(module: nn.Module, image: Tensor, cam_layer: str | None) -> tuple[Seen, Tensor]:
    """The pass of one image, and its logits.

    Raises:
        ValueError: There is no module of that name.
        RuntimeError: The model cannot be differentiated.
    """
    seen = Seen()
    seen.image = probe = noise_like(image).detach().clone().requires_grad_()
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


def _is_pooling(out: Tensor, name: str) -> bool:
    """Whether there is one query for all positions: their weighted sum mixes nothing after it."""
    if name == "multi_head_attention_forward":
        return out.ndim == 3 and out.shape[0] == 1
    # Heads of a softmax may be those of a class token, which attends in several layers.
    return (name in ATTENTION and out.shape[-2] == 1) or sum(size > 1 for size in out.shape) <= 1


def _watch(module: nn.Module, name: str, seen: Seen) -> RemovableHandle:
    modules = dict(module.named_modules())
    if name not in modules:
        raise ValueError(f"there is no module {name!r}")

    def note(_module: nn.Module, _inputs: object, out: object) -> None:
        calls = [call for call, output in enumerate(seen.outputs) if output is out]
        seen.module_call = calls[-1] if calls else None

    handle: RemovableHandle = modules[name].register_forward_hook(note)
    return handle


def named(seen: Seen, name: str) -> int:
    """The call that puts out what the named module does.

    Raises:
        ValueError: It puts out no map.
    """
    if seen.module_call is None or not _is_map(seen.outputs[seen.module_call]):
        raise ValueError(f"module {name!r} puts out no map (N, C, h, w) or (N, h, w, C) with h and w above 1")
    return seen.module_call


def _is_map(out: Tensor) -> bool:
    return len(out) == 1 and sum(size > 1 for size in out.shape[1:]) > 1


def attention_after(seen: Seen, logits: Tensor) -> int:
    """How many calls were counted before the last attention that the logits use."""
    used = set(nodes_below(logits.grad_fn))
    return max((count for node, count in seen.attention if node is None or node in used), default=0)


def bottlenecks(seen: Seen, logits: Tensor) -> Iterator[int]:
    """The maps after the last attention that everything flows through, the last one first."""
    for call in range(len(seen.outputs) - 1, attention_after(seen, logits) - 1, -1):
        if _is_map(seen.outputs[call]) and separates(seen.nodes[call], logits.grad_fn):
            yield call


def why_none(seen: Seen, logits: Tensor) -> str:
    """In words why there is no map that everything flows through."""
    if not logits.requires_grad:
        return NO_GRADIENT
    if any("CheckpointFunction" in node.name() for node in nodes_below(logits.grad_fn)):
        return "the model computes its maps under re-entrant checkpointing, which hides them"
    return AFTER_ATTENTION if attention_after(seen, logits) else NO_ONE_LAYER


def unseen(seen: Seen, call: int, reading: Reading) -> tuple[int, int]:
    """How many rows and columns of pixels at the borders a map does not see, where they make a cell or more; else 0.

    A stride that does not divide the image leaves less than that. More is left by a model that crops its image: the
    cells are then not where they would be drawn.
    """
    out, image = seen.outputs[call], seen.image
    if image is None or image.is_meta or not is_cropped(seen.nodes[call]):
        return 0, 0
    weights = noise((1, out.numel()), out.device).view(out.shape).to(out.dtype)
    try:
        (gradients,) = torch.autograd.grad(out, image, weights, retain_graph=True)
    except RuntimeError:
        # A trunk that works in place on what its gradient needs; Grad-CAM does not need that one.
        return 0, 0
    _, height, width = reading.sizes(out.shape)
    return _left_out(gradients.abs().amax((0, 1, 3)), height), _left_out(gradients.abs().amax((0, 1, 2)), width)


def _left_out(influence: Tensor, cells: int) -> int:
    places = influence.nonzero().flatten().tolist()
    extent = places[-1] - places[0] + 1 if places else 0
    left_out = len(influence) - extent
    return left_out if left_out * cells >= extent else 0
