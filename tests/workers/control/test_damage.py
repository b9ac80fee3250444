"""Objects of a job that are damaged, exchanged or lost, and those that nobody made: the job ends right, or says why.

Whoever asks meanwhile is answered, and told what is wrong; nobody else's jobs notice.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient

from heatmill.coordination.task_queue import FINISH, MEND, PLAN
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext
from heatmill_workers.control.finish import finish
from heatmill_workers.control.mend import mend
from heatmill_workers.control.repair import repair
from heatmill_workers.control.schedule import feed, plan
from heatmill_workers.shard.context import WorkerContext
from heatmill_workers.shard.process import process_shard
from tests.api.requests import answered
from tests.workers.jobs import pass_time, rung, sent
from tests.workers.photos import noise
from tests.workers.processed import control_of, planned

ITEMS = 3
TENANT = "default"

Damage = Callable[[bytes], bytes | None]
DAMAGES: dict[str, Damage] = {
    "cut in half": lambda content: content[: len(content) // 2],
    "without its last line": lambda content: b"".join(content.splitlines(keepends=True)[:-1]),
    "emptied": lambda _: b"",
    "without fields": lambda _: b"{}",
    "a list": lambda _: b"[null]",
    "zeroed": lambda content: bytes(len(content)),
    "one bit changed": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 0x40]) + content[len(content) // 2 + 1 :]
    ),
    "doubled": lambda content: content + content,
    "deleted": lambda _: None,
}
OBJECTS = ("job.json", "plan.json", "shards/000000.jsonl", "results/000000.0.jsonl", "results/000001.0.jsonl")
AT_THE_END = ("final.json", "results.parquet", "heatmaps/", "attributions/")
STRAYS = {
    "results/notes.txt": b"not a record\n",
    "results/": b"",
    "results/000000.jsonl.bak": b"{}\n",
    "results/000000.jsonl": b"{}\n",
    "results/0000009.jsonl": b"{}\n",
    "results/000007.jsonl": b"{}\n",
    "results/000000.7.jsonl": b"\x00",
    "results/-00001.jsonl": b"{}\n",
    "results/old/000000.0.jsonl": b"{}\n",
    "shards/000000.jsonl.copy": b"{}\n",
    "shards/000009.jsonl": b"{}\n",
    "heatmaps/Thumbs.db": b"\xd0\xcf",
    "folder/": b"",
}
MOMENTS = ("running", "forgotten", "complete", "over")
# Where an object is there at some of them only.
WHEN = {
    "results/000001.0.jsonl": ("complete", "over"),
    "final.json": ("over",),
    "results.parquet": ("over",),
}
QUICK = {
    ("job.json", "cut in half", "forgotten"),
    ("job.json", "deleted", "over"),
    ("plan.json", "emptied", "forgotten"),
    ("plan.json", "without fields", "over"),
    ("shards/000000.jsonl", "zeroed", "forgotten"),
    ("results/000000.0.jsonl", "without its last line", "over"),
    ("results/000000.0.jsonl", "deleted", "over"),
    ("results/000001.0.jsonl", "one bit changed", "complete"),
    ("final.json", "without fields", "over"),
    ("final.json", "deleted", "over"),
}


@dataclass(frozen=True)
class Place:
    """One job, and all that works on it, in this process."""

    worker: WorkerContext
    client: FlaskClient
    job: JobId

    def damage(self, name: str, how: Damage) -> None:
        storage = self.worker.storage
        key = next(entry.key for entry in storage.list(f"{self.job.prefix}{name}"))
        content = how(storage.get(key))
        storage.delete([key]) if content is None else storage.put(key, content)

    def work(self, rounds: int = 1) -> None:
        """What the timer, the control queue and a worker do."""
        control = control_of(self.worker)
        for _ in range(rounds):
            repair(control)
            for named in rung(self.worker.state, PLAN):
                plan(control, named)
            for named in rung(self.worker.state, MEND):
                mend(control, named)
            feed(control)
            for named in rung(self.worker.state, FINISH):
                finish(control, named)
            for _, shard in sent(self.worker.state):
                process_shard(replace(self.worker, process=uuid4().hex), self.job, shard)
            pass_time(self.worker.state, self.job)

    def ask(self, path: str = "", method: str = "GET") -> dict[str, Any]:
        """The answer; none while something is made again."""
        answer = self.client.open(f"/v1/jobs/{self.job.job}{path}", method=method)
        if answer.status_code == 503:
            assert "damaged" in answered(answer, 503)["detail"]
            return {}
        assert answer.status_code < 500, answer.text
        return answer.json or {}

    def end(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The job and its rows, once it has ended and both are answered."""
        for _ in range(12):
            shown, page = self.ask(), self.ask("/results")
            listed = self.client.get("/v1/jobs")
            assert listed.status_code == 200, listed.text
            if shown.get("done") and page.get("complete"):
                return shown, page["results"]
            self.work()
        raise AssertionError(f"the job does not end: {shown} {page}")


