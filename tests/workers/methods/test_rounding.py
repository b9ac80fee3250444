"""A map within the rounding of what it is computed from is blank; a small map that is real is none."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heatmill.catalogue.models import Preprocessing
from heatmill_workers.engine.head import Head
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.perturbation.hiding import solid_colour
from heatmill_workers.methods.contract import Explanation, flattened
from heatmill_workers.methods.explain import explain
from tests.workers.small import loaded, photos, small_resnet

SIDE = 64
TARGET = torch.tensor([3])
EPSILON = torch.finfo(torch.float32).eps
BLACK_BOXES: Mapping[str, dict[str, object]] = {
    "lime": {"segmentation": "grid", "segments": 16, "samples": 30},
    "partition_shap": {"max_evals": 40},
}
AGAINST_ONE: Mapping[str, str] = {
    "integrated_gradients": "baseline",
    "deep_lift": "baseline",
    "gradient_shap": "background",
    "deep_shap": "background",
}
OF_LOGITS: Mapping[str, dict[str, object]] = {
    **BLACK_BOXES,
    **{name: {} for name in ("grad_cam", *AGAINST_ONE)},
}


class RoundsByRow(nn.Module):
    """A small network whose outputs differ by a few units in the last place with the row of the batch."""

    def __init__(self, scale: float = 1.0, rare: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.pool, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 10)
        self.scale = scale
        with torch.no_grad():
            self.head.weight.mul_(20 * scale)
            self.head.bias.copy_(torch.linspace(1, 4, 10))
            self.head.bias[3] -= rare

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.trunk(images).relu()).flatten(1))
        return logits * (1 + 3 * torch.finfo(logits.dtype).eps * (torch.arange(len(images)) % 5).unsqueeze(1))


class NoJitter(RoundsByRow):
    """The same, for methods that follow each operation."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.trunk(images).relu()).flatten(1))
        return logits


def network(scale: float = 1.0, rare: float = 0.0, *, method: str = "lime") -> LoadedModel:
    """One that passes its proof; then its weights are set to what is wanted."""
    kind = NoJitter if method.startswith("deep") else RoundsByRow
    model = loaded(kind().eval(), SIDE)
    with torch.no_grad():
        for name, wanted in kind(scale, rare).state_dict().items():
            model.module.state_dict()[next(key for key in model.module.state_dict() if key.endswith(name))].copy_(
                wanted
            )
    return model


def one(method: str, model: LoadedModel, image: Tensor, **params: object) -> Explanation:
    (entry,) = explain(method, model, image, TARGET, params)
    assert isinstance(entry, Explanation), entry
    return entry


def flat(level: float) -> Tensor:
    """A photo of one colour as the worker makes it."""
    made = Preprocessing(resize=SIDE, crop=SIDE)
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (made.mean, made.std))
    photo = np.full((1, 3, SIDE, SIDE), level, np.float32)
    return torch.from_numpy(photo * (1 / std) - mean / std)


def is_blank(entry: Explanation) -> bool:
    assert (entry.verdict == "blank") == (not entry.attribution.any())
    return entry.verdict == "blank"


@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("method", BLACK_BOXES)
def test_where_nothing_is_hidden_the_rounding_of_a_row_is_no_evidence(method: str, level: float) -> None:
    for model in (network(), small_resnet()):
        assert is_blank(one(method, model, flat(level), **BLACK_BOXES[method]))


def test_lime_draws_no_more_samples_of_a_photo_of_one_colour() -> None:
    entry = one("lime", network(), flat(0.3), **BLACK_BOXES["lime"], max_error=0.01)

    assert (entry.checks["samples"], entry.checks["standard_error"]) == (30, 0)


@pytest.mark.parametrize(
    ("baseline", "level"), [("blur", 0.3), ("blur", 0.9), ("white", 1.0), ("black", 0.0), ("mean", None)]
)
@pytest.mark.parametrize("method", AGAINST_ONE)
def test_an_image_that_is_its_baseline_but_for_rounding_has_a_blank_map(
    method: str, baseline: str, level: float | None
) -> None:
    image = torch.full((1, 3, SIDE, SIDE), EPSILON) if level is None else flat(level)
    wanted: object = baseline if AGAINST_ONE[method] == "baseline" else [baseline]

    entry = one(method, network(method=method), torch.cat([image]), **{AGAINST_ONE[method]: wanted})

    assert is_blank(entry)


