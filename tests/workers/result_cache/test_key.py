"""All that a result depends on is in its key: every field, but those that a table names with a reason."""

import copy
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, create_model
from torch import nn

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.catalogue.models import ModelSpec, Preprocessing
from heatmill.schemas import Item, MapRequest, MethodRequest, Plan
from heatmill.settings import Settings
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.models.digest import digest as weights_digest
from heatmill_workers.models.loaders.transformers import Logits
from heatmill_workers.models.store import ModelStore
from heatmill_workers.result_cache.key import LEFT_OUT, ResultFingerprint, plain
from tests.workers.processed import MODEL
from tests.workers.small import LABELS, small_resnet, small_vit
from tests.workers.vits import of_transformers

MODULE = "tests.workers.result_cache.test_key"
SHA = "a" * 64
SALIENCY = MethodRequest(name="saliency")
SPEC = ModelSpec(name="small", loader="torchvision")
PLAN = Plan(shards=1, items=1, results=1, model="small", methods=(SALIENCY,), top_k=2)
ITEM = Item(index=0, id="a", image=f"upload://{SHA}", target=1)
OF_NO_TARGET = ITEM.model_copy(update={"target": None})
# Something that no field has.
OTHER = "another"


@dataclass(frozen=True)
class Made:
    """All that a key is made of."""

    fingerprint: ResultFingerprint
    item: Item = ITEM
    image_sha256: str = SHA
    method: MethodRequest = SALIENCY

    @property
    def key(self) -> str:
        return self.fingerprint.key(self.item, self.image_sha256, self.method)


def made(**changes: Any) -> Made:
    """The key's parts, some of which are others."""
    parts = {"code": "code", "settings": Settings(), "spec": SPEC, "model": small_resnet(), "plan": PLAN}
    return Made(ResultFingerprint(**{**parts, **changes}))


def of_model(**changes: Any) -> Made:
    return made(model=replace(small_resnet(), **changes))


def changed(value: Any, name: str) -> Any:
    """The same but for one field, whatever its type."""
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: OTHER})
    return replace(value, **{name: OTHER})


def with_part(kind: type, change: Any) -> Made:
    """The key's parts, the one of this kind changed."""
    if kind is Item:
        return replace(made(), item=change(ITEM))
    if kind is MethodRequest:
        return replace(made(), method=change(SALIENCY))
    part = next(field.name for field in fields(ResultFingerprint) if field.type == kind)
    return made(**{part: change(getattr(made().fingerprint, part))})


KINDS: tuple[type, ...] = (Plan, Item, MethodRequest, ModelSpec, LoadedModel, Settings)


def field_names(kind: type) -> list[str]:
    return list(kind.model_fields) if issubclass(kind, BaseModel) else [field.name for field in fields(kind)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in field_names(kind)])
def test_every_field_is_in_the_key_unless_the_table_says_why_not(kind: type, name: str) -> None:
    other = with_part(kind, lambda value: changed(value, name))
    assert (other.key == made().key) == (name in LEFT_OUT.get(kind, {}))


def with_new_field(value: Any, content: str) -> Any:
    """The same, of a type that has one more field."""
    kind: Any = type(value)
    if isinstance(value, BaseModel):
        model: Any = create_model("New", __base__=kind, newly_added=(str, ""))
        return model.model_construct(**dict(value), newly_added=content)
    new: Any = make_dataclass("New", [("newly_added", str, "")], bases=(kind,), frozen=True, eq=False)
    return new(**{field.name: getattr(value, field.name) for field in fields(value)}, newly_added=content)


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_is_added_is_in_the_key(kind: type) -> None:
    one = with_part(kind, lambda value: with_new_field(value, "x"))
    other = with_part(kind, lambda value: with_new_field(value, "y"))
    assert one.key != other.key
    assert one.fingerprint.is_known


def test_the_table_names_fields_that_there_are_and_says_why() -> None:
    for kind, table in LEFT_OUT.items():
        assert set(table) <= set(field_names(kind))
        assert all(len(reason.split()) >= 4 for reason in table.values())


@pytest.mark.parametrize(
    "other",
    [
        {"code": "other"},
        {"spec": ModelSpec(name="small", loader="timm", labels=LABELS)},
        {"spec": ModelSpec(name="small", loader="torchvision", architecture="resnet34")},
        {"spec": ModelSpec(name="small", loader="torchvision", cam_layer="layer3")},
        {"spec": ModelSpec(name="small", loader="torchvision", activation="sigmoid")},
        {"spec": ModelSpec(name="small", loader="torchvision", sha256="0" * 64)},
        {"model": small_vit()},
        {"settings": Settings(max_image_bytes=1000)},
        {"settings": Settings(max_image_pixels=1000)},
    ],
    # Two processes of pytest must call a model by the same name.
    ids=lambda other: next(iter(other)),
)
def test_what_is_made_otherwise_has_another_key(other: dict[str, Any]) -> None:
    assert made().key == made().key
    assert made(**other).key != made().key


