"""Every method that there is, as a user asks for it: `heatmill submit` against a real stack.

What comes back over the store is compared with what the explainer says of the same photo in this process, so that a
row passes only if everything between is right: params, target, preprocessing, storing and drawing.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.catalogue.models import BUNDLED_MODEL
from heatmill.images import ImageLimits, decode
from heatmill.local.environment import inherited
from heatmill.local.layout import StackOptions
from heatmill.local.stack import Stack
from heatmill.schemas import Row
from heatmill.schemas.feature_map import JobMap
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.methods.registry import register
from heatmill_workers.models import digits, train_digits
from heatmill_workers.models.loading import load, pick_device
from heatmill_workers.models.preprocessing import preprocess
from heatmill_workers.outputs.heatmap import EncodedArray, decode_array, read_values, render
from tests.workers.photos import photo

COMPLETENESS = {"completeness_error", "logit_difference"}
# What docs/methods.md promises beside each result.
PROMISED: dict[str, set[str]] = {
    "attention": set(),
    "attention_gradient": set(),
    "attention_rollout": set(),
    "deep_lift": COMPLETENESS,
    "deep_shap": COMPLETENESS | {"background"},
    "grad_cam": set(),
    "gradient_shap": COMPLETENESS | {"samples"},
    "integrated_gradients": COMPLETENESS | {"steps"},
    "lime": {"r2", "standard_error", "segments", "samples"},
    "partition_shap": COMPLETENESS,
    "saliency": set(),
}
# Complete by construction, whatever the params.
ALWAYS_OK = {"deep_lift", "deep_shap", "partition_shap"}
CHEAP: dict[str, dict[str, Any]] = {
    "deep_shap": {"background": ["black", "blur"]},
    "gradient_shap": {"samples": 3, "seed": 7},
    "integrated_gradients": {"steps": 3, "max_error": 0.5, "max_steps": 6, "baseline": "black"},
    "lime": {"samples": 30, "segmentation": "grid", "segments": 9, "seed": 7},
    "partition_shap": {"max_evals": 12, "masker": "mean"},
}
CATALOGUE = load_catalogue()
MODELS = (BUNDLED_MODEL, digits.NAME)
ROWS = [(model, name.name) for model in MODELS for name in CATALOGUE.methods if not CATALOGUE.model(model).lacks(name)]
PHOTOS = ("coffee.png", "chelsea.png")
DIGITS = ("zero.png", "one.png", "two.png", "three.png")
# Sums of differences relative to sums of values: float16 rounds by 2e-4, and another number of threads opens or closes
# a few ReLUs; the map of another class, photo or param is off by 0.1 at the very least.
TOLERATED = 1e-2
TOLERATED_IN_PICTURES = 2e-2
LIMITS = ImageLimits(max_bytes=10**7, max_pixels=10**7)


@cache
def in_memory(name: str) -> LoadedModel:
    return load(CATALOGUE.model(name).spec, pick_device())


@cache
def written_digit(number: int) -> bytes:
    """One of scikit-learn's digits, 8 x 8 pixels."""
    file = BytesIO()
    train_digits.photo(load_digits().images[number]).save(file, "PNG")
    return file.getvalue()


