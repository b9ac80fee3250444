"""Stores that lack something: conditional writes, or deletes in bulk. A proxy makes one of them of the real store."""

from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from heatmill.errors import StorageUnavailable
from heatmill.local.ports import free_ports
from heatmill.local.servers.seaweedfs import endpoint
from heatmill.settings import Settings
from heatmill.storage.bucket import AccessRefused, S3Storage, WriteConflict
from heatmill.storage.s3_client import boto_client
from tests.faults.s3_proxy import Forward, Request, S3Proxy, faithful

NOT_IMPLEMENTED = (501, "NotImplemented")
# Of a header, or of a call, that a store does not know.
REFUSALS = [
    NOT_IMPLEMENTED,
    (400, "NotImplemented"),
    (405, "MethodNotAllowed"),
    (400, "InvalidArgument"),
    (400, "InvalidRequest"),
    (400, "UnsupportedHeader"),
    (403, "SignatureDoesNotMatch"),
]


@pytest.fixture(scope="module")
def proxy(object_store_url: str) -> Iterator[S3Proxy]:
    made = S3Proxy(free_ports(1)[0], urlsplit(object_store_url).port or 0)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def store(proxy: S3Proxy, bucket: str) -> Iterator[S3Storage]:
    """The real store by way of the proxy; nothing is known of it yet."""
    with closing(boto_client(Settings(), endpoint(proxy.port), attempts=2)) as client:
        yield S3Storage(client, bucket)
    proxy.behaviour = faithful


def answer(status: int, body: str) -> bytes:
    head = f"HTTP/1.1 {status} x\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def error(status: int, code: str) -> bytes:
    return answer(status, f"<Error><Code>{code}</Code><Message>not here</Message></Error>")


def has_condition(request: Request) -> bool:
    return b"\r\nif-none-match:" in request.head.lower()


def is_bulk(request: Request) -> bool:
    return request.method == "POST" and request.path.partition("?")[2].startswith("delete")


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_store_without_conditional_writes_is_used_without_them(
    store: S3Storage, proxy: S3Proxy, refusal: tuple[int, str]
) -> None:
    conditions = []

    async def refuse(request: Request, forward: Forward) -> bytes:
        if not has_condition(request):
            return await forward()
        conditions.append(request.path)
        return error(*refusal)

    proxy.behaviour = refuse
    assert not store.has_conditional_writes
    assert list(store.list("probe/")) == []
    asked = len(conditions)
    key = uuid4().hex
    store.write_once(key, b"{}")
    store.write_once(key, b"{}")
    with pytest.raises(WriteConflict):
        store.write_once(key, b"[]")
    assert store.get(key) == b"{}"
    assert len(conditions) == asked


def test_a_store_that_takes_no_writes_at_all_is_not_one_without_conditions(store: S3Storage, proxy: S3Proxy) -> None:
    async def refuse(request: Request, forward: Forward) -> bytes:
        return error(403, "AccessDenied") if request.method == "PUT" else await forward()

    proxy.behaviour = refuse
    with pytest.raises(AccessRefused):
        store.has_conditional_writes  # noqa: B018
    proxy.behaviour = faithful
    assert store.has_conditional_writes


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_store_without_bulk_deletes_is_asked_one_by_one(
    store: S3Storage, proxy: S3Proxy, refusal: tuple[int, str]
) -> None:
    bulk = []

    async def refuse(request: Request, forward: Forward) -> bytes:
        if not is_bulk(request):
            return await forward()
        bulk.append(request.path)
        return error(*refusal)

    proxy.behaviour = refuse
    for _ in range(2):
        prefix = uuid4().hex
        names = [f"{prefix}/{number}" for number in range(20)]
        for name in names:
            store.put(name, b"x")
        store.delete(names)
        assert list(store.list(prefix)) == []
    # Asked for once, and not again for each batch.
    assert len(bulk) == 1


