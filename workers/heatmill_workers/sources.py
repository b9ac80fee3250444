"""List the items of a job that were not named in the request: an S3 prefix, a JSONL manifest, or what failed before."""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, groupby, islice
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from heatmill import records
from heatmill.catalogue import Catalogue
from heatmill.errors import InvalidItem, RequestError
from heatmill.image_types import IMAGE_TYPES
from heatmill.image_uris import SourceRules, UriRefused, address
from heatmill.item_ids import name_fault, shown_id
from heatmill.keys import JobId
from heatmill.manifest_lines import read_line
from heatmill.planning import ListItems, as_problem, inline_items, listed_item
from heatmill.read_ahead import read_ahead
from heatmill.schemas import AcceptedJob, Item, ItemId, ItemRequest
from heatmill.storage import S3Storage
from heatmill_workers.line_ids import LineIds

MAX_LINE_BYTES = 16 * 1024
# Lines that are read again between two looks at whether the plan is still ours to write: less than a second's.
SKIPPED_AT_A_TIME = 4096
ITEM_ID: TypeAdapter[str] = TypeAdapter(ItemId)


@dataclass(frozen=True)
class LineItem:
    """The item of a manifest's line.

    Args:
        names_id: The line gives the id; else the item is called by its position.
    """

    item: Item
    names_id: bool


CheckLine = Callable[[int, bytes], LineItem]


@dataclass(frozen=True)
class Listing:
    """What listing a source takes.

    Args:
        still_wanted: Called now and then while lines are read that were listed before; what it raises ends the listing.
    """

    storage: S3Storage
    rules: SourceRules
    catalogue: Catalogue
    still_wanted: Callable[[], None] = lambda: None


def items_of(listing: Listing, accepted: AcceptedJob) -> ListItems:
    """How to list a job's items.

    Raises:
        UriRefused: The source is not one that the tenant may read.
    """
    source = accepted.request.source
    if source is None:
        return inline_items(accepted.request.items or ())
    if source.failed_of is not None:
        return partial(_failed_items, listing.storage, JobId(accepted.tenant, source.failed_of))
    bucket, name = listing.rules.check(source.uri)
    opened = listing.storage.of_bucket(bucket)
    if source.resolved_format == "prefix":
        return partial(_prefix_items, opened, name)
    check = partial(_line_item, listing, accepted.request.model)
    return lambda after: _manifest_items(opened.lines(name, MAX_LINE_BYTES), check, after, listing.still_wanted)


def _failed_items(storage: S3Storage, job: JobId, after: Item | None) -> Iterator[Item]:
    """The items of which a job that is done has a failed row, as they were."""
    first = 0 if after is None else after.index + 1
    for index, item in islice(enumerate(_failed(storage, job)), first, None):
        yield item.model_copy(update={"index": index})


def _failed(storage: S3Storage, job: JobId) -> Iterator[Item]:
    names = (name for _, found in records.committed_shards(storage, job) for name in found)
    headers = read_ahead(lambda name: (name, records.load_header(storage, job, *name)), names)
    # One that has gone since it was listed, with its job, is for `load_commit` to complain about.
    with_failed = (name for name, header in headers if header is None or header.failed)
    for number, of_shard in groupby(with_failed, lambda name: name.shard):
        rows = chain.from_iterable(records.load_commit(storage, job, *name)[1] for name in of_shard)
        failed = {row.index for row in rows if row.status == "failed"}
        yield from (item for item in records.load_shard(storage, job, number) if item.index in failed)


def _prefix_items(source: S3Storage, prefix: str, after: Item | None) -> Iterator[Item]:
    """Every object with an image's ending; its id is its key below the prefix's last slash.

    A prefix need not end with one: `photos` lists `photos/a.jpg` and `photos2/z.jpg`, which are told apart.
    """
    folder = prefix[: prefix.rfind("/") + 1]
    start_after = "" if after is None else after.image.removeprefix(f"s3://{source.bucket}/")
    listed = (entry.key for entry in source.list(prefix, start_after) if entry.key.lower().endswith(tuple(IMAGE_TYPES)))
    first = 0 if after is None else after.index + 1
    for index, key in enumerate(listed, first):
        yield _key_item(index, key.removeprefix(folder), f"s3://{source.bucket}/{key}")


