"""Questions to autograd's graph of a forward pass in a model whose parameters are frozen: its one leaf is the image."""

from collections.abc import Iterator

from torch.autograd.graph import Node

LEAF = "torch::autograd::AccumulateGrad"
# Operations that take weights, as autograd names them.
WEIGHTED = ("Convolution", "mmBackward", "MmBackward", "LinearBackward")


def nodes_below(node: Node | None, without: Node | None = None) -> Iterator[Node]:
    """The node and all that it was computed from, each once; what is reached through one node only is left out."""
    if node is None or node is without:
        return
    waiting, visited = [node], {node}
    while waiting:
        current = waiting.pop()
        yield current
        below = {child for child, _ in current.next_functions if child is not None and child is not without} - visited
        visited |= below
        waiting.extend(below)


def separates(node: Node | None, top: Node | None) -> bool:
    """Whether every path from the top down to the image goes through the node."""
    if node is None or top is None or all(each is not node for each in nodes_below(top)):
        return False
    return all(each.name() != LEAF for each in nodes_below(top, without=node))


def is_learned(node: Node | None) -> bool:
    """Whether something with weights, or a function of the model's own, is among what it was computed from."""
    names = [each.name() for each in nodes_below(node)]
    # torch's own functions are numbered.
    return any(name != LEAF and (not name[-1].isdigit() or any(part in name for part in WEIGHTED)) for name in names)
