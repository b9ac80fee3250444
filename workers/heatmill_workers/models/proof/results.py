"""The tensors at the end of a forward pass, whether a module runs as Python, as an exported graph or as TorchScript."""

from collections import Counter
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from heatmill_workers.engine.introspection.tail import LastResults, Tail
from heatmill_workers.models.proof.calls import LOW_PRECISION
from heatmill_workers.models.proof.intervals import Range, hull
from heatmill_workers.models.proof.ranges import Ranges, plain_name
from heatmill_workers.models.proof.scripted import LAST, Scripted, last_range, last_results

LARGEST = 65536
PRECISE = {torch.float32, torch.float64}


@dataclass(frozen=True)
class Candidate:
    """A tensor that came up at the end of a pass, and how to read it again.

    Args:
        values: (images, ...).
        read: Finds it in another pass.
        maker: The name of the function that made it, such as `softmax`.
        rounding: Relative, of the lowest precision of what follows; 0 for float32.
    """

    values: Tensor
    read: Tail | Scripted
    maker: str
    rounding: float = 0

    @property
    def is_precise(self) -> bool:
        """Whether it was not rounded to half precision."""
        return self.values.dtype in PRECISE


@dataclass(frozen=True)
class Observed:
    """Forward passes: what came out, between which bounds, and the last tensors that may make it, in order."""

    outputs: Tensor
    range: Range | None
    candidates: list[Candidate]


def observe(module: nn.Module, images: Tensor) -> Observed:
    """Run the module on the images, few at a time and without a graph.

    Args:
        module: (N, 3, H, W) to (N, K).
        images: Not changed, whatever the module does to its input.
    """
    # A device that does not hold two images is rare.
    starts = range(0, len(images), 2)
    with torch.no_grad():
        passes = [_observe(module, images[start : start + 2].clone()) for start in starts]
    values = [{each.read: each for each in one.candidates} for one in passes]
    # A model that computes differently for other images has fewer in common.
    common = [read for read in values[0] if all(read in one for one in values)]
    candidates = [_together([one[read] for one in values]) for read in common]
    ranges = [one.range for one in passes if one.range is not None]
    return Observed(
        torch.cat([one.outputs for one in passes]),
        hull(ranges) if len(ranges) == len(passes) else None,
        candidates,
    )


def _together(parts: list[Candidate]) -> Candidate:
    """One candidate of those of several passes."""
    rounding = max(each.rounding for each in parts)
    makers = {each.maker for each in parts}
    maker = makers.pop() if len(makers) == 1 else ""
    return Candidate(torch.cat([each.values for each in parts]), parts[0].read, maker, rounding)


def _observe(module: nn.Module, images: Tensor) -> Observed:
    if isinstance(module, torch.jit.ScriptModule):
        return _observe_script(module, images)

    def is_small(shape: torch.Size) -> bool:
        return shape[:1] == (len(images),) and prod(shape) <= LARGEST * len(images)

    with Ranges(images) as ranges, LastResults(is_small, LAST) as results:
        outputs: Tensor = module(images)
    return Observed(outputs, ranges.of(outputs), _candidates(results, outputs))


def _candidates(results: LastResults, outputs: Tensor) -> list[Candidate]:
    """Those with as many numbers as there are outputs, or with one where there are two."""
    later: Counter[torch.Size] = Counter()
    found, rounding = [], 0.0
    for values, maker in zip(reversed(results.kept), reversed(results.makers), strict=True):
        if may_make(values, outputs):
            tail = Tail(tuple(values.shape[1:]), later[values.shape])
            found.append(Candidate(values, tail, plain_name(maker), rounding))
        later[values.shape] += 1
        rounding = max(rounding, _rounding(values))
    return found[::-1]


def _rounding(values: Tensor) -> float:
    return torch.finfo(values.dtype).eps if values.dtype in LOW_PRECISION else 0


def may_make(values: Tensor, outputs: Tensor) -> bool:
    """Whether a tensor has as many numbers as there are outputs, or one where there are two."""
    if not values.ndim or len(values) != len(outputs) or not values.is_floating_point():
        return False
    count = values[0].numel()
    return count == outputs.shape[1] or (count == 1 and outputs.shape[1] == 2)


def _observe_script(module: torch.jit.ScriptModule, images: Tensor) -> Observed:
    outputs: Tensor = module(images.clone())
    found, rounding = [], 0.0
    for values, read, maker in reversed(list(last_results(module, images))):
        if may_make(values, outputs):
            found.append(Candidate(values, read, maker, rounding))
        rounding = max(rounding, _rounding(values))
    return Observed(outputs, last_range(module), found[::-1])
