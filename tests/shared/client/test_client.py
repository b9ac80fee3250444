"""The client against the real API and a real object store."""

import hashlib
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import cast

import pytest
from PIL import Image

from heatmill import Client
from heatmill.client.client import WaitTimeout
from heatmill.client.downloads import read_fetched
from heatmill.client.http import Retries
from heatmill.errors import (
    InvalidRequest,
    JobFinished,
    JobNotFound,
    ServiceUnavailable,
    TooLarge,
    UnknownMethod,
    UnknownModel,
)
from heatmill.jobs import records
from heatmill.schemas import ItemRequest, Job, MethodRequest, Row
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from tests.api.requests import MODEL, picture, png, preview, row
from tests.shared.conftest import Served
from tests.shared.scripted import Reply, document, scripted

QUICK = Retries(first_seconds=0.01, longest_seconds=0.05, patience_seconds=5, connect_patience_seconds=0.2)
SOMEWHERE = "upload://" + 64 * "a"


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url, retries=QUICK) as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three photos, two of them with the same content; no other test has them."""
    paths = [tmp_path / name for name in ("red.png", "also red.PNG", "blue.png")]
    for path, colour in zip(paths, ("red", "red", "blue"), strict=True):
        path.write_bytes(png(Image.new("RGB", (30, 20), colour)) + tmp_path.name.encode())
    return paths


def submitted(client: Client, items: int = 1) -> Job:
    listed = [ItemRequest(id=f"photo-{number}", image=SOMEWHERE) for number in range(items)]
    return client.submit(MODEL, ["saliency"], items=listed)


def request_of(served: Served, job: Job) -> list[ItemRequest]:
    return list(records.load_request(served.storage, JobId("default", job.id)).request.items or ())


def test_local_images_are_stored_by_their_content_and_named_by_their_file(
    client: Client, served: Served, photos: list[Path]
) -> None:
    job = client.submit(MODEL, ["saliency"], images=photos)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in photos]
    assert [(item.id, item.image) for item in request_of(served, job)] == [
        (path.name, f"upload://{digest}") for path, digest in zip(photos, digests, strict=True)
    ]
    for path, digest in zip(photos, digests, strict=True):
        assert served.storage.get(keys.blob("default", digest)) == path.read_bytes()


def test_what_is_stored_is_not_sent_again(client: Client, served: Served, photos: list[Path]) -> None:
    told: list[tuple[int, int]] = []
    client.submit(MODEL, ["saliency"], images=photos[:1], on_upload=lambda *counts: told.append(counts))
    blob = keys.blob("default", hashlib.sha256(photos[0].read_bytes()).hexdigest())
    # An upload would bring back the photo.
    served.storage.put(blob, bytes(photos[0].stat().st_size))
    client.submit(MODEL, ["saliency"], images=photos[:1])
    assert served.storage.get(blob) == bytes(photos[0].stat().st_size)
    assert told[-1] == (1, 1)


def test_a_mistake_is_found_before_anything_is_uploaded(client: Client, served: Served, photos: list[Path]) -> None:
    with pytest.raises(UnknownMethod, match="grad_cam"):
        client.submit(MODEL, ["gradcam"], images=photos)
    digest = hashlib.sha256(photos[0].read_bytes()).hexdigest()
    assert not served.storage.exists(keys.blob("default", digest))


def test_items_may_be_files_and_uris_and_keep_their_own_targets(
    client: Client, served: Served, photos: list[Path]
) -> None:
    items = [ItemRequest(id="a", image=str(photos[0]), target=7), ItemRequest(id="b", image=SOMEWHERE)]
    job = client.submit(MODEL, ["saliency"], items=items, images={"c": photos[2]}, target=3, top_k=2)
    assert [(item.id, item.target) for item in request_of(served, job)] == [("c", 3), ("a", 7), ("b", 3)]


def test_params_metadata_and_priority_arrive(client: Client) -> None:
    method = MethodRequest(name="integrated_gradients", params={"steps": 7})
    item = ItemRequest(image=SOMEWHERE)
    job = client.submit(MODEL, [method], items=[item], metadata={"team": "red"}, priority="bulk")
    assert (job.methods[0].params["steps"], job.metadata, job.priority) == (7, {"team": "red"}, "bulk")


def test_files_of_several_folders_are_named_by_their_paths(client: Client, served: Served, tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "b" / "y.png"]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(Image.new("L", (5, 5), number)))
    job = client.submit(MODEL, ["saliency"], images=paths)
    assert [item.id for item in request_of(served, job)] == [str(path) for path in paths]


@pytest.mark.parametrize("more", [["photos/../red.png", "red.png"], ["red.png"] * 2, [Path("red.png"), "./red.png"]])
def test_two_images_of_one_id_are_refused_by_both_names(client: Client, photos: list[Path], more: list[str]) -> None:
    folder = photos[0].parent
    (folder / "photos").mkdir()
    with pytest.raises(InvalidRequest, match="ids must differ") as refused:
        client.submit(
            MODEL,
            ["saliency"],
            images={"red.png": photos[2]},
            items=[ItemRequest(id=Path(name).name, image=str(folder / name)) for name in more],
        )
    assert str(photos[2]) in str(refused.value)
    if "photos/../red.png" not in more:
        with pytest.raises(InvalidRequest, match="named twice"):
            client.submit(MODEL, ["saliency"], images=[folder / name for name in more])


@pytest.mark.parametrize("again", ["b/../a/x.png", "linked/x.png", "./a/x.png"])
def test_a_file_that_two_paths_name_is_refused_by_both(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "x.png").write_bytes(png(Image.new("L", (5, 5))))
    (tmp_path / "linked").symlink_to("a")
    with pytest.raises(InvalidRequest, match="named twice") as refused:
        client.submit(MODEL, ["saliency"], images=["a/x.png", again])
    assert "'a/x.png'" in str(refused.value)
    assert repr(again) in str(refused.value)


def test_a_single_path_or_method_in_place_of_a_list_is_refused_in_words(client: Client, photos: list[Path]) -> None:
    for images in (str(photos[0]), photos[0], str(photos[0]).encode()):
        with pytest.raises(InvalidRequest, match="`images` is a list") as refused:
            client.submit(MODEL, ["saliency"], images=cast("list[str]", images))
        assert "red.png" in str(refused.value)
    with pytest.raises(InvalidRequest, match="`methods` is a list"):
        client.submit(MODEL, "saliency", images=photos)


def test_a_position_that_is_anothers_id_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="called by its position"):
        client.submit(MODEL, ["saliency"], items=[ItemRequest(image=SOMEWHERE), ItemRequest(id="0", image=SOMEWHERE)])


def test_a_file_whose_name_cannot_be_an_id_is_a_failed_item_of_its_own(
    client: Client, served: Served, photos: list[Path]
) -> None:
    odd = photos[0].rename(photos[0].with_name("new\nline.png"))
    job = client.submit(MODEL, ["saliency"], images=[odd, *photos[1:]])
    first, *others = records.load_shard(served.storage, JobId("default", job.id), 0)
    assert (first.id, [item.id for item in others]) == (r"new\nline.png", [path.name for path in photos[1:]])
    assert first.error
    assert "control characters" in first.error.detail
    assert [item.error for item in others] == [None, None]


def test_a_submission_whose_answer_was_lost_gives_one_job(client: Client) -> None:
    first = client.submit(MODEL, ["saliency"], items=[ItemRequest(image=SOMEWHERE)], idempotency_key="once")
    again = client.submit(MODEL, ["saliency"], items=[ItemRequest(image=SOMEWHERE)], idempotency_key="once")
    assert first.id == again.id
    assert submitted(client).id != submitted(client).id


def test_a_post_that_is_tried_again_keeps_its_idempotency_key(client: Client) -> None:
    accepted = document(submitted(client).model_dump(mode="json"), 202)
    with scripted(Reply(503), Reply(drops=True), accepted) as server, Client(server.url, retries=QUICK) as other:
        submitted(other)
        found = [asked.headers["Idempotency-Key"] for asked in server.asked]
        assert len(found) == 3
        assert len(set(found)) == 1


def test_the_api_key_goes_to_the_service_and_not_to_the_store(photos: list[Path]) -> None:
    with scripted(Reply()) as store:
        put = {"uploads": [{"url": f"{store.url}/key", "headers": {"Content-Length": str(photos[0].stat().st_size)}}]}
        with (
            scripted(document({}), document(put), Reply(422)) as server,
            Client(server.url, "secret", retries=QUICK) as other,
            pytest.raises(ServiceUnavailable),
        ):
            other.submit(MODEL, ["saliency"], images=photos[:1])
        assert {asked.headers.get("Authorization") for asked in server.asked} == {"Bearer secret"}
        assert [asked.headers.get("Authorization") for asked in store.asked] == [None]
        assert store.asked[0].body == photos[0].read_bytes()


@pytest.mark.parametrize(("name", "content"), [("gone.png", None), ("notes.txt", b"words")])
def test_a_file_that_cannot_be_an_image_is_named(client: Client, tmp_path: Path, name: str, content: bytes) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=name):
        client.submit(MODEL, ["saliency"], images=[tmp_path / name])


def test_a_bad_file_does_not_keep_the_others_out(
    client: Client, served: Served, photos: list[Path], tmp_path: Path
) -> None:
    empty, huge = tmp_path / "empty.png", tmp_path / "huge.png"
    empty.touch()
    with huge.open("wb") as file:
        file.truncate(51 * 2**20)
    refused: list[tuple[Path, str]] = []
    job = client.submit(
        MODEL, ["saliency"], images=[photos[0], empty, huge], on_refused=lambda *told: refused.append(told)
    )
    blobs = [keys.blob("default", item.image.removeprefix("upload://")) for item in request_of(served, job)]
    assert [served.storage.exists(blob) for blob in blobs] == [True, True, False]
    ((path, reason),) = refused
    assert path == huge
    assert f"image {huge} has 53,477,376 bytes" in reason


def test_more_items_than_a_request_holds_are_refused_before_they_are_read(client: Client) -> None:
    with pytest.raises(TooLarge, match="s3:// source"):
        client.submit(MODEL, ["saliency"], images=[f"{number}.png" for number in range(10_001)])


def test_refusals_are_typed(client: Client) -> None:
    with pytest.raises(UnknownModel):
        client.submit("resnet", ["saliency"], items=[ItemRequest(image=SOMEWHERE)])
    with pytest.raises(InvalidRequest) as raised:
        client.submit(MODEL, ["saliency"], items=[ItemRequest(image="https://a/b.png", target="no such class")])
    assert [entry["pointer"] for entry in raised.value.errors] == ["/items/0/image", "/items/0/target"]
    with pytest.raises(InvalidRequest):
        client.submit(MODEL, ["saliency"])
    with pytest.raises(InvalidRequest, match="manifest"):
        client.submit(MODEL, ["saliency"], source="s3://bucket/x/", target=3)
    with pytest.raises(JobNotFound):
        client.job("../../etc/passwd")


def test_waiting_ends_when_the_job_does(client: Client, served: Served) -> None:
    job = submitted(client)
    seen: list[Job] = []
    ending = threading.Timer(0.5, served.explain, (job.id, row(0)))
    ending.start()
    done = client.wait(job.id, seen.append)
    ending.join()
    assert (done.state, done.counts.succeeded) == ("succeeded", 1)
    assert seen[-1] == done


def test_waiting_has_an_end_where_the_caller_says_so(client: Client) -> None:
    started = time.monotonic()
    with pytest.raises(WaitTimeout, match="it goes on"):
        client.wait(submitted(client).id, timeout_seconds=0.2)
    assert time.monotonic() - started < 5


def test_waiting_outlives_a_restart_of_the_service(client: Client, served: Served) -> None:
    job = submitted(client)
    served.explain(job.id, row(0))
    done = document(client.job(job.id).model_dump(mode="json"))
    running = document(job.model_dump(mode="json"))
    with scripted(running, Reply(drops=True), Reply(503), done) as server, Client(server.url, retries=QUICK) as other:
        assert other.wait(job.id).done


def test_results_follow_the_pages_to_the_end(client: Client, served: Served) -> None:
    job = submitted(client, items=250)
    served.explain(job.id, *(row(number) for number in range(250)))
    assert [one.index for one in client.results(job.id)] == list(range(250))


def test_results_can_be_filtered(client: Client, served: Served) -> None:
    job = submitted(client, items=3)
    served.explain(job.id, row(0), row(1, verdict="imprecise"), row(2, verdict="ok"))
    assert [one.index for one in client.results(job.id, verdict="ok")] == [2]


def test_results_of_a_running_job_are_those_there_are(client: Client, served: Served) -> None:
    job = submitted(client, items=4)
    assert list(client.results(job.id)) == []
    served.commit(job.id, row(0), row(1))
    assert [one.index for one in client.results(job.id)] == [0, 1]


def test_results_can_be_followed_while_the_job_runs(client: Client, served: Served) -> None:
    job = submitted(client, items=2)
    rows = client.results(job.id, follow=True)
    served.commit(job.id, row(0))
    assert next(rows).index == 0
    served.commit(job.id, row(1), shard=1)
    served.finish(job.id)
    assert [one.index for one in rows] == [1]


def test_fetched_files_are_those_of_the_store_and_results_say_which(
    client: Client, served: Served, photos: list[Path], tmp_path: Path
) -> None:
    job = client.submit(MODEL, ["saliency"], images={"a/b.png": photos[0], "a_b.png": photos[2]})
    served.explain(job.id, *drawn(served, job, "a/b.png", "a_b.png"))
    assert client.fetch(job.id, tmp_path / "out", overlay=True) == 2
    first, second = read_fetched(tmp_path / "out")
    assert (first.item, second.item) == ("a/b.png", "a_b.png")
    assert first.files["heatmap"] == "a_b.png.saliency.0-cat.png"
    assert second.files["heatmap"] == "a_b.png-1.saliency.0-cat.png"
    assert first.heatmap is not None
    assert (tmp_path / "out" / first.files["heatmap"]).read_bytes() == served.storage.get(first.heatmap.key)
    assert first.heatmap.url is None
    with Image.open(tmp_path / "out" / first.files["photo"]) as photo:
        assert (photo.format, photo.size) == ("JPEG", (100, 100))
        assert photo.getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=2)
    with Image.open(tmp_path / "out" / first.files["overlay"]) as overlay:
        assert overlay.mode == "RGB"
    listed = {path.name for path in (tmp_path / "out").iterdir()}
    assert listed == {"results.jsonl", *first.files.values(), *second.files.values()}


def test_overlays_are_left_out_of_a_job_without_previews(client: Client, served: Served, tmp_path: Path) -> None:
    job = submitted(client)
    served.explain(job.id, *(one.model_copy(update={"preview": None}) for one in drawn(served, job, "photo-0")))
    client.fetch(job.id, tmp_path, overlay=True)
    (only,) = read_fetched(tmp_path)
    assert set(only.files) == {"heatmap"}
    assert "no previews" in (only.photo_missing or "")


def test_a_file_that_is_damaged_is_not_fetched(client: Client, served: Served, tmp_path: Path) -> None:
    job = submitted(client)
    (result,) = drawn(served, job, "photo-0")
    served.explain(job.id, result)
    assert result.preview
    served.storage.put(result.preview.key, bytes(3000))

    with pytest.raises(ServiceUnavailable, match=r"previews.* is damaged"):
        client.fetch(job.id, tmp_path, overlay=True)


def test_a_finished_job_cannot_be_cancelled_and_a_running_one_can(client: Client, served: Served) -> None:
    job = submitted(client)
    client.cancel(job.id)
    served.finish(job.id)
    assert client.job(job.id).state == "cancelled"
    assert client.cancel(job.id).state == "cancelled"
    other = submitted(client)
    served.explain(other.id, row(0))
    with pytest.raises(JobFinished):
        client.cancel(other.id)


def test_jobs_are_listed_newest_first_over_pages_and_by_metadata(client: Client) -> None:
    item = ItemRequest(image=SOMEWHERE)
    made = [client.submit(MODEL, ["saliency"], items=[item], metadata={"n": str(n)}).id for n in range(53)]
    assert [job.id for job in islice(client.jobs(), 53)] == made[::-1]
    assert [job.id for job in client.jobs("queued", {"n": "7"})] == [made[7]]


def test_methods_and_models_have_names(client: Client) -> None:
    assert "grad_cam" in {method["name"] for method in client.methods()}
    assert MODEL in {model["name"] for model in client.models()}


def drawn(served: Served, job: Job, *items: str) -> list[Row]:
    """Rows with heatmaps."""
    name = JobId("default", job.id)
    return [
        row(
            number,
            item=item,
            heatmap=picture(served.storage, name, 0, f"{number:04}.saliency.1"),
            preview=preview(served.storage, name, (255, 0, 0)),
        )
        for number, item in enumerate(items)
    ]
