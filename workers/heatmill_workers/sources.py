"""List the items of a job that were not named in the request: an S3 prefix, a JSONL manifest, or what failed before."""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from heatmill import records
from heatmill.catalogue import Catalogue
from heatmill.errors import InvalidItem, RequestError
from heatmill.image_types import IMAGE_TYPES
from heatmill.image_uris import SourceRules, UriRefused, address
from heatmill.keys import JobId
from heatmill.planning import ListItems, inline_items
from heatmill.schemas import AcceptedJob, Item, ItemRequest, Problem, problem_type
from heatmill.storage import S3Storage

CheckLine = Callable[[int, bytes], Item]
MAX_LINE_BYTES = 16 * 1024


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
    check = partial(_manifest_item, listing, accepted.request.model)
    return lambda after: _manifest_items(opened.lines(name, MAX_LINE_BYTES), check, after)


def _failed_items(storage: S3Storage, job: JobId, after: Item | None) -> Iterator[Item]:
    """The items of which a job that is done has a failed row, as they were."""
    first = 0 if after is None else after.index + 1
    for index, item in islice(enumerate(_failed(storage, job)), first, None):
        yield item.model_copy(update={"index": index})


def _failed(storage: S3Storage, job: JobId) -> Iterator[Item]:
    for number in records.committed_numbers(storage, job):
        header = records.load_header(storage, job, number)
        # One that has gone since it was listed, with its job, is for `load_rows` to complain about.
        if header is not None and not header.failed:
            continue
        failed = {row.index for row in records.load_rows(storage, job, number) if row.status == "failed"}
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
        yield Item(index=index, id=key.removeprefix(folder), image=f"s3://{source.bucket}/{key}")


def _manifest_items(lines: Iterator[bytes], check: CheckLine, after: Item | None) -> Iterator[Item]:
    """One item per line that is not blank; a bad line is an item that has failed already."""
    first = 0 if after is None else after.index + 1
    written = ((number, line) for number, line in enumerate(_without_bom(lines), 1) if line.strip())
    for index, (number, line) in enumerate(written):
        if index < first:
            continue
        try:
            yield check(index, line)
        except InvalidItem as error:
            problem = Problem(
                type=problem_type(error.code), title=error.title, detail=f"line {number}: {error}", line=number
            )
            yield Item(index=index, id=f"line {number}", error=problem)


def _without_bom(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The lines without the mark that some editors put before the first."""
    for first in lines:
        yield first.removeprefix(BOM_UTF8)
        break
    yield from lines


def _manifest_item(listing: Listing, model: str, index: int, line: bytes) -> Item:
    if len(line) > MAX_LINE_BYTES:
        raise InvalidItem(f"longer than {MAX_LINE_BYTES:,} bytes")
    try:
        request = ItemRequest.model_validate_json(line)
        address(request.image, listing.storage, listing.rules)
        target = None if request.target is None else listing.catalogue.target_index(model, request.target)
    except ValidationError as error:
        raise InvalidItem("; ".join(_in_words(fault) for fault in error.errors())) from error
    except (UriRefused, RequestError) as error:
        raise InvalidItem(str(error)) from error
    return Item(index=index, id=request.id or str(index), image=request.image, target=target)


def _in_words(fault: ErrorDetails) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else fault["msg"]