IMAGES = {name: partial(photo, name) for name in PHOTOS} | {
    name: partial(written_digit, number) for number, name in enumerate(DIGITS)
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(StackOptions(data_dir=tmp_path_factory.mktemp("stack") / "data", port=0)) as stack:
        yield stack


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All photos as files."""
    folder = tmp_path_factory.mktemp("photos")
    for name, read in IMAGES.items():
        (folder / name).write_bytes(read())
    return folder


@pytest.fixture(scope="module")
def jobs(stack: Stack, folder: Path) -> dict[str, dict[str, Any]]:
    """One job for each model, with every method that the model supports."""
    asked = {model: [word for of, name in ROWS if of == model for word in _spelled(name)] for model in MODELS}
    photos, numbers = ([str(folder / name) for name in names] for names in (PHOTOS, DIGITS))
    return {
        BUNDLED_MODEL: submit(stack, *photos, "--model", BUNDLED_MODEL, *asked[BUNDLED_MODEL]),
        digits.NAME: submit(
            stack, *numbers, "--model", digits.NAME, *asked[digits.NAME], "--map", "tsne:perplexity=2,seed=3"
        ),
    }


def submit(stack: Stack, *arguments: str) -> dict[str, Any]:
    """What `heatmill submit --wait --json` prints, of a job whose results all succeeded."""
    command = [str(Path(sys.executable).with_name("heatmill")), "submit", *arguments]
    ran = subprocess.run(
        [*command, "--wait", "--json", "--url", stack.url], capture_output=True, text=True, env=inherited(), check=False
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    document: dict[str, Any] = json.loads(ran.stdout)
    return document


def rows_of(document: dict[str, Any], method: str) -> list[Row]:
    return [Row.model_validate(row) for row in document["results"] if row["method"] == method]


def fetched(url: str | None) -> bytes:
    assert url
    return httpx.get(url, trust_env=False).raise_for_status().content


def assert_right(model: str, row: Row, image: bytes) -> None:
    """What was stored is what the method says of this photo and class."""
    assert row.status == "succeeded"
    assert row.target
    assert row.heatmap
    assert row.attribution
    ready, loaded = preprocess(decode(image, LIMITS), in_memory(model).preprocessing), in_memory(model)
    targets = torch.tensor([row.target.index])
    (wanted,) = explain(row.method, loaded, ready[0].unsqueeze(0), targets, row.provenance["params"])
    assert isinstance(wanted, Explanation)
    stored = decode_array(EncodedArray(fetched(row.attribution.url), row.attribution.factor))
    assert stored.shape == row.attribution.shape == wanted.attribution.shape
    assert off(stored, wanted.attribution) < TOLERATED
    assert row.checks.keys() == wanted.checks.keys()
    for name, value in wanted.checks.items():
        assert row.checks[name] == (value if isinstance(value, str) else pytest.approx(value, rel=0.05, abs=1e-3)), name
    drawn = fetched(row.heatmap.url)
    with Image.open(BytesIO(drawn)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "P")
        assert picture.size == loaded.preprocessing.input_size[::-1]
    right = render(wanted.attribution, wanted.picture, loaded.preprocessing.input_size)
    assert row.heatmap.scale == pytest.approx(right.scale, rel=TOLERATED_IN_PICTURES)
    assert row.heatmap.zero_index == right.zero_index
    assert row.heatmap.box == pytest.approx(ready[1])
    assert off(read_values(drawn), read_values(right.png)) < TOLERATED_IN_PICTURES


def off(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    assert found.any()
    return float(np.abs(found - wanted).sum() / np.abs(wanted).sum())


def test_every_method_is_here() -> None:
    assert {method for _, method in ROWS} == set(register()) >= set(PROMISED)


@pytest.mark.parametrize(("model", "method"), ROWS)
def test_a_method_gives_the_right_map_with_its_checks(model: str, method: str, jobs: dict[str, dict[str, Any]]) -> None:
    rows = rows_of(jobs[model], method)

    assert [row.item for row in rows] == list(PHOTOS if model == BUNDLED_MODEL else DIGITS)
    for row in rows:
        assert row.provenance["params"].items() >= CHEAP.get(method, {}).items()
        assert row.checks.keys() >= PROMISED.get(method, set())
        assert row.verdict in (
            {"ok"} if method in ALWAYS_OK else {"ok", "imprecise"} if PROMISED.get(method, set()) else {None}
        )
        assert_right(model, row, IMAGES[row.item]())


def test_the_models_know_what_they_see(jobs: dict[str, dict[str, Any]]) -> None:
    seen = {row.item: row.target.label for job in jobs.values() for row in rows_of(job, "saliency") if row.target}

    assert seen["coffee.png"] == "espresso"
    assert "cat" in seen["chelsea.png"]
    assert [seen[name] for name in DIGITS] == ["0", "1", "2", "3"]


def test_a_map_has_every_image_in_files_that_can_be_read(stack: Stack, jobs: dict[str, dict[str, Any]]) -> None:
    rows = rows_of(jobs[digits.NAME], "tsne")
    job = jobs[digits.NAME]["job"]
    assert [(row.item, row.status) for row in rows] == [(name, "succeeded") for name in DIGITS]
    assert (job["state"], job["map"]["state"]) == ("succeeded", "ready")

    made = JobMap.model_validate_json(fetched(f"{stack.url}/v1/jobs/{job['id']}/map"))

    assert made.drawn
    assert (made.items, made.left_out, made.drawn.seed, made.drawn.model) == (4, 0, 3, digits.NAME)
    assert 0 <= made.drawn.neighbours_kept.fraction <= 1
    points = [json.loads(line) for line in fetched(made.urls["jsonl"]).splitlines()]
    assert [(point["item"], point["class_label"]) for point in points] == [
        (row.item, row.target.label) for row in rows if row.target
    ]
    places = np.array([(point["x"], point["y"]) for point in points])
    assert np.isfinite(places).all()
    assert len(np.unique(places, axis=0)) == len(DIGITS)
    assert pq.read_table(BytesIO(fetched(made.urls["parquet"]))).select(["x", "y"]).to_pylist() == [
        {"x": pytest.approx(x), "y": pytest.approx(y)} for x, y in places
    ]
    with Image.open(BytesIO(fetched(made.urls["png"]))) as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > len(DIGITS)


def test_an_item_is_explained_for_its_own_class_or_for_its_most_probable_ones(stack: Stack, folder: Path) -> None:
    coffee, chelsea = (str(folder / name) for name in PHOTOS)
    items = [
        {"id": "predicted", "image": coffee},
        {"id": "label", "image": coffee, "target": "cup"},
        {"id": "index", "image": chelsea, "target": 504},
    ]
    manifest = folder / "items.jsonl"
    manifest.write_text("\n".join(json.dumps(item) for item in items))

    document = submit(stack, str(manifest), *_spelled("grad_cam"), *_spelled("saliency"), "--top-k", "3")

    for method in ("grad_cam", "saliency"):
        rows = rows_of(document, method)
        assert [(row.item, row.rank) for row in rows] == [
            *(("predicted", rank) for rank in range(3)),
            ("label", 0),
            ("index", 0),
        ]
        targets = [row.target for row in rows if row.target]
        assert targets[0].label == "espresso"
        first, second, third = (target.probability or 0 for target in targets[:3])
        assert first > second > third > 0
        assert (targets[3].label, targets[4].index) == ("cup", 504)
        for row in rows:
            assert_right(BUNDLED_MODEL, row, photo("chelsea.png" if row.item == "index" else "coffee.png"))


def _spelled(method: str) -> tuple[str, str]:
    """The method and its cheap params, as options of the command line."""
    params = ",".join(f"{name}={json.dumps(value)}" for name, value in CHEAP.get(method, {}).items())
    return "--method", f"{method}:{params}" if params else method
