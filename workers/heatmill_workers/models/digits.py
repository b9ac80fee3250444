"""The bundled ViT for handwritten digits: small enough to ship, and it learned something.

Attention says little on random weights, and pretrained ViTs have to be downloaded. This one reads the digits of
scikit-learn, 8 x 8 pixels, at four times their size. A patch is one pixel of the original. `train_digits` made it.
"""

from importlib.resources import files
from pathlib import Path

from torch import nn
from torchvision.models import VisionTransformer

from heatmill.catalogue.models import Baseline, Preprocessing

NAME = "digits_vit"
LABELS = tuple("0123456789")
# Scikit-learn's digits are light ink on black paper: what is black shows nothing. Mid-grey is an 8 to it, with 0.75.
BASELINE: Baseline = "black"
PREPROCESSING = Preprocessing(resize=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def architecture() -> nn.Module:
    """Torchvision's ViT: 3 blocks, 4 heads, 64 patches of 4 x 4 pixels; random weights."""
    module: nn.Module = VisionTransformer(
        image_size=32, patch_size=4, num_layers=3, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=len(LABELS)
    )
    return module


def weights_path() -> Path:
    """The trained weights, in this package."""
    return Path(str(files("heatmill_workers.models") / f"{NAME}.safetensors"))
