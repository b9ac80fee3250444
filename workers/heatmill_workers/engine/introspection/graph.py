"""Questions to autograd's graph of a forward pass in a model whose parameters are frozen: its one leaf is the image."""

from collections.abc import Iterator

from torch.autograd.graph import Node

LEAF = "torch::autograd::AccumulateGrad"
# Operations that take weights, as autograd names them.
WEIGHTED = ("Convolution", "mmBackward", "MmBackward", "LinearBackward")
# Operations that multiply or divide, as autograd names them.
PRODUCTS = ("Mul", "Mm", "mm", "Mv", "Dot", "Div", "Einsum", "Bilinear")
# Operations that can move a position, in a pass of one image.
MOVING = (
    "Permute",
    "Flip",
    "Roll",
    "Fft",
    "Softmax",
    "Attention",
    "Bmm",
    "Rnn",
    "Lstm",
    "Cum",
    "Index",
    "Gather",
    "Sort",
)
MATRIX_ROWS = ("_saved_mat1_sym_sizes", "_saved_self_sym_sizes")


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


def uses(node: Node, top: Node | None) -> int:
    """How often what a node put out is used on the way to the top."""
    return sum(child is node for each in nodes_below(top) for child, _ in each.next_functions)


def multiplies(node: Node | None) -> bool:
    """Whether two tensors of the image's are multiplied or divided in what it was computed from."""
    return any(
        any(name in each.name() for name in PRODUCTS) and sum(child is not None for child, _ in each.next_functions) > 1
        for each in nodes_below(node)
    )


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


def is_convolutional(node: Node | None) -> bool:
    """Whether only convolutions, pools, norms and the like computed it: then (N, C, h, w) follows the image.

    Args:
        node: Of a pass of one image.
    """
    return not any(_may_move(each) for each in nodes_below(node))


def is_cropped(node: Node | None) -> bool:
    """Whether something below takes a part of rows or columns; what only blanks them leaves cells in their places."""
    names = ("ConstantPad", "Index", "Narrow", "Split", "AsStrided", "Unbind", "Select")
    return any(
        (each.name().startswith("SliceBackward") and getattr(each, "_saved_dim", 2) >= 2)
        or any(name in each.name() for name in names)
        for each in nodes_below(node)
    )


def _may_move(node: Node) -> bool:
    name = node.name()
    if name == LEAF:
        return False
    # A layer on one vector, such as a gate of squeeze-and-excitation, has no positions.
    if name.startswith(("MmBackward", "AddmmBackward")):
        sizes = next((getattr(node, each) for each in MATRIX_ROWS if hasattr(node, each)), None)
        return sizes is None or int(sizes[0]) != 1
    return not name[-1].isdigit() or any(part in name for part in MOVING)
