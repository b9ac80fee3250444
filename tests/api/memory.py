"""How much memory a body takes: `python -m tests.api.memory BYTES`, since a test's own process has taken much before.

It prints a JSON object: for each kind of body its bytes, by how many bytes the process grew at most, and the error's
code.
"""

import io
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from flask import Flask
from werkzeug.test import EnvironBuilder

from heatmill.catalogue.catalogue import Catalogue, load_catalogue
from heatmill.errors import HeatmillError
from heatmill.images.source_uri import SourceRules
from heatmill.settings import Settings
from heatmill_api.http.body import checked, read_json
from heatmill_api.jobs.form import FormRequest
from heatmill_api.jobs.parse import read_submission
from heatmill_api.jobs.validate import resolve
from heatmill_api.views.uploads import UploadsRequest

URI = "upload://" + "0" * 64
ITEM = json.dumps({"image": URI})
Measured = tuple[int, int, str]


def job(items: str = ITEM, methods: str = '{"name": "grad_cam"}', more: str = "") -> str:
    """A job's request as text, so that parts of it can be what no dictionary holds."""
    return f'{{"model": "efficientnet_lite0"{more}, "items": [{items}], "methods": [{methods}]}}'


def filled(part: str, size: int) -> str:
    """A list's inside of so many bytes."""
    return ",".join([part] * (size // (len(part) + 1)))


def numbered(size: int) -> str:
    """An object's inside of so many bytes."""
    return ",".join(f'"k{number:07}":1' for number in range(size // 13))


def with_params(inside: str, method: str = "lime") -> str:
    """A job whose only method has these params."""
    return job(methods=f'{{"name": "{method}", "params": {{{inside}}}}}')


def form(disposition: str, header: str = "") -> str:
    """A form with a file, and with what its header says of it."""
    stated = f"--b\r\nContent-Disposition: form-data; {disposition}\r\n{header}\r\nx\r\n"
    return f'{stated}--b\r\nContent-Disposition: form-data; name="request"\r\n\r\n{job()}\r\n--b--\r\n'


def bodies(size: int) -> dict[str, Callable[[], str]]:
    """Bodies of about so many bytes, by what they hold too much of."""
    unknown = f'{{"image": "{URI}", {numbered(150)}}}'
    label = f'{{"image": "{URI}", "target": "{"tabby cat " * 15}"}}'
    return {
        "items: numbers": lambda: job(filled("0", size)),
        "items: empty objects": lambda: job(filled("{}", size)),
        "items: texts": lambda: job(filled('"x"', size)),
        "items: unknown fields": lambda: job(filled(unknown, size)),
        "items: good ones": lambda: job(filled(ITEM, size)),
        "items: wrong ones, as many as may be": lambda: job(",".join(['{"image":1,"id":2,"target":[]}'] * 10_000)),
        "items: labels that do not exist": lambda: job(filled(label, size)),
        "methods: numbers": lambda: job(methods=filled("7", size)),
        "methods: good ones": lambda: job(methods=filled('{"name": "grad_cam"}', size)),
        "params: unknown names": lambda: with_params(numbered(size)),
        "params: a text": lambda: with_params(f'"hide": "{"x" * size}"'),
        "params: objects": lambda: with_params(f'"samples": [{filled("{}", size)}]'),
        "background: objects": lambda: with_params(f'"background": [{filled("{}", size)}]', "gradient_shap"),
        "background: names": lambda: with_params(f'"background": [{filled(json.dumps("mean"), size)}]', "deep_shap"),
        "background: URIs": lambda: with_params(f'"background": [{filled(json.dumps(URI), size)}]', "gradient_shap"),
        "metadata: names": lambda: job(more=f', "metadata": {{{numbered(size)}}}'),
        "metadata: objects": lambda: job(more=f', "metadata": {{"k": [{filled("{}", size)}]}}'),
        "body: nulls": lambda: f"[{filled('null', size)}]",
        "body: unknown fields": lambda: job(more=f", {numbered(size)}"),
        "body: lists in lists": lambda: job(more=f', "x": [{filled("[[[[]]]]", size)}]'),
        "body: a text of commas": lambda: job(more=f', "metadata": {{"k": "{"," * size}"}}'),
        "body: a text without an end": lambda: f'{{"model": "{"," * size}',
        "uploads: numbers": lambda: f'{{"images": [{filled("3", size)}]}}',
        "uploads: empty objects": lambda: f'{{"images": [{filled("{}", size)}]}}',
        "form: numbers": lambda: job(filled("0", size)),
        "parts: a long file name": lambda: form(f'name="images"; filename="{"a" * size}"'),
        "parts: a file name of backslashes": lambda: form(f'name="images"; filename="{chr(92) * size}"'),
        "parts: a long name": lambda: form(f'name="{"a" * size}"; filename="x"'),
        "parts: parameters": lambda: form('name="images"; filename="x"' + '; a="b"' * (size // 7)),
        "parts: header lines": lambda: form('name="images"; filename="x"', "X-A: a\r\n" * (size // 8)),
    }


def measure(size: int) -> dict[str, Measured]:
    """Every kind of body of about so many bytes, each in a child, so that none profits from another's memory."""
    settings, catalogue = Settings(), load_catalogue()
    app = Flask(__name__)
    app.config.update(MAX_CONTENT_LENGTH=settings.max_body_bytes, MAX_FORM_MEMORY_SIZE=settings.max_body_bytes)
    with app.app_context():
        # What is imported at the first request is not the request's.
        _code("", job().encode(), settings, catalogue)
        return {kind: _in_child(kind, make().encode(), settings, catalogue) for kind, make in bodies(size).items()}


def _in_child(kind: str, body: bytes, settings: Settings, catalogue: Catalogue) -> Measured:
    readable, writable = os.pipe()
    if os.fork() == 0:
        before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        code = _code(kind, body, settings, catalogue)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        os.write(writable, json.dumps([len(body), grown, code]).encode())
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as answer:
        size, grown, code = json.loads(answer.read() or b'[0, 0, "died"]')
    os.wait()
    return size, grown, code


def _code(kind: str, body: bytes, settings: Settings, catalogue: Catalogue) -> str:
    """The code of the error that answers a body; empty where none does."""
    builder = EnvironBuilder(method="POST", data=body, content_type="application/json")
    if kind.startswith("form"):
        parts = {"request": body.decode(), "images": (io.BytesIO(b"x"), "photo.png")}
        builder = EnvironBuilder(method="POST", data=parts)
    if kind.startswith("parts"):
        builder = EnvironBuilder(method="POST", data=body, content_type="multipart/form-data; boundary=b")
    request = FormRequest(builder.get_environ())
    try:
        if kind.startswith("uploads"):
            checked(UploadsRequest, read_json(request, settings))
        else:
            resolve(read_submission(request, settings).request, catalogue, SourceRules("default", (), "heatmill"))
    except HeatmillError as error:
        return error.code
    return ""


if __name__ == "__main__":
    json.dump(measure(int(sys.argv[1])), sys.stdout)
