"""Where Grad-CAM and attention read, on one small architecture of every family: the last table in docs/completeness.md.

    python -m benchmarks.layers

Weights are random, and calibrated as in `benchmarks.completeness`. Families are left out if their smallest architecture
has more than 100 million parameters, or images of more than 512 pixels.
"""

from typing import Any

import timm
import torch
import transformers
from torch import nn

from benchmarks.completeness import LABELS, TRANSFORMERS, calibrate
from heatmill_workers.engine.introspection.spatial import Search, search
from heatmill_workers.engine.introspection.tokens import TokenSearch, search_tokens
from heatmill_workers.models.loaders import torchvision
from heatmill_workers.models.loaders.transformers import Logits

HEADING = "## Where Grad-CAM and attention read"
# The smallest of each family of timm, and the side of its images in pixels.
TIMM: dict[str, int] = {
    "beit_base_patch16_224": 224,
    "halonet_h1": 256,
    "test_byobnet": 160,
    "cait_xxs24_224": 224,
    "coat_tiny": 224,
    "convit_tiny": 224,
    "convmixer_768_32": 224,
    "test_convnext": 160,
    "cpubone_nano": 224,
    "crossvit_tiny_240": 240,
    "csatv2": 512,
    "cs3darknet_focus_s": 256,
    "cspnext_tiny": 224,
    "davit_tiny": 224,
    "deit_tiny_patch16_224": 224,
    "densenet121": 224,
    "dla46x_c": 224,
    "dpn48b": 224,
    "edgenext_xx_small": 256,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": 224,
    "mnasnet_small": 224,
    "efficientvim_m1": 224,
    "efficientvit_b0": 224,
    "efficientvit_m0": 224,
    "eva02_tiny_patch14_224": 224,
    "fasternet_t0": 224,
    "fastvit_t8": 256,
    "focalnet_tiny_srf": 224,
    "gcvit_xxtiny": 224,
    "ghostnet_050": 224,
    "hardcorenas_b": 224,
    "hgnetv2_b0": 224,
    "hiera_tiny_224": 224,
    "hieradet_small": 256,
    "hrnet_w18_small": 224,
    "iformer_t": 224,
    "inception_next_atto": 224,
    "inception_resnet_v2": 299,
    "inception_v3": 299,
    "inception_v4": 299,
    "lcnetv2_small": 224,
    "levit_128s": 224,
    "lowformer_b0": 224,
    "test_mambaout": 160,
    "test_coatnet": 160,
    "poolformerv2_s12": 224,
    "gmlp_ti16_224": 224,
    "lcnet_035": 224,
    "mobilevit_xxs": 256,
    "mvitv2_tiny": 224,
    "nest_tiny": 224,
    "nextvit_small": 224,
    "test_nfnet": 160,
    "pit_ti_224": 224,
    "pvt_v2_b0": 224,
    "rdnet_tiny": 224,
    "regnetx_002": 224,
    "repghostnet_050": 224,
    "repvit_m1": 224,
    "res2next50": 224,
    "resnest14d": 224,
    "resnet10t": 176,
    "resnetv2_18": 224,
    "rexnet_100": 224,
    "selecsls42": 224,
    "legacy_seresnet18": 224,
    "sequencer2d_s": 224,
    "shvit_s1": 224,
    "skresnet18": 224,
    "starnet_s050": 224,
    "swiftformer_xs": 224,
    "swin_tiny_patch4_window7_224": 224,
    "swinv2_tiny_window8_256": 256,
    "swinv2_cr_tiny_224": 224,
    "tiny_vit_5m_224": 224,
    "tnt_s_legacy_patch16_224": 224,
    "tresnet_m": 224,
    "twins_svt_small": 224,
    "vgg11": 224,
    "visformer_tiny": 224,
    "test_vit": 160,
    "vit_tiny_r_s16_p8_224": 224,
    "test_vit_relpos": 160,
    "samvit_base_patch16_224": 224,
    "vitamin_small_224": 224,
    "volo_d1_224": 224,
    "ese_vovnet19b_slim_dw": 224,
    "legacy_xception": 299,
    "xception41p": 299,
    "xcit_nano_12_p8_224": 224,
}
# One of each family of torchvision.
TORCHVISION: dict[str, int] = {
    "alexnet": 224,
    "convnext_tiny": 224,
    "densenet121": 224,
    "efficientnet_b0": 224,
    "efficientnet_v2_s": 224,
    "googlenet": 224,
    "inception_v3": 299,
    "maxvit_t": 224,
    "mnasnet0_5": 224,
    "mobilenet_v2": 224,
    "mobilenet_v3_small": 224,
    "regnet_y_400mf": 224,
    "resnet18": 224,
    "resnext50_32x4d": 224,
    "shufflenet_v2_x0_5": 224,
    "squeezenet1_1": 224,
    "swin_t": 224,
    "swin_v2_t": 256,
    "vgg11_bn": 224,
    "vit_b_32": 224,
}
VIT: dict[str, object] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
# Of transformers, beside those that are in the other table; small ones.
MORE_TRANSFORMERS: dict[str, dict[str, object]] = {
    "BeitFor": VIT,
    "Data2VecVisionFor": VIT,
    "Dinov2WithRegistersFor": {key: value for key, value in VIT.items() if key != "intermediate_size"},
    "FocalNetFor": {"embed_dim": 24, "depths": [1, 1, 1, 1]},
    "IJepaFor": VIT,
    "LevitFor": {},
    "MobileNetV1For": {},
    "MobileViTFor": {"image_size": 256},
    "PvtFor": {},
    "PvtV2For": {},
    "SiglipFor": {"vision_config": {**VIT, "image_size": 224, "patch_size": 16}},
    "SwiftFormerFor": {},
    "ViTMSNFor": VIT,
}


