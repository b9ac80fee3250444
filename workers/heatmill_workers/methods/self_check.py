"""Whether attributions sum to what they share out: one rule for every method whose values should.

Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks (2017), proposition 1: the values sum to the target's
logit on the image less that on the baseline.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from heatmill_workers.methods.contract import Checks, SelfCheck

TOLERATED_ERROR = 0.05
# Below it the relative error says nothing: the logit hardly differs from the baseline's, and there is nothing to share
# out. The verdict is then "imprecise", and the error is relative to this number, which keeps it finite.
SMALLEST_DIFFERENCE = 0.01


def completeness(total: float, difference: float, **checks: float | int | str) -> SelfCheck:
    """The relative completeness error of one image, and the verdict on it.

    Args:
        total: Sum of the attribution.
        difference: The target's logit on the image less that on the baseline.
        checks: What else the method found out; kept beside the error.
    """
    error = abs(total - difference) / max(abs(difference), SMALLEST_DIFFERENCE)
    precise = error <= TOLERATED_ERROR and abs(difference) >= SMALLEST_DIFFERENCE
    found = {"completeness_error": error, "logit_difference": difference, **checks}
    return SelfCheck(found, "ok" if precise else "imprecise")


def measure(
    values: Tensor, differences: Tensor, own: Sequence[Checks] = (), **checks: float | int | str
) -> list[SelfCheck]:
    """`completeness` of each image of a batch.

    Args:
        values: (N, C, h, w).
        differences: (N,).
        own: What else was found out of each image.
        checks: The same for every image.
    """
    totals = values.sum((1, 2, 3), dtype=torch.float64).tolist()
    return [
        completeness(total, difference, **checks, **of_image)
        for total, difference, of_image in zip(totals, differences.tolist(), own or [{}] * len(totals), strict=True)
    ]
