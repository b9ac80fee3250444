"""What an image is compared with: a photo that shows nothing, or one of a set. All in the model's normalised space."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heatmill.errors import ItemError, UnsupportedOperation
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.perturbation.hiding import blurred, solid_colour
from heatmill_workers.engine.rounding import matched

MEAN = "the colour that the model's preprocessing calls `mean` (the data set's own, mid-grey if it is 0.5, black if 0)"
DESCRIPTION = f"an image of {MEAN}, black, white, or the photo itself, blurred"
BACKGROUND = f"Any of: {DESCRIPTION}; or images by their upload:// or s3:// URIs, made as large as the model's photos."

# Of the image's side: nothing that a classifier knows is left, but the colours are where they were.
BLUR_SHARE = 4


def background(model: LoadedModel, images: Tensor, entries: Sequence[str]) -> list[Tensor]:
    """Each image's background set: B times (N, 3, H, W), on the images' device.

    Entries that do not depend on the image are one image, expanded. One that an image equals but for rounding is that
    image itself.

    Args:
        model: Whose preprocessing says what black is; its `pictures` hold what is named by URI.
        images: (N, 3, H, W).
        entries: B names of baselines, or URIs.

    Raises:
        ItemError: A picture could not be had.
        UnsupportedOperation: A picture is not given, or has another size than the images.
    """
    return [matched(_entry(model, images, entry).expand_as(images), images) for entry in entries]


def stacked(baselines: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
    """The background set of some images, (B, len(rows), 3, H, W), in the memory of B images where all share it.

    Args:
        baselines: As `background` gives them.
        rows: Of the images.
    """
    if all(baseline.stride(0) == 0 for baseline in baselines):
        shared = torch.stack([baseline[0] for baseline in baselines])
        return shared.unsqueeze(1).expand(-1, len(rows), -1, -1, -1)
    return torch.stack([baseline[rows] for baseline in baselines])


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of each image's baseline.

    Args:
        classes: (N,) int64, the class of which it is surest.
        probabilities: (N,), of that class.
    """

    classes: Tensor
    probabilities: Tensor


def answers(model: LoadedModel, outputs: Tensor) -> Answers:
    """What a model's outputs on baselines say.

    Args:
        model: Whose head tells probabilities.
        outputs: (N, K), expanded where all images share a baseline.

    Raises:
        UnsupportedOperation: They are finite for none.
    """
    rows = outputs[:1] if outputs.stride(0) == 0 else outputs
    if not (rows < torch.inf).all(1).any():
        raise UnsupportedOperation(
            "the model puts out values that are not finite for what the image is compared with; give another baseline, "
            'such as "blur"'
        )
    probabilities, classes = model.head.scores(rows.detach()).max(1)
    return Answers(classes.expand(len(outputs)), probabilities.expand(len(outputs)))


def baseline_checks(model: LoadedModel, said: Sequence[Answers]) -> list[dict[str, str | float]]:
    """The checks of each image: class and probability of the baseline of which the model is surest.

    Args:
        model: Its values have no class and no probability where it is a regression.
        said: Of each baseline of a set.
    """
    classes = torch.stack([each.classes for each in said])
    surest = torch.stack([each.probabilities for each in said]).max(0)
    of_surest = classes.gather(0, surest.indices.unsqueeze(0))[0]
    if not model.head.has_probabilities:
        return [{} for _ in surest.values]
    return [
        {"baseline_class": model.labels[index], "baseline_probability": probability}
        for index, probability in zip(of_surest.tolist(), surest.values.tolist(), strict=True)
    ]


def _entry(model: LoadedModel, images: Tensor, entry: str) -> Tensor:
    """(N, 3, H, W), or (1, 3, H, W) where all images share it."""
    height, width = images.shape[2:]
    if entry == "blur":
        return blurred(images, max(height // BLUR_SHARE, 1), max(width // BLUR_SHARE, 1))
    if "://" in entry:
        return _picture(model, entry, images)
    levels = {"black": 0.0, "white": 1.0}
    colour = solid_colour(levels[entry], model.preprocessing) if entry in levels else torch.zeros(1, 3, 1, 1)
    return colour.to(images).expand(1, 3, height, width)


def _picture(model: LoadedModel, uri: str, images: Tensor) -> Tensor:
    found = model.pictures.get(uri)
    if isinstance(found, ItemError):
        raise type(found)(f"background image: {found}")
    if found is None or found.shape != images.shape[1:]:
        size = "missing" if found is None else f"of shape {tuple(found.shape)}"
        raise UnsupportedOperation(f"the background image {uri} is {size}; wanted {tuple(images.shape[1:])}")
    return found.to(images).unsqueeze(0)
