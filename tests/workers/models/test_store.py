"""The models of one process: loaded once, shared, let go over the budget; and the bundled one, which is real."""

import gc
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.catalogue.models import ModelSpec, Preprocessing
from heatmill.errors import ModelNotOnThisWorker, ModelRefused
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.models.preprocessing import preprocess
from heatmill_workers.models.store import ModelStore
from heatmill_workers.shard.predict import predict
from tests.workers.small import LABELS, architecture


@pytest.fixture
def specs(tmp_path: Path) -> list[ModelSpec]:
    """Three small models that share one file of weights."""
    safetensors.torch.save_file(architecture("squeezenet1_1").state_dict(), tmp_path / "w.safetensors")
    return [
        ModelSpec(
            name=name,
            loader="torchvision",
            architecture="squeezenet1_1",
            weights=tmp_path / "w.safetensors",
            labels=LABELS,
            preprocessing=Preprocessing(resize=64, crop=64),
        )
        for name in ("one", "two", "three")
    ]


def test_threads_get_the_same_model_loaded_once(specs: list[ModelSpec]) -> None:
    store = ModelStore(specs)

    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(store.get, ["one"] * 8))

    assert len({id(model) for model in models}) == 1


class Random(nn.Module):
    """A classifier that is refused."""

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 3)."""
        return torch.rand(len(images), 3)


def test_the_memory_of_a_model_that_is_refused_is_free_again() -> None:
    spec = ModelSpec(
        name="random",
        loader="python",
        architecture=f"{__name__}:Random",
        labels=("a", "b", "c"),
        preprocessing=Preprocessing(resize=32, crop=32),
    )
    store = ModelStore([spec])

    for _ in range(2):
        with pytest.raises(ModelRefused, match="random"):
            store.get("random")

    gc.collect()
    assert not any(type(each) is Random for each in gc.get_objects())


def test_the_least_recently_used_goes_over_the_budget(specs: list[ModelSpec]) -> None:
    one = ModelStore(specs).get("one")
    store = ModelStore(specs, budget_bytes=2 * one.nbytes)
    kept, gone = store.get("one"), store.get("two")
    store.get("one")

    store.get("three")

    assert store.get("one") is kept
    assert store.get("two") is not gone


def test_one_model_may_exceed_the_budget_alone(specs: list[ModelSpec]) -> None:
    store = ModelStore(specs, budget_bytes=1)

    assert store.get("one") is store.get("one")


def test_a_model_that_the_worker_does_not_know_is_named(specs: list[ModelSpec]) -> None:
    with pytest.raises(ModelNotOnThisWorker, match=r"no model 'four'.*models\.toml"):
        ModelStore(specs).get("four")


@cache
def stock() -> ModelStore:
    return ModelStore(model.spec for model in load_catalogue().models)


def photo(name: str) -> Image.Image:
    return Image.open(Path(skimage.data.__file__).parent / name).convert("RGB")


@pytest.mark.parametrize(
    ("name", "label", "probability"),
    [
        ("coffee.png", "espresso", 0.843),
        ("chelsea.png", "Egyptian cat", 0.355),
        ("rocket.jpg", "missile", 0.413),
        ("motorcycle_left.png", "moped", None),
    ],
)
def test_the_bundled_model_knows_the_bundled_photos(name: str, label: str, probability: float | None) -> None:
    model = stock().get("efficientnet_lite0")

    tensor, _ = preprocess(photo(name), model.preprocessing)
    best = predict(model, tensor.unsqueeze(0))[0].max(0)

    assert model.labels[int(best.indices)] == label
    assert probability is None or float(best.values) == pytest.approx(probability, abs=0.01)


def test_loading_the_bundled_model_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    ModelStore(model.spec for model in load_catalogue().models).get("efficientnet_lite0")

    assert capfd.readouterr() == ("", "")


def test_grad_cam_sees_the_cup() -> None:
    model = stock().get("efficientnet_lite0")
    tensor, _ = preprocess(photo("coffee.png"), model.preprocessing)

    (entry,) = explain("grad_cam", model, tensor.unsqueeze(0), torch.tensor([967]), {})

    assert isinstance(entry, Explanation)
    cam = entry.attribution[0]
    # The cup fills the upper middle of the crop; corners are table.
    assert cam[1:4, 1:6].mean() > 5 * cam[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
