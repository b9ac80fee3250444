"""A job's results: pages, or all of them as JSON lines."""

import re
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Literal

from flask import Response, request
from pydantic import Field

from heatmill.jobs.status import load_job
from heatmill.schemas import ResultPage, Row, Verdict
from heatmill.storage.presign import Signer
from heatmill_api.context import ApiContext, api_context, known
from heatmill_api.http.damage import repaired
from heatmill_api.http.responses import bad_page_token, page_token, read_page_token, reply
from heatmill_api.http.routing import JobPath, Parameters, answers, ref, versioned
from heatmill_api.results.cursor import Place, Walk

JSON_LINES = "application/jsonl"
PLACE = re.compile(r"([0-9]{1,7})\.([0-9]{1,7})")
MAX_PAGE = 1000
# A larger page wants more than one part of a shard, of up to 64 items each.
MANY_ROWS = 100
# Ends of commit records and of shards that one page passes: a filter that fits few rows makes pages short, not slow.
MAX_PASSED = 128

api = versioned("results", "results")


class ResultsQuery(Parameters):
    """Which rows."""

    page_size: int = Field(100, ge=1, description=f"At most {MAX_PAGE} are given.")
    page_token: str = Field("", max_length=100, description="`next_page_token` of the page before.")
    status: Literal["succeeded", "failed"] | None = None
    method: str | None = None
    verdict: Verdict | None = None

    def fits(self, row: Row) -> bool:
        """Whether a row is among those asked for."""
        return (
            self.status in (None, row.status)
            and self.method in (None, row.method)
            and self.verdict in (None, row.verdict)
        )


ROWS = {
    "description": "Rows in the order of the job's items.",
    "content": {"application/json": {"schema": ref(ResultPage)}, JSON_LINES: {"schema": {"type": "string"}}},
}


@api.get("/jobs/<string:job>/results", responses=answers({200: ROWS}, 404, 422, 503))
def list_results(path: JobPath, query: ResultsQuery) -> Response:
    """Read results, while the job runs too.

    A page may be shorter than asked for. `complete` says that nothing follows; until then `next_page_token` goes on,
    also where a running job has nothing more yet. `Accept: application/jsonl` streams all rows that there are.
    """
    context, job, start = api_context(), known(path.job), _read_place(query.page_token)
    # Asked before the commit records are listed: of a job that is terminal by then, none is still to come.
    current = load_job(context.storage, context.state, job)
    has_all = current.done and current.state != "cancelled" and current.error is None
    walk = partial(Walk, context.storage, job, current.done, has_all)
    if request.accept_mimetypes.best_match(["application/json", JSON_LINES]) == JSON_LINES:
        return Response(_begun(_lines(context, walk(reads_shards=True), start, query)), content_type=JSON_LINES)
    return reply(_page(context, walk(reads_shards=min(query.page_size, MAX_PAGE) > MANY_ROWS), start, query))


def presigned(row: Row, sign: Signer) -> Row:
    """The row with URLs that read its files for a while."""
    files = {name: getattr(row, name) for name in ("heatmap", "attribution", "preview")}
    return row.model_copy(
        update={
            name: file.model_copy(update={"url": sign(file.key)}) for name, file in files.items() if file is not None
        }
    )


def _page(context: ApiContext, walk: Walk, start: Place, query: ResultsQuery) -> ResultPage:
    size = min(query.page_size, MAX_PAGE)
    sign = context.storage.get_signer(context.settings.presigned_seconds)
    found: list[Row] = []
    following = start
    ended = walk.done
    passed = 0
    for place, row in walk.rows(start):
        following = place
        passed += row is None
        if row is None and passed < MAX_PASSED:
            continue
        if row is None or len(found) == size:
            ended = False
            break
        if query.fits(row):
            found.append(presigned(row, sign))
        following = Place(place.shard, place.offset + 1)
    token = "" if ended else page_token(f"{following.shard}.{following.offset}")
    return ResultPage(results=tuple(found), next_page_token=token, complete=ended)


def _begun(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The same lines; whatever fails before the first of them is still a problem, and no broken stream."""
    first = next(lines, None)
    return lines if first is None else chain([first], lines)


def _lines(context: ApiContext, walk: Walk, start: Place, query: ResultsQuery) -> Iterator[bytes]:
    seconds = context.settings.presigned_seconds
    sign = context.storage.get_signer(seconds)
    # The answer may have begun: what is damaged further on breaks it off.
    with repaired(context):
        for _, row in walk.rows(start):
            if row is None:
                # Signed anew for each shard: whoever reads slowly gets URLs that still work.
                sign = context.storage.get_signer(seconds)
            elif query.fits(row):
                yield presigned(row, sign).model_dump_json().encode() + b"\n"


def _read_place(token: str) -> Place:
    if not token:
        return Place()
    match = PLACE.fullmatch(read_page_token(token))
    if match is None:
        raise bad_page_token()
    return Place(int(match[1]), int(match[2]))
