"""From prepared photos to result rows: predict, explain every method, then render and store each result."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from heatmill import keys
from heatmill.errors import BadAttribution, HeatmillError, ItemError, RequestError, TargetUnknown
from heatmill.keys import JobId
from heatmill.planning import ranks
from heatmill.schemas import Item, MethodRequest, Plan, Problem, Row, StoredArray, StoredPicture, Target, problem_type
from heatmill.storage import S3Storage
from heatmill_workers.explainer import Explained, explain
from heatmill_workers.heatmaps import encode_array, render
from heatmill_workers.models.loaded import LoadedModel
from heatmill_workers.prediction import predict
from heatmill_workers.prepare import Prepared, Unprepared


@dataclass(frozen=True)
class Asked:
    """One class of one photo that is to be explained."""

    photo: Prepared
    rank: int
    target: Target


@dataclass(frozen=True)
class Outcome:
    """What an explainer said about one class of one photo."""

    asked: Asked
    method: MethodRequest
    explained: Explained


def explain_items(group: Sequence[Prepared | Unprepared], plan: Plan, model: LoadedModel) -> Iterator[Outcome | Row]:
    """Every result of a group of items, method by method; a failed one is a finished row already."""
    asked: list[Asked] = []
    for item, answer in _asked(group, plan.top_k, model):
        if isinstance(answer, ItemError):
            yield from failed_rows(item, plan, answer)
        else:
            asked += answer
    for method in plan.methods if asked else ():
        yield from _explained(method, asked, model)


def failed_rows(item: Item, plan: Plan, error: ItemError) -> list[Row]:
    """An item that failed as a whole: one row for each result that it would have had."""
    return [_failed(item, method, rank, error) for method in plan.methods for rank in range(ranks(item, plan.top_k))]


@dataclass(frozen=True)
class ResultWriter:
    """Renders and stores results. Runs in threads, behind the device."""

    storage: S3Storage
    job: JobId
    shard: int
    first_index: int
    model: LoadedModel

    def store(self, outcome: Outcome | Row) -> Row:
        """Write heatmap and attribution, and give back the row that tells of them.

        Raises:
            StorageUnavailable: The store does not answer.
        """
        if isinstance(outcome, Row):
            return outcome
        asked, method = outcome.asked, outcome.method
        item = asked.photo.item
        name = f"{item.index - self.first_index:04}.{method.name}.{asked.target.index}"
        explained = outcome.explained
        picture = render(explained.attribution, explained.picture, self.model.preprocessing.input_size)
        array = encode_array(explained.attribution)
        heatmap_key = keys.heatmap(self.job, self.shard, name)
        attribution_key = keys.attribution(self.job, self.shard, name)
        self.storage.put(heatmap_key, picture.png, "image/png")
        self.storage.put(attribution_key, array.npy)
        return Row(
            item=item.id,
            index=item.index,
            method=method.name,
            rank=asked.rank,
            status="succeeded",
            target=asked.target,
            heatmap=StoredPicture(
                key=heatmap_key,
                scale=picture.scale,
                zero_index=picture.zero_index,
                box=asked.photo.box,
            ),
            attribution=StoredArray(key=attribution_key, shape=explained.attribution.shape, factor=array.factor),
            checks=dict(explained.checks),
            verdict=explained.verdict,
            provenance={**self._provenance, "params": method.params},
        )

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        return {
            "model": self.model.name,
            "weights_sha256": self.model.digest,
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "versions": {name: version(name) for name in ("heatmill", "torch", "torchvision", "pillow")},
        }


def _asked(
    group: Sequence[Prepared | Unprepared], top_k: int, model: LoadedModel
) -> Iterator[tuple[Item, list[Asked] | ItemError]]:
    """Each item's classes that are to be explained, or why there are none."""
    yield from ((entry.item, entry.error) for entry in group if isinstance(entry, Unprepared))
    photos = [entry for entry in group if isinstance(entry, Prepared)]
    if not photos:
        return
    try:
        predictions = predict(model, torch.stack([photo.image for photo in photos]))
    except ItemError as error:
        yield from ((photo.item, error) for photo in photos)
        return
    for photo, probabilities in zip(photos, predictions, strict=True):
        try:
            yield photo.item, _targets(photo, probabilities, top_k, model.labels)
        except ItemError as error:
            yield photo.item, error


def _explained(method: MethodRequest, asked: Sequence[Asked], model: LoadedModel) -> Iterator[Outcome | Row]:
    """One method on every asked class; a method that cannot be right on this model fails them all."""
    images = torch.stack([each.photo.image for each in asked])
    targets = torch.tensor([each.target.index for each in asked])
    answers: Sequence[Explained | HeatmillError]
    try:
        answers = explain(method.name, model, images, targets, method.params)
    except (ItemError, RequestError) as error:
        answers = [error] * len(asked)
    for each, answer in zip(asked, answers, strict=True):
        if isinstance(answer, Explained):
            yield Outcome(each, method, answer)
        else:
            yield _failed(each.photo.item, method, each.rank, answer, each.target)


def _targets(photo: Prepared, probabilities: Tensor, top_k: int, labels: tuple[str, ...]) -> list[Asked]:
    """The classes of one photo that are explained: its own target, or the most probable ones."""
    wanted = photo.item.target
    if not probabilities.isfinite().all():
        raise BadAttribution("the model's output for this image is not finite")
    if (top_k if wanted is None else wanted + 1) > len(probabilities):
        raise TargetUnknown(f"the model has {len(probabilities)} classes, from 0 to {len(probabilities) - 1}")
    indices = [wanted] if wanted is not None else probabilities.topk(top_k).indices.tolist()
    return [
        Asked(photo, rank, Target(index=index, label=labels[index], probability=probabilities[index].item()))
        for rank, index in enumerate(indices)
    ]


def _failed(item: Item, method: MethodRequest, rank: int, error: HeatmillError, target: Target | None = None) -> Row:
    problem = item.error or Problem(type=problem_type(error.code), title=error.title, detail=str(error))
    return Row(
        item=item.id, index=item.index, method=method.name, rank=rank, status="failed", target=target, error=problem
    )
