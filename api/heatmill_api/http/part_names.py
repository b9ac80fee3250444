r"""The name of a file as the header of its part in a form states it.

Clients write a name between quotes in three ways, and do not say in which. Browsers and urllib3 2 send it as it is, but
for a quote, CR and LF, which become %22, %0D and %0A, while a % stays (HTML Standard, "multipart form data"). Go and
older curl put a backslash before quotes and backslashes (RFC 9110, section 5.6.4). httpx and urllib3 1 double
backslashes and write quotes as %22. A name that all ways read alike is that name, and so is one that only one of them
can have written; of any other nobody can say what it was. `filename*` (RFC 8187) leaves nothing open.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from werkzeug.datastructures import Headers

from heatmill.errors import InvalidRequest
from heatmill.printable import printable

HEADER = "Content-Disposition"
KEY = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# What lies between quotes: as it is, up to the next quote; or with a backslash before each backslash and quote.
AS_IT_IS = r'[^"]*'
ESCAPED = r'(?:[^"\\]|\\["\\])*'
EXTENDED = re.compile(r"(utf-8|iso-8859-1|us-ascii)'[^']*'((?:[^%\s\"]|%[0-9A-Fa-f]{2})*)", re.IGNORECASE)
PERCENT = {"%22": '"', "%0d": "\r", "%0a": "\n"}
SHOWN_CHARACTERS = 600
# Of 255 bytes, each percent-encoded, and again as they are.
MAX_CHARACTERS = 4096


@dataclass(frozen=True)
class FileName:
    """What a header says of its part's file.

    Args:
        name: None where the header states none, or where it cannot be told.
        fault: Why it cannot be told.
    """

    name: str | None = None
    fault: str | None = None


def file_name(headers: Headers) -> FileName:
    """The name that a part's headers give to its file."""
    values = headers.getlist(HEADER)
    if len(values) != 1:
        return FileName(fault=f"a part of the form has {len(values)} headers {HEADER}; it must have one")
    header = values[0]
    if len(header) > MAX_CHARACTERS:
        return FileName(fault=f"a header {HEADER} of the form has more than {MAX_CHARACTERS:,} characters, the limit")
    if not re.search(r";\s*filename", header, re.IGNORECASE):
        return FileName()
    try:
        names = list(dict.fromkeys(_readings(header)))
    except UnicodeDecodeError:
        names = []
    if len(names) == 1:
        return FileName(names[0])
    return FileName(fault=_unreadable(header) if not names else _ambiguous(names))


def check_no_file(headers: Headers) -> None:
    """Check that a part which Werkzeug takes for a field states no file name.

    Raises:
        InvalidRequest: It does, in a way that Werkzeug does not read.
    """
    found = file_name(headers)
    if found.fault:
        raise InvalidRequest(found.fault)
    if found.name is not None:
        raise InvalidRequest(
            f"the file name {found.name!r} of the form cannot be told from its header; rename the file, or send its "
            "name percent-encoded as filename*=UTF-8''NAME"
        )


def _readings(header: str) -> Iterator[str]:
    """Every name that the header may mean."""
    for quoted in (AS_IT_IS, ESCAPED):
        parameters = _parameters(header, quoted)
        if parameters is None:
            continue
        if "filename*" in parameters:
            extended = EXTENDED.fullmatch(parameters["filename*"])
            if extended:
                yield unquote_to_bytes(extended[2]).decode(extended[1])
        elif "filename" in parameters:
            yield from _meant(parameters["filename"], quoted)


def _meant(text: str, quoted: str) -> Iterator[str]:
    if quoted == ESCAPED:
        text = re.sub(r'\\(["\\])', r"\1", text)
    yield text
    yield re.sub("%22|%0d|%0a", lambda found: PERCENT[found[0].lower()], text, flags=re.IGNORECASE)


def _parameters(header: str, quoted: str) -> Mapping[str, str] | None:
    """The parameters by their keys in lower case; None where the header is not made of such."""
    one = re.compile(rf';\s*(?:({KEY})=(?:"({quoted})"|([^";]*))\s*(?=;|$)|$)', re.DOTALL)
    position, found = len(header.partition(";")[0]), dict[str, str]()
    while position < len(header):
        parameter = one.match(header, position)
        if parameter is None:
            return None
        position = parameter.end()
        key, text, plain = parameter.groups()
        if key is None:
            continue
        if key.lower() in found:
            return None
        found[key.lower()] = plain.strip() if text is None else text
    return found


def _unreadable(header: str) -> str:
    return (
        f"the file name in this header of the form cannot be read: {printable(header)[:SHOWN_CHARACTERS]}; write "
        "filename=\"NAME\" once, or the name percent-encoded as filename*=UTF-8''NAME"
    )


def _ambiguous(names: list[str]) -> str:
    told = " or ".join(repr(name) for name in names)
    return (
        f"a file name of the form may mean {told}, since clients write quotes, line breaks and backslashes in several "
        "ways; rename the file, send its name percent-encoded as filename*=UTF-8''NAME, or use /v1/uploads"
    )
