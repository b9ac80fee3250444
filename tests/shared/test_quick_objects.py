"""obstore does what simply works, and says nothing that boto3 would say otherwise."""

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from heatmill.boto_client import boto_client
from heatmill.errors import StorageUnavailable
from heatmill.quick_objects import LARGEST_BODY, QuickObjects
from heatmill.settings import Settings
from heatmill.storage import S3Storage
from heatmill.store_errors import BucketMissing, ConditionFailed, ObjectMissing

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

UNUSUAL = ["/slash before", "slash after/", "two//slashes", "a/../b", "./a", "with space", "снег", "50%25"]


@pytest.fixture
def quick(s3_client: "S3Client", bucket: str) -> QuickObjects:
    return QuickObjects(s3_client, bucket)


@pytest.fixture
def silent_store() -> Iterator[tuple[str, socket.socket]]:
    """Takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", listening


def test_what_works_needs_no_boto3(quick: QuickObjects, s3_client: "S3Client", bucket: str) -> None:
    assert quick.put("a/b.png", b"abc", "image/png")
    assert quick.get("a/b.png") == b"abc"
    assert quick.size("a/b.png") == 3
    assert quick.put("a/empty", b"", "text/plain")
    assert quick.get("a/empty") == b""
    assert s3_client.head_object(Bucket=bucket, Key="a/b.png")["ContentType"] == "image/png"


def test_what_is_missing_is_missing(quick: QuickObjects) -> None:
    for call in (quick.get, quick.size):
        with pytest.raises(ObjectMissing):
            call(f"{uuid4().hex}")


def test_a_write_of_what_must_be_new(quick: QuickObjects) -> None:
    assert quick.put("new", b"first", "text/plain", new=True)
    with pytest.raises(ConditionFailed):
        quick.put("new", b"second", "text/plain", new=True)
    assert quick.get("new") == b"first"


@pytest.mark.parametrize("key", UNUSUAL)
def test_a_key_that_obstore_might_change_is_left_to_boto3(quick: QuickObjects, key: str) -> None:
    assert quick.get(key) is None
    assert quick.size(key) is None
    assert not quick.put(key, b"x", "text/plain")


def test_an_unusual_key_never_reads_its_neighbour(s3_client: "S3Client", bucket: str) -> None:
    storage = S3Storage(s3_client, bucket)
    storage.put("neighbour", b"not asked for")
    with pytest.raises((ObjectMissing, StorageUnavailable)):
        storage.get("neighbour/")


def test_files_and_large_bodies_are_left_to_boto3(quick: QuickObjects) -> None:
    assert not quick.put("large", bytes(LARGEST_BODY + 1), "text/plain")
    assert not quick.put("stream", iter([b"x"]), "text/plain")
    with pytest.raises(ObjectMissing):
        quick.size("large")


def test_a_bucket_that_is_missing_is_told_from_an_object(s3_client: "S3Client") -> None:
    nowhere = QuickObjects(s3_client, "no-such-bucket")
    assert nowhere.get("a") is None
    assert not nowhere.put("a", b"x", "text/plain")
    with pytest.raises(BucketMissing):
        S3Storage(s3_client, "no-such-bucket").get("a")


def test_a_refusal_is_left_to_boto3(
    object_store_url: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    with closing(boto_client(Settings(), object_store_url)) as opened:
        assert QuickObjects(opened, bucket).get("a") is None


def test_a_store_that_does_not_answer_is_left_to_boto3_for_a_while(
    silent_store: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatmill.quick_objects.SECONDS", 0.2)
    url, listening = silent_store
    with closing(boto_client(Settings(), url)) as opened:
        quick = QuickObjects(opened, "heatmill")
        assert quick.get("a") is None
        listening.accept()[0].close()
        assert quick.get("a") is None
        assert not quick.put("a", b"x", "text/plain")
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
