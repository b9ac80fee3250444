"""The last spatial map of a model, found by itself and reached without hooks.

A map is a float tensor of four dimensions, (N, C, h, w) or (N, h, w, C), with h and w above 1. A `TorchFunctionMode`
sees every call of torch's public functions that the current thread makes, at the outermost level, by a module or plain
code. It numbers the calls that put out four dimensions. `search` runs the model when it is loaded, and keeps the number
of the last map that everything flows through; `logits_from_layer` replaces that output by a leaf, so that the trunk
below it runs without a graph and only the head above it is differentiated. The model is never touched.

The last map is no cut

- where something mixes the positions after it: attention, or what `mixing` finds. A patch grid that goes into a ViT's
  or a mixer's blocks says nothing about where the evidence is. Swin and MaxViT come out of their attention as a map
  again, and that one counts;
- where it is the image itself, as in a model that normalises it and hands it to several nets;
- where it does not follow the image (`locality`): the upper half of the image has to count in its upper half. This also
  says which of its axes are rows, columns and channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from heatmill_workers.engine.introspection.cut import CamLayer, Counted, Place
from heatmill_workers.engine.introspection.frame import is_of_a_vector, moves_pixels, padded, samples_pixels
from heatmill_workers.engine.introspection.graph import is_convolutional, is_learned
from heatmill_workers.engine.introspection.locality import (
    CHANNELS_FIRST,
    Reading,
    composites,
    follows,
    has_few_cells,
    is_in_place,
    noise_like,
    strips,
    tells_nothing,
)
from heatmill_workers.engine.introspection.mixing import has_grid_after, mixer
from heatmill_workers.engine.introspection.observed import (
    NO_ONE_LAYER,
    Seen,
    bottlenecks,
    named,
    observed,
    unseen,
    why_none,
)
from heatmill_workers.engine.introspection.replaced import PAIR, depends_on_it, is_passed_by
from heatmill_workers.engine.machine_faults import raise_machine_fault

__all__ = ["CamLayer", "Search", "find_cam_layer", "search"]

# How many maps are tried, the last one first.
TRIED = 8
# Images of a batch that a model may split.
SEVERAL = 5

Judgement = Reading | Literal["undecided", "contradicts", "another in a batch", "vector", "sampled", "moved"]
WRONG: Mapping[str, str] = {
    "undecided": "hardly depends on where something is in the image",
    "contradicts": "does not follow the image: no part of it has a place there",
    "vector": "is made from one vector: its positions are none of the image's",
    "sampled": "is made by `grid_sample`, at places that the model chooses",
    "moved": "is made from an image that the model turns, divides, reshapes or reorders; its parts are not in place",
    "another in a batch": "is another one in a batch: there is no one layer that all evidence flows through",
}


@dataclass(frozen=True)
class Search:
    """What was found: the cut, or in words why there is none."""

    cut: CamLayer | None
    reason: str = ""


class _Keep(Counted):
    """Keeps chosen maps of a pass of two images."""

    def __init__(self, calls: Mapping[Place, int]) -> None:
        super().__init__()
        self.calls = calls
        self.maps: dict[int, Tensor] = {}

    def see_counted(self, name: str, out: Tensor, call: int) -> Tensor:
        known = self.calls.get(self.place)
        # A model may split its batch.
        if known is not None and len(out) == PAIR:
            # The next call may work in place.
            self.maps[known] = out.clone()
        return out


def find_cam_layer(module: nn.Module, image: Tensor, cam_layer: str | None = None) -> CamLayer | None:
    """`search`, without the reason."""
    return search(module, image, cam_layer).cut


def search(module: nn.Module, image: Tensor, cam_layer: str | None = None) -> Search:
    """The model's last spatial map, or the one that a named module puts out.

    It takes four passes of one image or two, and up to five more for each map that is tried.

    Only for a model that no other thread uses yet: a named module gets a hook while the probe runs.

    Args:
        module: In eval mode, parameters frozen.
        image: (1, 3, H, W); its values do not matter. On the meta device no map can be seen to follow it.
        cam_layer: Name of a module.

    Raises:
        ValueError: There is no module of that name, or what it puts out is no layer for Grad-CAM.
    """
    try:
        seen, logits = observed(module, image, cam_layer)
    except RuntimeError as error:
        raise_machine_fault(error)
        return Search(None, f"the model cannot be differentiated: {error}")
    calls = [named(seen, cam_layer)] if cam_layer else list(islice(bottlenecks(seen, logits), TRIED))
    read = _read(module, image, seen, calls)
    reasons = [] if calls else [why_none(seen, logits)]
    for call in calls:
        found = _tried(module, image, seen, call, read[call])
        # What an operator names may be a branch.
        if found.cut is not None and not cam_layer and is_passed_by(module, image, found.cut):
            found = Search(None, f"{NO_ONE_LAYER}; something reaches the logits beside its last map")
        if found.cut is not None:
            return found
        reasons.append(found.reason)
        # A map before one that tells nothing is no better, and one before a mixer is as bad.
        if read[call] == "undecided" or "mixes" in found.reason:
            reasons.reverse()
            break
    if cam_layer:
        raise ValueError(f"what module {cam_layer!r} puts out is no layer for Grad-CAM: {reasons[0]}")
    return Search(None, reasons[0])


def _read(module: nn.Module, image: Tensor, seen: Seen, calls: list[int]) -> dict[int, Judgement]:
    """How each of the calls' maps is to be read, or what speaks against it."""
    if image.is_meta or not calls:
        return dict.fromkeys(calls, CHANNELS_FIRST)
    height, width = image.shape[2:]
    images = composites((height, width), image.device)
    places = {seen.places[call]: call for call in calls}
    # Two at a time: a large model may have no memory for more.
    pairs = [_kept(module, pair, places) for pair in torch.split(images, PAIR)]
    found: dict[int, Judgement] = {}
    for call in calls:
        if all(call in pair for pair in pairs):
            found[call] = _confirmed(
                module, image, seen, call, _judged(seen, call, torch.cat([pair[call] for pair in pairs]))
            )
        else:
            found[call] = "another in a batch"
    return found


