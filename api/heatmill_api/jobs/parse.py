"""Read the body of `POST /v1/jobs`: JSON, or a form with the JSON and the images themselves."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Request
from werkzeug.datastructures import FileStorage

from heatmill.schemas import JobRequest
from heatmill.schemas.item_ids import free_id, name_fault
from heatmill.schemas.json_pointer import pointer
from heatmill.settings import Settings
from heatmill_api.http.body import checked, read_json
from heatmill_api.http.problems import faulty
from heatmill_api.http.strict_json import parse_object
from heatmill_api.jobs.form import check_parts, named_files, request_part

FORM = "multipart/form-data"
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Submission:
    """A request, and the images that came with it, by their sha256."""

    request: JobRequest
    files: Mapping[str, FileStorage] = field(default_factory=dict)


def read_submission(request: Request, settings: Settings) -> Submission:
    """The submitted job, valid by itself; the catalogue has not been asked.

    Raises:
        MalformedRequest: The body is not JSON, or the form is broken.
        InvalidRequest: The body does not fit its schema, or the form holds what is not used; `errors` points at every
            fault.
        TooLarge: More files, or more JSON, than the limit.
    """
    if request.mimetype != FORM:
        return Submission(_job_request(read_json(request, settings, FORM)))
    check_parts(request)
    files = named_files(request, settings.max_upload_files)
    digests = {name: _sha256(file) for name, file in files.items()}
    body = parse_object(request_part(request, settings.max_json_bytes))
    _name_uploads(body, digests)
    return Submission(_job_request(body), {digests[name]: file for name, file in files.items()})


def _job_request(body: Mapping[str, Any]) -> JobRequest:
    request: JobRequest = checked(JobRequest, body)
    return request


def _sha256(file: FileStorage) -> str:
    """Of a file that may lie on disk; it is read in parts."""
    digest = hashlib.sha256()
    while part := file.stream.read(READ_BYTES):
        digest.update(part)
    file.stream.seek(0)
    return digest.hexdigest()


def _file_items(uris: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each file as an item; one whose name cannot be an id is an item that fails."""
    faults = {name: name_fault(name) for name in uris}
    taken = {name for name, fault in faults.items() if fault is None}
    return [
        {"id": name, "image": uri}
        if faults[name] is None
        else {"id": free_id(name, taken), "image": uri, "error": faults[name]}
        for name, uri in uris.items()
    ]


def _name_uploads(body: dict[str, Any], digests: Mapping[str, str]) -> None:
    """Let the body's items name the files by URI; without items, each file is one.

    Raises:
        InvalidRequest: A file is used by no item.
    """
    uris = {name: f"upload://{digest}" for name, digest in digests.items()}
    if body.get("items") is None and body.get("source") is None:
        body["items"] = _file_items(uris)
        return
    listed = body.get("items")
    items = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    used = {item.get("image") for item in items if isinstance(item.get("image"), str)}
    if unused := [name for name in uris if name not in used]:
        detail = f"the image {unused[0]!r} of the form is used by no item"
        raise faulty([{"pointer": pointer(["items"]), "detail": detail}])
    for item in items:
        if isinstance(item.get("image"), str):
            item["image"] = uris.get(item["image"], item["image"])
