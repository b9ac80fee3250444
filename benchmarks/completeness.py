"""Completeness errors of the methods that promise it, on stock architectures: the tables in docs/completeness.md.

    python -m benchmarks.completeness > docs/completeness.md
    python -m benchmarks.layers >> docs/completeness.md

Weights are random, since most cannot be had without a network; batch norm's statistics are measured on noise, scales
that start at nearly zero are drawn anew, so that every branch counts, and the head is scaled so that the logits of
image and baseline differ. That is a harder case than trained weights: nothing cancels by habit. The bundled model has
its own weights.
"""

import time
from collections.abc import Mapping
from importlib.metadata import version

import timm
import torch
import transformers
from torch import Tensor, nn

from heatmill.catalogue.models import BUNDLED_MODEL, ModelSpec, Preprocessing
from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.loaded_model import Built, LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.models.loaders import torchvision
from heatmill_workers.models.loaders.transformers import Logits
from heatmill_workers.models.loading import load, prepare

CPU = torch.device("cpu")
LABELS = tuple(str(index) for index in range(10))
# The side of the input in pixels, where it is not 224.
SIDES = {"inception_v3": 299, "swin_v2_t": 256, "MobileViTV2": 256, "Swinv2": 256}
TORCHVISION = [
    "alexnet", "vgg11", "vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2",
    "densenet121", "inception_v3", "googlenet", "squeezenet1_0", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small",
    "mobilenet_v3_large", "mnasnet0_5", "mnasnet1_0", "shufflenet_v2_x1_0", "efficientnet_b0", "efficientnet_v2_s",
    "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny", "swin_t", "swin_v2_t", "vit_b_16", "vit_b_32", "maxvit_t",
]  # fmt: skip
TIMM = [
    "resnet10t", "resnetv2_50", "repvgg_a0", "regnetz_005", "mobilenetv3_small_050", "mobilenetv4_conv_small",
    "tf_efficientnetv2_b0", "ghostnet_100", "hrnet_w18_small", "nfnet_f0", "vit_tiny_patch16_224",
    "deit_tiny_patch16_224", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "swin_tiny_patch4_window7_224",
    "mvitv2_tiny", "hiera_tiny_224", "xcit_nano_12_p16_224", "pvt_v2_b0", "convnext_atto", "convnextv2_atto",
    "convnext_atto_rms", "poolformerv2_s12", "mobilevitv2_050", "mixer_s32_224", "resmlp_12_224", "mambaout_femto",
    "sequencer2d_s", "volo_d1_224",
]  # fmt: skip
SMALL_VIT: dict[str, object] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
SMALL_CNN: dict[str, object] = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64]}
SMALL_SWIN: dict[str, object] = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]}
TRANSFORMERS: dict[str, dict[str, object]] = {
    "ViT": SMALL_VIT,
    "DeiT": SMALL_VIT,
    "Beit": SMALL_VIT,
    "Dinov2": {key: value for key, value in SMALL_VIT.items() if key != "intermediate_size"},
    "ResNet": {**SMALL_CNN, "layer_type": "basic", "embedding_size": 16},
    "RegNet": {**SMALL_CNN, "groups_width": 16},
    "MobileNetV2": {},
    "MobileViTV2": {"width_multiplier": 0.5},
    "ConvNext": SMALL_CNN,
    "ConvNextV2": SMALL_CNN,
    "Swin": SMALL_SWIN,
    "Swinv2": {**SMALL_SWIN, "image_size": 256, "window_size": 8},
    "Segformer": {},
    "PoolFormer": {},
}
METHODS: dict[str, dict[str, object]] = {
    "deep_lift": {},
    "deep_shap": {"background": ("mean", "blur")},
    "integrated_gradients": {"steps": 20},
    "gradient_shap": {"samples": 20, "background": ("mean", "blur")},
    "partition_shap": {"max_evals": 32},
}
ZOO_METHODS: dict[str, dict[str, object]] = {"deep_lift": {}}
# Of a scale, in training's first step: LayerScale starts at 1e-6 to 1e-5, a block's last batch norm often at 0.
ASLEEP = 1e-3