def test_an_object_that_a_bulk_delete_left_is_deleted_alone(store: S3Storage, proxy: S3Proxy) -> None:
    prefix = uuid4().hex
    names = [f"{prefix}/{number}" for number in range(5)]
    for name in names:
        store.put(name, b"x")

    async def leave_two(request: Request, forward: Forward) -> bytes:
        if not is_bulk(request):
            return await forward()
        faults = "".join(f"<Error><Key>{name}</Key><Code>InternalError</Code></Error>" for name in names[:2])
        return answer(200, f"<DeleteResult>{faults}</DeleteResult>")

    proxy.behaviour = leave_two
    store.delete(names)
    assert [entry.key for entry in store.list(prefix)] == names[2:]


def test_an_object_that_may_not_be_deleted_is_named(store: S3Storage, proxy: S3Proxy) -> None:
    async def refuse(request: Request, forward: Forward) -> bytes:
        if is_bulk(request):
            locked = "<Error><Key>locked</Key><Code>AccessDenied</Code></Error>"
            return answer(200, f"<DeleteResult>{locked}</DeleteResult>")
        return error(403, "AccessDenied") if request.method == "DELETE" else await forward()

    proxy.behaviour = refuse
    with pytest.raises(AccessRefused, match="locked"):
        store.delete(["a", "locked"])


def test_what_is_gone_already_counts_as_deleted(store: S3Storage, proxy: S3Proxy) -> None:
    async def gone(request: Request, forward: Forward) -> bytes:
        assert is_bulk(request)
        return answer(200, "<DeleteResult><Error><Key>a</Key><Code>NoSuchKey</Code></Error></DeleteResult>")

    proxy.behaviour = gone
    store.delete(["a", "b"])


def test_a_store_in_trouble_is_not_one_without_bulk_deletes(store: S3Storage, proxy: S3Proxy) -> None:
    async def busy(request: Request, forward: Forward) -> bytes:
        return error(503, "SlowDown") if is_bulk(request) else await forward()

    proxy.behaviour = busy
    with pytest.raises(StorageUnavailable):
        store.delete(["a", "b"])
    proxy.behaviour = faithful
    proxy.seen.clear()
    store.delete(["a", "b"])
    assert [method for method, _ in proxy.seen] == ["POST"]


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({}, "us-east-1"),
        ({"AWS_REGION": "eu-central-2"}, "eu-central-2"),
        ({"AWS_DEFAULT_REGION": "eu-south-2"}, "eu-south-2"),
        ({"AWS_REGION": "eu-central-2", "AWS_DEFAULT_REGION": "eu-south-2"}, "eu-central-2"),
        ({"AWS_REGION": "eu-central-2", "HEATMILL_S3_REGION": "ap-south-2"}, "ap-south-2"),
        ({"AWS_REGION": "eu-central-2", "HEATMILL_S3_REGION": ""}, "eu-central-2"),
        ({"AWS_CONFIG_FILE": "profile"}, "il-central-1"),
    ],
)
@pytest.mark.usefixtures("credentials")
def test_urls_of_aws_name_the_bucket_in_its_region(
    variables: dict[str, str], region: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "HEATMILL_S3_REGION"):
        monkeypatch.delenv(name, raising=False)
    profile = tmp_path_factory.mktemp("aws") / "config"
    profile.write_text("[default]\nregion = il-central-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile.with_name("none")))
    for name, value in variables.items():
        monkeypatch.setenv(name, str(profile) if value == "profile" else value)
    with closing(boto_client(Settings(), None)) as client:
        store = S3Storage(client, "my-bucket")
        urls = [store.presigned_get("a/b", 60), store.get_signer(60)("a/b")]
        dotted = S3Storage(client, "my.bucket").presigned_get("a/b", 60)
    host = "s3.amazonaws.com" if region == "us-east-1" else f"s3.{region}.amazonaws.com"
    for url in urls:
        assert urlsplit(url)[:3] == ("https", f"my-bucket.{host}", "/a/b")
        assert f"%2F{region}%2Fs3%2Faws4_request" in url
    # No certificate of AWS is for a name with more dots.
    assert urlsplit(dotted)[:3] == ("https", host, "/my.bucket/a/b")
