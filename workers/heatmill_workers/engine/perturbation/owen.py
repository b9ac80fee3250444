"""Owen values of a game whose players are the pixels of an image, over a hierarchy of boxes.

Owen: Values of Games with a Priori Unions (1977); Lundberg's PartitionExplainer in the package shap. A box is halved
across its longer side; of an odd side the second half is the larger one. Each half gets the mean of what it adds while
the other half is hidden and while it is shown, and is halved in turn, in both contexts. The boxes that add most come
first, until the evaluations are used up; what a box adds is then spread evenly over it. With evaluations enough, every
pixel has its exact Owen value.
"""

import heapq
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

# Top, bottom, left, right; bottom and right are the first that are outside.
Box = tuple[int, int, int, int]
# Boxes that are shown; the rest of the image is hidden.
Shown = tuple[Box, ...]
# How many masks a game asks for at once: shap's default. Another number would halve boxes in another order.
MASKS_A_ROUND = 10


@dataclass(frozen=True)
class BoxNode:
    """A box in a context, and the outputs without and with it."""

    context: Shown
    box: Box
    without: float
    added: float
    weight: float

    @property
    def share(self) -> float:
        """What the box adds here, as far as it counts."""
        return (self.added - self.without) * self.weight


def owen_values(whole: Box, evaluations: int) -> Generator[list[Shown], Sequence[float], list[BoxNode]]:
    """Play one game: yields the masks whose outputs it needs next, takes the outputs, returns nodes to share out.

    The first masks are those of nothing and of the whole image.

    Args:
        whole: The image.
        evaluations: May be passed by one, since both halves of a box are looked at.
    """
    without, added = yield [(), (whole,)]
    # Equal shares are taken in the order of their finding.
    order = count()
    queue = [(0.0, next(order), BoxNode((), whole, without, added, 1.0))]
    pixels: list[BoxNode] = []
    left = evaluations - 2
    while queue and left > 0:
        parents = _take(queue, pixels, min(MASKS_A_ROUND, left))
        if not parents:
            break
        outputs = yield [(*node.context, half) for node in parents for half in halves(node.box)]
        left -= len(outputs)
        for node, first, second in zip(parents, outputs[::2], outputs[1::2], strict=True):
            for child in _children(node, first, second):
                heapq.heappush(queue, (-abs(child.share), next(order), child))
    return pixels + [node for _, _, node in queue]


def halves(box: Box) -> tuple[Box, ...]:
    """The two parts of a box; none of a pixel."""
    top, bottom, left, right = box
    height, width = bottom - top, right - left
    if height >= width and height > 1:
        middle = top + height // 2
        return (top, middle, left, right), (middle, bottom, left, right)
    if width > 1:
        middle = left + width // 2
        return (top, bottom, left, middle), (top, bottom, middle, right)
    return ()


def _take(queue: list[tuple[float, int, BoxNode]], pixels: list[BoxNode], masks: int) -> list[BoxNode]:
    """The boxes that are halved next; single pixels on the way are done."""
    taken: list[BoxNode] = []
    while queue and 2 * len(taken) < masks:
        _, _, node = heapq.heappop(queue)
        (taken if halves(node.box) else pixels).append(node)
    return taken


def _children(node: BoxNode, first: float, second: float) -> tuple[BoxNode, ...]:
    """Each half without the other and with it."""
    one, other = halves(node.box)
    weight = node.weight / 2
    return (
        BoxNode(node.context, one, node.without, first, weight),
        BoxNode(node.context, other, node.without, second, weight),
        BoxNode((*node.context, other), one, second, node.added, weight),
        BoxNode((*node.context, one), other, first, node.added, weight),
    )


def masks(shown: Sequence[Shown], height: int, width: int, device: torch.device) -> Tensor:
    """Which pixels are shown, (N, 1, height, width) bool, painted on the device."""
    most = max(1, *(len(boxes) for boxes in shown))
    padded = [(*boxes, *[(0, 0, 0, 0)] * (most - len(boxes))) for boxes in shown]
    top, bottom, left, right = torch.tensor(padded, device=device).unsqueeze(3).unbind(2)
    row, column = torch.arange(height, device=device), torch.arange(width, device=device)
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return (rows.float().transpose(1, 2) @ columns.float() > 0).unsqueeze(1)