def test_beside_such_an_image_another_keeps_its_map() -> None:
    images = torch.cat([flat(1.0), photos(1), flat(1.0)])

    entries = explain("deep_lift", small_resnet(), images, TARGET.expand(3).contiguous(), {"baseline": "white"})

    assert [is_blank(entry) for entry in entries if isinstance(entry, Explanation)] == [True, False, True]
    alone = one("deep_lift", small_resnet(), photos(1), baseline="white")
    assert isinstance(entries[1], Explanation)
    np.testing.assert_allclose(entries[1].attribution, alone.attribution, atol=1e-4 * np.abs(alone.attribution).max())


@pytest.mark.parametrize("method", OF_LOGITS)
def test_what_moves_the_logit_by_less_than_its_rounding_is_blank(method: str) -> None:
    assert is_blank(one(method, network(1e-10, method=method), photos(1), **OF_LOGITS[method]))


@pytest.mark.parametrize("method", OF_LOGITS)
def test_what_moves_it_little_but_more_than_that_is_drawn(method: str) -> None:
    assert not is_blank(one(method, network(1e-2, method=method), photos(1), **OF_LOGITS[method]))


@pytest.mark.parametrize("method", OF_LOGITS)
def test_a_class_of_one_in_a_million_has_its_map(method: str) -> None:
    model = network(rare=14, method=method)
    with torch.no_grad():
        assert model.module(photos(1)).softmax(1)[0, 3] < 1e-6

    assert not is_blank(one(method, model, photos(1), **OF_LOGITS[method]))


def test_a_probability_of_nearly_one_that_still_moves_has_its_map() -> None:
    model = network(rare=-18)
    with torch.no_grad():
        assert model.module(photos(1)).softmax(1)[0, 3] > 0.99999

    assert not is_blank(one("lime", model, photos(1), hide="black", **BLACK_BOXES["lime"]))


def test_a_class_that_a_mask_rules_out_does_not_make_the_others_blank() -> None:
    model = network()
    with torch.no_grad():
        model.module.get_parameter(_named(model.module, "head.bias"))[:2] = -1e9

    for method, params in OF_LOGITS.items():
        if not method.startswith("deep"):
            assert not is_blank(one(method, model, photos(1), **params)), method


def test_a_regressions_small_value_beside_a_large_one_has_its_map() -> None:
    model = replace(network(0.01), head=Head("none", "values"))
    with torch.no_grad():
        model.module.get_parameter(_named(model.module, "head.bias")).fill_(1e6)[3] = 0.01

    for method, params in OF_LOGITS.items():
        if not method.startswith("deep"):
            assert not is_blank(one(method, model, photos(1), **params)), method


def test_channels_that_cancel_but_for_rounding_draw_nothing() -> None:
    values = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    values[2] = -values[0] - values[1]

    assert not flattened(values, "signed").any()
    values[2, 4, 4] += 1e-3
    assert np.count_nonzero(flattened(values, "signed")) == 1


class Cancels(nn.Module):
    """Its last maps come in pairs whose evidence cancels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(12, 10, bias=False)
        with torch.no_grad():
            self.head.weight[:, 6:] = -self.head.weight[:, :6] / 3
            # For the proof, which wants outputs that depend on the image.
            self.head.weight[5] = 1

    def forward(self, images: Tensor) -> Tensor:
        maps = self.trunk(images).relu()
        maps = torch.cat([maps, maps * 3], 1)
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


def test_maps_whose_evidence_cancels_but_for_rounding_are_blank() -> None:
    assert is_blank(one("grad_cam", loaded(Cancels().eval()), photos(1)))


def test_the_colour_of_a_baseline_is_the_photos_own_but_for_rounding() -> None:
    white = solid_colour(1.0, Preprocessing(resize=SIDE, crop=SIDE)).expand(1, 3, SIDE, SIDE)
    assert not torch.equal(white, flat(1.0))
    assert torch.allclose(white, flat(1.0))


def _named(module: nn.Module, ending: str) -> str:
    return next(name for name, _ in module.named_parameters() if name.endswith(ending))
