"""How a durable record is written: one JSON object, with the number of its format first.

A reader ignores fields that it does not know: a newer heatmill of the same format wrote them, and whoever only reads
leaves them where they are. A record of a newer format is neither damaged nor read.
"""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from heatmill.errors import RecordDamaged, RecordTooNew
from heatmill.storage import keys
from heatmill.storage.bucket import ObjectMissing, S3Storage

M = TypeVar("M", bound=BaseModel)
# Raised where an older reader would take a record for something that it is not.
FORMAT = 1


class _Stated(BaseModel):
    format: int = 1


def encode(record: BaseModel, *, exclude_defaults: bool = False) -> bytes:
    """A record as it is stored."""
    body = record.model_dump_json(exclude_defaults=exclude_defaults).encode()
    return b'{"format":%d,%b' % (FORMAT, body[1:])


def decode(schema: type[M], key: str, data: bytes) -> M:
    """Read back what `encode` wrote; records of earlier versions name no format, and have the first.

    Args:
        schema: Of the record.
        key: Of the object that it lies in, for messages.
        data: The record.

    Raises:
        RecordDamaged: It is no such record.
        RecordTooNew: It has a newer format.
    """
    stated = decode_line(_Stated, key, data)
    if stated.format > FORMAT:
        raise RecordTooNew(key, stated.format, FORMAT)
    return decode_line(schema, key, data)


def decode_line(schema: type[M], key: str, data: bytes) -> M:
    """Read a line of a record whose first line names the format.

    Raises:
        RecordDamaged: It is no such line.
    """
    try:
        return schema.model_validate_json(data, extra="ignore")
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise RecordDamaged(key, f"{where}: {fault['msg']}" if where else fault["msg"]) from error


def encode_lines(models: Iterable[BaseModel]) -> bytes:
    """The lines below a header."""
    return b"".join(model.model_dump_json(exclude_defaults=True).encode() + b"\n" for model in models)


def checked(record: M, key: str, told: Callable[[M], object], wanted: object) -> M:
    """The record, if it is that of its key.

    Raises:
        RecordDamaged: It is that of another.
    """
    if told(record) != wanted:
        raise RecordDamaged(key, f"it is the record of {told(record)}")
    return record


def check_sha256(key: str, wanted: str, body: bytes) -> None:
    """Make sure that lines are those of which a header names the sha256.

    Raises:
        RecordDamaged: They are others.
    """
    if hashlib.sha256(body).hexdigest() != wanted:
        raise RecordDamaged(key, "its lines are not those that were written")


def set_aside(storage: S3Storage, key: str) -> None:
    """Move a damaged object of a job out of the way, to be looked at by a person; it goes with the job."""
    with suppress(ObjectMissing):
        storage.copy(key, keys.set_aside(key))
    storage.delete([key])
