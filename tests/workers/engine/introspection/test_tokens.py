"""Which attention belongs to which patch, and the models that have no such thing."""

from typing import Any

import pytest
import torch
from timm.models import create_model
from torch import Tensor, nn

from heatmill.errors import UnsupportedOperation
from heatmill_workers.engine.introspection.tokens import Tokens, attention_maps, find_tokens
from tests.workers.small import architecture, photos
from tests.workers.vits import of_timm, of_torchvision

IMAGE = photos(1)
SMALL: dict[str, Any] = {"img_size": (64, 96), "patch_size": 16, "embed_dim": 16, "num_heads": 2, "depth": 2}


def timm_model(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    module: Any = create_model(name, num_classes=10, **SMALL | options).eval().requires_grad_(False)
    for parameter in module.get_classifier().parameters():
        nn.init.normal_(parameter, std=0.5)
    made: nn.Module = module
    return made


def behind(others: int, grid: tuple[int, int], layers: int, readers: tuple[int, ...]) -> Tokens:
    """The layout of a model whose patches stand in reading order behind some other tokens."""
    count = others + grid[0] * grid[1]
    return Tokens(tuple(range(layers)), layers, count, grid, tuple(range(others, count)), readers)


@pytest.mark.parametrize(
    ("name", "options", "others", "readers"),
    [
        ("vit_tiny_patch16_224", {}, 1, (0,)),
        ("vit_tiny_patch16_224", {"reg_tokens": 4}, 5, (0,)),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, 1, tuple(range(1, 25))),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, 0, tuple(range(24))),
        ("beit_base_patch16_224", {}, 1, tuple(range(1, 25))),
    ],
)
def test_the_tokens_that_count_are_those_that_the_logits_read(
    name: str, options: dict[str, Any], others: int, readers: tuple[int, ...]
) -> None:
    tokens = find_tokens(timm_model(name, **options), photos(1, 96)[:, :, :64])

    assert tokens == behind(others, (4, 6), 2, readers)


def test_both_tokens_of_a_distilled_model_count() -> None:
    torch.manual_seed(0)
    module: Any = create_model("deit_tiny_distilled_patch16_224", num_classes=10, **SMALL).eval().requires_grad_(False)
    for head in (module.head, module.head_dist):
        nn.init.normal_(head.weight)

    tokens = find_tokens(module, photos(1, 96)[:, :, :64])

    assert tokens == behind(2, (4, 6), 2, (0, 1))


def test_under_a_head_of_zeros_the_class_token_counts() -> None:
    module = architecture("vit_b_32").eval().requires_grad_(False)

    assert find_tokens(module, IMAGE) == behind(1, (2, 2), 12, (0,))


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "maxvit_t"])
def test_windows_and_convolutions_are_no_attention_between_all_patches(name: str) -> None:
    side = 224 if name == "maxvit_t" else 64
    module = architecture(name, side).eval().requires_grad_(False)

    assert find_tokens(module, photos(1, side)) is None


@pytest.mark.parametrize(
    ("name", "side"), [("cait_xxs24_224", 224), ("xcit_nano_12_p16_224", 224), ("pvt_v2_b0", 64), ("levit_128s", 224)]
)
def test_class_attention_channels_and_pooled_keys_are_none_either(name: str, side: int) -> None:
    assert find_tokens(create_model(name).eval().requires_grad_(False), photos(1, side)) is None


class Difference(nn.Module):
    """Two attentions of one layer, one taken from the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 16, 16)
        self.attentions = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        one, other = (each(tokens, tokens, tokens)[0] for each in self.attentions)
        logits: Tensor = self.head((one - other).mean(1))
        return logits


def test_two_attentions_side_by_side_are_no_two_layers() -> None:
    assert find_tokens(Difference().eval().requires_grad_(False), IMAGE) is None


def test_a_model_that_attends_otherwise_than_when_it_was_probed_is_refused() -> None:
    tokens = of_torchvision().tokens
    assert tokens is not None

    with torch.no_grad(), pytest.raises(UnsupportedOperation, match="differently"):
        attention_maps(of_timm().module, photos(2), tokens)
