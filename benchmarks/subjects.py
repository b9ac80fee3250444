"""What is explained: photos that scikit-image ships, and models whose weights need no network.

A model comes twice: as its library makes it, which is what the reference libraries get, and as a worker loads it.
"""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.completeness import calibrate
from heatmill.catalogue.models import BUNDLED_MODEL, ModelSpec, Preprocessing
from heatmill_workers.engine.loaded_model import Built, LoadedModel
from heatmill_workers.models.loaders import bundled, torchvision
from heatmill_workers.models.loaders.transformers import Logits
from heatmill_workers.models.loading import pick_device, prepare
from heatmill_workers.models.preprocessing import preprocess

PHOTOS = (
    "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "astronaut.png", "retina.jpg",
    "hubble_deep_field.jpg", "ihc.png", "motorcycle_right.png", "color.png",
)  # fmt: skip
CLASSES = 1000


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and what it is asked about.

    Args:
        stock: The module as its library makes it, on the device, in eval mode.
        model: The same weights, as a worker has loaded them.
        images: (N, 3, H, W), normalised, on the CPU.
        targets: (N,) int64, the class that the model is most sure of.
    """

    name: str
    stock: nn.Module
    model: LoadedModel
    images: Tensor
    targets: Tensor


def subjects(count: int, names: Collection[str]) -> dict[str, Subject]:
    """The models of these names, each with so many photos; they come again where there are fewer."""
    return {name: _subject(name, MODELS[name], count) for name in sorted(names)}


def _subject(name: str, build: Callable[[Tensor], Built], count: int) -> Subject:
    images = photos(count)
    torch.manual_seed(0)
    built = build(images)
    stock = copy.deepcopy(built.module).eval().to(pick_device())
    model = prepare(ModelSpec(name=name.lower(), loader="torchvision"), built, pick_device())
    with torch.no_grad():
        targets = torch.cat([stock(image[None].to(model.device)).argmax(1).cpu() for image in images])
    return Subject(name, stock, model, images, targets)


def photos(count: int) -> Tensor:
    """(N, 3, 224, 224), normalised as for ImageNet."""
    folder = files("skimage") / "data"
    opened = [Image.open(str(folder / name)).convert("RGB") for name in PHOTOS[:count]]
    each = torch.stack([preprocess(photo, Preprocessing())[0] for photo in opened])
    return each.repeat(-(-count // len(each)), 1, 1, 1)[:count]


def _efficientnet(images: Tensor) -> Built:
    return bundled.build(ModelSpec(name=BUNDLED_MODEL, loader="bundled"))


def _resnet(images: Tensor) -> Built:
    """Random weights, with batch norm's statistics measured on the photos and a head that tells them apart."""
    module = torchvision.architecture("resnet18", CLASSES, 224)
    calibrate(module, images)
    return _built(module)


def _vit(images: Tensor) -> Built:
    """The size of DeiT-tiny. Eager attention, without which transformers returns none."""
    from transformers import ViTConfig, ViTForImageClassification

    config: dict[str, Any] = {
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "intermediate_size": 768,
    }
    config |= {"num_labels": CLASSES, "attn_implementation": "eager"}
    return _built(Logits(ViTForImageClassification(ViTConfig(**config))))


def _built(module: nn.Module) -> Built:
    return Built(module, Preprocessing(), tuple(str(index) for index in range(CLASSES)))


MODELS: dict[str, Callable[[Tensor], Built]] = {
    "EfficientNet-Lite0": _efficientnet,
    "ResNet-18": _resnet,
    "ViT-tiny": _vit,
}