@pytest.fixture
def place(worker: WorkerContext) -> Callable[[str], Place]:
    """A job at a moment of its life."""
    storage, state, settings = worker.storage, worker.state, worker.settings
    storage.__dict__["has_conditional_writes"] = True
    client = create_app(ApiContext(storage, state, worker.dispatcher, worker.catalogue, settings)).test_client()

    def make(moment: str) -> Place:
        images = {f"photo {seed}": noise(seed) for seed in range(ITEMS)}
        job = planned(worker, TENANT, images, shard_items=2, methods=[{"name": "saliency"}])
        found = Place(worker, client, job)
        sent(state)
        for shard in range(1 if moment in {"running", "forgotten"} else 2):
            process_shard(worker, job, shard)
        if moment == "forgotten":
            state.client.flushall()
        elif moment == "over":
            finish(control_of(worker), job)
        return found

    return make


def check(place: Place) -> None:
    """As `check_rows`; and the job can be deleted."""
    check_rows(place)
    place.ask(method="DELETE")
    place.work()
    assert place.client.get(f"/v1/jobs/{place.job.job}").status_code == 404


def check_rows(place: Place) -> None:
    """One row for each item, and counts that are those of the rows."""
    shown, rows = place.end()
    assert shown["counts"]["succeeded"] == sum(row["status"] == "succeeded" for row in rows)
    assert shown["counts"]["failed"] == sum(row["status"] == "failed" for row in rows)
    assert [(row["item"], row["status"]) for row in rows] == [(f"photo {seed}", "succeeded") for seed in range(ITEMS)]
    assert shown["state"] == "succeeded"


CASES = [
    pytest.param(name, damage, moment, marks=() if (name, damage, moment) in QUICK else pytest.mark.verify)
    for name in (*OBJECTS, *AT_THE_END)
    for damage in DAMAGES
    for moment in MOMENTS
    if moment in WHEN.get(name, MOMENTS)
]


@pytest.mark.parametrize(("name", "damage", "moment"), CASES)
def test_whatever_happens_to_an_object_the_job_ends_right(
    place: Callable[[str], Place], name: str, damage: str, moment: str
) -> None:
    found = place(moment)
    found.damage(name, DAMAGES[damage])
    check(found)


@pytest.mark.parametrize("moment", ["complete", "over"])
@pytest.mark.parametrize(
    "name", ["plan.json", "results/000000.0.jsonl", "final.json", "job.json", "shards/000000.jsonl"]
)
def test_a_record_of_another_job_is_none_of_this_one(place: Callable[[str], Place], name: str, moment: str) -> None:
    other, found = place("over"), place(moment)
    theirs = other.worker.storage.get(f"{other.job.prefix}{name}")
    if (name, moment) == ("final.json", "complete"):
        found.worker.storage.put(keys.final(found.job), theirs)
    else:
        found.damage(name, lambda _: theirs)
    check(found)
    check(other)


def test_a_record_of_another_part_is_none_of_this_one(place: Callable[[str], Place]) -> None:
    found = place("over")
    theirs = found.worker.storage.get(keys.commit(found.job, 0, 1))
    found.damage("results/000000.0.jsonl", lambda _: theirs)
    check(found)


@pytest.mark.parametrize("moment", MOMENTS)
def test_objects_that_no_job_made_change_nothing(place: Callable[[str], Place], moment: str) -> None:
    found = place(moment)
    for name, content in STRAYS.items():
        found.worker.storage.put(f"{found.job.prefix}{name}", content)
    check(found)


