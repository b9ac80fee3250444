"""List the items of a job that were not named in the request: an S3 prefix, a JSONL manifest, or what failed before."""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, groupby
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from heatmill.catalogue.catalogue import Catalogue
from heatmill.errors import InvalidItem, ModelNotOnThisWorker, RequestError, SourceUnreadable, UnknownModel
from heatmill.images.source_uri import SourceRules, UriRefused, address
from heatmill.jobs import records
from heatmill.jobs.planner import MAX_JOB_ITEMS, ListItems, as_problem, inline_items, listed_item
from heatmill.schemas import AcceptedJob, Item, ItemId, ItemRequest
from heatmill.schemas.image_types import IMAGE_TYPES, NO_TABLES
from heatmill.schemas.item_ids import name_fault, shown_id
from heatmill.schemas.manifest_lines import read_line
from heatmill.storage.bucket import AccessRefused, BucketMissing, ObjectMissing, S3Storage
from heatmill.storage.keys import JobId
from heatmill.storage.lines import LineTooLong
from heatmill.storage.read_ahead import read_ahead
from heatmill_workers.control.line_ids import LineIds

MAX_LINE_BYTES = 16 * 1024
# Lines, or objects, after which a listing pauses, whether it has found an item or not: a fraction of a second's.
AT_A_TIME = 1000
# Bad lines that a manifest may have in any case, and the share of its lines up to there that may be bad.
BAD_LINES, BAD_SHARE = 1000, 0.1
ITEM_ID: TypeAdapter[str] = TypeAdapter(ItemId)


@dataclass(frozen=True)
class LineItem:
    """The item of a manifest's line.

    Args:
        names_id: The line gives the id; else the item is called by its position.
        is_bad: The line is at fault, not what it says of its item.
    """

    item: Item
    names_id: bool
    is_bad: bool = False


CheckLine = Callable[[int, bytes], LineItem]


@dataclass(frozen=True)
class Listing:
    """What listing a source takes."""

    storage: S3Storage
    rules: SourceRules
    catalogue: Catalogue


def items_of(listing: Listing, accepted: AcceptedJob) -> ListItems:
    """How to list a job's items.

    Raises:
        UriRefused: The source is not one that the tenant may read.
        SourceUnreadable (by the listing): It is not there, cannot be read, or lists nothing, or too much.
    """
    return _readable(_counted(_listed(listing, accepted), accepted))


def _listed(listing: Listing, accepted: AcceptedJob) -> ListItems:
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
    return lambda after: _manifest_items(opened.lines(name, MAX_LINE_BYTES), check, after)


def _counted(list_items: ListItems, accepted: AcceptedJob) -> ListItems:
    """Refuse a source of too many items, or of none."""

    def listed(after: Item | None) -> Iterator[Item | None]:
        is_empty = after is None
        for item in list_items(after):
            if item is not None:
                is_empty = False
                if item.index >= MAX_JOB_ITEMS:
                    raise SourceUnreadable(f"the source lists more than {MAX_JOB_ITEMS:,} items")
            yield item
        if is_empty:
            raise SourceUnreadable(f"the source lists no images{_what_is_listed(accepted)}")

    return listed


def _what_is_listed(accepted: AcceptedJob) -> str:
    source = accepted.request.source
    if source is None or source.failed_of is not None or source.resolved_format != "prefix":
        return ""
    return f": no key below {source.uri[:200]} ends in {', '.join(sorted(IMAGE_TYPES))}; read are {NO_TABLES}"


def _readable(list_items: ListItems) -> ListItems:
    """Name the source where it cannot be read; what cannot be written is another matter."""

    def listed(after: Item | None) -> Iterator[Item | None]:
        try:
            yield from list_items(after)
        except BucketMissing as error:
            raise SourceUnreadable("the source cannot be read: there is no such bucket") from error
        except ObjectMissing as error:
            raise SourceUnreadable(f"the source cannot be read: there is no such object: {error}") from error
        except (AccessRefused, LineTooLong) as error:
            raise SourceUnreadable(f"the source cannot be read: {error}") from error

    return listed


def _failed_items(storage: S3Storage, job: JobId, after: Item | None) -> Iterator[Item | None]:
    """The items of which a job that is done has a failed row, as they were."""
    first, index = 0 if after is None else after.index + 1, 0
    for item in _failed(storage, job):
        if item is None:
            yield None
            continue
        if index >= first:
            yield item.model_copy(update={"index": index})
        index += 1


