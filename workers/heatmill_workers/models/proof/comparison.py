"""When two runs of a model count as the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heatmill_workers.models.proof.calls import LOW_PRECISION


@dataclass(frozen=True)
class Tolerance:
    """How far two runs may lie apart.

    Args:
        of_spread: Share of the most by which the outputs differ from their mean over the proof inputs.
        of_size: Share of the largest output; rounding grows with it.
        of_gradient: Share of the length of a gradient.
    """

    of_spread: float
    of_size: float
    of_gradient: float


# Other batch sizes and memory layouts run other kernels, which round otherwise: 1e-6 to 1e-5 in float32. A gradient
# also changes where rounding moves a unit over its bend: up to 1 %.
FLOAT32 = Tolerance(of_spread=1e-3, of_size=1e-5, of_gradient=0.1)
# A value in bfloat16 is rounded by up to 0.4 %, in each layer anew.
HALF = Tolerance(of_spread=0.1, of_size=0.02, of_gradient=0.3)


# Below 1e-38 float32 has fewer digits, and kernels round such numbers to 0 or do not: outputs that have become so small
# are the same. It is far below whatever a probability shows, and below values in any unit.
SMALLEST = 1e-30


def tolerance(dtype: torch.dtype) -> Tolerance:
    """By the lowest precision that a model computes in."""
    return HALF if dtype in LOW_PRECISION else FLOAT32


def usable(outputs: Tensor) -> Tensor:
    """Which rows (N,) of outputs (N, K) can be explained; minus infinity rules a class out, as a mask does."""
    ruled_out = outputs == -torch.inf
    return (outputs.isfinite() | ruled_out).all(1) & ~ruled_out.all(1)


@dataclass(frozen=True)
class Reference:
    """What a model puts out for the proof images, with which other runs are compared.

    Args:
        outputs: (5, K) float32. Rows that are not usable must not be so in other runs either, and classes that are
            ruled out must be so again.
        allowed: By the model's precision.
    """

    outputs: Tensor
    allowed: Tolerance

    def is_met(self, found: Tensor, rows: Sequence[int] = range(5)) -> bool:
        """Whether a run gave the same.

        Args:
            found: (len(rows), K).
            rows: Which of the proof images it ran on.
        """
        wanted = self.outputs[list(rows)]
        compared = usable(wanted)
        if not torch.equal(compared, usable(found)):
            return False
        wanted, found = wanted[compared], found[compared]
        finite = wanted.isfinite()
        if not torch.equal(finite, found.isfinite()):
            return False
        bound = self.allowed.of_spread * self._spread + self.allowed.of_size * self._size + SMALLEST
        return not (found - wanted)[finite].abs().gt(bound).any()

    def change(self, found: Tensor, rows: Sequence[int] = range(5)) -> str:
        """How far a run is from what it should be, in words."""
        wanted = self.outputs[list(rows)]
        difference = (found - wanted).masked_fill((found == wanted) & (wanted == -torch.inf), 0).abs()
        if not difference.isfinite().all():
            return "more than can be said"
        return f"{float(difference.max()) / max(self._spread, SMALLEST):.1%} of their spread over images"

    @property
    def _finite(self) -> Tensor:
        """Usable rows; NaN in the place of classes that are ruled out."""
        rows = self.outputs[usable(self.outputs)].double()
        return rows.masked_fill(rows.isinf(), torch.nan)

    @property
    def _size(self) -> float:
        return float(self._finite.nan_to_num(0).abs().max())

    @property
    def _spread(self) -> float:
        finite = self._finite
        return float((finite - finite.nanmean(0)).nan_to_num(0).abs().max())
