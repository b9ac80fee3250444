"""Check a job request against what there is, and spell it out: params with their defaults, classes by index."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from heatmill.catalogue.catalogue import Catalogue
from heatmill.errors import InvalidRequest, RequestError
from heatmill.images.source_uri import UPLOAD, SourceRules, UriRefused, uris_in
from heatmill.jobs.planner import map_fault
from heatmill.schemas import ItemRequest, JobRequest, MethodRequest
from heatmill.schemas.bounded import MAX_FAULTS
from heatmill.schemas.json_pointer import pointer
from heatmill_api.http.problems import faulty

MAX_INTERACTIVE_ITEMS = 16
# Of all methods together, as JSON: Redis and the workers hold them for each open job.
MAX_PARAMS_BYTES = 64 * 1024
Fault = dict[str, object]


def resolve(request: JobRequest, catalogue: Catalogue, rules: SourceRules) -> JobRequest:
    """The request as it is stored: nothing in it is left to be looked up.

    Raises:
        UnknownModel, UnknownMethod, MethodNotSupported: The message names what there is.
        InvalidRequest: A param, a class, an image's URI or an id is wrong; `errors` points at every one.
    """
    with _at("model"):
        catalogue.model(request.model)
    _check_params(request.methods)
    methods = tuple(_method(catalogue, rules, request, number) for number in range(len(request.methods)))
    items = None if request.items is None else _items(request.items, request.model, catalogue, rules)
    listed = None if request.source is None or request.source.failed_of else request.source
    if listed is not None and (refusal := _refusal(rules, listed.uri)):
        raise faulty([{"pointer": "/source/uri", "detail": refusal}])
    _check_priority(request)
    _check_map(request)
    return request.model_copy(update={"methods": methods, "items": items})


def is_small(request: JobRequest) -> bool:
    """Whether somebody may be waiting for it."""
    return request.items is not None and len(request.items) <= MAX_INTERACTIVE_ITEMS


def _method(catalogue: Catalogue, rules: SourceRules, request: JobRequest, number: int) -> MethodRequest:
    method = request.methods[number]
    with _at("methods", number, "name"):
        catalogue.check_supported(request.model, method.name)
    with _at("methods", number, "params"):
        model = catalogue.model(request.model)
        params = catalogue.resolve_params(method.name, method.params, model.defaults)
        # A retry gives the params as they were stored, and with them what the operator has named.
        if faults := list(_refused_images(replace(rules, operators=model.operators), params)):
            raise faulty(faults)
        return MethodRequest(name=method.name, params=params)


def _check_params(methods: Iterable[MethodRequest]) -> None:
    size = sum(len(json.dumps(method.params)) for method in methods)
    if size > MAX_PARAMS_BYTES:
        detail = f"the params of all methods have {size:,} bytes together; the limit is {MAX_PARAMS_BYTES:,}"
        raise faulty([{"pointer": "/methods", "detail": detail}])


def _refused_images(rules: SourceRules, params: Mapping[str, Any]) -> Iterator[Fault]:
    """Images that params name and that this job may not read."""
    for where, uri in uris_in(params).items():
        if refusal := _image_refusal(rules, uri):
            yield {"pointer": where, "detail": refusal}


def _items(
    items: tuple[ItemRequest, ...], model: str, catalogue: Catalogue, rules: SourceRules
) -> tuple[ItemRequest, ...]:
    faults = list(_repeated_ids(items))
    resolved = []
    for number, item in enumerate(items):
        # The closest names to a wrong one are slow to find.
        if len(faults) >= MAX_FAULTS:
            break
        if refusal := _image_refusal(rules, item.image):
            faults.append({"pointer": f"/items/{number}/image", "detail": refusal})
        try:
            target = None if item.target is None else catalogue.target_index(model, item.target)
        except InvalidRequest as error:
            faults.append({"pointer": f"/items/{number}/target", "detail": str(error)})
        else:
            resolved.append(item.model_copy(update={"target": target}))
    if faults:
        raise faulty(faults)
    return tuple(resolved)


def _repeated_ids(items: tuple[ItemRequest, ...]) -> Iterator[Fault]:
    """Each item that has an earlier one's id, and once that earlier one; without an id, its position is its id."""
    seen: dict[str, int] = {}
    told: set[int] = set()
    for number, item in enumerate(items):
        name = item.id or str(number)
        first = seen.setdefault(name, number)
        if first == number:
            continue
        position = "" if item.id else ", its position,"
        detail = f"the id {name!r}{position} is that of item {first} already; ids must differ"
        yield {"pointer": f"/items/{number}/id", "detail": detail}
        if first not in told:
            told.add(first)
            yield {"pointer": f"/items/{first}/id", "detail": f"the id {name!r} is that of item {number} too"}


def _image_refusal(rules: SourceRules, uri: str) -> str | None:
    if UPLOAD.fullmatch(uri):
        return None
    return _refusal(rules, uri) or (f"{uri[:200]!r} names a folder, not an image" if uri.endswith("/") else None)


def _refusal(rules: SourceRules, uri: str) -> str | None:
    """Why a URI may not be read, if so."""
    try:
        rules.check(uri)
    except UriRefused as error:
        return str(error)
    return None


def _check_priority(request: JobRequest) -> None:
    if request.priority == "interactive" and not is_small(request):
        detail = f"`interactive` is for up to {MAX_INTERACTIVE_ITEMS} items that the request names itself"
        raise faulty([{"pointer": "/priority", "detail": detail}])


def _check_map(request: JobRequest) -> None:
    """Refuse a map of too few items; how many a source lists is known only to the plan."""
    if request.map is not None and request.items is not None and (fault := map_fault(len(request.items))):
        raise faulty([{"pointer": "/map", "detail": fault.detail}])


@contextmanager
def _at(*path: int | str) -> Iterator[None]:
    """Let an error point at the part of the request that it is about."""
    try:
        yield
    except RequestError as error:
        inner = error.errors or [{"pointer": "", "detail": str(error)}]
        where = pointer(path)
        raise type(error)(
            str(error), [{**entry, "pointer": f"{where}{entry.get('pointer', '')}"} for entry in inner]
        ) from error