def _confirmed(module: nn.Module, image: Tensor, seen: Seen, call: int, judged: Judgement) -> Judgement:
    """The judgement; where the model moves the image's pixels, every strip of the image has to be in its place too."""
    if isinstance(judged, str) or not moves_pixels(seen.nodes[call]):
        return judged
    places = {seen.places[call]: call}
    images = strips((image.shape[2], image.shape[3]), image.device)
    # The first one twice, since pairs are kept.
    pairs = [_kept(module, pair, places) for pair in torch.split(torch.cat([images[:1], images]), PAIR)]
    if any(call not in pair for pair in pairs):
        return "another in a batch"
    return judged if is_in_place(torch.cat([pair[call] for pair in pairs])[1:], judged) else "moved"


def _judged(seen: Seen, call: int, rows: Tensor) -> Judgement:
    node = seen.nodes[call]
    if is_of_a_vector(node):
        return "vector"
    if samples_pixels(node):
        return "sampled"
    reading = follows(rows)
    if reading is not None:
        return reading
    if not tells_nothing(rows):
        return "contradicts"
    # Weights at random may have no sense of place; what convolutions alone made has.
    if moves_pixels(node):
        return "moved"
    return CHANNELS_FIRST if has_few_cells(rows) or is_convolutional(node) else "undecided"


def _kept(module: nn.Module, images: Tensor, places: Mapping[Place, int]) -> dict[int, Tensor]:
    seen = _Keep(places)
    # Laid out as images are. A model may write into them.
    copy = images.clone(memory_format=torch.channels_last)
    # Nothing wants a gradient: there is no graph.
    with torch.enable_grad(), seen:
        module(copy)
    return seen.maps


def _tried(module: nn.Module, image: Tensor, seen: Seen, call: int, read: Judgement) -> Search:
    """The cut at a call, or what speaks against it."""
    out = seen.outputs[call]
    if out.shape == image.shape or not is_learned(seen.nodes[call]):
        return Search(None, f"{NO_ONE_LAYER}; the last map that it does flow through is the image itself")
    if isinstance(read, str):
        return Search(None, f"its last map, {' x '.join(map(str, out.shape[1:]))}, {WRONG[read]}")
    displaced = _displaced(seen, call, read)
    if displaced:
        return Search(None, displaced)
    place = seen.places[call]
    alike = sum(each[:2] == place[:2] for each in seen.places)
    cut = CamLayer(call, read.sizes(out.shape), read, place, alike)
    if not depends_on_it(module, noise_like(image), cut):
        return Search(None, "the logits do not depend on it")
    if not depends_on_it(module, noise_like(image.expand(SEVERAL, -1, -1, -1)), cut):
        return Search(None, f"its last map {WRONG['another in a batch']}")
    mixed = None if image.is_meta or not has_grid_after(seen.shapes, cut) else mixer(module, noise_like(image), cut)
    return Search(None, f"`{mixed}` mixes positions after its last map") if mixed else Search(cut)


def _displaced(seen: Seen, call: int, read: Reading) -> str:
    """In words why the map's cells are not where they would be drawn; empty if they are."""
    rows, columns = unseen(seen, call, read)
    if rows or columns:
        return f"its last map sees nothing of {rows} rows and {columns} columns of pixels at the borders"
    rows, columns = padded(seen.nodes[call], read.sizes(seen.outputs[call].shape)[1:])
    if rows or columns:
        return f"the model puts {rows} rows and {columns} columns around the image, which its last map shows"
    return ""
