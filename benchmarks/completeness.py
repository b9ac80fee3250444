"""Completeness errors of the methods that promise it, on stock architectures: the table in docs/completeness.md.

    python -m benchmarks.completeness > docs/completeness.md

Weights are random, since most cannot be had without a network; batch norm's statistics are measured on noise, and the
head is scaled so that the logits of image and baseline differ. That is a harder case than trained weights: nothing
cancels by habit.
"""

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from heatmill.errors import UnsupportedOperation
from heatmill.models import ModelSpec, Preprocessing
from heatmill_workers.explainer import Explained, explain
from heatmill_workers.models.loaded import Built, LoadedModel
from heatmill_workers.models.loaders import torchvision
from heatmill_workers.models.loading import prepare

CLASSES = 10
ARCHITECTURES = {
    "alexnet": 224, "vgg11": 224, "resnet18": 224, "resnet50": 224, "densenet121": 224, "inception_v3": 299,
    "googlenet": 224, "squeezenet1_0": 224, "mobilenet_v2": 224, "mobilenet_v3_small": 224, "mnasnet0_5": 224,
    "shufflenet_v2_x1_0": 224, "efficientnet_b0": 224, "regnet_y_400mf": 224, "convnext_tiny": 224, "swin_t": 224,
    "swin_v2_t": 256, "vit_b_16": 224, "maxvit_t": 224,
}  # fmt: skip
METHODS: dict[str, dict[str, object]] = {
    "deep_lift": {},
    "deep_shap": {"background": ("mean", "blur")},
    "integrated_gradients": {"steps": 20},
}


def main() -> None:
    """Print the table."""
    print("# Completeness\n")
    print("The relative completeness error of methods that promise to add up, and the seconds that they took.")
    print("Made by `python -m benchmarks.completeness`: random weights, one image, its most changed class, float32,")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s) of a shared CPU.\n")
    titles = [
        " ".join([name, *(f"{key}={value}" for key, value in params.items())]) for name, params in METHODS.items()
    ]
    print("| architecture | logit change | " + " | ".join(titles) + " |")
    print("|---|---:|" + "---:|" * len(METHODS))
    for name, side in ARCHITECTURES.items():
        model, image, target = calibrated(name, side)
        cells = [cell for method in METHODS for cell in measured(method, model, image, target)]
        print(f"| {name} | {change(model, image, target):.2f} | " + " | ".join(cells) + " |", flush=True)


def calibrated(name: str, side: int) -> tuple[LoadedModel, Tensor, Tensor]:
    """A model of this architecture, an image, and the class whose logit differs most between image and baseline."""
    torch.manual_seed(0)
    module = torchvision.architecture(name, CLASSES, side)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
    images = torch.randn(8, 3, side, side)
    head = [part for part in module.modules() if isinstance(part, (nn.Linear, nn.Conv2d))][-1]
    with torch.no_grad():
        module.train()(images)
        module.eval()
        nn.init.normal_(head.weight)
        head.weight.mul_(2 / (module(images[:1]) - module(torch.zeros_like(images[:1]))).abs().max())
    spec = ModelSpec(name=name, loader="torchvision")
    labels = tuple(str(index) for index in range(CLASSES))
    model = prepare(spec, Built(module, Preprocessing(resize=side, crop=side), labels), torch.device("cpu"))
    with torch.no_grad():
        target = (model.module(images[:1]) - model.module(torch.zeros_like(images[:1]))).abs().argmax(1)
    return model, images[:1], target


def change(model: LoadedModel, image: Tensor, target: Tensor) -> float:
    """Of the target's logit from the mean-coloured baseline to the image."""
    with torch.no_grad():
        return float((model.module(image) - model.module(torch.zeros_like(image)))[0, target[0]])


def measured(method: str, model: LoadedModel, image: Tensor, target: Tensor) -> Iterator[str]:
    """The table's cell: the relative error and the seconds, or what is not supported."""
    started = time.perf_counter()
    (answer,) = explain(method, model, image, target, METHODS[method])
    if isinstance(answer, Explained):
        yield f"{float(answer.checks['completeness_error']):.1e} ({time.perf_counter() - started:.1f} s)"
    elif isinstance(answer, UnsupportedOperation):
        yield f"not supported: {answer}"
    else:
        yield f"failed: {answer}"


if __name__ == "__main__":
    main()
