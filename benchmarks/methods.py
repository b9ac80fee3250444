"""Each method in memory, against the reference library and against the limit.

Both get the same photos, targets and weights. The photos are cut into groups; each group goes through the reference,
image by image, then through heatmill as one batch, then through bare passes of the model, so that whatever else the
machine does meets all three alike. A figure is the median over the groups; where a photo decides how much is done, the
mean, since a median would leave out the hard ones.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from statistics import mean, median
from typing import Any

import numpy as np
from torch import Tensor, nn

from benchmarks import references
from benchmarks.limits import Bare, bare
from benchmarks.references import Values
from benchmarks.subjects import Subject, subjects
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain

Row = dict[str, Any]
Reference = Callable[[nn.Module, Tensor, int], Values]
# Shares that are the same for all photos are counted as one photo's.
BACKGROUND_SHARED, BACKGROUND_OWN = 3, 1
MAX_ERROR = 0.05


@dataclass(frozen=True)
class Passes:
    """What one image needs of the model: forward passes, and forward passes with a backward one.

    Args:
        shared: Forward passes that all images of a batch have in common.
        backward: Backward passes on a forward pass that is counted already.
    """

    forward: float = 0
    both: float = 0
    shared: float = 0
    backward: float = 0


@dataclass(frozen=True)
class Case:
    """A method on a model, against a library.

    Args:
        passes: A function of the answers where the method decides by itself.
        quick: Groups and photos in each, in the quick run; None leaves it out.
        full: The same in the full run.
        drawn: The library draws at random what heatmill draws otherwise: their values cannot agree.
        scaled: The library draws its map up to the image, between 0 and 1.
        warm: The library does something once, at its first call; where a photo takes seconds it does not count.
    """

    method: str
    model: str
    compared_with: str
    reference: Reference
    passes: Passes | Callable[[Sequence[Explanation]], Passes]
    params: Mapping[str, object] = field(default_factory=dict)
    quick: tuple[int, int] | None = (2, 1)
    full: tuple[int, int] = (3, 4)
    drawn: bool = False
    scaled: bool = False
    warm: bool = True


@dataclass
class Timed:
    """Seconds an image, of one group."""

    reference: float
    heatmill: float
    limit: float


def _steps_taken(answers: Sequence[Explanation]) -> Passes:
    return Passes(forward=1, both=mean(float(answer.checks["steps"]) for answer in answers), shared=1)


def _samples_taken(answers: Sequence[Explanation]) -> Passes:
    return Passes(forward=mean(float(answer.checks["samples"]) for answer in answers))


LITE, RESNET, VIT = "EfficientNet-Lite0", "ResNet-18", "ViT-tiny"
CHEAP: dict[str, Any] = {"quick": (3, 8), "full": (5, 16)}
SECONDS: dict[str, Any] = {"quick": (1, 1), "full": (3, 2), "warm": False}
MANY_SECONDS: dict[str, Any] = {"quick": (1, 1), "full": (3, 1), "warm": False}
ONLY_FULL: dict[str, Any] = {"quick": None, "full": (4, 1), "warm": False}
STEPS = Passes(forward=1, both=50, shared=1)
SAMPLES = Passes(forward=1 + BACKGROUND_OWN, both=50, shared=BACKGROUND_SHARED)
BACKGROUND = Passes(forward=1 + BACKGROUND_OWN, backward=BACKGROUND_SHARED + BACKGROUND_OWN, shared=BACKGROUND_SHARED)
TO_ERROR = {"steps": 8, "max_error": MAX_ERROR, "max_steps": 800}
LIME_TO_ERROR = {"samples": 100, "max_error": 0.1}
captum_to_error = partial(references.captum_integrated_gradients_to_error, max_error=MAX_ERROR)

CASES = (
    *(
        case
        for model in (LITE, RESNET)
        for case in (
            Case("saliency", model, "captum", references.captum_saliency, Passes(both=1), **CHEAP),
            Case("grad_cam", model, "captum", references.captum_grad_cam, Passes(forward=1), **CHEAP),
            Case("integrated_gradients", model, "captum", references.captum_integrated_gradients, STEPS, **SECONDS),
            Case("gradient_shap", model, "captum", references.captum_gradient_shap, SAMPLES, drawn=True, **SECONDS),
        )
    ),
    # On EfficientNet-Lite0, whose activations are one module, it silently takes the first and not the last.
    Case("grad_cam", RESNET, "grad-cam", references.pytorch_grad_cam, Passes(forward=1), scaled=True, **CHEAP),
    Case("integrated_gradients", LITE, "captum", captum_to_error, _steps_taken, TO_ERROR, **ONLY_FULL),
    Case(
        "deep_lift",
        RESNET,
        "captum",
        references.captum_deep_lift,
        Passes(forward=1, backward=1, shared=1),
        full=(3, 8),
    ),
    Case("deep_shap", RESNET, "shap", references.shap_deep, BACKGROUND, quick=(2, 4), full=(3, 8)),
    Case("lime", LITE, "lime", references.lime_image, Passes(forward=1000), **MANY_SECONDS),
    Case("lime", LITE, "lime", references.lime_image, _samples_taken, LIME_TO_ERROR, drawn=True, **ONLY_FULL),
    Case("partition_shap", LITE, "shap", references.shap_partition, Passes(forward=500), **MANY_SECONDS),
    Case("attention", VIT, "transformers", references.transformers_attention, Passes(forward=1), **CHEAP),
    Case("attention_rollout", VIT, "transformers", references.transformers_rollout, Passes(forward=1), **CHEAP),
    Case(
        "attention_gradient",
        VIT,
        "transformers",
        references.transformers_attention_gradient,
        Passes(both=1),
        **CHEAP,
    ),
)


def measure(*, quick: bool, cases: Sequence[Case] = CASES) -> list[Row]:
    """One row for each case."""
    asked = [(case, size) for case in cases if (size := case.quick if quick else case.full)]
    most = max(groups * photos for _, (groups, photos) in asked)
    known = subjects(most, {case.model for case, _ in asked})
    paces = {name: bare(subject.model, subject.images[:1]) for name, subject in known.items()}
    rows = []
    for case, size in asked:
        rows.append(_row(case, known[case.model], paces[case.model], *size))
        print(rows[-1], flush=True)
    return rows


def _row(case: Case, subject: Subject, pace: Bare, groups: int, size: int) -> Row:
    # What is done once, such as the repair of a module, is done before. Where batches are few, their size is not yet
    # settled when the clock runs: as in a worker that has just started.
    _explained(case, subject, range(size))
    if case.warm:
        _referenced(case, subject, range(1))
    timed, errors, completeness = [], [], list[float]()
    for group in range(groups):
        photos = range(group * size, (group + 1) * size)
        reference, wanted = _clocked(partial(_referenced, case, subject, photos))
        seconds, answers = _clocked(partial(_explained, case, subject, photos))
        timed.append(Timed(reference / size, seconds / size, _limit(case, answers, pace)))
        errors += [_parity(case, answer, want) for answer, want in zip(answers, wanted, strict=True)]
        completeness += [
            float(answer.checks[name]) for answer in answers for name in answer.checks if name == "completeness_error"
        ]
    if callable(case.passes):
        timed = [Timed(*map(mean, zip(*map(astuple, timed), strict=True)))]
    return {
        "method": _title(case),
        "model": case.model,
        "reference": case.compared_with,
        "images_per_second": 1 / median(each.heatmill for each in timed),
        "reference_images_per_second": 1 / median(each.reference for each in timed),
        "ratio": median(each.reference / each.heatmill for each in timed),
        "limit_ratio": median(each.limit / each.heatmill for each in timed),
        "parity_error": None if case.drawn else max(errors),
        "completeness_error": mean(completeness) if completeness else None,
    }


def _title(case: Case) -> str:
    return f"{case.method} to {case.params['max_error']:.0%}" if "max_error" in case.params else case.method


def _clocked(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    found = run()
    return time.perf_counter() - started, found


def _referenced(case: Case, subject: Subject, photos: range) -> list[Values]:
    return [
        case.reference(
            subject.stock, subject.images[photo : photo + 1].to(subject.model.device), int(subject.targets[photo])
        )
        for photo in photos
    ]


def _explained(case: Case, subject: Subject, photos: range) -> list[Explanation]:
    rows = slice(photos.start, photos.stop)
    answers = explain(case.method, subject.model, subject.images[rows], subject.targets[rows], case.params)
    failed = [answer for answer in answers if not isinstance(answer, Explanation)]
    if failed:
        raise failed[0]
    return [answer for answer in answers if isinstance(answer, Explanation)]


def _limit(case: Case, answers: Sequence[Explanation], pace: Bare) -> float:
    """Seconds an image, by passes that are timed now."""
    needed = case.passes if isinstance(case.passes, Passes) else case.passes(answers)
    forward = median(pace.forward.seconds() for _ in range(3))
    both = median(pace.both.seconds() for _ in range(3))
    forwards = needed.forward + needed.shared / len(answers)
    return forwards * forward + needed.both * both + needed.backward * (both - forward)


def _parity(case: Case, answer: Explanation, wanted: Values) -> float:
    """The length of the difference over the length of what the library says."""
    found = _as_drawn(answer.attribution) if case.scaled else answer.attribution
    difference, length = float(np.linalg.norm(found - wanted[0])), float(np.linalg.norm(wanted))
    # Grad-CAM's map may be all zeros.
    return difference / length if length else difference


def _as_drawn(attribution: Values) -> Values:
    """As pytorch-grad-cam draws its maps."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    drawn = scale_cam_image(scale_cam_image(attribution, (224, 224)))
    return np.asarray(drawn, np.float32)
