"""obstore does what simply works, and says nothing that boto3 would say otherwise."""

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from heatmill.errors import StorageUnavailable
from heatmill.settings import Settings
from heatmill.storage.bucket import S3Storage, WriteConflict
from heatmill.storage.errors import BucketMissing, ConditionFailed, ObjectMissing
from heatmill.storage.fast_path import LARGEST_BODY, REST_SECONDS, FastObjects
from heatmill.storage.s3_client import boto_client

if TYPE_CHECKING:
    from botocore.model import OperationModel
    from mypy_boto3_s3 import S3Client

UNUSUAL = ["/slash before", "slash after/", "two//slashes", "a/../b", "./a", "with space", "снег", "50%25"]


@pytest.fixture
def quick(s3_client: "S3Client", bucket: str) -> FastObjects:
    return FastObjects(s3_client, bucket)


@pytest.fixture
def silent_store() -> Iterator[tuple[str, socket.socket]]:
    """Takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", listening


def test_what_works_needs_no_boto3(quick: FastObjects, s3_client: "S3Client", bucket: str) -> None:
    assert quick.put("a/b.png", b"abc", "image/png")
    assert quick.get("a/b.png") == b"abc"
    assert quick.size("a/b.png") == 3
    assert quick.put("a/empty", b"", "text/plain")
    assert quick.get("a/empty") == b""
    assert s3_client.head_object(Bucket=bucket, Key="a/b.png")["ContentType"] == "image/png"


def test_what_is_missing_is_missing(quick: FastObjects) -> None:
    for call in (quick.get, quick.size):
        with pytest.raises(ObjectMissing):
            call(f"{uuid4().hex}")


def test_a_write_of_what_must_be_new(quick: FastObjects) -> None:
    assert quick.put("new", b"first", "text/plain", new=True)
    with pytest.raises(ConditionFailed):
        quick.put("new", b"second", "text/plain", new=True)
    assert quick.get("new") == b"first"


@pytest.mark.parametrize("key", UNUSUAL)
def test_a_key_that_obstore_might_change_is_left_to_boto3(quick: FastObjects, key: str) -> None:
    assert quick.get(key) is None
    assert quick.size(key) is None
    assert not quick.put(key, b"x", "text/plain")


def test_an_unusual_key_never_reads_its_neighbour(s3_client: "S3Client", bucket: str) -> None:
    storage = S3Storage(s3_client, bucket)
    storage.put("neighbour", b"not asked for")
    with pytest.raises((ObjectMissing, StorageUnavailable)):
        storage.get("neighbour/")


def test_files_and_large_bodies_are_left_to_boto3(quick: FastObjects) -> None:
    assert not quick.put("large", bytes(LARGEST_BODY + 1), "text/plain")
    assert not quick.put("stream", iter([b"x"]), "text/plain")
    with pytest.raises(ObjectMissing):
        quick.size("large")


def test_a_bucket_that_is_missing_is_told_from_an_object(s3_client: "S3Client") -> None:
    nowhere = FastObjects(s3_client, "no-such-bucket")
    assert nowhere.get("a") is None
    assert not nowhere.put("a", b"x", "text/plain")
    with pytest.raises(BucketMissing):
        S3Storage(s3_client, "no-such-bucket").get("a")


def test_a_refusal_is_left_to_boto3(object_store_url: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    with closing(boto_client(Settings(), object_store_url)) as opened:
        stranger = FastObjects(opened, bucket)
        assert stranger.get("a") is None
        assert not stranger.put("a", b"x", "text/plain")


@pytest.fixture
def tried_once(
    silent_store: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FastObjects, socket.socket]]:
    """A store that has not answered the first call."""
    monkeypatch.setattr("heatmill.storage.fast_path.READ_TIMEOUT", timedelta(seconds=0.2))
    url, listening = silent_store
    with closing(boto_client(Settings(), url)) as opened:
        quick = FastObjects(opened, "heatmill")
        assert quick.get("a") is None
        listening.accept()[0].close()
        listening.setblocking(False)
        yield quick, listening


def test_a_store_that_does_not_answer_is_left_to_boto3(tried_once: tuple[FastObjects, socket.socket]) -> None:
    quick, listening = tried_once
    assert quick.get("a") is None
    assert not quick.put("a", b"x", "text/plain")
    with pytest.raises(BlockingIOError):
        listening.accept()


def test_it_is_tried_again_after_a_while(
    tried_once: tuple[FastObjects, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, listening = tried_once
    later = time.monotonic() + REST_SECONDS
    monkeypatch.setattr("heatmill.storage.fast_path.time.monotonic", lambda: later)
    assert quick.get("a") is None
    listening.accept()[0].close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9"),
        ("AWS_CONDITIONAL_PUT", "disabled"),
        ("AWS_SKIP_SIGNATURE", "true"),
        ("AWS_S3_EXPRESS", "true"),
    ],
)
def test_the_environment_does_not_lead_it_elsewhere(
    s3_client: "S3Client", bucket: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    quick = FastObjects(s3_client, bucket)
    assert quick.put(f"environment/{name}", b"x", "text/plain", new=True)
    assert s3_client.get_object(Bucket=bucket, Key=f"environment/{name}")["Body"].read() == b"x"


def test_a_fork_of_its_user_is_left_to_boto3(quick: FastObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quick.put("before", b"x", "text/plain")
    monkeypatch.setattr("heatmill.storage.fast_path.os.getpid", lambda: -1)
    assert quick.get("before") is None


def test_the_first_bytes(quick: FastObjects) -> None:
    quick.put("long", b"0123456789", "text/plain")
    assert quick.get("long", max_bytes=4) == b"0123"
    assert quick.get("long", max_bytes=100) == b"0123456789"


def test_an_empty_object_is_no_trouble(quick: FastObjects) -> None:
    quick.put("empty", b"", "text/plain")
    quick.put("full", b"x", "text/plain")
    assert quick.get("empty", max_bytes=4) is None
    assert quick.get("full") == b"x"


def test_the_store_uses_it(s3_client: "S3Client", bucket: str) -> None:
    asked: list[str] = []

    def note(model: "OperationModel", **_: object) -> None:
        asked.append(model.name)

    storage = S3Storage(s3_client, bucket)
    s3_client.meta.events.register("before-call.s3", note)
    try:
        storage.put("used", b"x")
        assert storage.exists("used")
        assert storage.of_bucket(bucket).get("used", max_bytes=10) == b"x"
        storage.copy("used", "copied")
    finally:
        s3_client.meta.events.unregister("before-call.s3", note)
    assert asked == ["CopyObject"]


@pytest.mark.parametrize("other", [b"same", b"other"])
def test_a_write_once_whose_answer_was_lost(
    s3_client: "S3Client", bucket: str, monkeypatch: pytest.MonkeyPatch, other: bytes
) -> None:
    storage, key = S3Storage(s3_client, bucket), uuid4().hex
    assert storage.has_conditional_writes

    def put(self: FastObjects, key: str, body: object, content_type: str, *, new: bool = False) -> bool:
        s3_client.put_object(Bucket=bucket, Key=key, Body=other)
        return False

    monkeypatch.setattr(FastObjects, "put", put)
    if other == b"same":
        storage.write_once(key, b"same")
    else:
        with pytest.raises(WriteConflict):
            storage.write_once(key, b"same")
    assert storage.get(key) == other
