"""Small modules, each with one thing that breaks hook-based DeepLIFT, as classifiers of (N, 3, 16, 16)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Body = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """A convolution, a body (N, 8, 8, 8) to (N, 8, ...), and a linear head over the mean."""

    def __init__(self, body: Body, *parts: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.parts = nn.ModuleList(parts)
        self.head = nn.Linear(8, 5)
        self.body = body
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.head(self.body(self.stem(images)).flatten(2).mean(2))
        return out


def tokens(body: Body) -> Body:
    """A body over (N, 64, 8)."""
    return lambda maps: body(maps.flatten(2).transpose(1, 2)).transpose(1, 2)


RELU = nn.ReLU(inplace=True)
CONV = nn.Conv2d(8, 8, 3, padding=1)
NORM = nn.BatchNorm2d(8)
BIAS, WEIGHT = torch.linspace(-1, 1, 8).view(8, 1, 1), torch.linspace(1, 2, 8).view(8, 1, 1)
ATTENTION = nn.MultiheadAttention(8, 2, batch_first=True)
LAYER_NORM = nn.LayerNorm(8)
RMS_NORM = nn.RMSNorm(8)


def in_place_residual(maps: Tensor) -> Tensor:
    out: Tensor = CONV(RELU(maps))
    out += maps
    return out


def view_in_place(maps: Tensor) -> Tensor:
    copy = maps.clone()
    copy[:, :4].relu_()
    return copy


def squeeze_and_excite(maps: Tensor) -> Tensor:
    return maps * functional.adaptive_avg_pool2d(maps, 1).sigmoid()


def relative_attention(sequence: Tensor) -> Tensor:
    scores = torch.einsum("nqd,nkd->nqk", sequence, sequence)
    return torch.einsum("nqk,nkd->nqd", functional.softmax(scores, dim=-1), sequence)


def layer_norms_without_biases(sequence: Tensor) -> Tensor:
    for _ in range(30):
        normalised = functional.layer_norm(sequence, (8,))
        sequence = sequence + normalised.relu().roll(1, -1)
    return sequence


def composed_rms_norm(maps: Tensor) -> Tensor:
    return maps * torch.rsqrt(maps.square().mean(1, keepdim=True) + 1e-6)


def put_into_place(maps: Tensor) -> Tensor:
    copy = 2 * maps.sigmoid()
    copy[:, :4] = copy[:, :4] + maps[:, 4:].relu()
    return copy


def put_into_a_constant(maps: Tensor) -> Tensor:
    constant = torch.zeros(maps.shape)
    constant[:, :4] = maps[:, :4]
    return constant


def response_norm(maps: Tensor) -> Tensor:
    length = maps.norm(p=2, dim=(2, 3), keepdim=True)
    return torch.addcmul(BIAS, WEIGHT, maps * (length / (length.mean(dim=1, keepdim=True) + 1e-6)))


def joined_with_a_constant(maps: Tensor) -> Tensor:
    # As class tokens and position grids are: as many rows as the batch has, and nothing of the image in them.
    constant = torch.linspace(-1, 1, 8)[:, None, None].expand(maps.shape[0], 8, *maps.shape[2:])
    return torch.cat([maps, constant], 1)[:, 4:12].relu() * torch.stack([maps, constant]).sum(0)


BODIES: dict[str, Net] = {
    "joined with a constant": Net(joined_with_a_constant),
    "one relu called three times": Net(lambda maps: RELU(CONV(RELU(CONV(RELU(maps))))), RELU, CONV),
    "functional relu": Net(functional.relu),
    "in-place method": Net(lambda maps: maps.clamp_(-0.2, 0.6)),
    "in-place residual": Net(in_place_residual, RELU, CONV),
    "in-place on a view": Net(view_in_place),
    "overlapping max pool": Net(lambda maps: functional.max_pool2d(maps, 3, 2, 1)),
    "max pool over everything": Net(lambda maps: functional.adaptive_max_pool2d(maps, 1)),
    "batch norm": Net(lambda maps: functional.silu(NORM(maps)), NORM),
    "product of two maps": Net(squeeze_and_excite),
    "quotient of two maps": Net(lambda maps: maps / (1 + maps.square())),
    "constant over a map": Net(lambda maps: 1 / (2 + maps.tanh())),
    "gelu": Net(functional.gelu),
    "hardswish in place": Net(lambda maps: functional.hardswish(maps, inplace=True)),
    "softplus and power": Net(lambda maps: functional.softplus(maps) ** 2),
    "layer norm": Net(tokens(LAYER_NORM), LAYER_NORM),
    "rms norm": Net(tokens(RMS_NORM), RMS_NORM),
    "global response norm": Net(response_norm),
    "largest of each map": Net(lambda maps: maps.amax(dim=(2, 3), keepdim=True)),
    "composed rms norm": Net(composed_rms_norm),
    "put into place": Net(put_into_place),
    "group norm": Net(lambda maps: functional.group_norm(maps, 4)),
    "normalize": Net(lambda maps: functional.normalize(maps, dim=1)),
    "softmax": Net(lambda maps: 8 * functional.softmax(3 * maps, dim=1)),
    "fused attention": Net(tokens(lambda x: functional.scaled_dot_product_attention(x, 2 * x, x))),
    "masked attention": Net(
        tokens(lambda x: functional.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(64, 64).tril().bool()))
    ),
    "multi-head attention": Net(tokens(lambda x: ATTENTION(x, x, x, need_weights=False)[0]), ATTENTION),
    "einsum": Net(tokens(relative_attention)),
    "concatenation": Net(lambda maps: torch.cat([maps[:, :4].relu(), maps.chunk(2, 1)[1].sigmoid()], 1)),
}
