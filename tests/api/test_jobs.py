"""Submitting, reading and cancelling jobs."""

from flask.testing import FlaskClient

from tests.api.requests import body


def test_a_submitted_job_is_answered_with_its_place_and_its_links(client: FlaskClient) -> None:
    answer = client.post("/v1/jobs", json=body())
    assert answer.status_code == 202, answer.text
    job = answer.json
    assert answer.headers["Location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["Retry-After"] == "1"
    assert job == client.get(answer.headers["Location"]).json
    assert job["state"] == "queued"
    assert job["counts"]["total"] == 1
