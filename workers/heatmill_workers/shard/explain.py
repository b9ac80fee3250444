"""From prepared photos to answers: predict, then explain by every method."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    MethodNotOnThisWorker,
    RequestError,
    TargetUnknown,
    UnknownMethod,
    UnsupportedOperation,
)
from heatmill.jobs.planner import as_problem, expected_rows
from heatmill.schemas import Item, MethodRequest, Plan, Row, Target
from heatmill_workers.engine.batching import BatchSizes, in_batches
from heatmill_workers.engine.loaded_model import LoadedModel
from heatmill_workers.engine.machine_faults import raise_lasting_fault
from heatmill_workers.engine.passes import forward_pass
from heatmill_workers.methods.contract import Explanation
from heatmill_workers.methods.explain import explain
from heatmill_workers.methods.registry import explainer, register
from heatmill_workers.shard.feature_vector import FeatureVector, place
from heatmill_workers.shard.predict import Prediction, predict, predict_with_features, scores, target
from heatmill_workers.shard.prefetch import CachedItem, FailedItem, ReadyItem

log = structlog.get_logger()


@dataclass(frozen=True)
class Query:
    """One class of one photo that is to be explained."""

    photo: ReadyItem
    rank: int
    target: Target


@dataclass(frozen=True)
class Result:
    """What an explainer said about one class of one photo."""

    asked: Query
    method: MethodRequest
    explained: Explanation


Answer = Result | FeatureVector | Row


def explain_items(
    group: Sequence[ReadyItem | FailedItem | CachedItem], plan: Plan, model: LoadedModel
) -> Iterator[Answer]:
    """Every result of a group of items, method by method; one that failed or was known is a finished row already."""
    for entry in group:
        yield from entry.rows if isinstance(entry, CachedItem) else ()
        yield from failed_rows(entry.item, plan, entry.error) if isinstance(entry, FailedItem) else ()
    photos = [entry for entry in group if isinstance(entry, ReadyItem)]
    fused_methods = _served_by_prediction(plan, model)
    asked: list[Query] = []
    for looked in _looked_at(photos, plan, model, fused_methods):
        yield from looked.answers
        asked += looked.asked
    for method in plan.methods:
        if method not in fused_methods:
            yield from _explained(method, _unknown(method, asked), model)


def failed_rows(item: Item, plan: Plan, error: HeatmillError) -> list[Row]:
    """An item that failed as a whole: one row for each result that it would have had."""
    return [_failed(item, method, rank, error) for method, rank in expected_rows(item, plan)]


@dataclass(frozen=True)
class BatchPrediction:
    """What the model says of some photos: the classes that are to be explained, and what is answered already."""

    asked: list[Query]
    answers: list[Answer]


def _served_by_prediction(plan: Plan, model: LoadedModel) -> list[MethodRequest]:
    """The methods that take their gradients from the pass that predicts: the only class of each photo is known then."""
    if plan.top_k > 1 or plan.makes_map:
        return []
    known = [(method, register().get(method.name)) for method in plan.methods]
    return [method for method, its in known if its and its.gradient_at and model.supports >= set(its.needs)]


def _looked_at(
    photos: Sequence[ReadyItem], plan: Plan, model: LoadedModel, fused_methods: Sequence[MethodRequest]
) -> Iterator[BatchPrediction]:
    """Predict all photos: at once where nothing is kept of the pass, else as many as may keep theirs."""

    def look(rows: range) -> BatchPrediction:
        return _look(photos[rows.start : rows.stop], plan, model, fused_methods)

    if not photos:
        return
    try:
        if fused_methods:
            work = " and ".join(["predict", *(method.name for method in fused_methods)])
            yield from [found for _, found in in_batches(look, len(photos), model.batch_sizes, work)]
        else:
            yield look(range(len(photos)))
    except ItemError as error:
        yield _nothing_seen(photos, plan, error)
    except Exception as error:  # noqa: BLE001 - raised again if it is not the images
        raise_lasting_fault(error)
        yield from _looked_at_alone(photos, plan, model, error)


def _looked_at_alone(
    photos: Sequence[ReadyItem], plan: Plan, model: LoadedModel, error: Exception
) -> Iterator[BatchPrediction]:
    """Predict each photo by itself, to find those that the model fails on."""
    if len(photos) > 1:
        for photo in photos:
            yield from _looked_at([photo], plan, model, _served_by_prediction(plan, model))
        return
    log.error("prediction failed", item=photos[0].item.id, exc_info=error)
    reason = f"the model failed on this image: {type(error).__name__}; the worker's log has the trace"
    yield _nothing_seen(photos, plan, InternalError(reason))


def _nothing_seen(photos: Sequence[ReadyItem], plan: Plan, error: ItemError) -> BatchPrediction:
    return BatchPrediction([], [row for photo in photos for row in failed_rows(photo.item, plan, error)])


def _look(
    photos: Sequence[ReadyItem], plan: Plan, model: LoadedModel, fused_methods: Sequence[MethodRequest]
) -> BatchPrediction:
    images = torch.stack([photo.image for photo in photos]).to(model.device, memory_format=torch.channels_last)
    model = _keeping(model, images, fused_methods)
    looked = BatchPrediction([], [])
    prediction = _predict(model, images, plan)
    for row, photo in enumerate(photos):
        try:
            asked = _targets(photo, prediction.scores[row], plan.top_k, model)
            looked.answers.extend(_map_part(photo, prediction[row], plan, model))
        except ItemError as error:
            looked.answers.extend(failed_rows(photo.item, plan, error))
            continue
        looked.asked.extend(asked)
        looked.answers.extend(chain.from_iterable(photo.known.values()))
    for method in fused_methods:
        looked.answers.extend(_explained(method, _unknown(method, looked.asked), model, images))
    return looked


def _keeping(model: LoadedModel, images: Tensor, fused_methods: Sequence[MethodRequest]) -> LoadedModel:
    """The model with the pass that serves the methods too, where there can be one; these images are then one batch."""
    origins = {origin for method in fused_methods if (origin := explainer(method.name).gradient_at)}
    if not origins:
        return model
    try:
        kept = forward_pass(model, images, *origins)
    except UnsupportedOperation:
        # Each method says so itself.
        return model
    return replace(model, kept=kept, batch_sizes=BatchSizes(model.device, len(images)))


def _predict(model: LoadedModel, images: Tensor, plan: Plan) -> Prediction:
    if plan.makes_map:
        return predict_with_features(model, images)
    return Prediction(predict(model, images) if model.kept is None else scores(model, model.kept.logits))


def _map_part(
    photo: ReadyItem, prediction: Prediction, plan: Plan, model: LoadedModel
) -> Iterator[FeatureVector | Row]:
    """What a photo adds to the job's map, or why nothing."""
    if plan.map is None:
        return
    if plan.makes_map:
        yield place(photo, plan.map.method, prediction, model)
    else:
        yield _failed(photo.item, plan.map.method, 0, MapUnavailable(_reason(plan)))


