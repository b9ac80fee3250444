"""A job's map from the command line and from Python: asked for, fetched, shown."""

import json
from pathlib import Path
from typing import Any

import click
import pytest

from heatmill import Client
from heatmill.cli.inputs import parse_map
from heatmill.errors import ResultNotFound
from heatmill.jobs import records
from heatmill.jobs.planner import map_problem
from heatmill.jobs.status import map_status
from heatmill.schemas import ItemRequest, Job, MapRequest
from heatmill.schemas.feature_map import JobMap
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from tests.api.requests import row
from tests.shared.conftest import Run, Served

FILES = {"png": b"picture", "parquet": b"table", "jsonl": b"points"}


def submitted(run: Run, photos: Path, *options: str) -> JobId:
    result = run("submit", photos, "--json", "--map", "tsne:perplexity=5,seed=1", *options)
    assert result.exit_code == 0, result.output
    return JobId("default", json.loads(result.stdout)["id"])


def ended(served: Served, job: JobId, made: JobMap) -> Job:
    """Do all of the job's work, and its map's."""
    for ending, data in FILES.items():
        served.storage.put(keys.job_map(job, ending), data)
    served.storage.put(keys.job_map(job, "json"), made.model_dump_json(exclude={"urls"}).encode())
    rows = [row(number, method="tsne") for number in range(3)]
    served.explain(job.job, *rows)
    final = records.load_final(served.storage, job)
    assert final
    shown = final.model_copy(
        update={
            "map": map_status(
                served.storage, job, records.load_request(served.storage, job).request.map, cancelled=False
            )
        }
    )
    served.storage.put(keys.final(job), shown.model_dump_json().encode())
    return shown


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (None, None),
        ("tsne", {}),
        ("tsne:perplexity=20,seed=1", {"perplexity": 20, "seed": 1}),
        ("tsne:perplexity=2.5", {"perplexity": 2.5}),
    ],
)
def test_a_map_is_read_from_the_command_line(text: str | None, asked: dict[str, Any] | None) -> None:
    assert parse_map(text) == (None if asked is None else MapRequest(method="tsne", **asked))


@pytest.mark.parametrize("text", ["umap", "tsne:perplexity=1", "tsne:perplexity", "tsne:colour=1", "tsne:seed=a", ""])
def test_a_map_that_is_none_is_a_mistake_of_the_command_line(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_map(text)


def test_a_job_for_its_map_alone_needs_no_method(run: Run, served: Served, photos: Path) -> None:
    request = records.load_request(served.storage, submitted(run, photos)).request
    assert request.methods == ()
    assert request.map == MapRequest(method="tsne", perplexity=5, seed=1)


def test_a_job_of_nothing_is_refused(run: Run, photos: Path) -> None:
    result = run("submit", photos)
    assert result.exit_code == 2
    assert "--method at least once, or --map" in result.stderr


def test_two_images_are_too_few_for_a_map_and_nothing_is_uploaded(run: Run, served: Served, photos: Path) -> None:
    before = [entry.key for entry in served.storage.list("default/blobs/")]
    result = run("submit", photos / "b.png", photos / "a.JPG", "--map", "tsne")
    assert result.exit_code == 2
    assert "here are 2" in result.stderr
    assert [entry.key for entry in served.storage.list("default/blobs/")] == before


def test_fetch_writes_the_map_and_the_gallery_shows_it(run: Run, served: Served, photos: Path, tmp_path: Path) -> None:
    job = submitted(run, photos)
    made = JobMap(method="tsne", items=3, left_out=0)
    ended(served, job, made)

    result = run("fetch", job.job, tmp_path / "out", "--overlay")

    assert result.exit_code == 0, result.output
    for ending, data in FILES.items():
        assert (tmp_path / "out" / f"map.{ending}").read_bytes() == data
    assert JobMap.model_validate_json((tmp_path / "out" / "map.json").read_bytes()) == made
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count('src="map.png"') == 1
    assert "photo-0" not in page


def test_a_failed_map_is_said_and_ends_the_program_with_one(
    run: Run, served: Served, photos: Path, tmp_path: Path
) -> None:
    job = submitted(run, photos)
    shown = ended(served, job, JobMap(method="tsne", items=0, left_out=3, error=map_problem("too few are good")))
    assert shown.state == "succeeded"

    result = run("status", job.job)

    assert result.exit_code == 1
    assert "Map unavailable: too few are good" in result.stdout
    assert run("fetch", job.job, tmp_path / "out").exit_code == 1
    assert not (tmp_path / "out" / "map.json").exists()


def test_python_asks_for_a_map_and_reads_it(served: Served) -> None:
    with Client(served.url) as client:
        items = [ItemRequest(image=f"upload://{64 * str(number)}") for number in range(3)]
        job = client.submit("efficientnet_lite0", [], items=items, map=MapRequest(method="tsne"))
        assert job.map
        assert job.map.state == "pending"
        with pytest.raises(ResultNotFound, match="when all of its items are done"):
            client.map(job.id)
        ended(served, JobId("default", job.id), JobMap(method="tsne", items=3, left_out=0))
        assert set(client.map(job.id).urls) == set(FILES)