def _failed(storage: S3Storage, job: JobId) -> Iterator[Item | None]:
    names = (name for _, found in records.committed_shards(storage, job) for name in found)
    headers = read_ahead(lambda name: (name, records.load_header(storage, job, *name)), names)
    for number, of_shard in groupby(headers, lambda found: found[0].shard):
        yield None
        # One that has gone since it was listed, with its job, is for `load_commit` to complain about.
        with_failed = [name for name, header in of_shard if header is None or header.failed]
        if not with_failed:
            continue
        rows = chain.from_iterable(records.load_commit(storage, job, *name)[1] for name in with_failed)
        failed = {row.index for row in rows if row.status == "failed"}
        yield from (item for item in records.load_shard(storage, job, number) if item.index in failed)


def _prefix_items(source: S3Storage, prefix: str, after: Item | None) -> Iterator[Item | None]:
    """Every object with an image's ending; its id is its key below the prefix's last slash.

    A prefix need not end with one: `photos` lists `photos/a.jpg` and `photos2/z.jpg`, which are told apart.
    """
    folder = prefix[: prefix.rfind("/") + 1]
    start_after = "" if after is None else after.image.removeprefix(f"s3://{source.bucket}/")
    index = 0 if after is None else after.index + 1
    for number, entry in enumerate(source.list(prefix, start_after), 1):
        if number % AT_A_TIME == 0:
            yield None
        if entry.key.lower().endswith(tuple(IMAGE_TYPES)):
            yield _key_item(index, entry.key.removeprefix(folder), f"s3://{source.bucket}/{entry.key}")
            index += 1


def _key_item(index: int, name: str, image: str) -> Item:
    """The item of an object, called by its key; it has failed already where that cannot be an id."""
    if (fault := name_fault(name)) is None:
        return Item(index=index, id=name, image=image)
    # Another key may be spelled as this one is shown.
    shown = f"{shown_id(name)} (item {index})"
    return Item(index=index, id=shown, image=image, error=as_problem(InvalidItem(fault)))


def _manifest_items(lines: Iterator[bytes], check: CheckLine, after: Item | None) -> Iterator[Item | None]:
    """One item per line that is not blank; a bad line, or one that repeats an id, is an item that has failed already.

    All lines are read, whatever was listed before, so that the same line fails each time.

    Raises:
        SourceUnreadable: Most of it is no manifest.
    """
    first, index, bad = 0 if after is None else after.index + 1, 0, 0
    with LineIds() as ids:
        for number, line in enumerate(_without_bom(lines), 1):
            if number % AT_A_TIME == 0:
                yield None
            if not line.strip():
                continue
            found = _claimed(check(index, line), number, ids)
            bad += found.is_bad
            _refuse_if_bad(found.item, bad, index + 1)
            if index >= first:
                yield found.item
            index += 1


def _refuse_if_bad(last: Item, bad: int, lines: int) -> None:
    if bad <= max(BAD_LINES, BAD_SHARE * lines) or last.error is None:
        return
    raise SourceUnreadable(
        f"{bad:,} of the first {lines:,} lines of the manifest are bad, where {BAD_LINES:,} or a tenth of them may be; "
        f"the last of them is {last.error.detail}"
    )


def _claimed(line: LineItem, number: int, ids: LineIds) -> LineItem:
    """A line's item, if no earlier line has its id."""
    item, has_id, is_bad = line.item, line.names_id, line.is_bad
    owner = ids.claim(item.id, number) if item.id else number
    if item.error is None and owner != number:
        name = f"the id {item.id!r}" if has_id else f"there is no id, and the position, {item.id!r},"
        is_bad = True
        item = _failing(item, f"{name} is that of line {owner} already; ids must differ")
    if item.error is None:
        return line
    told = item.error.model_copy(update={"detail": f"line {number}: {item.error.detail}", "line": number})
    told_item = item.model_copy(update={"id": item.id or _stand_in(number, ids), "error": told})
    return LineItem(told_item, has_id, is_bad)


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
    except UnknownModel as error:
        # The API knows it: the line is not at fault.
        raise ModelNotOnThisWorker(f"{error}; give this worker the same models.toml as the API") from error
    except (InvalidItem, UriRefused, RequestError) as error:
        fault = str(error)
    return LineItem(_failing(Item(index=index, id=name), fault), bool(name), is_bad=True)


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
