"""Which tokens the logits read: those whose row of the last attention has a gradient.

They are looked for in several images and logits. A class token is read in all of them, and so are all patches behind a
mean. A maximum over the patches, the best few of them or a token that the model chooses are others for each image; in a
model with a class token of its own for each class they are others for each logit. Such models have no readers.

Some of the images have random numbers in place of the last attention: what is chosen in noise could be the same token.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatmill_workers.engine.introspection.attention import Capture
from heatmill_workers.engine.introspection.locality import noise

IMAGES = 4
# A large model may have no memory for more.
AT_ONCE = 2
LOGITS = 8
# Of the random numbers, where the weights of an attention are 0 to 1.
SPREAD = 30.0

Tokens = frozenset[int]


@dataclass(frozen=True)
class Readers:
    """The tokens that the logits read, by index; in words why there are none. A head of zeros reads no token."""

    tokens: tuple[int, ...]
    reason: str = ""


def find_readers(module: nn.Module, image: Tensor, call: int) -> Readers:
    """The tokens that every logit reads in every image.

    Args:
        module: In eval mode, parameters frozen.
        image: (1, 3, H, W), for its size.
        call: The last attention call that counts.
    """
    found = list(_reading(module, image, call))
    by_image = {tokens for of_logits in found for tokens in [frozenset().union(*of_logits)] if tokens}
    if len(by_image) > 1:
        return Readers((), "which tokens its logits read depends on the image")
    if len({tokens for of_logits in found for tokens in of_logits if tokens}) > 1:
        return Readers((), "which tokens its logits read depends on the class")
    return Readers(tuple(sorted(frozenset().union(*by_image))))


def read_tokens(gradients: Tensor) -> list[Tokens]:
    """The tokens that are read in each image.

    Args:
        gradients: At the last attention, (N, heads, tokens, tokens).
    """
    is_read = gradients.ne(0).any(3).any(1)
    return [frozenset(row.nonzero().flatten().tolist()) for row in is_read]


class _Last(Capture):
    """Starts the graph at one attention, whose weights may be random."""

    def __init__(self, call: int, *, is_random: bool) -> None:
        super().__init__()
        self.call = call
        self.is_random = is_random
        self.last: Tensor | None = None

    def applied(self, attention: Tensor) -> Tensor:
        if len(self.maps) != self.call:
            return attention
        self.last = (_random_like(attention) if self.is_random else attention.detach()).requires_grad_()
        return self.last


def _reading(module: nn.Module, image: Tensor, call: int) -> Iterator[list[Tokens]]:
    """The tokens that each of some logits reads, image by image."""
    images = noise((IMAGES, *image.shape[1:]), image.device, seed=1).to(image.dtype)
    for number, several in enumerate(torch.split(images, AT_ONCE)):
        copy = several.contiguous(memory_format=torch.channels_last)
        with torch.enable_grad(), _Last(call, is_random=number > 0) as seen:
            logits: Tensor = module(copy)
        if seen.last is None:
            raise RuntimeError("it attends differently for different images")
        yield from zip(*_by_logit(logits, seen.last), strict=True)


def _by_logit(logits: Tensor, last: Tensor) -> Iterator[list[Tokens]]:
    """Of some logits, and of all together: unequal weights, since the logits of a head may sum to a constant."""
    count = logits.shape[1]
    some = torch.linspace(0, count - 1, min(count, LOGITS)).round().long()
    weights = torch.cat([functional.one_hot(some, count), torch.arange(1, count + 1).unsqueeze(0)])
    for each in weights.to(logits):
        (gradients,) = torch.autograd.grad((logits * each).sum(), last, retain_graph=True, materialize_grads=True)
        yield read_tokens(gradients)


def _random_like(attention: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return SPREAD * torch.randn(attention.shape, generator=generator).to(attention)
