"""LIME.

Ribeiro, Singh, Guestrin: "Why Should I Trust You?": Explaining the Predictions of Any Classifier (2016), equation 1 and
section 3.4. Segments of the image are hidden at random, and a linear model says how the class's probability (not its
logit, as the other methods do), or a regression's value, depends on which are shown. Segments, draws, weights and ridge
are lime_image's.

The verdict is about that linear model. `r2` is the share of that number's variance that it explains, and
`standard_error` how far another draw of the samples would move a coefficient: root mean square, relative to the largest
coefficient. It is "ok" where the first is at least 0.5 and the second at most 0.2. Where hiding changes nothing, as on
a photo of one colour or with segments of one pixel that their own mean stands in for, the map is blank; so it is where
the samples' scores lie no further apart than rounding moves them.

With `max_error` the samples grow, by half at a time, until a target's standard error is at most that. They are the
first of one stream of draws, so that the answer after N of them is the one that `samples` = N has. Drawing in pairs,
what one sample hides being what the other shows, lowered the standard error by a factor of 1.2 at equal passes (median
of six photos, at 200 and 800 samples), which is not worth leaving lime_image's draws for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from heatmill.catalogue.methods import MethodCost
from heatmill.errors import ImageUnsuitable
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.perturbation.hiding import segment_means, solid_colour
from heatmill_workers.engine.perturbation.ridge import Fit, fit
from heatmill_workers.engine.perturbation.segments import Segmentation, as_photos, segment_all
from heatmill_workers.engine.perturbation.sharing import group_ids, group_starts
from heatmill_workers.engine.rounding import Change, matched, of_scores
from heatmill_workers.methods.contract import MethodOutput, SelfCheck, method

LEAST_R2 = 0.5
LARGEST_ERROR = 0.2
HIDDEN_LEVEL = {"black": 0.0, "grey": 0.5}


class Params(BaseModel):
    """The segments, the samples, and what hides a segment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segmentation: Segmentation = Field(
        "quickshift", description="How the image is cut into segments; quickshift finds their number by itself."
    )
    segments: int = Field(50, ge=2, le=1000, description="Segments wanted of slic and grid; slic comes near it.")
    samples: int = Field(
        1000,
        ge=10,
        le=10000,
        description="Images with some segments hidden, or how many it starts with where `max_error` is given; each "
        "costs a pass.",
    )
    max_error: float | None = Field(
        None, gt=0, le=1, description="Draw more samples of an image until its standard error is at most this."
    )
    max_samples: int = Field(4000, ge=10, le=10000, description="Where the drawing ends; also bounds `samples` then.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of the choice of hidden segments, and of quickshift.")
    hide: Literal["mean", "black", "grey"] = Field(
        "mean", description="What hides a segment: its own mean colour, black, or grey."
    )
    kernel_width: float = Field(
        0.25, ge=0.05, le=100, description="How fast samples lose weight as more of the image is hidden."
    )


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """One image, cut into segments.

    Args:
        image: (3, H, W), on the device.
        segments: (H, W) int64, from 0 up; on the CPU.
        count: Of segments.
        hidden: (3, H, W), what is seen where nothing is shown.
        shown: (N, S) bool, the segments that each sample shows, as many samples as there may be; on the CPU.
        classes: (K,), the targets of this image, which share its samples; on the device.
        is_plain: What is hidden looks as what is shown, so that all samples are one image.
    """

    image: Tensor
    segments: Tensor
    count: int
    hidden: Tensor
    shown: Tensor
    classes: Tensor
    is_plain: bool


@dataclass(frozen=True, eq=False)
class Solution:
    """One target's coefficients, (S,) float64, and what was measured of them."""

    coefficients: Tensor
    measured: SelfCheck


# Quickshift takes 0.3 to 0.8 s of a core at 224 pixels, as long as 20 passes.
PASSES = MethodCost(base=20, per_unit={"samples": 1}, upper_bound={"max_error": {"max_samples": 1}})


