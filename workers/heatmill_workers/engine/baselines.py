"""What an image is compared with: a photo that shows nothing, or one of a set. All in the model's normalised space."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from heatmill.errors import ItemError, UnsupportedOperation
from heatmill_workers.engine.hiding import blurred, plain
from heatmill_workers.models.loaded import LoadedModel

Baseline = Literal["mean", "black", "white", "blur"]
DESCRIPTION = "an image of the dataset's mean colour, black, white, or the photo itself, blurred"
BACKGROUND = f"Any of: {DESCRIPTION}; or images by their upload:// or s3:// URIs, made as large as the model's photos."

# Of the image's side: nothing that a classifier knows is left, but the colours are where they were.
BLUR_SHARE = 4


def background(model: LoadedModel, images: Tensor, entries: Sequence[str]) -> list[Tensor]:
    """Each image's background set: B times (N, 3, H, W), on the images' device.

    Entries that do not depend on the image are one image, expanded.

    Args:
        model: Whose preprocessing says what black is; its `pictures` hold what is named by URI.
        images: (N, 3, H, W).
        entries: B names of baselines, or URIs.

    Raises:
        ItemError: A picture could not be had.
        UnsupportedOperation: A picture is not given, or has another size than the images.
    """
    return [_entry(model, images, entry).expand_as(images) for entry in entries]


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


def _entry(model: LoadedModel, images: Tensor, entry: str) -> Tensor:
    """(N, 3, H, W), or (1, 3, H, W) where all images share it."""
    height, width = images.shape[2:]
    if entry == "blur":
        return blurred(images, max(height // BLUR_SHARE, 1), max(width // BLUR_SHARE, 1))
    if "://" in entry:
        return _picture(model, entry, images)
    levels = {"black": 0.0, "white": 1.0}
    colour = plain(levels[entry], model.preprocessing) if entry in levels else torch.zeros(1, 3, 1, 1)
    return colour.to(images).expand(1, 3, height, width)


def _picture(model: LoadedModel, uri: str, images: Tensor) -> Tensor:
    found = model.pictures.get(uri)
    if isinstance(found, ItemError):
        raise type(found)(f"background image: {found}")
    if found is None or found.shape != images.shape[1:]:
        size = "missing" if found is None else f"of shape {tuple(found.shape)}"
        raise UnsupportedOperation(f"the background image {uri} is {size}; wanted {tuple(images.shape[1:])}")
    return found.to(images).unsqueeze(0)
