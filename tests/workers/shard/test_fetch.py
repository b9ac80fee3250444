"""Image bytes come from where the tenant may read, whole and unchanged, or not at all."""

import pytest

from heatmill.errors import ImageNotFound, ImageTooLarge, ImageUnreadable
from heatmill.images.source_uri import SourceRules
from heatmill.storage import keys
from heatmill.storage.bucket import AccessRefused, S3Storage
from heatmill_workers.shard.fetch import fetch
from tests.workers.jobs import upload


@pytest.fixture
def rules(storage: S3Storage, sources: str) -> SourceRules:
    return SourceRules("default", (f"s3://{sources}/{{tenant}}/",), storage.bucket)


def test_an_upload_and_a_source_object_are_read(storage: S3Storage, sources: str, rules: SourceRules) -> None:
    storage.of_bucket(sources).put("default/x.png", b"bytes")

    assert fetch(upload(storage, b"bytes"), storage, rules, 100) == b"bytes"
    assert fetch(f"s3://{sources}/default/x.png", storage, rules, 5) == b"bytes"


def test_another_tenant_s_upload_is_not_found(storage: S3Storage, rules: SourceRules) -> None:
    uri = upload(storage, b"secret", tenant="other")

    with pytest.raises(ImageNotFound):
        fetch(uri, storage, rules, 100)


@pytest.mark.parametrize(
    "uri", ["s3://{sources}/other/x.png", "s3://{sources}/default/../other/x.png", "s3://{own}/other/blobs/x", "/etc/x"]
)
def test_what_the_operator_does_not_allow_is_not_read(
    storage: S3Storage, sources: str, rules: SourceRules, uri: str
) -> None:
    storage.of_bucket(sources).put("other/x.png", b"secret")

    with pytest.raises(ImageNotFound):
        fetch(uri.format(sources=sources, own=storage.bucket), storage, rules, 100)


def test_a_folder_is_told_from_an_image(storage: S3Storage, sources: str, rules: SourceRules) -> None:
    storage.of_bucket(sources).put("default/in/", b"")

    with pytest.raises(ImageNotFound, match="names a folder, not an image"):
        fetch(f"s3://{sources}/default/in/", storage, rules, 100)


def test_more_bytes_than_the_limit_are_refused(storage: S3Storage, rules: SourceRules) -> None:
    with pytest.raises(ImageTooLarge, match="more than 4 bytes"):
        fetch(upload(storage, b"bytes"), storage, rules, 4)


def test_an_empty_object_is_read_as_empty(storage: S3Storage, rules: SourceRules) -> None:
    assert fetch(upload(storage, b""), storage, rules, 4) == b""


def test_an_upload_with_other_bytes_than_its_name_says_is_removed_so_that_it_can_be_sent_again(
    storage: S3Storage, rules: SourceRules
) -> None:
    uri = upload(storage, b"one")
    blob = keys.blob("default", uri.removeprefix("upload://"))
    storage.put(blob, b"two")

    with pytest.raises(ImageUnreadable, match="upload it again"):
        fetch(uri, storage, rules, 100)
    assert not storage.exists(blob)


def test_a_worker_that_may_not_delete_still_says_what_is_wrong(
    storage: S3Storage, rules: SourceRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AccessRefused("no right to delete")

    uri = upload(storage, b"three")
    storage.put(keys.blob("default", uri.removeprefix("upload://")), b"other")
    monkeypatch.setattr(storage, "delete", refuse)

    with pytest.raises(ImageUnreadable, match="sha256"):
        fetch(uri, storage, rules, 100)


def test_an_upload_that_never_came_is_not_found(storage: S3Storage, rules: SourceRules) -> None:
    with pytest.raises(ImageNotFound, match="not uploaded, or refused for its size"):
        fetch(f"upload://{64 * '9'}", storage, rules, 100)
