"""The command line against the real API: what it prints, where, and how it ends."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from heatmill.cli import main
from heatmill.errors import ImageNotFound
from heatmill.jobs import records
from heatmill.jobs.planner import as_problem
from heatmill.schemas import Problem
from heatmill.storage.keys import JobId
from tests.api.requests import MODEL, commit, picture, preview, row
from tests.shared.conftest import Run, Served

BROKEN = Problem(type="t", title="Image unreadable", detail="the file is damaged")
PROGRAM = str(Path(sys.executable).with_name("heatmill"))
NOBODY = "http://127.0.0.1:9"


def submitted(run: Run, *arguments: object) -> dict[str, Any]:
    """The job that a submission printed."""
    result = run("submit", *arguments, "--method", "saliency", "--json")
    assert result.exit_code == 0, result.output
    job: dict[str, Any] = json.loads(result.stdout)
    return job


def items(served: Served, job: dict[str, Any]) -> list[Any]:
    return list(records.load_request(served.storage, JobId("default", job["id"])).request.items or ())


def test_a_folder_is_submitted_with_all_its_images_named_from_the_folder_on(
    run: Run, served: Served, photos: Path
) -> None:
    job = submitted(run, photos)
    assert [item.id for item in items(served, job)] == ["a.JPG", "b.png", "deep/c.png"]
    assert job["model"] == MODEL


def test_files_folders_manifests_and_uris_go_into_one_job(
    run: Run, served: Served, photos: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "list.jsonl"
    upload = f"upload://{64 * 'a'}"
    lines = [{"image": "photos/b.png", "target": "tabby"}, {"id": "known", "image": upload}]
    manifest.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    job = submitted(run, photos / "a.JPG", manifest, f"upload://{64 * 'b'}", "--target", 7)
    assert [(item.id, item.target) for item in items(served, job)] == [
        (str(photos / "a.JPG"), 7),
        (str(photos / "b.png"), 281),
        ("known", 7),
        (f"upload://{64 * 'b'}", 7),
    ]


def test_what_submit_is_told_arrives(run: Run, photos: Path) -> None:
    result = run(
        *("submit", photos / "b.png", "--json", "--top-k", 3, "--priority", "bulk", "--metadata", "a=b=c"),
        *("--method", "integrated_gradients:steps=7,baseline=black", "--method", "grad_cam"),
    )
    job = json.loads(result.stdout)
    params = job["methods"][0]["params"]
    assert (params["steps"], params["baseline"]) == (7, "black")
    assert [method["name"] for method in job["methods"]] == ["integrated_gradients", "grad_cam"]
    assert (job["counts"]["total"], job["priority"], job["metadata"]) == (6, "bulk", {"a": "b=c"})


def test_results_of_earlier_jobs_are_taken_unless_submit_is_told_not_to(run: Run, served: Served, photos: Path) -> None:
    by_default, told, told_not = (submitted(run, photos, *more) for more in ((), ("--cache",), ("--no-cache",)))
    wanted = [
        records.load_request(served.storage, JobId("default", job["id"])).request.cache
        for job in (by_default, told, told_not)
    ]
    assert wanted == [True, True, False]


def test_the_layout_is_the_one_that_submit_is_told(run: Run, served: Served, photos: Path) -> None:
    made = [submitted(run, photos, *more)["id"] for more in ((), ("--layout", "webdataset"))]
    layouts = [records.load_plan(served.storage, JobId("default", job)) for job in made]
    assert [plan and plan.layout for plan in layouts] == ["objects", "webdataset"]


def test_the_end_of_a_job_says_how_many_results_came_from_earlier_ones(run: Run, served: Served, photos: Path) -> None:
    job = submitted(run, photos)
    taken = row(0).model_copy(update={"provenance": {"cached_from": "0" * 32}})
    commit(served.storage, JobId("default", job["id"]), 0, taken, row(1), row(2))
    served.state.client.flushall()
    assert ": 3 of 3 results, 1 from earlier jobs" in run("status", job["id"]).stdout


def test_submit_says_what_to_do_next_and_keeps_stdout_for_the_job(run: Run, photos: Path) -> None:
    result = run("submit", photos, "--method", "saliency")
    assert result.exit_code == 0
    job = result.stdout.split()[0]
    assert f"heatmill status {job}" in result.stderr
    assert "uploaded: 3 of 3" in result.stderr


def test_submit_says_what_it_left_out_and_keeps_json_pure(run: Run, photos: Path) -> None:
    (photos / ".hidden.png").touch()
    result = run("submit", photos, "--method", "saliency", "--json")
    assert result.stderr == "left out: 1 .txt, 1 hidden\n"
    assert json.loads(result.stdout)["counts"]["total"] == 3


def test_each_file_of_two_folders_is_submitted_with_its_own_picture(run: Run, served: Served, tmp_path: Path) -> None:
    names = ["A/x.png", "B/x.png", "C/A/x.png", "A/y.png", "A/new\nline.png"]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name)
    result = run("submit", *(tmp_path / folder for folder in "ABC"), "--method", "saliency", "--json")
    found = items(served, json.loads(result.stdout))
    assert {item.id: item.image for item in found if item.error is None} == {
        str(tmp_path / name): f"upload://{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}"
        for name in names[:4]
    }
    assert [item.id for item in found if item.error] == [str(tmp_path / "A") + r"/new\nline.png"]


def test_a_file_like_an_option_is_submitted_after_two_dashes(
    run: Run, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-n.png", "--wait.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    result = run("submit", "--method", "saliency", "--json", "--", "-n.png", "--wait.png")
    job = json.loads(result.stdout)
    assert [item.id for item in items(served, job)] == ["-n.png", "--wait.png"]


def test_what_a_service_says_does_not_command_the_terminal(run: Run, served: Served, photos: Path) -> None:
    job = submitted(run, photos)
    served.explain(job["id"], row(0, item="\x1b[31mred"), row(1), row(2))
    text = run("results", job["id"]).stdout
    assert r"\x1b[31mred" in text
    assert "\x1b" not in text


def test_submit_names_what_it_could_not_upload_and_keeps_json_pure(run: Run, photos: Path) -> None:
    with (photos / "huge.png").open("wb") as file:
        file.truncate(51 * 2**20)
    (photos / "empty.png").touch()
    result = run("submit", photos, "--method", "saliency", "--json")
    assert (result.exit_code, json.loads(result.stdout)["counts"]["total"]) == (0, 5)
    left_out, told = result.stderr.splitlines()
    assert left_out == "left out: 1 .txt"
    assert told.startswith(f"not uploaded: {photos / 'huge.png'}: ")
    assert told.endswith("53,477,376 bytes; the limit is 52,428,800")


def test_results_are_one_document_with_the_job_and_its_rows(run: Run, served: Served, photos: Path) -> None:
    job = submitted(run, photos)
    served.explain(job["id"], row(0), row(1), row(2, status="failed", target=None, error=BROKEN))
    result = run("results", job["id"], "--json")
    document = json.loads(result.stdout)
    assert (document["job"]["state"], [one["index"] for one in document["results"]]) == ("partly_failed", [0, 1, 2])
    assert (result.exit_code, result.stderr) == (1, "")


def test_results_without_any_row_are_a_document_too(run: Run, photos: Path) -> None:
    assert json.loads(run("results", submitted(run, photos)["id"], "--json").stdout)["results"] == []


def test_results_are_a_table_for_people(run: Run, served: Served, photos: Path) -> None:
    job = submitted(run, photos)
    checks = {"completeness_error": 0.01}
    failed = row(2, item="[red]x", status="failed", target=None, error=BROKEN)
    served.explain(job["id"], row(0, verdict="blank"), row(1, checks=checks, verdict="ok"), failed)
    text = run("results", job["id"]).stdout
    for expected in (
        "photo-0",
        "blank",
        "cat 50.0%",
        "ok, completeness error 1.0%",
        "[red]x",
        "failed: the file is damaged",
    ):
        assert expected in text


@pytest.mark.parametrize(("failures", "code"), [((), 0), ((1,), 1), ((0, 1, 2), 1)])
def test_the_exit_code_tells_whether_all_succeeded(
    run: Run, served: Served, photos: Path, failures: tuple[int, ...], code: int
) -> None:
    job = submitted(run, photos)
    assert run("status", job["id"]).exit_code == 0
    served.explain(
        job["id"], *(row(n, **({"status": "failed", "error": BROKEN} if n in failures else {})) for n in range(3))
    )
    assert run("status", job["id"], "--json").exit_code == code
    assert run("results", job["id"]).exit_code == code


def test_submit_with_wait_gives_job_and_results(served: Served, photos: Path) -> None:
    environment = {"HEATMILL_URL": served.url}
    arguments = ("submit", photos / "b.png", "--method", "saliency", "--wait", "--json")
    with subprocess.Popen(
        [PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as program:
        served.explain(only_job(served), row(0))
        stdout, stderr = program.communicate(timeout=60)
    document = json.loads(stdout)
    assert (program.returncode, stderr) == (0, b"")
    assert (document["job"]["state"], document["results"][0]["item"]) == ("succeeded", "photo-0")


def test_a_cancelled_job_ends_with_one(run: Run, served: Served, photos: Path) -> None:
    job = submitted(run, photos)
    assert json.loads(run("cancel", job["id"], "--json").stdout)["id"] == job["id"]
    served.finish(job["id"])
    assert run("status", job["id"]).exit_code == 1
    assert run("cancel", job["id"]).exit_code == 0


def test_a_finished_job_is_not_cancelled(run: Run, served: Served, photos: Path) -> None:
    job = submitted(run, photos / "b.png")
    served.explain(job["id"], row(0))
    late = run("cancel", job["id"])
    assert (late.exit_code, late.stdout) == (2, "")
    assert "Job finished" in late.stderr


def test_what_failed_is_retried_and_what_is_done_is_deleted(run: Run, served: Served, photos: Path) -> None:
    job = submitted(run, photos / "b.png")
    served.explain(job["id"], row(0, status="failed", target=None, error=as_problem(ImageNotFound("gone"))))

    again = json.loads(run("retry", job["id"], "--json").stdout)
    assert (again["methods"], again["id"] != job["id"]) == (job["methods"], True)

    late = run("delete", again["id"])
    assert (late.exit_code, "cancel it first" in late.stderr) == (2, True)
    deleted = run("delete", job["id"])
    assert (deleted.exit_code, deleted.stdout, deleted.stderr) == (0, "", f"deleted {job['id']}\n")
    assert run("status", job["id"]).exit_code == 2
    assert run("delete", job["id"]).exit_code == 0


def test_fetch_writes_heatmaps_overlays_and_a_gallery(run: Run, served: Served, photos: Path, tmp_path: Path) -> None:
    job = submitted(run, photos / "b.png")
    name = JobId("default", job["id"])
    shown = {
        "heatmap": picture(served.storage, name, 0, "0000.saliency.1"),
        "preview": preview(served.storage, name, (0, 255, 0)),
    }
    served.explain(job["id"], row(0, **shown))
    result = run("fetch", job["id"], tmp_path / "out", "--overlay")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "photo-0.photo.jpg",
        "photo-0.saliency.0-cat.overlay.jpg",
        "photo-0.saliency.0-cat.png",
        "index.html",
        "results.jsonl",
    }


def test_fetch_says_of_which_images_there_is_no_overlay(run: Run, served: Served, photos: Path, tmp_path: Path) -> None:
    job = submitted(run, photos / "b.png")
    heatmap = picture(served.storage, JobId("default", job["id"]), 0, "0000.saliency.1")
    served.explain(job["id"], row(0, heatmap=heatmap))

    result = run("fetch", job["id"], tmp_path / "out", "--overlay")

    assert "no photo and no overlay of photo-0: the job was asked for no previews" in result.stderr
    assert not list((tmp_path / "out").glob("*.photo.*"))


def test_fetch_of_a_running_job_says_that_there_is_more_to_come(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run("fetch", submitted(run, photos)["id"], tmp_path / "out")
    assert (result.exit_code, result.stdout) == (0, f"0 results in {tmp_path / 'out'}/\n")
    assert "still runs" in result.stderr


def test_lists_are_lists_of_objects(run: Run, photos: Path) -> None:
    job = submitted(run, photos, "--metadata", "team=red")
    assert {"grad_cam", "saliency"} <= {one["name"] for one in json.loads(run("methods", "--json").stdout)}
    assert MODEL in {one["name"] for one in json.loads(run("models", "--json").stdout)}
    assert json.loads(run("jobs", "--json", "--metadata", "team=red").stdout)[0]["id"] == job["id"]
    assert job["id"] in run("jobs").stdout
    assert "steps=50" in run("methods").stdout
    assert "224 x 224" in run("models").stdout


def test_help_lists_every_command() -> None:
    text = CliRunner().invoke(main, ["--help"]).stdout
    for command in (
        "up",
        "demo",
        "submit",
        "status",
        "results",
        "cancel",
        "retry",
        "delete",
        "fetch",
        "methods",
        "models",
        "jobs",
    ):
        assert f"\n  {command} " in text


def only_job(served: Served) -> str:
    """The id of the job that some process is about to submit."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := served.state.open_jobs():
            return found[0].job
        time.sleep(0.05)
    raise AssertionError("nothing was submitted")