def _key_item(index: int, name: str, image: str) -> Item:
    """The item of an object, called by its key; it has failed already where that cannot be an id."""
    if (fault := name_fault(name)) is None:
        return Item(index=index, id=name, image=image)
    # Another key may be spelled as this one is shown.
    shown = f"{shown_id(name)} (item {index})"
    return Item(index=index, id=shown, image=image, error=as_problem(InvalidItem(fault)))


def _manifest_items(
    lines: Iterator[bytes], check: CheckLine, after: Item | None, still_wanted: Callable[[], None]
) -> Iterator[Item]:
    """One item per line that is not blank; a bad line, or one that repeats an id, is an item that has failed already.

    All lines are read, whatever was listed before, so that the same line fails each time.
    """
    first = 0 if after is None else after.index + 1
    written = ((number, line) for number, line in enumerate(_without_bom(lines), 1) if line.strip())
    with LineIds() as ids:
        for index, (number, line) in enumerate(written):
            item = _claimed(check(index, line), number, ids)
            if index >= first:
                yield item
            elif index % SKIPPED_AT_A_TIME == 0:
                still_wanted()


def _claimed(line: LineItem, number: int, ids: LineIds) -> Item:
    """A line's item, if no earlier line has its id."""
    item, has_id = line.item, line.names_id
    owner = ids.claim(item.id, number) if item.id else number
    if item.error is None and owner != number:
        name = f"the id {item.id!r}" if has_id else f"there is no id, and the position, {item.id!r},"
        item = _failing(item, f"{name} is that of line {owner} already; ids must differ")
    if item.error is None:
        return item
    told = item.error.model_copy(update={"detail": f"line {number}: {item.error.detail}", "line": number})
    return item.model_copy(update={"id": item.id or _stand_in(number, ids), "error": told})


def _stand_in(number: int, ids: LineIds) -> str:
    """The id of a bad line that gives none; no other line has it."""
    name = f"line {number}"
    candidates = chain([name], (f"{name} ({more})" for more in count(2)))
    return next(candidate for candidate in candidates if ids.claim(candidate, number) == number)


def _without_bom(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The lines without the mark that some editors put before the first."""
    for first in lines:
        yield first.removeprefix(BOM_UTF8)
        break
    yield from lines


def _line_item(listing: Listing, model: str, index: int, line: bytes) -> LineItem:
    """What a line says; a bad one is an item that has failed, without an id where the line gives none."""
    name = ""
    try:
        fields = _fields(line)
        name = _given_id(fields)
        request = ItemRequest.model_validate(fields)
        address(request.image, listing.storage, listing.rules)
        target = None if request.target is None else listing.catalogue.target_index(model, request.target)
        return LineItem(listed_item(index, request.model_copy(update={"target": target})), bool(name))
    except ValidationError as error:
        fault = "; ".join(_in_words(fault) for fault in error.errors())
    except (InvalidItem, UriRefused, RequestError) as error:
        fault = str(error)
    return LineItem(_failing(Item(index=index, id=name), fault), bool(name))


def _fields(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise InvalidItem(f"longer than {MAX_LINE_BYTES:,} bytes")
    try:
        return read_line(line)
    except ValueError as error:
        raise InvalidItem(str(error)) from error


def _given_id(fields: Mapping[str, Any]) -> str:
    """The id that a line gives; empty where it gives none, or none that can be one."""
    given = fields.get("id")
    try:
        # A number is no id, and yet shows which line it is.
        return ITEM_ID.validate_python(str(given) if type(given) is int else given)
    except ValidationError:
        return ""


def _failing(item: Item, fault: str) -> Item:
    return item.model_copy(update={"error": as_problem(InvalidItem(fault))})


def _in_words(fault: ErrorDetails) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else fault["msg"]
