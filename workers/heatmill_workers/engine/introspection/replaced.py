"""A map of a pass in whose place something else stands: a leaf that gradients are taken from, or another map."""

import torch
from torch import Tensor, nn

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.introspection.cut import CamLayer, Counted
from heatmill_workers.engine.introspection.locality import noise

# Images of a pass that is looked at: a large model may have no memory for more.
PAIR = 2
# As a share of their spread: by so much the logits of equal maps may differ, in half precision too.
SAME = 0.02


def logits_from_layer(module: nn.Module, images: Tensor, cut: CamLayer) -> tuple[Tensor, Tensor]:
    """Logits (N, K) with a graph that starts at the cut, and the leaf (N, C, h, w) that it starts from.

    Of images that want gradients themselves the graph starts there, and goes through what is given back for the leaf.
    Call it, and differentiate, under `torch.enable_grad()`.

    Raises:
        UnsupportedOperation: The model took another way than when it was probed.
    """
    with _Replace(cut) as mode:
        logits = module(images)
    is_known = mode.leaf is not None and mode.all_alike(cut.place) == cut.alike
    if mode.leaf is None or not is_known or len(mode.leaf) != len(images) or not logits.requires_grad:
        raise UnsupportedOperation("the model computes differently for different images; its spatial layer moved")
    return logits, mode.leaf


def depends_on_it(module: nn.Module, images: Tensor, cut: CamLayer) -> bool:
    """Whether the logits depend on the replaced output: a model may ignore what an in-place call returns.

    Of a batch that the model splits they do not depend on one output alone.
    """
    with torch.enable_grad():
        try:
            logits_from_layer(module, images, cut)
        except UnsupportedOperation:
            return False
    return True


def is_passed_by(module: nn.Module, image: Tensor, cut: CamLayer) -> bool:
    """Whether the logits of two images differ although their maps do not; a graph shows no part that is detached."""
    if image.is_meta:
        return False
    images = noise((PAIR, *image.shape[1:]), image.device, seed=2).to(image.dtype)
    copy = images.contiguous(memory_format=torch.channels_last)
    with torch.enable_grad(), _Same(cut):
        first, second = module(copy).detach().float()
    scale = first.max() - first.min() if len(first) > 1 else first.abs().max()
    return bool((first - second).abs().max() > SAME * scale)


class _Replace(Counted):
    """Puts a leaf in the place of one map, or keeps it where it has a graph already."""

    def __init__(self, cut: CamLayer) -> None:
        super().__init__()
        self.cut = cut
        self.leaf: Tensor | None = None

    def see_counted(self, name: str, out: Tensor, call: int) -> Tensor:
        if self.place != self.cut.place:
            return out
        leaf = self.cut.reading.channels_first(out)
        self.leaf = leaf if leaf.requires_grad else leaf.detach().requires_grad_()
        # The clone lets the next call work in place, which autograd forbids on a leaf.
        return self.cut.reading.as_it_was(self.leaf).clone(memory_format=torch.preserve_format)


class _Same(Counted):
    """Gives the second image the first one's map."""

    def __init__(self, cut: CamLayer) -> None:
        super().__init__()
        self.cut = cut

    def see_counted(self, name: str, out: Tensor, call: int) -> Tensor:
        if self.place != self.cut.place or len(out) != PAIR:
            return out
        return out[:1].expand_as(out).clone(memory_format=torch.preserve_format)
