"""Whether a model ends in softmax or in sigmoid, and which tensor goes into that.

What the last operation is called says little: softmax is written by hand, its result is clamped, viewed or averaged.
So the tensors of the end of a forward pass are tried: the first whose softmax or sigmoid is what the model puts out is
what goes into it, if no plain function of that tensor makes them as well (`evidence`). Where there is none, rows that
sum to 1 and differ are probabilities, and numbers within 0..1 are so if that follows from the operations (`ranges`).
Numbers that stay between bounds otherwise may be of any kind.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from heatmill_workers.models.proof.calls import LOW_PRECISION
from heatmill_workers.models.proof.comparison import usable
from heatmill_workers.models.proof.evidence import (
    CLOSE,
    FORMS,
    ROUNDING,
    SATURATED,
    SEPARATION,
    Form,
    are_named,
    as_probabilities,
    is_evidence,
)
from heatmill_workers.models.proof.intervals import Range
from heatmill_workers.models.proof.results import Candidate, observe
from heatmill_workers.models.proof.runs import FAILED

Name = Form | Literal["bounded", "mixed"]
Read = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]

CLOSE_IN_HALF = 1e-2
# How far the images are scaled to drive the outputs to their bounds.
FAR = 30
MOST_POSITIVE = 1e6
# Half of 16.
ROUNDINGS = 8


@dataclass(frozen=True)
class FinalActivation:
    """What makes the numbers that a model puts out.

    Args:
        name: "bounded": they lie between bounds, as those of a tanh, percentages or a count do, and nothing says what
            they are. "mixed": some are probabilities or otherwise bounded, and others are not.
        read: Runs the module on images, and gives what it puts out and what goes into the activation; None where that
            was not found.
        sides: What each output is times what was read, where the two are made of one number: (-1, 1) or (1, -1).
    """

    name: Name
    read: Read | None = None
    sides: tuple[int, int] | None = None

    def before(self, values: Tensor, outputs: Tensor) -> Tensor:
        """What goes into the activation, float32 (N, K), of the tensor that was read."""
        if self.sides is None:
            return values.reshape(outputs.shape).float()
        one = values.reshape(len(values), 1).float()
        return torch.cat([one * side for side in self.sides], 1)

    def errors(self, before: Tensor, outputs: Tensor) -> Tensor:
        """By how much what the activation makes differs from the outputs, (N, K), as probabilities."""
        if self.name == "bounded" or self.name == "mixed":
            raise ValueError("no function makes numbers of any kind")
        # Written by hand, the logarithm of a small probability ends somewhere.
        made, outputs = (as_probabilities(self.name, each) for each in (FORMS[self.name](before), outputs))
        # Of an image that makes NaN of everything nothing can be said.
        return (made - outputs).abs().masked_fill(outputs.isnan() & made.isnan(), 0)


@dataclass(frozen=True)
class Ending:
    """What a model was seen to put out.

    Args:
        outputs: How many numbers an image: K.
        final: None where the outputs are logits, or values.
        is_constant: They are the same for every image.
    """

    outputs: int
    final: FinalActivation | None
    is_constant: bool = False


def see_ending(module: nn.Module, images: Tensor) -> Ending:
    """What a model puts out and the activation that it ends in, as seen on the images and on two scaled ones.

    Args:
        module: (N, 3, H, W) to (N, K), in eval mode; rows do not mix.
        images: A few, such as (N, 3, H, W) of noise, zeros and photos.
    """
    try:
        seen = observe(module, torch.cat([images, FAR * images[:2]]))
    except FAILED:
        # A model may refuse images that are unlike photos.
        seen = observe(module, images)
    finite = usable(seen.outputs)
    outputs = seen.outputs[finite].float()
    if not len(outputs):
        return Ending(seen.outputs.shape[1], None)
    matches = list(_matches(seen.candidates, seen.outputs, finite))
    found = _first_of_the_best(matches) if matches else _told_by_bounds(outputs, seen.range)
    return Ending(outputs.shape[1], found, is_constant=bool((outputs == outputs[0]).all()))


def _matches(candidates: list[Candidate], outputs: Tensor, finite: Tensor) -> Iterator[tuple[float, FinalActivation]]:
    """Activations that make the outputs of one of the tensors, in their order, and how far they miss."""
    wanted = outputs[finite].float()
    of_usable = [replace(each, values=each.values[finite]) for each in candidates]
    named = {name: are_named(name, of_usable, wanted) for name in FORMS if _is_possible(wanted, name)}
    for candidate, name in product(candidates, named):
        close = _close(candidate, wanted, name)
        for sides in _sides(candidate, outputs):
            found = FinalActivation(name, candidate.read, sides)
            before = found.before(candidate.values, outputs)[finite]
            error = float(found.errors(before, wanted).max())
            if error <= close and is_evidence(name, before, wanted, named=named[name]):
                yield error, found


def _close(candidate: Candidate, outputs: Tensor, name: Form) -> float:
    """By how much the outputs may differ from what an activation makes of a tensor."""
    if not candidate.is_precise:
        return CLOSE_IN_HALF
    # A probability of 1e-7 whose logarithm is rounded changes 16 times as much.
    largest = float(as_probabilities(name, outputs).max())
    return min(CLOSE + ROUNDINGS * candidate.rounding * largest, CLOSE_IN_HALF)


def _first_of_the_best(matches: list[tuple[float, FinalActivation]]) -> FinalActivation:
    """Small logits look alike whatever they are divided by; what was shifted only is as good."""
    least = min(error for error, _ in matches)
    return next(found for error, found in matches if error <= max(2 * least, ROUNDING))


def _sides(candidate: Candidate, outputs: Tensor) -> tuple[tuple[int, int] | None, ...]:
    count = candidate.values.numel() // len(outputs)
    if count == outputs.shape[1]:
        return (None,)
    return ((-1, 1), (1, -1)) if count == 1 and outputs.shape[1] == 2 else ()


def _is_possible(outputs: Tensor, name: Form) -> bool:
    """Whether all outputs may be probabilities, or their logarithms; the softmax of one number is always 1."""
    if name in {"softmax", "log_softmax"} and outputs.shape[1] == 1:
        return False
    probabilities = as_probabilities(name, outputs)
    return bool((probabilities < 1 + SATURATED).all() and (probabilities > -SATURATED).all())


def _told_by_bounds(outputs: Tensor, known: Range | None) -> FinalActivation | None:
    """What bounds say of outputs that no tensor of the pass explains."""
    if _sum_to_1(outputs, known):
        return FinalActivation("softmax")
    if known is not None and known.mixed:
        return FinalActivation("mixed")
    if known is not None and known.within(0, 1) and not known.of_distances:
        return FinalActivation("sigmoid")
    if known is not None and known.high <= 0 and not known.of_distances:
        # Such as logarithms of probabilities.
        return FinalActivation("log_softmax" if _sum_to_1(outputs.exp(), None) else "bounded")
    return FinalActivation("bounded") if _may_be_of_any_kind(outputs, known) else None


def _may_be_of_any_kind(outputs: Tensor, known: Range | None) -> bool:
    """Whether the outputs are no logits, by their bounds; numbers within 0..1 may also be logits by chance."""
    # Logarithms of probabilities to another base.
    if any(_sum_to_1(base**outputs, None) for base in (2, 10)):
        return True
    if known is not None and (known.attained or _is_narrow(known, outputs.shape[1])):
        return _is_narrow(known, outputs.shape[1])
    return float(outputs.min()) >= 0 and float(outputs.max()) <= 1


def _sum_to_1(outputs: Tensor, known: Range | None) -> bool:
    """Whether the numbers of each image sum to 1, and not because they hardly change."""
    sums = outputs.sum(1)
    if outputs.shape[1] == 1 or (outputs < -(CLOSE_IN_HALF**2)).any():
        return False
    error = float((sums - 1).abs().max())
    moves = float((outputs - outputs.mean(0)).abs().max())
    if known is not None and known.within(0, 1):
        moves = 1
    elif known is not None and known.is_linear and moves < SATURATED:
        return False
    return error <= _off(outputs) and SEPARATION * max(error, ROUNDING) < moves


def _off(outputs: Tensor) -> float:
    """By how much sums of probabilities may miss 1: all that were rounded to half precision stay as they are there."""
    is_rounded = any(torch.equal(outputs.to(dtype).to(outputs.dtype), outputs) for dtype in LOW_PRECISION)
    return CLOSE_IN_HALF if is_rounded else 1e-3


def _is_narrow(known: Range, outputs: int) -> bool:
    """Whether the outputs are no logits: softmax of numbers within -1..1 hardly tells classes apart.

    One number that is never negative would be a class that is never less probable than the other.
    """
    if outputs == 1 and (known.low >= 0 or known.high <= 0):
        return True
    # The largest distance would be that of the most probable class.
    is_distance = known.of_distances and known.low >= 0
    return is_distance or known.within(-1, 1) or known.within(0, MOST_POSITIVE)
