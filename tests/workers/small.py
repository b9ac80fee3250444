"""Small models with random weights: exact enough to compare with, fast enough for every test."""

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from heatmill.catalogue.models import ModelSpec, Preprocessing
from heatmill_workers.engine.batching import BatchSizes
from heatmill_workers.engine.loaded_model import Built, LoadedModel
from heatmill_workers.models.loaders import torchvision
from heatmill_workers.models.loading import prepare

# Tests share the machine, and on small models threads wait for each other: 43 s instead of minutes beside other work.
torch.set_num_threads(1)

CPU = torch.device("cpu")
LABELS = tuple(f"class {index}" for index in range(10))


def architecture(name: str, side: int = 64, classes: int = len(LABELS)) -> nn.Module:
    """One of torchvision's, the same random weights every time, with running statistics that are not trivial."""
    torch.manual_seed(0)
    module = torchvision.architecture(name, classes, side)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(each.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return module


def loaded(module: nn.Module, side: int = 64, cam_layer: str | None = None) -> LoadedModel:
    """A module as the store would hand it out, but that its batches always have one size: bytes are compared."""
    spec = ModelSpec(name="small", loader="torchvision", cam_layer=cam_layer)
    model = prepare(spec, Built(module, Preprocessing(resize=side, crop=side), LABELS), CPU)
    return replace(model, batch_sizes=BatchSizes(CPU, 8))


@cache
def small_resnet() -> LoadedModel:
    """ResNet-18 at 64 pixels, with ten classes."""
    return loaded(architecture("resnet18"))


@cache
def small_vit() -> LoadedModel:
    """A ViT that has no spatial layer, at 64 pixels."""
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    shape = {"image_size": 64, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    module = VisionTransformer(**shape, num_classes=len(LABELS))
    # The published initialisation leaves the head at zero, and with it every gradient.
    nn.init.normal_(module.heads.head.weight, std=0.5)
    return loaded(module)


def photos(count: int, side: int = 64, seed: int = 0) -> Tensor:
    """Normalised noise, (count, 3, side, side)."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
