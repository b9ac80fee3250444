"""The parts of a submitted form: what it must hold, and that nothing of it is dropped in silence."""

from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

from flask import Request
from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.formparser import FormDataParser, MultiPartParser

from heatmill.errors import InvalidRequest, MalformedRequest, TooLarge
from heatmill.printable import printable
from heatmill.schemas.json_pointer import pointer
from heatmill_api.http.body import too_much_json
from heatmill_api.http.part_headers import ShortHeaders
from heatmill_api.http.part_names import check_no_file, file_name
from heatmill_api.http.problems import faulty

REQUEST = "request"
IMAGES = "images"
SHOWN_CHARACTERS = 600


class FormRequest(Request):
    """A request whose form, where it is broken, is no empty form; the files of such a one are closed as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._opened: list[IO[bytes]] = []

    def close(self) -> None:
        """Close the files of the form, also of one that could not be read to its end."""
        super().close()
        for file in self._opened:
            file.close()

    def _get_file_stream(self, *args: Any, **kwargs: Any) -> IO[bytes]:
        self._opened.append(super()._get_file_stream(*args, **kwargs))
        return self._opened[-1]

    def make_form_data_parser(self) -> FormDataParser:
        """Werkzeug's, which says what it cannot read."""
        self.form_data_parser_class = _FormParser
        parser = super().make_form_data_parser()
        parser.silent = False
        return parser


class _PartParser(MultiPartParser):
    """Werkzeug's, which is asked for the character set of each part that it takes for a field."""

    def get_part_charset(self, headers: Headers) -> str:
        check_no_file(headers)
        return super().get_part_charset(headers)


class _FormParser(FormDataParser):
    def parse(
        self, stream: IO[bytes], mimetype: str, content_length: int | None, options: dict[str, str] | None = None
    ) -> tuple[IO[bytes], MultiDict[str, str], MultiDict[str, FileStorage]]:
        boundary = (options or {}).get("boundary", "").encode("ascii")
        if mimetype != "multipart/form-data" or not boundary:
            return super().parse(stream, mimetype, content_length, options)
        parts = _PartParser(
            self.stream_factory, self.max_form_memory_size, self.cls, max_form_parts=self.max_form_parts
        )
        return stream, *parts.parse(cast("IO[bytes]", ShortHeaders(stream, boundary)), boundary, content_length)


def check_parts(request: Request) -> None:
    """Read the form, and check that each of its parts is one that is used.

    Raises:
        MalformedRequest: It is broken.
        InvalidRequest: A part has another name than `request` or `images`, or none; an image without a file name; a
            second `request`; a name that is not UTF-8.
    """
    try:
        faults = list(_faults(request))
    except UnicodeDecodeError as error:
        header = printable(error.object.decode(errors="surrogateescape"))[:SHOWN_CHARACTERS]
        raise InvalidRequest(f"a name in the form holds bytes that are not UTF-8 characters: {header}") from error
    except ValueError as error:
        raise MalformedRequest(f"the form cannot be read: {error}") from error
    if faults:
        raise faulty(faults)


def request_part(request: Request, max_bytes: int) -> bytes:
    """The JSON of a form, sent as a field or as a file.

    Raises:
        InvalidRequest: There is none.
        TooLarge: It has more bytes than the limit.
    """
    if REQUEST in request.form:
        text = request.form[REQUEST].encode("utf-8", "surrogateescape")
    elif REQUEST in request.files:
        text = bytes(request.files[REQUEST].read(max_bytes + 1))
    else:
        raise InvalidRequest("the form has no part `request`; it holds the job's JSON")
    if len(text) > max_bytes:
        raise too_much_json(max_bytes)
    return text


def named_files(request: Request, max_files: int) -> dict[str, FileStorage]:
    """The images of a form by their file names.

    Raises:
        InvalidRequest: There are none, or two of one name, or a name that cannot be told.
        TooLarge: There are more than the limit.
    """
    files = request.files.getlist(IMAGES)
    if not files:
        raise InvalidRequest("the form has no files in `images`; without any, send the job as application/json")
    if len(files) > max_files:
        raise TooLarge(f"the form holds {len(files)} images; the limit is {max_files}. Use /v1/uploads for more")
    named: dict[str, list[int]] = {}
    faults: list[dict[str, object]] = []
    for number, file in enumerate(files):
        stated = file_name(file.headers)
        if stated.fault:
            faults.append({"pointer": pointer([IMAGES, number]), "detail": stated.fault})
        named.setdefault(stated.name or "", []).append(number)
    if faults := faults or list(_name_faults(named)):
        raise faulty(faults)
    return {name: files[numbers[0]] for name, numbers in named.items()}


def _faults(request: Request) -> Iterator[dict[str, object]]:
    names: Sequence[str | None] = [*request.form.keys(), *request.files.keys()]
    for name in dict.fromkeys(names):
        if name is None:
            yield {"pointer": "", "detail": "a part of the form has no name; its parts are `request` and `images`"}
        elif name not in {REQUEST, IMAGES}:
            detail = f"the form's part {printable(name)!r} is not known; its parts are `request` and `images`"
            yield {"pointer": pointer([name]), "detail": detail}
    if IMAGES in request.form:
        detail = "a part `images` of the form has no `filename`, which makes it text: send each image as a file"
        yield {"pointer": pointer([IMAGES]), "detail": detail}
    requests = len(request.form.getlist(REQUEST)) + len(request.files.getlist(REQUEST))
    if requests > 1:
        yield {"pointer": pointer([REQUEST]), "detail": f"the form has {requests} parts `request`; send one"}


def _name_faults(named: dict[str, list[int]]) -> Iterator[dict[str, object]]:
    for name, numbers in named.items():
        if name and len(numbers) == 1:
            continue
        detail = (
            f"{len(numbers)} images of the form are called {name!r}"
            if name
            else "the image's file name is empty; it becomes the item's id"
        )
        for number in numbers:
            yield {"pointer": pointer([IMAGES, number]), "detail": detail}
