"""Whether an image's outputs are its own: the same alone, beside other images, in another order, and twice."""

from torch import Tensor

from heatmill.errors import ModelRefused
from heatmill_workers.models.proof.comparison import Reference
from heatmill_workers.models.proof.inputs import FIRST_PHOTO, NOISE, ONES, SECOND_PHOTO, ZEROS
from heatmill_workers.models.proof.runs import FAILED, Runs
from heatmill_workers.models.reasons import reason

# In another order, beside other images, and without those of one colour.
OTHER_ORDER = (SECOND_PHOTO, FIRST_PHOTO, NOISE)
# Methods run many images together, and some operations mix within groups of a fixed number of rows.
LARGE_BATCH = (*range(5), *range(5), *range(5), NOISE)
# Chance may come out alike by chance: where there is reason to suspect it, one photo is run so often again.
REPEATS = 40


def check_rows(runs: Runs, images: Tensor, wanted: Reference) -> None:
    """Refuse a model that is random, or whose rows depend on one another.

    Args:
        runs: Of the model.
        images: (5, C, H, W), as `proof_images` makes them.
        wanted: What a run on them gave.

    Raises:
        ModelRefused: The message says by how much the outputs change, and names the operation where it was seen.
    """
    for rows in ((NOISE,), (ZEROS,), (ONES,), (FIRST_PHOTO,), OTHER_ORDER, LARGE_BATCH):
        try:
            found = runs(images[list(rows)])
        # A `squeeze` of all dimensions takes that of the batch as well where it is 1: the outputs are no (1, K) then.
        except FAILED as error:
            raise _mixing(runs, f"cannot be had: {reason(error)}") from error
        if not wanted.is_met(found, rows):
            _check_chance(runs, images, wanted)
            raise _mixing(runs, f"change by {wanted.change(found, rows)}")
    if runs.calls.draws:
        _check_chance(runs, images, wanted)


def _check_chance(runs: Runs, images: Tensor, wanted: Reference) -> None:
    """Tell chance from rows that mix: one photo again and again, and all images in the batch that they were in."""
    alone = wanted.outputs.clone()
    alone[FIRST_PHOTO] = runs(images[[FIRST_PHOTO]])[0]
    repeated = [((FIRST_PHOTO,), Reference(alone, wanted.allowed))] * REPEATS
    for rows, reference in (*repeated, *[(tuple(range(5)), wanted)] * 4):
        found = runs(images[list(rows)])
        if not reference.is_met(found, rows):
            seen = f"; it calls {', '.join(runs.calls.draws)}" if runs.calls.draws else ""
            raise ModelRefused(
                f"model {runs.name} cannot be explained, since it is random: its outputs for the same images change by "
                f"{reference.change(found, rows)} from one run to the next, in eval mode{seen}"
            )


def _mixing(runs: Runs, change: str) -> ModelRefused:
    names = [*runs.calls.mixes, *runs.calls.draws]
    seen = f"; these of its operations look across a batch: {', '.join(names)}" if names else ""
    return ModelRefused(
        f"model {runs.name} cannot be explained, since its rows depend on one another: without the other images of its "
        f"batch, an image's outputs {change}{seen}"
    )
