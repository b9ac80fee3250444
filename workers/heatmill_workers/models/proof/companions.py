"""Whether a model decides something for a whole batch: to stop early where all rows are sure, or by the largest value.

Rows may look independent on the few images that a model is proved on, as long as all of these lead to one decision. So
an image is run among copies of itself, and wherever a function reduces all rows to one value, the copies' rows get
values that other images might have: very large ones, then very small ones. The image's own outputs must stay.

`(sure > 0.9).all()` stays false among others for an image that is not sure, and such a run says nothing of those that
are. So where no run has shown both decisions to come to the same, as in a mixture of experts that leaves out what no
row asks for, the image's own rows are exchanged as well: a decision that changes its outputs then is refused.

Decisions that no such function makes, as in a list of Python or inside a compiled part, are looked for by images of
many contrasts, alone and together.
"""

import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from heatmill.errors import ModelRefused
from heatmill_workers.engine.batching import is_out_of_memory
from heatmill_workers.models.proof.calls import REDUCTIONS, crosses_rows
from heatmill_workers.models.proof.comparison import Reference, usable
from heatmill_workers.models.proof.inputs import FIRST_PHOTO
from heatmill_workers.models.proof.runs import FAILED, Runs

# No other dimension of a tensor is likely to be as long.
COPIES = 11
# Where a model raises on what it is given, as after `isnan().any()`, functions get other rows one by one: so many.
MOST_FUNCTIONS = 8
# From an image's own values, in units of their range: what tells bytes from normalised values lies in between.
FAR = 100
LARGEST_KEY = 64
TORCH = str(Path(torch.__file__).parent)
OWN_FILES = (__file__, str(Path(__file__).with_name("calls.py")))
CONTRASTS = ((-1.0, 0.0), (0.1, 0.0), (0.3, -1.0), (0.3, 1.0), (2.0, 0.0), (4.0, 0.0))


Site = tuple[str, int]
Decision = tuple[Site, str]


