"""How commands end when something is wrong: one clear message and an exit code."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from heatmill.cli import main
from heatmill.schemas import Job
from tests.api.requests import MODEL, row
from tests.shared.conftest import Run, Served
from tests.shared.scripted import document, problem, scripted

PROGRAM = str(Path(sys.executable).with_name("heatmill"))
NOBODY = "http://127.0.0.1:9"


def process(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The program as a shell runs it."""
    command = [PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={"PATH": os.defpath, **environment}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PHOTOS", "--method", "gradcam"], "Unknown method: there is no method 'gradcam'; the closest are grad_cam"),
        (["PHOTOS", "--method", "saliency", "--model", "vgg"], "Unknown model: there is no model 'vgg'"),
        (["PHOTOS", "--method", "integrated_gradients:steps=many"], "/methods/0/params/steps"),
        (["PHOTOS", "--method", "saliency:x"], "write NAME:param=value"),
        (["PHOTOS", "--method", "saliency", "--target", "no such class"], "no such class"),
        (["PHOTOS", "--method", "saliency", "--metadata", "x"], "write key=value"),
        (["gone.png", "--method", "saliency"], "gone.png does not exist"),
        (["gone.jsonl", "--method", "saliency"], "gone.jsonl cannot be read"),
        (["PHOTOS/notes.txt", "--method", "saliency"], "notes.txt does not look like an image"),
        (["PHOTOS/notes.txt", "--method", "saliency"], "CSV and other tables are not read"),
        (["PHOTOS", "s3://bucket/x/", "--method", "saliency"], "submit everything else as a job of its own"),
        (["s3://elsewhere/x/", "--method", "saliency"], "is not an allowed source"),
        (["s3://elsewhere/x.png", "--method", "saliency"], "is not an allowed source"),
        (["PHOTOS"], "--method"),
        (["--method", "saliency"], "PATH|URI"),
    ],
)
def test_a_wrong_request_ends_with_two_and_says_what_is_wrong(
    run: Run, photos: Path, arguments: list[str], message: str
) -> None:
    result = run("submit", *(argument.replace("PHOTOS", str(photos)) for argument in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_an_unknown_job_ends_with_two(run: Run) -> None:
    for command in ("status", "results", "cancel"):
        result = run(command, "0" * 32)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Job not found: there is no job" in result.stderr


def test_every_fault_is_told_with_its_place() -> None:
    faults = [{"pointer": f"/items/{number}/image", "detail": "is a folder"} for number in range(12)]
    with scripted(problem(422, "invalid_request", "12 faults", errors=faults)) as server:
        result = CliRunner().invoke(main, ["status", "x", "--url", server.url])
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[:2] == ["Error: Invalid request: 12 faults", "  at /items/0/image: is a folder"]
    assert lines[-1] == "  ... and 2 more"


def test_a_service_that_is_not_there_ends_with_three() -> None:
    ended = process("status", "x", HEATMILL_URL=NOBODY)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "http://127.0.0.1:9 cannot be reached" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_stack_that_is_not_installed_says_how_to_install_it(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "heatmill.local.stack", None)
    result = CliRunner().invoke(main, [command])
    assert result.exit_code == 3
    assert "pip install 'heatmill[local]'" in result.stderr


def test_the_command_line_loads_without_what_only_the_service_needs() -> None:
    heavy = "redis boto3 celery flask torch numpy skimage structlog pydantic_settings jsonschema"
    script = f"import sys, heatmill.cli; print(*set('{heavy}'.split()) & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"


def test_a_url_that_is_none_is_a_wrong_request() -> None:
    assert process("status", "x", "--url", "localhost:8000").returncode == 2


def test_the_url_on_the_command_line_wins_and_the_key_is_sent() -> None:
    with scripted(document({"methods": []})) as server:
        ended = process("methods", "--json", "--url", server.url, HEATMILL_URL=NOBODY, HEATMILL_API_KEY="secret")
        assert (ended.returncode, ended.stdout) == (0, "[]\n")
        assert server.asked[0].headers["Authorization"] == "Bearer secret"


def test_ctrl_c_while_waiting_says_that_the_job_goes_on() -> None:
    running = Job(
        id="1f", state="running", done=False, progress=0.5, model=MODEL, methods=(), priority="normal",
        created_at="2026-01-01T00:00:00Z", counts={"total": 4, "succeeded": 2}, items_per_second=0.5, eta_seconds=100,
    )  # fmt: skip
    with scripted(document(running.model_dump(mode="json"))) as server:
        command = [PROGRAM, "fetch", "1f", "out", "--wait", "--url", server.url]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
            assert program.stderr is not None
            assert program.stderr.readline() == "running: 2 of 4 results, 0.5 items/s, 1 min 40 s left\n"
            program.send_signal(signal.SIGINT)
            _, said = program.communicate(timeout=30)
    assert program.returncode == 130
    assert "job 1f goes on: `heatmill status 1f`" in said
    assert "Traceback" not in said


def test_a_reader_that_leaves_early_is_no_error(served: Served, run: Run, photos: Path) -> None:
    job = json.loads(run("submit", photos, "--method", "saliency", "--json").stdout)
    served.explain(job["id"], *(row(number) for number in range(3)))
    shell = f"{PROGRAM} results {job['id']} --json | true"
    ended = subprocess.run(
        ["/bin/sh", "-c", shell], env={"HEATMILL_URL": served.url}, capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""
