"""From prepared photos to answers: predict, then explain by every method."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import structlog
import torch
from torch import Tensor

from heatmill.errors import (
    BadAttribution,
    HeatmillError,
    InternalError,
    ItemError,
    MapUnavailable,
    RequestError,
    TargetUnknown,
)
from heatmill.planning import as_problem, expected_rows
from heatmill.schemas import Item, MethodRequest, Plan, Row, Target
from heatmill_workers.explainer import Explained, explain
from heatmill_workers.features import Placed, place
from heatmill_workers.models.loaded import LoadedModel
from heatmill_workers.prediction import Prediction, predict, predict_with_features
from heatmill_workers.prepare import Prepared, Recalled, Unprepared

log = structlog.get_logger()


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


Answer = Outcome | Placed | Row


def explain_items(
    group: Sequence[Prepared | Unprepared | Recalled], plan: Plan, model: LoadedModel
) -> Iterator[Answer]:
    """Every result of a group of items, method by method; one that failed or was known is a finished row already."""
    asked: list[Asked] = []
    for entry in group:
        yield from entry.rows if isinstance(entry, Recalled) else ()
    for item, answer in _seen(group, plan, model):
        if isinstance(answer, ItemError):
            yield from failed_rows(item, plan, answer)
            continue
        asked += answer.asked
        yield from answer.known
        if plan.map is not None:
            yield answer.placed or _failed(item, plan.map.method, 0, MapUnavailable(_reason(plan)))
    for method in plan.methods:
        yield from _explained(method, [each for each in asked if method.name not in each.photo.known], model)


def failed_rows(item: Item, plan: Plan, error: ItemError) -> list[Row]:
    """An item that failed as a whole: one row for each result that it would have had."""
    return [_failed(item, method, rank, error) for method, rank in expected_rows(item, plan)]


@dataclass(frozen=True)
class _Seen:
    """The classes of one item that are to be explained, and what it adds to a map that will be made."""

    asked: list[Asked]
    placed: Placed | None

    @property
    def known(self) -> Iterator[Row]:
        """What need not be made."""
        return chain.from_iterable(self.asked[0].photo.known.values())


def _seen(
    group: Sequence[Prepared | Unprepared | Recalled], plan: Plan, model: LoadedModel
) -> Iterator[tuple[Item, _Seen | ItemError]]:
    """What the model says of each item, or why it says nothing."""
    yield from ((entry.item, entry.error) for entry in group if isinstance(entry, Unprepared))
    photos = [entry for entry in group if isinstance(entry, Prepared)]
    if not photos:
        return
    try:
        predictions = _predict(photos, plan, model)
    except ItemError as error:
        yield from ((photo.item, error) for photo in photos)
        return
    for row, photo in enumerate(photos):
        try:
            yield photo.item, _answer(photo, predictions[row], plan, model)
        except ItemError as error:
            yield photo.item, error


def _predict(photos: Sequence[Prepared], plan: Plan, model: LoadedModel) -> Prediction:
    images = torch.stack([photo.image for photo in photos])
    return predict_with_features(model, images) if plan.makes_map else Prediction(predict(model, images))


def _answer(photo: Prepared, prediction: Prediction, plan: Plan, model: LoadedModel) -> _Seen:
    asked = _targets(photo, prediction.probabilities, plan.top_k, model.labels)
    if plan.map is None or not plan.makes_map:
        return _Seen(asked, None)
    return _Seen(asked, place(photo, plan.map.method, prediction, model.labels))


def _reason(plan: Plan) -> str:
    """Why it was known from the start that there will be no map."""
    return "" if plan.map_error is None else plan.map_error.detail


def _explained(method: MethodRequest, asked: Sequence[Asked], model: LoadedModel) -> Iterator[Outcome | Row]:
    """One method on every asked class; a method that cannot be right on this model fails them all."""
    if not asked:
        return
    for each, answer in zip(asked, _answers(method, asked, model), strict=True):
        if isinstance(answer, Explained):
            yield Outcome(each, method, answer)
        else:
            yield _failed(each.photo.item, method.name, each.rank, answer, each.target)


def _answers(
    method: MethodRequest, asked: Sequence[Asked], model: LoadedModel
) -> Sequence[Explained | ItemError | RequestError]:
    images = torch.stack([each.photo.image for each in asked])
    targets = torch.tensor([each.target.index for each in asked])
    try:
        return explain(method.name, model, images, targets, method.params)
    except (ItemError, RequestError) as error:
        return [error] * len(asked)
    except Exception as error:
        if len(asked) > 1:
            return [answer for each in asked for answer in _answers(method, [each], model)]
        log.exception("explainer failed", method=method.name, item=asked[0].photo.item.id)
        return [InternalError(f"{method.name} failed: {type(error).__name__}; the worker's log has the trace")]


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


def _failed(item: Item, method: str, rank: int, error: HeatmillError, target: Target | None = None) -> Row:
    problem = item.error or as_problem(error)
    return Row(item=item.id, index=item.index, method=method, rank=rank, status="failed", target=target, error=problem)
