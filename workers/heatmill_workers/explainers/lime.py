"""LIME.

Ribeiro, Singh, Guestrin: "Why Should I Trust You?": Explaining the Predictions of Any Classifier (2016), equation 1 and
section 3.4. Segments of the image are hidden at random, and a linear model says how the class's probability (not its
logit, as the other methods do) depends on which are shown. Segments, draws, weights and ridge are lime_image's.

The verdict is about that linear model. `r2` is the share of the probability's variance that it explains, and
`standard_error` how far another draw of the samples would move a coefficient: root mean square, relative to the largest
coefficient. It is "ok" where the first is at least 0.5 and the second at most 0.2. Where hiding changes nothing, as on
a photo of one colour or with segments of one pixel that their own mean stands in for, it is "imprecise".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from heatmill.catalogue import Passes
from heatmill.errors import ImageUnsuitable
from heatmill_workers.engine.batching import in_batches
from heatmill_workers.engine.hiding import plain, segment_means
from heatmill_workers.engine.ridge import Fit, fit
from heatmill_workers.engine.segments import Segmentation, as_photos, segment
from heatmill_workers.engine.sharing import firsts, owners
from heatmill_workers.explainer import Attributions, Measured, explains
from heatmill_workers.models.loaded import LoadedModel

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
    samples: int = Field(1000, ge=10, le=10000, description="Images with some segments hidden; each costs a pass.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of the choice of hidden segments, and of quickshift.")
    hide: Literal["mean", "black", "grey"] = Field(
        "mean", description="What hides a segment: its own mean colour, black, or grey."
    )
    kernel_width: float = Field(
        0.25, ge=0.05, le=100, description="How fast samples lose weight as more of the image is hidden."
    )


@dataclass(frozen=True, eq=False)
class Scene:
    """One image, cut into segments.

    Args:
        image: (3, H, W), on the device.
        segments: (H, W) int64, from 0 up; on the CPU.
        count: Of segments.
        classes: (K,), the targets of this image, which share its samples; on the device.
    """

    image: Tensor
    segments: Tensor
    count: int
    classes: Tensor


# Quickshift takes 0.3 to 0.8 s of a core at 224 pixels, as long as 20 passes.
@explains(Params, picture="signed", passes=Passes(base=20, per={"samples": 1}))
def lime(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> Attributions:
    """How much each segment adds to the class's probability when it is shown."""
    scenes = _scenes(model, images, targets, params)
    usable = [scene for scene in scenes if scene.count > 1]
    outputs = iter(_probabilities(model, usable, params))
    answers = [_answer(scene, next(outputs), params) if scene.count > 1 else _refusal(scene) for scene in scenes]
    values = torch.cat([attributions for attributions, _ in answers])
    return Attributions(values, [entry for _, measured in answers for entry in measured])


def _scenes(model: LoadedModel, images: Tensor, targets: Tensor, params: Params) -> list[Scene]:
    owner = owners(images)
    distinct = images[firsts(owner)]
    found = []
    photos, classes = as_photos(distinct, model.preprocessing), torch.split(targets, owner.bincount().tolist())
    for image, photo, of_image in zip(distinct, photos, classes, strict=True):
        segments = torch.from_numpy(segment(photo, params.segmentation, params.segments, params.seed))
        found.append(Scene(image, segments, int(segments.max()) + 1, of_image))
    return found


def _probabilities(model: LoadedModel, scenes: Sequence[Scene], params: Params) -> list[Tensor]:
    """What the model says of each scene's samples, (samples, K) float64 on the CPU; batches are filled over scenes."""
    if not scenes:
        return []
    images = torch.stack([scene.image for scene in scenes])
    hidden = torch.stack([_hidden(scene, model, params) for scene in scenes]).to(images)
    segments = torch.stack([scene.segments.flatten() for scene in scenes]).to(images.device)
    shown = pad_sequence([_draws(scene.count, params).T for scene in scenes], batch_first=True).to(images.device)
    classes = pad_sequence([scene.classes for scene in scenes], batch_first=True)

    def probabilities(rows: range) -> Tensor:
        row = torch.arange(rows.start, rows.stop, device=images.device)
        scene, sample = row // params.samples, row % params.samples
        keep = shown[scene, :, sample].gather(1, segments[scene]).view(-1, 1, *images.shape[2:])
        inputs = torch.where(keep, images[scene], hidden[scene]).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            logits: Tensor = model.module(inputs)
        return logits.softmax(1).gather(1, classes[scene])

    batches = in_batches(probabilities, len(scenes) * params.samples, model.batch_sizes, lime.name)
    outputs = torch.split(torch.cat([values for _, values in batches]).double().cpu(), params.samples)
    return [of_scene[:, : len(scene.classes)] for scene, of_scene in zip(scenes, outputs, strict=True)]


def _hidden(scene: Scene, model: LoadedModel, params: Params) -> Tensor:
    if params.hide == "mean":
        return segment_means(scene.image.cpu(), scene.segments.numpy())
    return plain(HIDDEN_LEVEL[params.hide], model.preprocessing)[0].expand(scene.image.shape)


def _draws(segments: int, params: Params) -> Tensor:
    """Which segments each sample shows, (samples, S) bool; lime_image's numbers. The first shows all."""
    drawn = np.random.RandomState(params.seed).randint(0, 2, params.samples * segments)
    shown = torch.from_numpy(drawn.reshape(params.samples, segments) == 1)
    shown[0] = True
    return shown


def _answer(scene: Scene, outputs: Tensor, params: Params) -> tuple[Tensor, Sequence[Measured]]:
    """Attributions (K, 1, H, W) and what was measured, of all targets of one image."""
    shown = _draws(scene.count, params)
    # The cosine distance to the whole image: two vectors of zeros and ones differ by their numbers of ones alone.
    distance = 1 - (shown.sum(1, dtype=torch.float64) / scene.count).sqrt()
    found = fit(shown.double(), outputs, torch.exp(-((distance / params.kernel_width) ** 2) / 2))
    values = found.coefficients.T.float()[:, scene.segments].unsqueeze(1)
    return values, [_measured(found, target) for target in range(outputs.shape[1])]


def _measured(found: Fit, target: int) -> Measured:
    coefficients, errors = found.coefficients[:, target], found.errors[:, target]
    largest = float(coefficients.abs().max())
    error = float(errors.square().mean().sqrt()) / largest if largest else 0.0
    checks = {"r2": float(found.r2[target]), "standard_error": error, "segments": len(coefficients)}
    precise = largest > 0 and checks["r2"] >= LEAST_R2 and error <= LARGEST_ERROR
    return Measured(checks, "ok" if precise else "imprecise")


def _refusal(scene: Scene) -> tuple[Tensor, Sequence[ImageUnsuitable]]:
    height, width = scene.segments.shape
    hint = "; the segmentation 'grid' always finds them" if height * width > 1 else ""
    error = ImageUnsuitable(
        f"lime needs at least 2 segments and found one in the {width} x {height} pixels that the model sees{hint}"
    )
    return torch.zeros(len(scene.classes), 1, height, width), [error] * len(scene.classes)