def main() -> None:
    """Print the tables."""
    started = time.monotonic()
    print("# Completeness\n")
    print("The relative completeness error of methods that promise to add up, and the seconds that they took.")
    print("Made by `python -m benchmarks.completeness`: random weights (the bundled model's are its own), one image of")
    print("noise, its most changed class, float32, through the same code as a job's items.")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "transformers"))
    print(f"{versions}; {torch.get_num_threads()} thread(s) of a shared CPU.\n")
    print(
        "`deep_lift`, `deep_shap` and `partition_shap` are complete by construction: what is left is rounding, which is"
    )
    print("more where much cancels (1e-3 was seen on EfficientNet-B0 with a black baseline). The errors of")
    print("`integrated_gradients` and `gradient_shap` are those of few points on a rough path, and fall with more; a")
    print("result above 5 % has the verdict `imprecise`. A cell says the error, or what is not supported.\n")
    print("## The bundled model and torchvision\n")
    print(*(f"- `{name}`: {_spelled(params)}\n" for name, params in METHODS.items()), sep="")
    table([BUNDLED_MODEL, *TORCHVISION], METHODS)
    print("\n## timm and transformers\n")
    print("`deep_lift` on architectures of timm, and on small ones of transformers. This error is below 1 %, or the")
    print("operation that has no rule is named.\n")
    table([*TIMM, *TRANSFORMERS], ZOO_METHODS)
    print(f"\nBoth tables took {(time.monotonic() - started) / 60:.0f} minutes.")


def table(names: list[str], methods: Mapping[str, Mapping[str, object]]) -> None:
    """Print a row for each architecture and a column for each method."""
    print("| architecture | logit change | " + " | ".join(f"`{method}`" for method in methods) + " |")
    print("|---|---:|" + "---:|" * len(methods))
    for name in names:
        model, image, target = calibrated(name)
        cells = [measured(method, params, model, image, target) for method, params in methods.items()]
        print(f"| {name} | {change(model, image, target):.2f} | " + " | ".join(cells) + " |", flush=True)


def calibrated(name: str, seed: int = 0) -> tuple[LoadedModel, Tensor, Tensor]:
    """A model of this architecture, an image, and the class whose logit differs most between image and baseline."""
    torch.manual_seed(seed)
    if name == BUNDLED_MODEL:
        model = load(ModelSpec(name=name, loader="bundled"), CPU)
    else:
        side = SIDES.get(name, 224)
        module = architecture(name, side)
        calibrate(module, torch.randn(8, 3, side, side))
        built = Built(module, Preprocessing(resize=side, crop=side), LABELS)
        model = prepare(ModelSpec(name=name.lower(), loader="torchvision"), built, CPU)
    image = torch.randn(1, 3, *model.preprocessing.input_size)
    return model, image, _changes(model.module, image).abs().argmax(1)


def architecture(name: str, side: int) -> nn.Module:
    """With random weights, by torchvision's or timm's name, or by the first part of the name in transformers."""
    if name in TORCHVISION:
        return torchvision.architecture(name, len(LABELS), side)
    if name in TIMM:
        module: nn.Module = timm.create_model(name, num_classes=len(LABELS))
        return module
    config = getattr(transformers, f"{name}Config")(**TRANSFORMERS[name], num_labels=len(LABELS))
    return Logits(getattr(transformers, f"{name}ForImageClassification")(config))


def change(model: LoadedModel, image: Tensor, target: Tensor) -> float:
    """Of the target's logit from the mean-coloured baseline to the image."""
    return float(_changes(model.module, image)[0, target[0]])


def measured(method: str, params: Mapping[str, object], model: LoadedModel, image: Tensor, target: Tensor) -> str:
    """The table's cell: the relative error and the seconds, or what is not supported."""
    started = time.perf_counter()
    (answer,) = explain(method, model, image, target, params)
    if isinstance(answer, Explanation):
        error = float(answer.checks["completeness_error"])
        return f"{error:.1e} ({time.perf_counter() - started:.1f} s)"
    return f"not supported: {answer}" if isinstance(answer, UnsupportedOperation) else f"failed: {answer}"


def calibrate(module: nn.Module, images: Tensor) -> None:
    """Measure batch norm's statistics, wake up what starts at nothing, scale the head; in place, left in eval mode."""
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.reset_running_stats()
            part.momentum = None
    for name, parameter in module.named_parameters():
        if not name.endswith("bias") and parameter.ndim <= 3 and parameter.abs().max() < ASLEEP:
            nn.init.uniform_(parameter, 0.1, 0.5)
    head = [part for part in module.modules() if isinstance(part, (nn.Linear, nn.Conv2d))][-1]
    with torch.no_grad():
        # Some of timm's return nothing from train().
        module.train()
        module(images)
        module.eval()
        nn.init.normal_(head.weight)
        head.weight.mul_(2 / _changes(module, images[:1]).abs().max())


def _changes(module: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        changes: Tensor = module(image) - module(torch.zeros_like(image))
    return changes


def _spelled(params: Mapping[str, object]) -> str:
    return ", ".join(f"`{key}` = {value}" for key, value in params.items()) or "defaults"


if __name__ == "__main__":
    main()
