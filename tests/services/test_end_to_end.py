"""The whole stack as a user meets it: real API, Redis, S3, Celery workers and weights, and a worker that is killed."""

import hashlib
import http.client
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from heatmill import Client
from heatmill.client.downloads import read_fetched
from heatmill.local.layout import StackOptions
from heatmill.local.stack import Stack
from tests.workers.photos import noise, photo

METHODS: list[dict[str, Any]] = [
    {"name": "saliency"},
    {"name": "grad_cam"},
    {"name": "integrated_gradients", "params": {"steps": 2}},
]
IMAGES = 200


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose claims run out soon, so that a killed worker's shard is taken up again within seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEATMILL_CLAIM_SECONDS", "6")
        patch.setenv("HEATMILL_SHARD_SECONDS", "4")
        patch.setenv("HEATMILL_TIMER_SECONDS", "1")
        with Stack(StackOptions(data_dir=tmp_path_factory.mktemp("stack") / "data", port=8300)) as stack:
            yield stack


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=60, trust_env=False) as client:
        yield client


def submit(api: httpx.Client, images: dict[str, bytes], **request: Any) -> dict[str, Any]:
    """Upload through presigned URLs, as a client does, and submit."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in images.items()}
    wanted = [
        {"sha256": digests[name], "size": len(data), "content_type": "image/png"} for name, data in images.items()
    ]
    by_digest = {digests[name]: data for name, data in images.items()}
    for upload in api.post("/v1/uploads", json={"images": wanted}).raise_for_status().json()["uploads"]:
        if upload["url"]:
            put = httpx.put(
                upload["url"], content=by_digest[upload["sha256"]], headers=upload["headers"], trust_env=False
            )
            put.raise_for_status()
    items = [{"id": name, "image": f"upload://{digest}"} for name, digest in digests.items()]
    body = {"model": "efficientnet_lite0", "methods": METHODS, "items": items, **request}
    answer = api.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def wait(api: httpx.Client, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen: dict[str, Any] = api.get(f"/v1/jobs/{job['id']}", params={"wait": 5}).json()
        if seen["done"]:
            return seen
    raise AssertionError(f"not done after {seconds} s: {seen}")


def all_rows(api: httpx.Client, job: dict[str, Any]) -> list[dict[str, Any]]:
    rows, token = [], ""
    while True:
        page = api.get(f"/v1/jobs/{job['id']}/results", params={"page_size": 100, "page_token": token}).json()
        rows += page["results"]
        token = page["next_page_token"]
        if not token:
            return rows


def explain_children(stack: Stack) -> list[int]:
    """Processes of the explain worker: the parent and its child."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        ours = f"HEATMILL_REDIS_URL={stack.environment['HEATMILL_REDIS_URL']}".encode()
        if ours in environment and (b"heatmill_workers.celery_app.apps:explain" in command or b"spawn_main" in command):
            found.append(int(folder.name))
    return found


@pytest.mark.timeout(60)
def test_the_photos_of_the_demo_are_what_they_show(api: httpx.Client) -> None:
    job = submit(api, {name: photo(name) for name in ("coffee.png", "chelsea.png")})

    done = wait(api, job, 50)

    assert done["state"] == "succeeded"
    labels = {row["item"]: row["target"]["label"] for row in all_rows(api, job)}
    assert labels["coffee.png"] == "espresso"
    assert "cat" in labels["chelsea.png"]


@pytest.mark.faults
@pytest.mark.timeout(280)
def test_a_worker_killed_in_the_middle_of_200_images_loses_nothing(api: httpx.Client, stack: Stack) -> None:
    job = submit(api, {f"image {seed}": noise(seed) for seed in range(IMAGES)})
    seen: list[float] = []
    killed = False
    deadline = time.monotonic() + 250
    while time.monotonic() < deadline:
        status = api.get(f"/v1/jobs/{job['id']}").json()
        seen.append(status["progress"])
        if status["done"]:
            break
        if not killed and status["progress"] > 0.2:
            for process in explain_children(stack):
                os.kill(process, signal.SIGKILL)
            killed = True
        time.sleep(0.3)

    assert killed
    assert status["state"] == "succeeded"
    assert status["counts"] == {"total": 3 * IMAGES, "succeeded": 3 * IMAGES, "failed": 0, "cancelled": 0, "cached": 0}
    assert seen == sorted(seen)
    assert len(set(seen)) > 4
    rows = all_rows(api, job)
    assert len(rows) == 3 * IMAGES
    assert {(row["item"], row["method"]) for row in rows} == {
        (f"image {seed}", method["name"]) for seed in range(IMAGES) for method in METHODS
    }
    assert all(httpx.get(row["heatmap"]["url"], trust_env=False).content[:4] == b"\x89PNG" for row in rows[::50])


ODD_IDS = (
    *(".", "..", "../..", "a/..", "/", "//", "%2e%2e", "a\\..", "?", "#", " "),
    *("a" * 251 + ".png", "é" * 125 + "1.png", "x" * 512, "😀" * 512, "a/saliency/heatmap.png"),
)


@pytest.mark.timeout(120)
def test_every_id_has_its_heatmap_however_it_is_asked_for(stack: Stack, tmp_path: Path) -> None:
    for seed, _ in enumerate(ODD_IDS):
        (tmp_path / f"{seed}.png").write_bytes(noise(seed))
    # A name of the disk that is no text, and half a character: each is spelt out in its id.
    halves = {os.fsdecode(b"caf\xe9"): r"caf\xe9", "\ud800": r"\ud800"}
    images = {name: tmp_path / f"{seed}.png" for seed, name in enumerate(ODD_IDS)}
    images |= dict.fromkeys(halves, tmp_path / "0.png")
    ids = [*ODD_IDS, *halves.values()]
    with Client(stack.url) as client:
        job = client.submit("efficientnet_lite0", ["saliency"], images=images)
        assert client.wait(job.id).state == "succeeded"
        assert client.fetch(job.id, tmp_path / "fetched") == len(ids)

    rows = {row.item: row for row in read_fetched(tmp_path / "fetched")}
    assert list(rows) == ids
    files = {name: (tmp_path / "fetched" / row.files["heatmap"]).read_bytes() for name, row in rows.items()}
    assert len({row.files["heatmap"].casefold() for row in rows.values()}) == len(ids)
    with closing(http.client.HTTPConnection("127.0.0.1", urlsplit(stack.url).port)) as connection:
        for name in ids:
            # As written, and as those must write it whose library takes `..` for the folder above.
            for written in (quote(name, safe=""), quote(name, safe="").replace(".", "%2E")):
                connection.request("GET", f"/v1/jobs/{job.id}/results/{written}/saliency/heatmap.png")
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, files[name]), (name, written[:40])