def test_a_damaged_record_is_kept_for_a_person_and_told_once(
    place: Callable[[str], Place], capsys: pytest.CaptureFixture[str]
) -> None:
    found = place("forgotten")
    key = keys.commit(found.job, 0, 0)
    found.damage("results/000000.0.jsonl", DAMAGES["zeroed"])
    capsys.readouterr()
    found.work(3)

    assert capsys.readouterr().out.count("a damaged record is set aside") == 1
    assert not found.worker.storage.get(keys.set_aside(key)).strip(b"\x00")


def test_a_job_whose_records_are_lost_can_be_cancelled(place: Callable[[str], Place]) -> None:
    for name in ("plan.json", "job.json", "results/000000.0.jsonl"):
        found = place("running")
        found.damage(name, DAMAGES["emptied"])
        found.ask(":cancel", "POST")
        shown, rows = found.end()
        assert shown["state"] == "cancelled"
        assert shown["counts"]["succeeded"] == len(rows)


@pytest.mark.parametrize("damage", ["cut in half", "without fields", "deleted"])
def test_a_job_of_which_neither_request_nor_plan_is_left_ends_and_says_so(
    place: Callable[[str], Place], damage: str
) -> None:
    found = place("forgotten")
    found.damage("plan.json", DAMAGES["deleted"])
    found.damage("job.json", DAMAGES[damage])

    shown, rows = found.end()

    assert (shown["state"], shown["counts"]["succeeded"], len(rows)) == ("failed", 2, 2)
    assert "job.json is damaged" in shown["error"]["detail"]
    found.ask(method="DELETE")
    assert found.client.get(f"/v1/jobs/{found.job.job}").status_code == 404


def test_a_job_whose_end_is_damaged_can_be_deleted_at_once(place: Callable[[str], Place]) -> None:
    found = place("over")
    found.damage("final.json", DAMAGES["zeroed"])

    assert found.client.delete(f"/v1/jobs/{found.job.job}").status_code == 204


def test_a_cancelled_job_whose_plan_is_lost_counts_its_rows(place: Callable[[str], Place]) -> None:
    found = place("running")
    found.ask(":cancel", "POST")
    found.damage("plan.json", DAMAGES["zeroed"])

    shown, rows = found.end()

    assert (shown["state"], shown["counts"]["succeeded"], len(rows)) == ("cancelled", 2, 2)


@pytest.mark.parametrize("damage", ["cut in half", "emptied", "zeroed", "one bit changed", "doubled", "deleted"])
def test_a_damaged_heatmap_is_told_and_not_shown(place: Callable[[str], Place], damage: str) -> None:
    found = place("over")
    found.damage("heatmaps/000000/0000", DAMAGES[damage])

    answer = answered(found.client.get(f"/v1/jobs/{found.job.job}/results/photo%200/saliency/heatmap.png"), 404)

    assert re.search("damaged|no longer stored", answer["detail"])


def test_a_newer_record_is_left_to_a_newer_heatmill_and_others_are_listed(place: Callable[[str], Place]) -> None:
    other, found = place("over"), place("forgotten")
    storage, plan_key = found.worker.storage, keys.plan(found.job)
    newer = storage.get(plan_key).replace(b'"format":1', b'"format":2')
    storage.put(plan_key, newer)

    found.work(3)
    page = answered(found.client.get("/v1/jobs"))

    assert storage.get(plan_key) == newer
    assert other.job.job in [job["id"] for job in page["jobs"]]
    assert "newer version" in page["unreadable"][found.job.job]
    assert "newer version" in answered(found.client.get(f"/v1/jobs/{found.job.job}"), 503)["detail"]


def test_what_a_newer_heatmill_of_the_same_format_has_added_stays(place: Callable[[str], Place]) -> None:
    found = place("forgotten")
    storage = found.worker.storage
    added = {}
    for entry in list(storage.list(found.job.prefix)):
        if entry.key.endswith(("job.json", "plan.json", "0000.jsonl")) and "/results/" not in entry.key:
            first, line, rest = storage.get(entry.key).partition(b"\n")
            added[entry.key] = b'{"added":{"by":["a newer one"]},' + first[1:] + line + rest
            storage.put(entry.key, added[entry.key])
    assert len(added) == 3

    check_rows(found)

    assert {key: storage.get(key) for key in added} == added
