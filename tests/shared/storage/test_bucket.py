"""One contract, two stores: SeaweedFS has conditional writes, MinIO behind JuiceFS has not."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from heatmill.errors import StorageUnavailable
from heatmill.local.ports import free_ports
from heatmill.local.servers.seaweedfs import Credentials, endpoint
from heatmill.settings import Settings
from heatmill.storage.bucket import AccessRefused, ObjectMissing, S3Storage, WriteConflict, open_storage
from heatmill.storage.presigned_upload import PresignedUpload
from heatmill.storage.s3_client import boto_client
from tests.services.fixtures import service
from tests.services.minio import minio

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PROMISED = PresignedUpload(hashlib.sha256(b"12345").hexdigest(), 5, "image/png")
NAMES = ["plain.png", "with space.png", "snow ☃ снег.png", "plus+and%20percent&question?.png", "a=b;c,d'e\"f.png"]


@pytest.fixture(scope="module", params=["seaweedfs", "minio"])
def url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, credentials: Credentials
) -> Iterator[str]:
    if request.param == "seaweedfs":
        yield request.getfixturevalue("object_store_url")
        return
    with service("MinIO"), minio(tmp_path_factory.mktemp("minio"), credentials) as found:
        yield found


@pytest.fixture(scope="module")
def s3(url: str) -> Iterator["S3Client"]:
    with closing(boto_client(Settings(), url)) as opened:
        yield opened


@pytest.fixture(scope="module")
def store(s3: "S3Client") -> S3Storage:
    bucket = f"contract-{uuid4().hex[:8]}"
    s3.create_bucket(Bucket=bucket)
    return S3Storage(s3, bucket)


@pytest.fixture
def prefix() -> str:
    """Each test writes below a prefix of its own."""
    return f"{uuid4().hex}/"


def test_what_was_put_is_what_one_gets(store: S3Storage, prefix: str) -> None:
    store.put(f"{prefix}bytes", b"abc")
    store.put(f"{prefix}stream", BytesIO(b"def"), "image/png")
    assert store.get(f"{prefix}bytes") == b"abc"
    assert store.get(f"{prefix}stream") == b"def"
    assert store.size(f"{prefix}stream") == 3


def test_putting_again_replaces(store: S3Storage, prefix: str) -> None:
    store.put(f"{prefix}a", b"first")
    store.put(f"{prefix}a", b"second")
    assert store.get(f"{prefix}a") == b"second"


def test_a_copy_has_the_bytes_and_the_type_and_outlives_its_source(store: S3Storage, s3: "S3Client") -> None:
    for number, name in enumerate(NAMES):
        store.put(f"copied from/{name}", b"abc%d" % number, "image/png")
        store.copy(f"copied from/{name}", f"copied to/{name}")
        store.delete([f"copied from/{name}"])

        assert store.get(f"copied to/{name}") == b"abc%d" % number
        assert s3.head_object(Bucket=store.bucket, Key=f"copied to/{name}")["ContentType"] == "image/png"


def test_a_copy_replaces_what_was_there(store: S3Storage, prefix: str) -> None:
    store.put(f"{prefix}old", b"old")
    store.put(f"{prefix}new", b"new")
    store.copy(f"{prefix}new", f"{prefix}old")
    assert store.get(f"{prefix}old") == b"new"


def test_nothing_is_copied_from_where_nothing_lies(store: S3Storage, prefix: str) -> None:
    with pytest.raises(ObjectMissing):
        store.copy(f"{prefix}nothing", f"{prefix}copy")
    assert not store.exists(f"{prefix}copy")


def test_an_object_larger_than_the_stores_own_chunks_survives(store: S3Storage, prefix: str) -> None:
    body = bytes(range(256)) * 40_000
    store.put(f"{prefix}large", body)
    assert store.get(f"{prefix}large") == body
    assert store.get(f"{prefix}large", max_bytes=5_000_000) == body[:5_000_000]


def test_a_missing_object_is_named(store: S3Storage, prefix: str) -> None:
    with pytest.raises(ObjectMissing, match=f"{prefix}nothing"):
        store.get(f"{prefix}nothing")
    with pytest.raises(ObjectMissing):
        store.size(f"{prefix}nothing")
    with pytest.raises(ObjectMissing):
        list(store.lines(f"{prefix}nothing", 1000))
    assert not store.exists(f"{prefix}nothing")


def test_a_missing_bucket_is_a_missing_object_to_read_and_an_unavailable_store_to_write(store: S3Storage) -> None:
    nowhere = store.of_bucket("no-such-bucket")
    with pytest.raises(ObjectMissing):
        nowhere.get("a")
    with pytest.raises(ObjectMissing):
        nowhere.ping()
    with pytest.raises(ObjectMissing):
        list(nowhere.list("a/"))
    with pytest.raises(StorageUnavailable):
        nowhere.put("a", b"x")


def test_the_first_bytes_can_be_read_alone(store: S3Storage, prefix: str) -> None:
    store.put(f"{prefix}a", b"0123456789")
    assert store.get(f"{prefix}a", max_bytes=4) == b"0123"
    assert store.get(f"{prefix}a", max_bytes=100) == b"0123456789"


def test_an_empty_object_is_an_object(store: S3Storage, prefix: str) -> None:
    store.put(f"{prefix}empty", b"")
    assert store.exists(f"{prefix}empty")
    assert store.get(f"{prefix}empty") == b""
    assert store.get(f"{prefix}empty", max_bytes=10) == b""
    assert list(store.lines(f"{prefix}empty", 1000)) == []


def test_lines_are_streamed_and_a_long_one_is_cut(store: S3Storage, prefix: str) -> None:
    lines = [b"short", b"x" * 200_000, b"", "снег".encode(), b"last"]
    store.put(f"{prefix}lines", b"\n".join(lines))
    assert list(store.lines(f"{prefix}lines", 100_000)) == [lines[0], lines[1][:100_001], *lines[2:]]


def test_a_reader_of_lines_may_stop_early(store: S3Storage, prefix: str) -> None:
    store.put(f"{prefix}lines", b"line\n" * 100_000)
    reader = store.lines(f"{prefix}lines", 1000)
    assert next(reader) == b"line"
    del reader
    assert store.exists(f"{prefix}lines")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do(store: S3Storage, prefix: str, name: str) -> None:
    store.put(prefix + name, name.encode())
    assert store.get(prefix + name) == name.encode()
    assert [entry.key for entry in store.list(prefix)] == [prefix + name]
    assert httpx.get(store.presigned_get(prefix + name, 60)).content == name.encode()


def test_deleting_is_final_and_may_be_repeated(store: S3Storage, prefix: str) -> None:
    names = [f"{prefix}{number}" for number in range(20)]
    for name in names:
        store.put(name, b"x")
    store.delete(names)
    store.delete(names)
    assert list(store.list(prefix)) == []
    assert not store.exists(names[0])


@pytest.fixture
def calls(s3: "S3Client") -> Iterator[Counter[str]]:
    """How many calls of each operation are made."""
    counted: Counter[str] = Counter()

    def count(model: Any, **_: object) -> None:
        counted[model.name] += 1

    s3.meta.events.register("before-call.s3", count)
    yield counted
    s3.meta.events.unregister("before-call.s3", count)


def test_a_thousand_objects_are_deleted_by_one_call(store: S3Storage, prefix: str, calls: Counter[str]) -> None:
    names = [f"{prefix}{number:04}{NAMES[number % len(NAMES)]}" for number in range(1030)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b"x"), names))
    calls.clear()
    store.delete(iter(names))
    assert (calls["DeleteObjects"], calls["DeleteObject"]) == (2, 0)
    assert list(store.list(prefix)) == []


def test_a_listing_is_in_key_order_and_knows_sizes(store: S3Storage, prefix: str) -> None:
    for number in (3, 1, 2):
        store.put(f"{prefix}a/{number}", b"x" * number)
    store.put(f"{prefix}ab/1", b"")
    listed = list(store.list(f"{prefix}a/"))
    assert [(entry.key, entry.size) for entry in listed] == [(f"{prefix}a/{number}", number) for number in (1, 2, 3)]


@pytest.fixture
def small_pages(s3: "S3Client") -> Iterator[None]:
    """Pages of four keys where a store would send a thousand."""
    event = "provide-client-params.s3.ListObjectsV2"
    s3.meta.events.register(event, _ask_for_four)
    yield
    s3.meta.events.unregister(event, _ask_for_four)


@pytest.mark.usefixtures("small_pages")
def test_a_listing_goes_on_over_pages_and_can_start_anywhere(store: S3Storage, prefix: str) -> None:
    names = [f"{prefix}{number:06}.jsonl" for number in range(13)]
    for name in (*names, f"{prefix}folder/1", f"{prefix}other/1"):
        store.put(name, b"")
    del names[5]
    store.delete([f"{prefix}000005.jsonl"])
    listed = [entry.key for entry in store.list(prefix)]
    assert listed == [*names, f"{prefix}folder/1", f"{prefix}other/1"]
    assert [entry.key for entry in store.list(prefix, start_after=names[2])] == listed[3:]
    assert [entry.key for entry in store.list(prefix, start_after=f"{prefix}000003")] == listed[3:]
    assert [entry.key for entry in store.list(prefix, start_after=listed[-1])] == []
    assert list(store.folders(prefix)) == ["folder", "other"]


def test_folders_are_the_next_level_only(store: S3Storage, prefix: str) -> None:
    for name in ("a/1", "a/b/2", "c/3", "file"):
        store.put(prefix + name, b"x")
    assert list(store.folders(prefix)) == ["a", "c"]
    assert list(store.folders(f"{prefix}a/")) == ["b"]
    assert list(store.folders(f"{prefix}nothing/")) == []


def test_an_uploader_needs_nothing_but_the_presigned_url(store: S3Storage, prefix: str) -> None:
    url = store.presigned_put(f"{prefix}photo", PROMISED, 60)
    assert httpx.put(url, content=b"12345", headers=PROMISED.headers).is_success
    assert store.get(f"{prefix}photo") == b"12345"
    answer = httpx.get(store.presigned_get(f"{prefix}photo", 60))
    assert (answer.content, answer.headers["Content-Type"]) == (b"12345", "image/png")


@pytest.mark.parametrize(("content", "kind"), [(b"123456", "image/png"), (b"1", "image/png"), (b"12345", "text/html")])
def test_a_presigned_upload_of_another_size_or_type_is_refused(
    store: S3Storage, prefix: str, content: bytes, kind: str
) -> None:
    url = store.presigned_put(f"{prefix}photo", PROMISED, 60)
    sent = PROMISED.headers | {"Content-Type": kind, "Content-Length": str(len(content))}
    assert httpx.put(url, content=content, headers=sent).status_code == httpx.codes.FORBIDDEN
    assert not store.exists(f"{prefix}photo")


def test_a_presigned_upload_may_be_empty(store: S3Storage, prefix: str) -> None:
    nothing = PresignedUpload(hashlib.sha256(b"").hexdigest(), 0, "image/png")
    url = store.presigned_put(f"{prefix}empty", nothing, 60)
    assert httpx.put(url, content=b"", headers=nothing.headers).is_success
    assert store.size(f"{prefix}empty") == 0


def test_a_presigned_upload_needs_its_checksum(store: S3Storage, prefix: str) -> None:
    url = store.presigned_put(f"{prefix}photo", PROMISED, 60)
    assert httpx.put(url, content=b"12345", headers={"Content-Type": "image/png"}).is_client_error
    assert not store.exists(f"{prefix}photo")


def test_a_presigned_upload_of_other_bytes_is_refused_where_the_store_checks(
    store: S3Storage, prefix: str, url: str, object_store_url: str
) -> None:
    if url != object_store_url:
        pytest.skip("this store takes the checksum unread; workers check it again")
    put = store.presigned_put(f"{prefix}photo", PROMISED, 60)
    assert httpx.put(put, content=b"54321", headers=PROMISED.headers).status_code == httpx.codes.BAD_REQUEST
    assert not store.exists(f"{prefix}photo")


def test_a_presigned_url_is_for_its_key_only_and_for_a_while(store: S3Storage, prefix: str) -> None:
    store.put(f"{prefix}mine", b"x")
    store.put(f"{prefix}other", b"x")
    url = store.presigned_get(f"{prefix}mine", 60)
    assert httpx.get(url.replace("mine", "other")).status_code == httpx.codes.FORBIDDEN
    assert httpx.get(url.split("?")[0]).status_code == httpx.codes.FORBIDDEN


def test_write_once_takes_the_same_bytes_again_and_no_others(store: S3Storage, prefix: str) -> None:
    store.write_once(f"{prefix}job.json", b"{}")
    store.write_once(f"{prefix}job.json", b"{}")
    with pytest.raises(WriteConflict, match="write-once"):
        store.write_once(f"{prefix}job.json", b"[]")
    assert store.get(f"{prefix}job.json") == b"{}"


def test_racing_writers_of_the_same_bytes_all_succeed(store: S3Storage, prefix: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.write_once(f"{prefix}plan.json", b"{}"), range(8)))
    assert store.get(f"{prefix}plan.json") == b"{}"


def test_racing_writers_have_one_winner_where_the_store_can(store: S3Storage, prefix: str) -> None:
    if not store.has_conditional_writes:
        pytest.skip("this store has no conditional writes; claims keep writers apart")

    def wins(key: str, number: int) -> bool:
        try:
            store.write_once(key, str(number).encode())
        except WriteConflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        for key in (f"{prefix}{number}" for number in range(3)):
            won = list(pool.map(wins, [key] * 4, range(4)))
            assert sum(won) == 1
            assert store.get(key) == str(won.index(True)).encode()


def test_the_probe_tells_the_stores_apart(store: S3Storage, url: str, object_store_url: str) -> None:
    assert store.has_conditional_writes is (url == object_store_url)
    assert [entry.key for entry in store.list("probe/")] == []


def test_the_bucket_answers(store: S3Storage) -> None:
    store.ping()


def test_wrong_credentials_are_refused(
    store: S3Storage, url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(f"{prefix}a", b"x")
    for name, value in {"AWS_SECRET_ACCESS_KEY": "wrong-secret", "AWS_ACCESS_KEY_ID": "stranger"}.items():
        monkeypatch.setenv(name, value)
        with closing(boto_client(Settings(), url)) as opened:
            stranger = S3Storage(opened, store.bucket)
            for call in (stranger.get, stranger.size, stranger.exists):
                with pytest.raises(AccessRefused, match="a"):
                    call(f"{prefix}a")
            with pytest.raises(AccessRefused):
                stranger.put(f"{prefix}b", b"x")
            with pytest.raises(AccessRefused):
                stranger.ping()
    assert not store.exists(f"{prefix}b")


def test_a_store_that_is_away_is_unavailable(credentials: Credentials) -> None:
    with closing(boto_client(Settings(), endpoint(free_ports(1)[0]), attempts=1)) as opened:
        away = S3Storage(opened, "heatmill")
        calls: list[Callable[[], object]] = [
            lambda: away.get("a"),
            lambda: away.exists("a"),
            lambda: list(away.lines("a", 1000)),
            lambda: list(away.list("a")),
            lambda: list(away.folders("a")),
            lambda: away.put("a", b""),
            lambda: away.write_once("a", b""),
            lambda: away.delete(["a"]),
            away.ping,
        ]
        for call in calls:
            with pytest.raises(StorageUnavailable, match="does not answer"):
                call()


def test_presigned_urls_name_the_store_as_callers_reach_it(settings: Settings, prefix: str) -> None:
    opened = open_storage(settings.model_copy(update={"s3_public_endpoint": "https://objects.example.org"}))
    assert opened.presigned_get("a", 60).startswith(f"https://objects.example.org/{settings.bucket}/a?")
    opened.client.close()
    opened.public_client.close()


def _ask_for_four(params: dict[str, object], **_: object) -> None:
    params["MaxKeys"] = 4


def test_a_probe_whose_answer_was_lost_says_nothing_about_the_store(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(S3Storage, "_put_if_absent", lambda *_: False)
        with pytest.raises(StorageUnavailable, match="an answer was lost"):
            storage.has_conditional_writes  # noqa: B018

    assert storage.has_conditional_writes
