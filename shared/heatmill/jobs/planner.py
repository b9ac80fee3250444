"""Cut a job's items into shards and write the plan. Used by the POST for one shard, by the control worker for more."""

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import count, islice
from typing import Any

from heatmill.errors import HeatmillError, InternalError, InvalidItem, MapUnavailable, RecordDamaged, SourceUnreadable
from heatmill.jobs.documents import encode, set_aside
from heatmill.jobs.records import load_plan, load_shard, store_shard
from heatmill.schemas import AcceptedJob, Item, ItemRequest, JobRequest, Plan, Problem, problem_type
from heatmill.storage import keys
from heatmill.storage.bucket import ObjectMissing, S3Storage, WriteConflict
from heatmill.storage.keys import JobId

MAX_SHARD_ITEMS = 512
MAX_JOB_ITEMS = 1_000_000
# In a tar. Three float16 channels of 512 x 512 and their picture are 1.8 MB; a store takes 5 GB in one write.
MAX_TAR_RESULTS = 2048
# A layout of fewer says nothing.
MIN_MAP_ITEMS = 3
# What one worker lays out well within a shard's hard limit, and holds in memory.
MAX_MAP_ITEMS = 50_000

ListItems = Callable[[Item | None], Iterator[Item | None]]
"""Lists a job's items after the given one, or from the start; None where it has looked for a while and found none."""


def shard_items(seconds_per_item: float, shard_seconds: float) -> int:
    """How many items make a shard of about this much work."""
    return max(1, min(MAX_SHARD_ITEMS, int(shard_seconds / seconds_per_item)))


def write_plan(storage: S3Storage, job: JobId, accepted: AcceptedJob, list_items: ListItems) -> Plan:
    """Write the shard files, then the plan; see `plan_steps`."""
    steps = plan_steps(storage, job, accepted, list_items)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def plan_steps(
    storage: S3Storage, job: JobId, accepted: AcceptedJob, list_items: ListItems
) -> Generator[None, None, Plan]:
    """Write the shard files, then the plan, with a pause after each shard and where the source gives nothing for long.

    Shard files are write-once: a planner that was cut off, or that has company, goes on after what is already written,
    so that a source which changed in between never gives two versions of a shard.
    """
    try:
        if (known := load_plan(storage, job)) is not None:
            return known
    except RecordDamaged as error:
        set_aside(storage, error.key)
    request = accepted.request
    shards = items = results = 0
    for shard in _shards(storage, job, accepted.shard_items, list_items):
        yield
        if shard is not None:
            shards += 1
            items += len(shard)
            results += sum(len(expected_rows(item, request)) for item in shard)
    map_error = None if request.map is None else map_fault(items)
    plan = new_plan(job, request, shards=shards, items=items, results=results, map_error=map_error)
    return store_plan(storage, job, plan)


def new_plan(job: JobId, request: JobRequest, **found: Any) -> Plan:
    """A plan of this request, with what was found of its items."""
    asked = {"model": request.model, "methods": request.methods, "top_k": request.top_k, "map": request.map}
    return Plan(job=job.job, **asked, layout=request.layout, previews=request.previews, cache=request.cache, **found)


def failed_plan(job: JobId, request: JobRequest, error: Exception) -> Plan:
    """The plan of a job whose source cannot be listed: no shards, and the reason."""
    reason = error if isinstance(error, SourceUnreadable) else SourceUnreadable(str(error))
    return new_plan(job, request, shards=0, items=0, results=0, error=as_problem(reason))


def store_plan(storage: S3Storage, job: JobId, plan: Plan) -> Plan:
    """Write the plan once, and give back the one that is stored."""
    try:
        storage.write_once(keys.plan(job), encode(plan))
    except WriteConflict:
        return load_plan(storage, job) or plan
    return plan


def ranks(item: Item, top_k: int) -> int:
    """How many classes of an item are explained."""
    return 1 if item.target is not None else top_k


def expected_rows(item: Item, asked: JobRequest | Plan) -> list[tuple[str, int]]:
    """Method and rank of every row that an item gets, in their order; the map's comes last."""
    rows = [(method.name, rank) for method in asked.methods for rank in range(ranks(item, asked.top_k))]
    return rows if asked.map is None else [*rows, (asked.map.method, 0)]


def map_fault(items: int) -> Problem | None:
    """Why no map can be made of so many items, if so."""
    if MIN_MAP_ITEMS <= items <= MAX_MAP_ITEMS:
        return None
    return map_problem(f"a map takes {MIN_MAP_ITEMS} to {MAX_MAP_ITEMS:,} items; here are {items:,}")


def map_problem(detail: str) -> Problem:
    """The problem that stands where a map would."""
    return as_problem(MapUnavailable(detail))


def as_problem(error: HeatmillError) -> Problem:
    """An error as it stands in a durable record."""
    return Problem(type=problem_type(error.code), title=error.title, detail=str(error))


def inline_items(requests: Iterable[ItemRequest]) -> Callable[[Item | None], Iterator[Item]]:
    """List the items that stand in the request itself; their targets are indices already."""
    items = [listed_item(index, request) for index, request in enumerate(requests)]
    return lambda after: iter(items if after is None else items[after.index + 1 :])


def listed_item(index: int, request: ItemRequest) -> Item:
    """An item of a request or a manifest, whose target is an index already; without an id, its position is its id."""
    problem = None if request.error is None else as_problem(InvalidItem(request.error))
    name, target = request.id or str(index), _index(request.target)
    return Item(index=index, id=name, image=request.image, target=target, error=problem)


def lost_items(accepted: AcceptedJob, plan: Plan, number: int) -> tuple[Item, ...]:
    """The items of a shard whose file is lost: as the request names them, else by their numbers, each an error."""
    first = number * accepted.shard_items
    indices = range(first, min(first + accepted.shard_items, plan.items))
    if accepted.request.items is not None:
        return tuple(islice(inline_items(accepted.request.items)(None), indices.start, indices.stop))
    problem = as_problem(InternalError("the file that names this item is lost; its number is all that is known of it"))
    return tuple(Item(index=index, id=str(index), error=problem) for index in indices)


def _shards(storage: S3Storage, job: JobId, size: int, list_items: ListItems) -> Iterator[tuple[Item, ...] | None]:
    """The shards in order; None where the source gives nothing for a while."""
    last: Item | None = None
    source: Iterator[Item | None] | None = None
    for number in count():
        shard = _stored(storage, job, number) if source is None else None
        if shard is None:
            source = source or list_items(last)
            shard = yield from _next_items(source, size)
            if not shard:
                return
            try:
                store_shard(storage, job, number, shard)
            except WriteConflict:
                if (theirs := _stored(storage, job, number)) is None:
                    store_shard(storage, job, number, shard)
                else:
                    shard, source = theirs, None
        last = shard[-1]
        yield shard


def _next_items(source: Iterator[Item | None], size: int) -> Generator[None, None, tuple[Item, ...]]:
    items: list[Item] = []
    for item in source:
        if item is None:
            yield
            continue
        items.append(item)
        if len(items) == size:
            break
    return tuple(items)


def _stored(storage: S3Storage, job: JobId, number: int) -> tuple[Item, ...] | None:
    try:
        return load_shard(storage, job, number)
    except ObjectMissing:
        return None
    except RecordDamaged as error:
        set_aside(storage, error.key)
        return None


def _index(target: int | str | None) -> int | None:
    if isinstance(target, str):
        raise TypeError(f"the label {target!r} was not turned into an index")
    return target