def with_stride(stride: int) -> nn.Module:
    """The same weights, which do not show what is done with them."""
    return nn.Sequential(nn.Conv2d(3, 2, 3, stride=stride), nn.Flatten())


def test_models_are_told_apart_by_all_that_was_loaded() -> None:
    keys = [
        one.key
        for one in (
            made(),
            of_model(digest="0" * 64),
            of_model(labels=LABELS[::-1]),
            of_model(preprocessing=Preprocessing(resize=64, crop=64, interpolation="bicubic")),
            of_model(device=torch.device("cuda")),
            of_model(dtype=torch.bfloat16),
            of_model(module=with_stride(1)),
            of_model(module=with_stride(2)),
            of_model(cut=None),
            of_model(head=replace(small_resnet().head, activation="sigmoid")),
        )
    ]
    assert len(set(keys)) == len(keys)


def test_graphics_cards_and_places_are_not_told_apart(tmp_path: Path) -> None:
    cards = [of_model(device=torch.device(f"cuda:{number}")).key for number in range(2)]
    places = [made(spec=SPEC.model_copy(update={"weights": tmp_path / name})).key for name in "ab"]
    assert cards[0] == cards[1]
    assert places[0] == places[1] == made().key


def test_what_else_a_job_asks_for_is_not_told_apart() -> None:
    other = Plan(
        shards=9,
        items=99,
        results=999,
        model="small",
        methods=(MethodRequest(name="lime"), SALIENCY),
        top_k=2,
        layout="webdataset",
        cache=False,
        map=MapRequest(method="tsne"),
    )
    assert made(plan=other).key == made().key


def with_top_k(top_k: int) -> Made:
    return made(plan=PLAN.model_copy(update={"top_k": top_k}))


def test_methods_params_images_and_classes_are_told_apart() -> None:
    parts: list[dict[str, Any]] = [
        {},
        {"method": MethodRequest(name="lime")},
        {"method": MethodRequest(name="saliency", params={"seed": 1})},
        {"image_sha256": "b" * 64},
        {"item": ITEM.model_copy(update={"target": 2})},
        {"item": ITEM.model_copy(update={"target": 0})},
        {"item": OF_NO_TARGET},
        {"item": OF_NO_TARGET, "fingerprint": with_top_k(3).fingerprint},
    ]
    keys = [replace(made(), **part).key for part in parts]
    assert len(set(keys)) == len(keys)


def test_how_many_classes_are_asked_for_does_not_matter_to_an_item_with_its_own() -> None:
    assert with_top_k(1).key == with_top_k(3).key


def test_a_transformers_model_is_told_from_one_of_the_same_weights_with_another_configuration() -> None:
    model = of_transformers()
    inner = copy.deepcopy(model.module.inner)
    inner.config.layer_norm_eps *= 10  # type: ignore[operator,union-attr]
    other = replace(model, module=Logits(inner))
    assert weights_digest(other.module) == weights_digest(model.module)
    assert made(model=other).key != made(model=model).key


def test_an_operators_own_code_may_change_and_is_not_cached() -> None:
    own = ModelSpec(
        name="small", loader="python", architecture="own:model", labels=LABELS, preprocessing=Preprocessing()
    )
    assert made().fingerprint.is_known
    assert not made(spec=own).fingerprint.is_known


def test_what_has_no_digest_is_not_cached() -> None:
    assert not of_model(labels=object()).fingerprint.is_known


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (frozenset({"a", "b"}), frozenset({"b", "a"}), True),
        ((1, 2), [1, 2], True),
        ({"a": {}}, {"a": []}, False),
        ([1], [[1]], False),
        (["ab"], ["a", "b"], False),
        (1, "1", False),
        (None, "None", False),
        (True, 1, False),
        (0.1, 0.10000000000000002, False),
        (torch.zeros(2, 3), torch.zeros(3, 2), False),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), False),
        (torch.zeros(10_000), torch.zeros(10_000).index_fill(0, torch.tensor([5000]), 1), False),
        (torch.arange(6).reshape(2, 3).T, torch.arange(6).reshape(2, 3).T.contiguous(), True),
    ],
)
def test_values_are_told_apart_by_their_content(one: object, other: object, *, alike: bool) -> None:
    def key(value: Any) -> str:
        return replace(made(), method=MethodRequest.model_construct(name="x", params={"value": value})).key

    assert (key(one) == key(other)) == alike


def test_a_value_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no digest"):
        plain({"a": [object()]})


def bundled_keys() -> list[str]:
    """Of the bundled models."""
    catalogue = load_catalogue()
    store = ModelStore((model.spec for model in catalogue.models), torch.device("cpu"))
    return [made(spec=catalogue.model(name).spec, model=store.get(name)).key for name in (MODEL, "efficientnet_lite0")]


def test_another_process_knows_what_this_one_made() -> None:
    program = f"import {MODULE} as here; print(*here.bundled_keys())"
    environment: Mapping[str, str] = {**os.environ, "PYTHONHASHSEED": "7"}  # noqa: TID251 - a child of this test
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert printed.split() == bundled_keys()