@method(Params, picture="signed", passes=PASSES, explains_scores=True)
def lime(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> MethodOutput:
    """How much each segment adds to the class's probability when it is shown."""
    scenes = _scenes(model, images, targets, params)
    solutions = iter(_solutions(model, [scene for scene in scenes if scene.count > 1], params))
    answers = [_answer(scene, next(solutions)) if scene.count > 1 else _refusal(scene) for scene in scenes]
    values = torch.cat([attributions for attributions, _ in answers])
    return MethodOutput(values, [entry for _, measured in answers for entry in measured])


def _scenes(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> list[SegmentedImage]:
    owner = group_ids(images)
    distinct = images[group_starts(owner)]
    cuts = segment_all(as_photos(distinct, model.preprocessing), params.segmentation, params.segments, params.seed)
    found = []
    for image, cut, of_image in zip(distinct, cuts, torch.split(targets, owner.bincount().tolist()), strict=True):
        count = int(cut.max()) + 1
        hidden = matched(_hidden(image, cut, model, params).to(image)[None], image[None])[0]
        is_plain = torch.equal(hidden, image)
        found.append(
            SegmentedImage(image, torch.from_numpy(cut), count, hidden, _draws(count, params), of_image, is_plain)
        )
    return found


def _draws(segments: int, params: Params) -> Tensor:
    """Which segments each sample shows, (samples, S) bool; lime_image's numbers. The first shows all."""
    samples = params.samples if params.max_error is None else params.max_samples
    drawn = np.random.RandomState(params.seed).randint(0, 2, samples * segments)
    shown = torch.from_numpy(drawn.reshape(samples, segments) == 1)
    shown[0] = True
    return shown


def _solutions(model: LoadedModel, scenes: Sequence[SegmentedImage], params: Params) -> list[list[Solution]]:
    """Each scene's, target for target; a target's is the first that is precise enough, whatever the others need."""
    found: list[list[Solution]] = [[] for _ in scenes]
    outputs = [torch.empty(0, len(scene.classes), 2, dtype=torch.float64) for scene in scenes]
    unfinished, known = list(range(len(scenes))), 0
    for samples in _rounds(params):
        fresh = _scores(model, [scenes[index] for index in unfinished], range(known, samples))
        for index, values in zip(unfinished, fresh, strict=True):
            outputs[index] = torch.cat([outputs[index], values])
            found[index] = _refined(found[index], _solved(scenes[index], outputs[index], params), params)
        unfinished, known = (
            [index for index in unfinished if any(_misses(one, params) for one in found[index])],
            samples,
        )
        if not unfinished:
            break
    return found


def _rounds(params: Params) -> Iterator[int]:
    """How many samples there are after each round; after the last, as many as may be."""
    samples = params.samples
    while params.max_error is not None and samples < params.max_samples:
        yield samples
        samples += samples // 2
    yield samples if params.max_error is None else params.max_samples


def _refined(before: Sequence[Solution], after: Sequence[Solution], params: Params) -> list[Solution]:
    """The solutions after a round: what was precise enough before it stays as it was."""
    if not before:
        return list(after)
    return [new if _misses(old, params) else old for old, new in zip(before, after, strict=True)]


def _misses(solution: Solution, params: Params) -> bool:
    return params.max_error is not None and float(solution.measured.checks["standard_error"]) > params.max_error


def _scores(model: LoadedModel, scenes: Sequence[SegmentedImage], samples: range) -> list[Tensor]:
    """What the model says of each scene's samples, and how far rounding moves that, (samples, K, 2) float64 on the CPU.

    Batches are filled over scenes.
    """
    if not scenes:
        return []
    images = torch.stack([scene.image for scene in scenes])
    hidden = torch.stack([scene.hidden for scene in scenes])
    segments = torch.stack([scene.segments.flatten() for scene in scenes]).to(images.device)
    drawn = [scene.shown[samples.start : samples.stop].T for scene in scenes]
    shown = pad_sequence(drawn, batch_first=True).to(images.device)
    classes = pad_sequence([scene.classes for scene in scenes], batch_first=True)

    def score(rows: range) -> Tensor:
        row = torch.arange(rows.start, rows.stop, device=images.device)
        scene, sample = row // len(samples), row % len(samples)
        keep = shown[scene, :, sample].gather(1, segments[scene]).view(-1, 1, *images.shape[2:])
        inputs = torch.where(keep, images[scene], hidden[scene]).contiguous(memory_format=torch.channels_last)
        # Not `inference_mode`: what a module keeps of such a pass could not be differentiated by another thread's.
        with torch.no_grad():
            outputs = model.module(inputs)
            scores = model.head.scores(outputs)
        rounding = of_scores(model, outputs, scores, classes[scene])
        return torch.stack([scores.gather(1, classes[scene]), rounding], 2)

    batches = in_batches(score, len(scenes) * len(samples), model.batch_sizes, lime.name)
    outputs = torch.split(torch.cat([values for _, values in batches]).double().cpu(), len(samples))
    return [of_scene[:, : len(scene.classes)] for scene, of_scene in zip(scenes, outputs, strict=True)]


def _hidden(image: Tensor, segments: NDArray[np.int64], model: LoadedModel, params: Params) -> Tensor:
    if params.hide == "mean":
        return segment_means(image.cpu(), segments)
    return solid_colour(HIDDEN_LEVEL[params.hide], model.preprocessing)[0].expand(image.shape)


def _solved(scene: SegmentedImage, outputs: Tensor, params: Params) -> list[Solution]:
    """Each target's solution from the first samples, whose outputs are (N, K, 2): scores and their rounding."""
    scores, rounding = outputs.unbind(2)
    change = Change(scores.amax(0) - scores.amin(0), rounding.amax(0))
    is_real = change.is_real & (not scene.is_plain)
    shown = scene.shown[: len(outputs)]
    # The cosine distance to the whole image: two vectors of zeros and ones differ by their numbers of ones alone.
    distance = 1 - (shown.sum(1, dtype=torch.float64) / scene.count).sqrt()
    found = fit(
        shown.double(),
        torch.where(is_real, scores, scores[:1]),
        torch.exp(-((distance / params.kernel_width) ** 2) / 2),
    )
    return [
        Solution(found.coefficients[:, target], _measured(found, target, len(outputs)))
        for target in range(outputs.shape[1])
    ]


def _measured(found: Fit, target: int, samples: int) -> SelfCheck:
    coefficients, errors = found.coefficients[:, target], found.errors[:, target]
    largest = float(coefficients.abs().max())
    error = float(errors.square().mean().sqrt()) / largest if largest else 0.0
    r2 = float(found.r2[target])
    precise = largest > 0 and r2 >= LEAST_R2 and error <= LARGEST_ERROR
    checks = {"r2": r2, "standard_error": error, "segments": len(coefficients), "samples": samples}
    return SelfCheck(checks, "ok" if precise else "imprecise")


def _answer(scene: SegmentedImage, solutions: Sequence[Solution]) -> tuple[Tensor, Sequence[SelfCheck]]:
    """Attributions (K, 1, H, W) and what was measured, of all targets of one image."""
    coefficients = torch.stack([each.coefficients for each in solutions]).float()
    return coefficients[:, scene.segments].unsqueeze(1), [each.measured for each in solutions]


def _refusal(scene: SegmentedImage) -> tuple[Tensor, Sequence[ImageUnsuitable]]:
    height, width = scene.segments.shape
    hint = "; the segmentation 'grid' always finds them" if height * width > 1 else ""
    error = ImageUnsuitable(
        f"lime needs at least 2 segments and found one in the {width} x {height} pixels that the model sees{hint}"
    )
    return torch.zeros(len(scene.classes), 1, height, width), [error] * len(scene.classes)
