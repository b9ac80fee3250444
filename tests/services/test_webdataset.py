"""A job of layout `webdataset` through the whole stack: submitted and fetched as a user does it, byte by byte."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from heatmill.cli import main
from heatmill.client.client import Client
from heatmill.client.downloads import read_fetched
from heatmill.local.layout import StackOptions
from heatmill.local.stack import Stack
from tests.workers.photos import noise


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(StackOptions(data_dir=tmp_path_factory.mktemp("stack") / "data", port=8310)) as stack:
        yield stack


def submit(stack: Stack, photos: Path, *more: str) -> str:
    asked = ["submit", str(photos), "--model", "digits_vit", "--method", "saliency", "--method", "attention"]
    answer = CliRunner().invoke(main, [*asked, "--url", stack.url, "--wait", *more])
    assert answer.exit_code == 1, answer.output
    return answer.stderr.split("job ", 1)[1].split()[0]


def digests(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The sha256 of every fetched file, by item and method."""
    return {
        (row.item, row.method): {
            kind: hashlib.sha256((folder / name).read_bytes()).hexdigest() for kind, name in row.files.items()
        }
        for row in read_fetched(folder)
    }


@pytest.mark.timeout(240)
def test_what_is_fetched_from_tars_is_what_objects_hold(stack: Stack, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(12):
        (photos / f"{seed}.png").write_bytes(noise(seed))
    (photos / "bad.png").write_bytes(b"not an image")

    packed = submit(stack, photos, "--layout", "webdataset", "--no-cache")
    apart = submit(stack, photos, "--no-cache")
    taken = submit(stack, photos, "--layout", "webdataset")
    for job in (packed, apart, taken):
        answer = CliRunner().invoke(main, ["fetch", job, str(tmp_path / job), "--url", stack.url])
        assert answer.exit_code == 1, answer.output

    found = digests(tmp_path / packed)
    assert len(found) == 26
    assert all(len(files) == 2 for (item, _), files in found.items() if item != "bad.png")
    assert found == digests(tmp_path / apart) == digests(tmp_path / taken)
    with Client(stack.url) as client:
        rows = {(row.item, row.method): row for row in client.results(packed)}
        assert client.job(taken).counts.cached == 24
    heatmap = rows["7.png", "saliency"].heatmap
    assert heatmap
    assert heatmap.url
    assert heatmap.range
    part = httpx.get(heatmap.url, headers={"Range": heatmap.range}, trust_env=False)
    assert part.status_code == 206
    assert hashlib.sha256(part.content).hexdigest() == found["7.png", "saliency"]["heatmap"]
    whole = httpx.get(heatmap.url, trust_env=False).content
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        contents = [content.read() for member in tar if (content := tar.extractfile(member))]
    assert part.content in contents
    drawn = httpx.get(f"{stack.url}/v1/jobs/{packed}/results/7.png/saliency/heatmap.png", trust_env=False)
    assert drawn.content == part.content
