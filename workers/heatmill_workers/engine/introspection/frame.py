"""What becomes of the image's pixels before a map is made of them, read off autograd's graph.

A convolution, a pool or a norm keeps each pixel's place. A layer on one vector has no places, whatever shape its
outputs are given afterwards. What turns, samples or reshapes the image moves places, which `locality` has to confirm;
what pads the image makes cells that show none of it.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.graph import Node

from heatmill_workers.engine.introspection.graph import LEAF, WEIGHTED, nodes_below

# They move pixels wherever they are, even by what the model finds in the image.
SAMPLING = "GridSampler"
# They move pixels if they change the last two axes.
RESHAPING = ("View", "ReshapeAlias", "Expand", "Repeat", "Cat")
MOVING = ("Gather", "Take", "Im2Col", "UnfoldBackward", "AsStrided", "PixelShuffle", "PixelUnshuffle")
# They take a part of an axis, or each of its parts.
PARTING = ("Slice", "Narrow", "Select", "Split", "UnsafeSplit", "Unbind")
DIVIDING = ("Split", "UnsafeSplit", "Unbind")
PADDING = ("ConstantPad", "ReflectionPad", "ReplicationPad", "Cat", "CopySlices")


def is_of_a_vector(node: Node | None) -> bool:
    """Whether all that reaches a map from the image has gone through a vector, such as a global pool's.

    Args:
        node: Of a pass of one image.
    """
    if node is None:
        return False
    found: dict[Node, bool] = {}
    for each in _upwards(node):
        below = [found[child] for child in _children(each)]
        found[each] = _has_no_positions(_shape(each)) or (bool(below) and all(below))
    return found[node]


def moves_pixels(node: Node | None) -> str:
    """The name of an operation that gives the image's pixels other places, or divides them; empty if there is none.

    What turns or reshapes is looked for before the layers, which do that to their own maps; what divides, everywhere.

    Args:
        node: Of a pass of one image.
    """
    learned = _learned(node)
    users = Counter(child for each in learned for child in _children(each))
    moving = (
        each
        for each, is_learned in learned.items()
        if _moves(each, is_learned=is_learned) or _is_one_part_of_several(each, users)
    )
    return next((each.name().partition("Backward")[0] for each in moving), "")


def samples_pixels(node: Node | None) -> bool:
    """Whether the image or a map is sampled at places that the model chooses."""
    return any(SAMPLING in each.name() for each in nodes_below(node))


def padded(node: Node | None, cells: tuple[int, int]) -> tuple[int, int]:
    """How many rows and columns are put around the image, where they make a cell or more; else 0.

    A layer's own padding counts beyond what its kernel takes away again.

    Args:
        node: Of a pass of one image.
        cells: (h, w) of the map.
    """
    found = [0, 0]
    for each, is_learned in _learned(node).items():
        for axis, (added, size) in enumerate(_added(each, is_learned=is_learned)):
            if added * cells[axis] >= size:
                found[axis] = max(found[axis], added)
    return found[0], found[1]


def _added(node: Node, *, is_learned: bool) -> Iterator[tuple[int, int]]:
    """Of rows and of columns: how many an operation adds, and how many there are then."""
    below = [_shape(child)[-2:] for child in _children(node)]
    if node.name().startswith("ConvolutionBackward"):
        layer: Any = node
        if not layer._saved_transposed:  # noqa: SLF001 - autograd's name of it
            kernel = layer._saved_weight.shape[2:]  # noqa: SLF001
            sides = zip(below[0], layer._saved_padding, layer._saved_dilation, kernel, strict=False)  # noqa: SLF001
            for size, padding, dilation, side in sides:
                yield 2 * padding - dilation * (side - 1), size + 2 * padding
    elif not is_learned and any(name in node.name() for name in PADDING):
        sizes = _shape(node)[-2:]
        # Parts of the image may be put beside one another.
        total = sum if "Cat" in node.name() else max
        for axis in range(min(map(len, [sizes, *below]), default=0)):
            yield sizes[axis] - total(size[axis] for size in below), sizes[axis]


def _moves(node: Node, *, is_learned: bool) -> bool:
    name = node.name()
    if name.startswith("Rot90"):
        return True
    if is_learned or name == LEAF:
        return False
    return any(each in name for each in MOVING) or _reorders(node) or _reshapes(node)


def _is_one_part_of_several(node: Node, users: Counter[Node]) -> bool:
    """Whether it takes some rows or columns of what other operations take others of: parts may be joined anyhow."""
    name = node.name()
    if not name.startswith(PARTING):
        return False
    (source,) = _children(node)
    count = len(_shape(source))
    if not _is_like_the_image(source) or max(_dims(node, "_saved_dim", count)) < count - 2:
        return False
    return name.startswith(DIVIDING) or users[source] > 1


def _is_like_the_image(node: Node) -> bool:
    """Whether its last two axes have the image's proportions: others, such as of queries and keys, are no places."""
    image = next(_shape(each) for each in nodes_below(node) if each.name() == LEAF)
    shape = _shape(node)
    height, width = image[-2:]
    return len(shape) > 2 and abs(shape[-2] * width - shape[-1] * height) <= max(height, width)


