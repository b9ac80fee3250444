"""Cut a job's items into shards and write the plan. Used by the POST for one shard, by the control worker for more."""

from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice

from heatmill import keys
from heatmill.keys import JobId
from heatmill.records import load_plan, load_shard, store_shard
from heatmill.schemas import AcceptedJob, Item, ItemRequest, Plan
from heatmill.storage import ObjectMissing, S3Storage, WriteConflict

MAX_SHARD_ITEMS = 512
MAX_JOB_ITEMS = 1_000_000

ListItems = Callable[[Item | None], Iterator[Item]]
"""Lists a job's items after the given one, or from the start."""


def shard_items(seconds_per_item: float, shard_seconds: float) -> int:
    """How many items make a shard of about this much work."""
    return max(1, min(MAX_SHARD_ITEMS, int(shard_seconds / seconds_per_item)))


def write_plan(storage: S3Storage, job: JobId, accepted: AcceptedJob, list_items: ListItems) -> Plan:
    """Write the shard files, then the plan.

    Shard files are write-once: a planner that was cut off, or that has company, goes on after what is already written,
    so that a source which changed in between never gives two versions of a shard.
    """
    if (known := load_plan(storage, job)) is not None:
        return known
    shards = items = results = 0
    for shard in _shards(storage, job, accepted.shard_items, list_items):
        shards += 1
        items += len(shard)
        results += sum(ranks(item, accepted.request.top_k) for item in shard) * len(accepted.request.methods)
    plan = Plan(
        shards=shards,
        items=items,
        results=results,
        model=accepted.request.model,
        methods=accepted.request.methods,
        top_k=accepted.request.top_k,
    )
    return store_plan(storage, job, plan)


def store_plan(storage: S3Storage, job: JobId, plan: Plan) -> Plan:
    """Write the plan once, and give back the one that is stored."""
    try:
        storage.write_once(keys.plan(job), plan.model_dump_json().encode())
    except WriteConflict:
        return load_plan(storage, job) or plan
    return plan


def ranks(item: Item, top_k: int) -> int:
    """How many classes of an item are explained."""
    return 1 if item.target is not None else top_k


def inline_items(requests: Iterable[ItemRequest]) -> ListItems:
    """List the items that stand in the request itself; their targets are indices already."""
    items = [
        Item(index=index, id=request.id or str(index), image=request.image, target=_index(request.target))
        for index, request in enumerate(requests)
    ]
    return lambda after: iter(items if after is None else items[after.index + 1 :])


def _shards(storage: S3Storage, job: JobId, size: int, list_items: ListItems) -> Iterator[tuple[Item, ...]]:
    last: Item | None = None
    source: Iterator[Item] | None = None
    for number in count():
        shard = _stored(storage, job, number) if source is None else None
        if shard is None:
            source = source or list_items(last)
            shard = tuple(islice(source, size))
            if not shard:
                return
            try:
                store_shard(storage, job, number, shard)
            except WriteConflict:
                shard, source = load_shard(storage, job, number), None
        last = shard[-1]
        yield shard


def _stored(storage: S3Storage, job: JobId, number: int) -> tuple[Item, ...] | None:
    try:
        return load_shard(storage, job, number)
    except ObjectMissing:
        return None


def _index(target: int | str | None) -> int | None:
    if isinstance(target, str):
        raise TypeError(f"the label {target!r} was not turned into an index")
    return target
