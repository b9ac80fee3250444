"""Under which name a form's image is taken: the one that its sender meant, or none."""

import json

import pytest
from flask.testing import FlaskClient
from urllib3.filepost import encode_multipart_formdata
from werkzeug.test import TestResponse

from heatmill.jobs import records
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from tests.api.jobs.test_parse import REQUEST


def submitted(client: FlaskClient, *headers: bytes) -> TestResponse:
    """A form with an image for each of what follows the part's name in its header."""
    start = b"--edge\r\nContent-Disposition: form-data; name="
    parts = [b'"request"\r\n\r\n' + json.dumps(REQUEST).encode()]
    parts += [b'"images"' + header + b"\r\n\r\nimage " + str(number).encode() for number, header in enumerate(headers)]
    data = b"".join(start + part + b"\r\n" for part in parts) + b"--edge--\r\n"
    return client.post("/v1/jobs", data=data, content_type="multipart/form-data; boundary=edge")


def ids(storage: S3Storage, answer: TestResponse) -> list[str]:
    assert answer.status_code == 202, answer.text
    assert answer.json is not None
    return [item.id for item in records.load_shard(storage, JobId("default", answer.json["id"]), 0)]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (rb'; filename="C:\photos\new\1.png"', r"C:\photos\new\1.png"),
        (rb'; filename="\\server\x.png"', r"\\server\x.png"),
        (rb'; filename="p\"q.png"', 'p"q.png'),
        (rb'; filename="C:\\p\"q.png"', r'C:\p"q.png'),
        (b'; filename="a%20b%0bc%.png"', "a%20b%0bc%.png"),
        (b'; filename="a;b=c.png"', "a;b=c.png"),
        (b"; filename=plain.png", "plain.png"),
        (b"; filename=unquoted name.png", "unquoted name.png"),
        (rb"; filename=C:\x.png", r"C:\x.png"),
        ('; filename="写真 1.png"'.encode(), "写真 1.png"),
        (b'; FileName="a.png" ; size=3', "a.png"),
        (b"; filename=\"x.png\"; filename*=UTF-8''a%22b%5Cc%2522.png", 'a"b\\c%22.png'),
        (b"; filename*=iso-8859-1'de'caf%E9.png", "café.png"),
    ],
)
def test_an_image_is_called_as_its_sender_called_it(
    client: FlaskClient, storage: S3Storage, header: bytes, name: str
) -> None:
    assert ids(storage, submitted(client, header)) == [name]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b'; filename="a%22b.png"', ["'a%22b.png'", "'a\"b.png'"]),
        (b'; filename="a%0D%0ab.png"', ["'a%0D%0ab.png'", r"'a\r\nb.png'"]),
        (rb'; filename="a\\b.png"', [r"'a\\b.png'", r"'a\\\\b.png'"]),
        (rb'; filename="p\%22q.png"', ["'p\\\\%22q.png'", "'p\\\\\"q.png'"]),
        (b'; filename="p"q.png"', ['filename="p"q.png"']),
        (b'; filename="open.png', ['filename="open.png']),
        (b"; filename=a;b.png", ["filename=a;b.png"]),
        (b'; filename="a.png"; filename="b.png"', ['filename="b.png"']),
        (b"; filename*=UTF-8''caf%E9.png", ["filename*=UTF-8''caf%E9.png"]),
        (b"; filename*=koi8-r''caf%E9.png", ["filename*=koi8-r''caf%E9.png"]),
        (b"; filename*=UTF-8''a%zz.png", ["filename*=UTF-8''a%zz.png"]),
        (b'; filename*0="a"; filename*1="b.png"', ['filename*1="b.png"']),
        # Werkzeug takes these for parts without a file.
        (rb'; filename="end\"', [r"'end\\'"]),
        ("; filename=é.png".encode(), ["'é.png'"]),
    ],
)
def test_a_name_that_can_be_read_in_two_ways_or_in_none_is_refused_with_its_readings(
    client: FlaskClient, header: bytes, words: list[str]
) -> None:
    answer = submitted(client, b'; filename="good.png"', header)

    assert answer.status_code == 422, answer.text
    assert answer.json is not None
    assert all(word in answer.json["detail"] for word in words), answer.json["detail"]


def test_a_header_that_comes_twice_is_refused(client: FlaskClient) -> None:
    twice = b'; filename="a.png"\r\nContent-Disposition: form-data; name="images"; filename="b.png"'

    answer = submitted(client, twice)

    assert answer.status_code == 422
    assert "2 headers Content-Disposition" in answer.text


@pytest.mark.parametrize("names", [("a\\b.png", "ab.png"), ("x\\1.png", "x1.png", "x/1.png")])
def test_names_that_differ_by_a_backslash_are_two_images(
    client: FlaskClient, storage: S3Storage, names: tuple[str, ...]
) -> None:
    fields = [("images", (name, name.encode(), "image/png")) for name in names]
    body, content_type = encode_multipart_formdata([("request", json.dumps(REQUEST)), *fields])

    answer = client.post("/v1/jobs", data=body, content_type=content_type)

    assert ids(storage, answer) == list(names)


def test_an_item_finds_its_image_by_the_name_with_backslashes(client: FlaskClient, storage: S3Storage) -> None:
    name = "C:\\photos\\new\\1.png"
    request = REQUEST | {"items": [{"id": "one", "image": name}]}
    body, content_type = encode_multipart_formdata(
        [("request", json.dumps(request)), ("images", (name, b"one", "image/png"))]
    )

    answer = client.post("/v1/jobs", data=body, content_type=content_type)

    assert ids(storage, answer) == ["one"]