class Companions(TorchFunctionMode):
    """Gives functions that reduce all rows other rows than they were called with.

    Args:
        level: 1 for values above any, -1 for values below any, 0 for none.
        spares: Decisions that are known to come to the same, of which the first image's own rows may be exchanged too;
            None where these stay.
        only: The number of the call that gets other rows, in order; None for all.

    Attributes:
        names: Of the functions that reduced all rows.
        changed: By where they were called: what they would have given, and what they gave.
    """

    def __init__(self, level: int, *, spares: Set[Decision] | None = None, only: int | None = None) -> None:
        super().__init__()
        self.names: list[str] = []
        self.changed: set[Decision] = set()
        self._level, self._spares, self._only = level, spares, only

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, options = getattr(func, "__name__", ""), dict(kwargs or {})
        found = func(*args, **options)
        if name not in REDUCTIONS or not crosses_rows(name, args, options, COPIES):
            return found
        self.names.append(name)
        if not self._level or self._only not in {None, len(self.names) - 1}:
            return found
        other = func(self._exchanged(args[0]), *args[1:], **options)
        site = _site()
        before, after = (site, _key(found)), (site, _key(other))
        if before == after or (self._spares is not None and after in self._spares):
            return found
        self.changed |= {before, after}
        return other

    def _exchanged(self, rows: Tensor) -> Tensor:
        own = rows[: len(rows) // COPIES]
        others = torch.full_like(rows, self._value(own))
        return others if self._spares is not None else torch.cat([own, others[len(own) :]])

    def _value(self, own: Tensor) -> float:
        if own.dtype == torch.bool:
            return float(self._level > 0)
        low, high = (float(each) for each in own.double().nan_to_num().aminmax())
        distance = FAR * (high - low + max(abs(low), abs(high)) + 1)
        # What counts something does not fall below 0.
        least = 0 if not own.is_floating_point() and low >= 0 else low - distance
        return high + distance if self._level > 0 else least


def _site() -> Site:
    """Where in the model's code a function is called."""
    frame = sys._getframe(2)  # noqa: SLF001 - a frame of the stack, without reading any file
    while frame.f_back is not None and (frame.f_code.co_filename in OWN_FILES or TORCH in frame.f_code.co_filename):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _key(found: Any) -> str:
    """A value as text; of large ones, their shapes."""
    tensors = found if isinstance(found, tuple) else (found,)
    return str(
        [
            each.tolist() if isinstance(each, Tensor) and each.numel() <= LARGEST_KEY else getattr(each, "shape", each)
            for each in tensors
        ]
    )


def check_companions(runs: Runs, images: Tensor, wanted: Reference, *, decides_inside: bool = False) -> None:
    """Refuse a model whose decisions for a batch change what it puts out for an image.

    25 runs of eleven rows for a model that reduces rows to one value, one of six and six of one for a model that
    decides by values; none for others.

    Args:
        runs: Of the model, after `check_rows`.
        images: (5, C, H, W), as `proof_images` makes them.
        wanted: What a run on them gave.
        decides_inside: The model decides in a compiled part, which nothing looks into.

    Raises:
        ModelRefused: The message says by how much the outputs change, and names the functions.
    """
    if not REDUCTIONS.isdisjoint(runs.calls.mixes):
        _check_reductions(runs, images, wanted)
    if runs.calls.branches or decides_inside:
        _check_contrasts(runs, images[FIRST_PHOTO], wanted)


def decides_inside(module: nn.Module) -> bool:
    """Whether a module has a compiled part in which one value decides what is computed."""
    scripts = (part for part in module.modules() if isinstance(part, torch.jit.ScriptModule))
    return any(kind in _graph(part) for part in scripts for kind in ("prim::If", "prim::Loop"))


def _graph(part: torch.jit.ScriptModule) -> str:
    try:
        return str(part.graph)
    # It has other methods only.
    except (RuntimeError, AttributeError):
        return ""


def _check_reductions(runs: Runs, images: Tensor, wanted: Reference) -> None:
    plain = Companions(0)
    harmless: set[Decision] = set()
    references = []
    for row in range(len(images)):
        own = runs.under(plain, images[[row] * COPIES])[0]
        outputs = wanted.outputs.clone()
        outputs[row] = own
        references.append(Reference(outputs, wanted.allowed))
    if not plain.names:
        return
    count = min(len(plain.names) // len(images), MOST_FUNCTIONS)
    for spares in (None, harmless):
        for row, level in product(range(len(images)), (1, -1)):
            among = partial(Companions, level, spares=spares)
            tried = _Image(runs, images[[row] * COPIES], row, references[row])
            changed = tried.changed_by(among())
            if changed is None:
                single = [tried.changed_by(among(only=number)) for number in range(count)]
                changed = set().union(*(each for each in single if each))
            if spares is None:
                harmless |= changed


@dataclass(frozen=True, eq=False)
class _Image:
    """One of the proof images among copies of itself, and what the model puts out for it then."""

    runs: Runs
    copies: Tensor
    row: int
    reference: Reference

    def changed_by(self, among: Companions) -> set[Decision] | None:
        """The decisions that other rows changed; None where the model raises on them, or has no answer then.

        Raises:
            ModelRefused: The outputs of the image are others.
        """
        try:
            found = self.runs.under(among, self.copies)[:1]
        except FAILED as error:
            if is_out_of_memory(error):
                raise
            return None
        if not torch.equal(usable(found), usable(self.reference.outputs[[self.row]])):
            return None
        if self.reference.is_met(found, (self.row,)):
            return among.changed
        raise _refusal(self.runs, self.reference.change(found, (self.row,)), sorted(set(among.names)))


def _check_contrasts(runs: Runs, photo: Tensor, wanted: Reference) -> None:
    images = torch.stack([factor * photo + brightness for factor, brightness in CONTRASTS])
    try:
        reference = Reference(runs(images), wanted.allowed)
        alone = [runs(images[[row]]) for row in range(len(images))]
    except FAILED as error:
        if is_out_of_memory(error):
            raise
        # It may refuse what is no photo.
        return
    for row, found in enumerate(alone):
        if not reference.is_met(found, (row,)):
            raise _refusal(runs, reference.change(found, (row,)), runs.calls.mixes)


def _refusal(runs: Runs, change: str, names: list[str]) -> ModelRefused:
    seen = f" (it calls {', '.join(names)})" if names else ""
    return ModelRefused(
        f"model {runs.name} cannot be explained, since its rows depend on one another: it decides by a whole batch "
        f"what it computes{seen}, and an image's outputs change by {change} with other images beside it"
    )