def _unknown(method: MethodRequest, asked: Sequence[Query]) -> list[Query]:
    """What the cache did not know."""
    return [each for each in asked if method.name not in each.photo.known]


def _reason(plan: Plan) -> str:
    """Why it was known from the start that there will be no map."""
    return "" if plan.map_error is None else plan.map_error.detail


def _explained(
    method: MethodRequest, asked: Sequence[Query], model: LoadedModel, images: Tensor | None = None
) -> Iterator[Result | Row]:
    """One method on every asked class; a method that cannot be right on this model fails them all.

    Args:
        method: The method.
        asked: What is explained.
        model: Any.
        images: Those of a batch, where they lie together already; used if all of them are asked for.
    """
    if not asked:
        return
    for each, answer in zip(asked, _answers(method, asked, model, images), strict=True):
        if isinstance(answer, Explanation):
            yield Result(each, method, answer)
        else:
            yield _failed(each.photo.item, method.name, each.rank, answer, each.target)


def _answers(
    method: MethodRequest, asked: Sequence[Query], model: LoadedModel, images: Tensor | None = None
) -> Sequence[Explanation | ItemError | RequestError]:
    # Each is asked for once, in order, so that as many are all of them.
    if images is None or len(images) != len(asked):
        images = torch.stack([each.photo.image for each in asked])
    targets = torch.tensor([each.target.index for each in asked])
    try:
        return explain(method.name, model, images, targets, method.params)
    except UnknownMethod as error:
        raise MethodNotOnThisWorker(f"{error}; install the package that brings it", lacks=method.name) from error
    except (ItemError, RequestError) as error:
        return [error] * len(asked)
    except Exception as error:
        raise_lasting_fault(error)
        if len(asked) > 1:
            return [answer for each in asked for answer in _answers(method, [each], model)]
        log.exception("explainer failed", method=method.name, item=asked[0].photo.item.id)
        return [InternalError(f"{method.name} failed: {type(error).__name__}; the worker's log has the trace")]


def _targets(photo: ReadyItem, scores: Tensor, top_k: int, model: LoadedModel) -> list[Query]:
    """What is explained of one photo: its own target, the most probable classes, or a regression's first values."""
    wanted = photo.item.target
    if not scores.isfinite().all():
        raise BadAttribution("the model's output for this image is not finite")
    if (top_k if wanted is None else wanted + 1) > len(scores):
        raise TargetUnknown(_how_many(model))
    indices = model.head.ranking(scores)[:top_k] if wanted is None else [wanted]
    return [Query(photo, rank, target(model, scores, index)) for rank, index in enumerate(indices)]


def _how_many(model: LoadedModel) -> str:
    count, what = len(model.labels), "classes" if model.head.has_probabilities else "values"
    return f"the model has {count} {what}, from 0 to {count - 1}"


def _failed(item: Item, method: str, rank: int, error: HeatmillError, target: Target | None = None) -> Row:
    problem = item.error or as_problem(error)
    return Row(item=item.id, index=item.index, method=method, rank=rank, status="failed", target=target, error=problem)
