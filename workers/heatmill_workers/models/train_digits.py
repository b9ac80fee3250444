"""Trains the bundled ViT for digits and writes its file: `python -m heatmill_workers.models.train_digits`.

The data are scikit-learn's digits (1,797 images of 8 x 8 pixels, from UCI's optical recognition of handwritten digits).
A quarter of each class, drawn with a seed, is held out and never trained on. Images take the way that a caller's take,
through `preprocess`. While training they are moved, turned, scaled and inverted, so that dark ink on light paper is
read as well as the data's light ink on dark.
"""

import math

import numpy as np
import structlog
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from heatmill_workers.models.digest import digest
from heatmill_workers.models.digits import NAME, PREPROCESSING, architecture, weights_path
from heatmill_workers.models.preprocessing import preprocess

SEED = 0
HELD_OUT = 0.25
EPOCHS = 60
BATCH = 64
LEARNING_RATE = 1e-3
LARGEST_GRADIENT = 1.0
# Of the input, whose pixels span -1 to 1: an eighth is one pixel of the original.
LARGEST_SHIFT = 0.125
LARGEST_TURN_DEGREES = 12.0
LARGEST_SCALING = 0.15
BRIGHTEST = 16

Split = tuple[Tensor, Tensor]


def main() -> None:
    """Train on one thread, measure on what was held out, write."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    training, held_out = splits()
    module = architecture()
    train(module, training)
    save(module, accuracy(module, held_out))


def splits() -> tuple[Split, Split]:
    """Normalised images (N, 3, 32, 32) and classes (N,): to train on, and held out."""
    # Only training and tests need it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = train_test_split(
        np.arange(len(digits.target)), test_size=HELD_OUT, random_state=SEED, stratify=digits.target
    )
    images = torch.stack([preprocess(photo(pixels), PREPROCESSING)[0] for pixels in digits.images])
    targets = torch.from_numpy(digits.target)
    training, held_out = ((images[each], targets[each]) for each in map(torch.from_numpy, rows))
    return training, held_out


def photo(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> Image.Image:
    """One of scikit-learn's digits as a caller would send it.

    Args:
        pixels: (8, 8), 0 is paper and 16 is ink.
    """
    return Image.fromarray(np.round(pixels * (255 / BRIGHTEST)).astype(np.uint8)).convert("RGB")


def train(module: nn.Module, split: Split) -> None:
    """AdamW under one cosine, in place."""
    images, targets = split
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    module.train()
    for epoch in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(images)), BATCH):
            loss = functional.cross_entropy(module(varied(images[rows])), targets[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
        structlog.get_logger().info("trained", epoch=epoch + 1, loss=round(loss.item(), 3))


def varied(images: Tensor) -> Tensor:
    """Each image moved, turned and scaled a little, and half of them inverted."""
    angle, scale = _between(len(images), math.radians(LARGEST_TURN_DEGREES)), 1 + _between(len(images), LARGEST_SCALING)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [
        torch.stack([cos, -sin, _between(len(images), LARGEST_SHIFT)], 1),
        torch.stack([sin, cos, _between(len(images), LARGEST_SHIFT)], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved * torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, -1.0, 1.0)


def accuracy(module: nn.Module, split: Split) -> float:
    """The share of images whose largest logit is their class's."""
    images, targets = split
    with torch.no_grad():
        found = module.eval()(images).argmax(1)
    return float((found == targets).double().mean())


def save(module: nn.Module, measured: float) -> None:
    """Write the weights with how they were made."""
    metadata = {
        "model": NAME,
        "data": f"scikit-learn digits; {HELD_OUT:.0%} held out, stratified, seed {SEED}",
        "accuracy": f"{measured:.4f}",
        "digest": digest(module),
        "torch": torch.__version__,
    }
    save_file(module.state_dict(), weights_path(), metadata)
    structlog.get_logger().info("saved", path=str(weights_path()), **metadata)


def _between(count: int, largest: float) -> Tensor:
    return (torch.rand(count) * 2 - 1) * largest


if __name__ == "__main__":
    main()