def _reshapes(node: Node) -> bool:
    if not any(name in node.name() for name in RESHAPING):
        return False
    return any(_shape(child)[-2:] != _shape(node)[-2:] for child in _children(node))


def _reorders(node: Node) -> bool:
    """Whether it exchanges rows or columns, or these with another axis."""
    name, count = node.name(), len(_shape(node))
    if name.startswith(("Flip", "Roll")):
        return any(axis >= count - 2 for axis in _dims(node, "_saved_dims", count))
    if name.startswith("Permute"):
        dims = _dims(node, "_saved_dims", count)
        return dims[-2:] != [count - 2, count - 1]
    if name.startswith("Transpose"):
        return max(_dims(node, "_saved_dim0", count) + _dims(node, "_saved_dim1", count)) >= count - 2
    if name.startswith("Index"):
        indices = getattr(node, "_saved_indices", ())
        return any(index is not None for index in indices[count - 2 :]) or not indices
    return False


def _dims(node: Node, name: str, count: int) -> list[int]:
    saved = getattr(node, name, ())
    axes = saved if isinstance(saved, tuple) else (saved,)
    # Autograd shows a negative axis as an unsigned number of 64 bits.
    return [(axis - 2**64 if axis >= 2**63 else axis) % count for axis in axes]


def _learned(node: Node | None) -> dict[Node, bool]:
    """Whether a layer with weights is a node or is below it."""
    found: dict[Node, bool] = {}
    for each in _upwards(node):
        own = any(name in each.name() for name in WEIGHTED)
        found[each] = own or any(found[child] for child in _children(each))
    return found


def _upwards(node: Node | None) -> Iterator[Node]:
    """The nodes below one and itself, each after all that it was computed from."""
    if node is None:
        return
    waiting, done = [(node, False)], set()
    while waiting:
        current, is_open = waiting.pop()
        if current in done:
            continue
        if is_open:
            done.add(current)
            yield current
            continue
        waiting.append((current, True))
        waiting += [(child, False) for child in _children(current) if child not in done]


def _children(node: Node) -> list[Node]:
    return [child for child, _ in node.next_functions if child is not None]


def _shape(node: Node) -> torch.Size:
    """Of what the operation put out."""
    if node.name() == LEAF:
        leaf: torch.Tensor = node.variable  # type: ignore[attr-defined]
        return leaf.shape
    # Torch offers the sizes of what a node put out nowhere else.
    metadata: Any = node._input_metadata  # noqa: SLF001
    return torch.Size(metadata[0].shape) if metadata else torch.Size()


def _has_no_positions(shape: torch.Size) -> bool:
    """Whether it is a vector of one image: (1, C), or (1, C, 1, 1) in any order."""
    if len(shape) < 2:
        return True
    return shape[0] == 1 and sum(size > 1 for size in shape[1:]) <= 1