def main() -> None:
    """Print the table."""
    print(f"\n{HEADING}\n")
    print(
        "By `python -m benchmarks.layers`: one small architecture of every family of timm and torchvision, and more of"
    )
    print("transformers, with random weights. The layer of Grad-CAM is its channels x rows x columns, and where the")
    print("channels lie last it is said; otherwise the reason why there is none. Attention: the grid of patches.\n")
    print("| architecture | family | image | Grad-CAM reads | attention |")
    print("|---|---|---:|---|---|")
    for library, names in (("timm", TIMM), ("torchvision", TORCHVISION), ("transformers", transformers_sides())):
        for name, side in names.items():
            found, tokens = searched(calibrated(library, name, side), side)
            print(f"| {name} | {family(library, name)} | {side} | {layer(found)} | {grid(tokens)} |", flush=True)


def transformers_sides() -> dict[str, int]:
    """The side of the images of each of transformers' architectures in pixels."""
    return {
        name: 256 if "MobileViT" in name or "Swinv2" in name else 224 for name in [*TRANSFORMERS, *MORE_TRANSFORMERS]
    }


def family(library: str, name: str) -> str:
    """The library's module, or the library."""
    if library != "timm":
        return library
    return f"timm, {timm.models.model_entrypoint(name).__module__.rpartition('.')[2]}"


def calibrated(library: str, name: str, side: int) -> nn.Module:
    """With random weights whose layers all count, in eval mode and frozen."""
    torch.manual_seed(0)
    module = _architecture(library, name, side)
    calibrate(module, torch.randn(4, 3, side, side))
    return module.eval().requires_grad_(False)


def searched(module: nn.Module, side: int) -> tuple[Search, TokenSearch]:
    """Where the methods read."""
    image = torch.zeros(1, 3, side, side)
    return search(module, image), search_tokens(module, image)


def layer(found: Search) -> str:
    """The table's cell."""
    if found.cut is None:
        return found.reason
    order = ", channels last" if found.cut.reading.channels == 3 else ""
    return " x ".join(map(str, found.cut.shape)) + order


def grid(found: TokenSearch) -> str:
    """The table's cell."""
    return found.reason if found.tokens is None else " x ".join(map(str, found.tokens.grid))


def _architecture(library: str, name: str, side: int) -> nn.Module:
    if library == "timm":
        module: nn.Module = timm.create_model(name, num_classes=len(LABELS))
        return module
    if library == "torchvision":
        return torchvision.architecture(name, len(LABELS), side)
    options: dict[str, Any] = {**TRANSFORMERS, **MORE_TRANSFORMERS}[name]
    stem = name.removesuffix("For")
    config = getattr(transformers, f"{stem}Config")(**options, num_labels=len(LABELS))
    return Logits(getattr(transformers, f"{stem}ForImageClassification")(config))


if __name__ == "__main__":
    main()
