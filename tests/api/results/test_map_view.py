"""A job's map over HTTP: asked for, not there yet, there, impossible."""

from typing import Any
from urllib.parse import urlsplit

import pytest
from flask.testing import FlaskClient

from heatmill.jobs import records
from heatmill.jobs.planner import map_problem
from heatmill.jobs.status import map_status
from heatmill.schemas import Job, Plan
from heatmill.schemas.feature_map import Drawn, JobMap, NeighboursKept
from heatmill.storage import keys
from heatmill.storage.bucket import S3Storage
from heatmill.storage.keys import JobId
from tests.api.requests import answered, body, submit

TSNE = {"method": "tsne"}
PNG = b"a picture"


def made(storage: S3Storage, job: JobId) -> JobMap:
    """Write a map as a worker does."""
    drawn = Drawn(
        perplexity=1.0,
        seed=0,
        kl_divergence=0.5,
        neighbours_kept=NeighboursKept(k=1, fraction=1.0, chance=0.5),
        features="classifier input",
        components=3,
        explained_variance=1.0,
        model="efficientnet_lite0",
        weights_sha256="0" * 64,
        versions={},
    )
    written = JobMap(method="tsne", items=3, left_out=0, drawn=drawn)
    storage.put(keys.job_map(job, "png"), PNG, "image/png")
    storage.put(keys.job_map(job, "json"), written.model_dump_json(exclude={"urls"}).encode())
    return written


def finished(storage: S3Storage, job: JobId, client: FlaskClient) -> dict[str, Any]:
    """End the job as the control worker does."""
    shown = answered(client.get(f"/v1/jobs/{job.job}"))
    status = map_status(storage, job, records.load_request(storage, job).request.map, cancelled=False)
    assert status
    final = {**shown, "state": "succeeded", "done": True, "map": status.model_dump()}
    storage.write_once(keys.final(job), Job.model_validate(final).model_dump_json().encode())
    return final


def test_a_job_may_ask_for_a_map_and_nothing_else(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client, items=3, methods=[], map=TSNE)

    shown = answered(client.get(f"/v1/jobs/{job.job}"))
    assert shown["methods"] == []
    assert shown["map"] == {"method": "tsne", "perplexity": 30.0, "seed": 0, "state": "pending", "error": None}
    assert "map" not in shown["links"]
    plan = records.load_plan(storage, job)
    assert plan
    assert (plan.results, plan.makes_map) == (3, True)


def test_with_methods_each_item_has_one_result_more(client: FlaskClient) -> None:
    job = submit(client, items=3, map=TSNE, top_k=2)
    assert answered(client.get(f"/v1/jobs/{job.job}"))["counts"]["total"] == 3 * 2 + 3


@pytest.mark.parametrize(
    ("more", "pointer", "says"),
    [
        ({"map": {"method": "umap"}}, "/map/method", "tsne"),
        ({"map": {"method": "tsne", "perplexity": 1}}, "/map/perplexity", "greater than or equal to 2"),
        ({"map": {"method": "tsne", "perplexity": 201}}, "/map/perplexity", "less than or equal to 200"),
        ({"map": {"method": "tsne", "perplexity": "5"}}, "/map/perplexity", "number"),
        ({"map": {"method": "tsne", "seed": -1}}, "/map/seed", "greater than or equal to 0"),
        ({"map": {"method": "tsne", "seed": 0.5}}, "/map/seed", "integer"),
        ({"map": {"method": "tsne", "colour": 1}}, "/map/colour", "unknown field"),
        ({"map": TSNE, "items": 2}, "/map", "takes 3 to 50,000 items; here are 2"),
        ({"methods": []}, "", "at least one of `methods`, or a `map`"),
    ],
)
def test_a_wrong_map_is_refused_with_the_reason(
    client: FlaskClient, more: dict[str, Any], pointer: str, says: str
) -> None:
    problem = answered(client.post("/v1/jobs", json=body(**{"items": 3, **more})), 422)
    (error,) = problem["errors"]
    assert error["pointer"] == pointer
    assert says in error["detail"]


def test_before_it_is_made_a_map_is_not_found_and_the_problem_says_why(client: FlaskClient, storage: S3Storage) -> None:
    without, pending = submit(client), submit(client, items=3, map=TSNE)
    for path in ("map", "map.png"):
        problem = answered(client.get(f"/v1/jobs/{without.job}/{path}"), 404)
        assert "not asked for a map" in problem["detail"]
        problem = answered(client.get(f"/v1/jobs/{pending.job}/{path}"), 404)
        assert "when all of its items are done" in problem["detail"]
        answered(client.get(f"/v1/jobs/{'0' * 32}/{path}"), 404)


def test_a_map_is_described_and_its_files_can_be_read(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client, items=3, map=TSNE)
    written = made(storage, job)

    shown = answered(client.get(f"/v1/jobs/{job.job}/map"))

    urls = shown.pop("urls")
    assert JobMap.model_validate(shown) == written
    assert {ending: urlsplit(url).path.rsplit("/", 1)[1] for ending, url in urls.items()} == {
        ending: f"map.{ending}" for ending in ("png", "parquet", "jsonl")
    }
    picture = client.get(f"/v1/jobs/{job.job}/map.png")
    assert (picture.data, picture.content_type) == (PNG, "image/png")


def test_a_terminal_job_links_to_its_map(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client, items=3, map=TSNE)
    made(storage, job)
    final = finished(storage, job, client)
    assert final["map"]["state"] == "ready"
    client.application.extensions["heatmill"].state.forget(job)

    assert answered(client.get(f"/v1/jobs/{job.job}"))["links"]["map"] == f"/v1/jobs/{job.job}/map"


def test_a_map_that_cannot_be_made_says_why(client: FlaskClient, storage: S3Storage) -> None:
    job = submit(client, items=3, map=TSNE)
    failed = JobMap(method="tsne", items=0, left_out=3, error=map_problem("1 of 3 succeeded"))
    storage.put(keys.job_map(job, "json"), failed.model_dump_json().encode())
    assert "1 of 3 succeeded" in answered(client.get(f"/v1/jobs/{job.job}/map"), 404)["detail"]
    status = map_status(storage, job, records.load_request(storage, job).request.map, cancelled=False)
    assert status
    assert (status.state, status.error) == ("failed", failed.error)


def test_a_source_of_too_few_items_says_so_from_its_plan_on(client: FlaskClient, storage: S3Storage) -> None:
    request = body(map=TSNE, source={"uri": "s3://photos/default/"})
    del request["items"]
    job = JobId("default", answered(client.post("/v1/jobs", json=request), 202)["id"])
    error = map_problem("a map takes 3 to 50,000 items; here are 2")
    plan = Plan(shards=1, items=2, results=4, model="m", methods=(), top_k=1, map=TSNE, map_error=error)
    storage.write_once(keys.plan(job), plan.model_dump_json().encode())
    assert "here are 2" in answered(client.get(f"/v1/jobs/{job.job}/map"), 404)["detail"]
