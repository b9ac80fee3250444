"""What callers do, which faults strike meanwhile, and what must be true when they are over."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from heatmill.coordination.owned_keys import owner_of
from heatmill.jobs import records
from heatmill.storage import keys
from heatmill.storage.keys import JobId
from tests.simulation.calls import Faults
from tests.simulation.stepped import START
from tests.simulation.world import SETTINGS, WORKERS, World

MODEL = "efficientnet_lite0"
FAULTY_SECONDS = 24.0
# Longer than any patience of the service, several times.
HEAL_SECONDS = 400.0
# Orphaned markers, notes and rings are gone by then.
MUCH_LATER = 100_000.0
CHANCES = {
    "kill": 0.004,
    "freeze": 0.004,
    "store_before": 0.03,
    "store_after": 0.03,
    "redis_before": 0.02,
    "redis_after": 0.02,
    "lost": 0.2,
    "twice": 0.2,
    "delayed": 0.3,
    "reordered": 0.5,
}
# It takes as long as all else.
FAIRNESS_EVERY = 3
# A small job waits for what is in the queue or at work before it, and for as much again that was chosen meanwhile.
MAY_GO_BEFORE = 2 * max(SETTINGS.window_shards, 2 * WORKERS)


@dataclass
class Submitted:
    """A job of a caller.

    Args:
        items: None where the job is a retry of another.
    """

    tenant: str
    key: str
    body: dict[str, Any]
    id: str | None = None
    cancelled: bool = False
    deleted: bool = False


@dataclass
class Scenario:
    """One seed."""

    world: World
    seed: int
    submitted: list[Submitted] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def run(self) -> list[str]:
        """Everything; gives what is wrong."""
        world = self.world
        world.start(self.seed)
        try:
            world.launch()
            callers = [world.steps.spawn(world.network, each) for each in self._callers()]
            self._strike()
            world.steps.run(lambda: False, START + FAULTY_SECONDS)
            self._stop_faults()
            over = world.steps.run(lambda: all(c.done for c in callers) and not self._open(), START + HEAL_SECONDS)
            if not over:
                self.wrong.append(f"not over after {HEAL_SECONDS} s: {sorted(self._open()) or 'a caller'}")
            elif self.seed % FAIRNESS_EVERY == 0:
                self._check_fairness()
            self._much_later()
            self.wrong += [*self._checked(), *world.s3.broken, *world.unforeseen]
        finally:
            world.steps.end()
        return self.wrong

    def _callers(self) -> Iterator[Any]:
        random = self.world.steps.random
        for number in range(random.randint(2, 4)):
            items = random.randint(1, 9)
            listed = [self._item(number, place) for place in range(items)]
            methods = [{"name": "saliency"}, {"name": "grad_cam"}][: random.randint(1, 2)]
            body = {"model": MODEL, "methods": methods, "items": listed}
            job = Submitted(random.choice(["many", "few"]), f"key{number}", body)
            self.submitted.append(job)
            yield self._caller(job)

    def _item(self, job: int, place: int) -> dict[str, str]:
        image = f"upload://{job * 100 + place:064x}"
        if self.world.steps.random.random() < 0.02:
            self.world.killers.add(image)
        return {"id": f"{job}-{place}", "image": image}

    def _caller(self, job: Submitted) -> Any:
        steps = self.world.steps
        begins, what = steps.random.uniform(0, 12), steps.random.choice(["wait", "wait", "cancel", "delete", "retry"])

        def call() -> None:
            steps.sleep(begins)
            self._post(job)
            path = f"/v1/jobs/{job.id}"
            if what == "cancel":
                steps.sleep(steps.random.uniform(0, 15))
                job.cancelled = self._asked("POST", f"{path}:cancel", job).status_code == 202
            if what == "retry":
                self._await(job)
                self._asked("POST", f"{path}:retry", job, **{"Idempotency-Key": f"{job.key}-again"})
            if what == "delete":
                self._await(job)
                steps.sleep(steps.random.uniform(0, 5))
                # A DELETE whose answer was lost finds nothing the second time.
                job.deleted = self._asked("DELETE", path, job).status_code in (204, 404)

        return call

    def _post(self, job: Submitted) -> None:
        answer = self._asked("POST", "/v1/jobs", job, json=job.body, **{"Idempotency-Key": job.key})
        if answer.status_code != 202:
            self.wrong.append(f"POST answered {answer.status_code}: {answer.text}")
        elif job.id not in (None, answer.json["id"]):
            self.wrong.append("one Idempotency-Key made two jobs")
        else:
            job.id = answer.json["id"]

    def _await(self, job: Submitted) -> None:
        while not self._asked("GET", f"/v1/jobs/{job.id}", job).json["done"]:
            self.world.steps.sleep(3.0)

    def _asked(self, method: str, path: str, job: Submitted, **more: Any) -> Any:
        """Ask until there is an answer that is not of the infrastructure."""
        body = {"json": more.pop("json")} if "json" in more else {}
        headers = {"Authorization": f"Bearer {job.tenant}", **more}
        while True:
            if self.world.apis:
                answer = self.world.request(method, path, headers, **body)
                if answer is not None and answer.status_code == 500:
                    self.wrong.append(f"{method} {path}: 500: {answer.text}")
                if answer is not None and answer.status_code < 500:
                    return answer
            self.world.steps.sleep(self.world.steps.random.uniform(0.2, 2.0))

    def _strike(self) -> None:
        """Some kinds of faults of all, so that each is also seen alone."""
        world, random = self.world, self.world.steps.random
        chosen = {name: chance for name, chance in CHANCES.items() if random.random() < 0.35}
        world.calls.faults = Faults.of(chosen)
        world.steps.note(f"faults: {chosen}")
        for to in ("store", "redis"):
            if random.random() < 0.25:
                self._away(to, random.uniform(0, 15), random.uniform(2, 20))
        for _ in range(random.choice([0, 0, 0, 1, 2])):
            world.steps.spawn(world.network, world.wipe, random.uniform(0, FAULTY_SECONDS))
        if random.random() < 0.25:
            world.sick.add(f"worker{random.randrange(WORKERS)}")

    def _away(self, to: str, begin: float, seconds: float) -> None:
        world = self.world

        def leave() -> None:
            world.steps.note(f"{to} is away for {seconds:.1f} s")
            world.calls.faults.away.add(to)
            if to == "redis":
                world.hurt |= {(job, shard) for job, shard, _ in world.at_work.values()}
            world.steps.sleep(seconds)
            world.calls.faults.away.discard(to)

        world.steps.spawn(world.network, leave, begin)

    def _stop_faults(self) -> None:
        self.world.steps.note("the faults are over")
        away = self.world.calls.faults.away
        self.world.calls.faults = Faults(away=away)
        self.world.sick.clear()

    def _open(self) -> set[str]:
        """Jobs that are accepted and not over."""
        stored = self.world.s3.objects
        accepted = {key for key, (body, _) in stored.items() if key.endswith("/job.json") and body != records.TOMBSTONE}
        return {key for key in accepted if key.replace("job.json", "final.json") not in stored}

    def _check_fairness(self) -> None:
        """A tenant's one image among another's many shards."""
        world = self.world
        many = Submitted("many", "fair-many", {**self._body(32), "priority": "normal"})
        late = Submitted("late", "fair-late", {**self._body(1), "priority": "normal"})
        begun: list[int] = []

        def submit() -> None:
            self._post(many)
            world.steps.sleep(world.steps.random.uniform(0, 4))
            self._post(late)
            begun.append(len(world.claimed))

        world.steps.spawn(world.network, submit)
        self.submitted += [many, late]
        limit = world.steps.now + HEAL_SECONDS
        mine = lambda: late.id is not None and any(job.job == late.id for job in world.claimed)  # noqa: E731
        if not world.steps.run(mine, limit):
            self.wrong.append("a small job is not begun beside a large one")
            return
        before = next(place for place, job in enumerate(world.claimed) if job.job == late.id) - begun[0] if begun else 0
        if before > MAY_GO_BEFORE:
            self.wrong.append(f"{before} shards went before a job of one image")
        if not world.steps.run(lambda: not self._open(), limit):
            self.wrong.append("the large job is not over")

    def _body(self, items: int) -> dict[str, Any]:
        listed = [{"id": str(place), "image": f"upload://{place:064x}"} for place in range(items)]
        return {"model": MODEL, "methods": [{"name": "saliency"}], "items": listed}

    def _much_later(self) -> None:
        """What is only kept for a while is gone, and the timer has seen to the rest."""
        self.world.steps.run(lambda: False, self.world.steps.now + 4.0)
        self.world.steps.now += MUCH_LATER
        self.world.steps.run(lambda: False, self.world.steps.now + 7.0)

    def _checked(self) -> Iterator[str]:
        stored = self.world.s3.objects
        yield from (f"{key} is left" for key in stored if key.startswith((keys.OPEN_PREFIX, keys.TRASH_PREFIX)))
        yield from (f"the key {name} of Redis is left" for name in self.world.raw.scan_iter() if self._is_left(name))
        for key in stored:
            if key.endswith("/job.json") and stored[key][0] != records.TOMBSTONE:
                tenant, _, job, _ = key.split("/")
                yield from self._job_checked(JobId(tenant, job))
                yield from self._key_checked(JobId(tenant, job))
        for each in self.submitted:
            if each.id is None:
                yield f"{each.key} was never accepted"
            elif not each.deleted and f"{each.tenant}/jobs/{each.id}/job.json" not in stored:
                yield f"{each.id} is lost"

    def _is_left(self, name: str) -> bool:
        if self.world.raw.ttl(name) >= 0:
            return False
        owned = owner_of(name)
        return owned is None or owned[0].owner in ("open job", "ready jobs", "queue")

    def _key_checked(self, job: JobId) -> Iterator[str]:
        # A retry names no items.
        items = records.load_request(self.world.storage, job).request.items
        if items is not None and job.job not in {each.id for each in self.submitted}:
            yield f"{job} is a second job for one key"

    def _job_checked(self, job: JobId) -> Iterator[str]:
        storage = self.world.storage
        final, accepted = records.load_final(storage, job), records.load_request(storage, job)
        if final is None:
            return
        shards = [name for _, names in records.committed_shards(storage, job) for name in names]
        rows = [row for name in shards for row in records.load_commit(storage, job, *name)[1]]
        seen = Counter((row.item, row.method, row.rank) for row in rows)
        yield from (f"{job}: {count} rows of {name}" for name, count in seen.items() if count != 1)
        counted = Counter(row.status for row in rows)
        if (final.counts.succeeded, final.counts.failed) != (counted["succeeded"], counted["failed"]):
            yield f"{job}: final.json counts {final.counts}, the rows are {dict(counted)}"
        if final.state != "cancelled" and accepted.request.items is not None:
            asked = len(accepted.request.items) * len(accepted.request.methods)
            if asked != len(rows):
                yield f"{job}: {len(rows)} rows, {asked} were asked for"
        for name in shards:
            for row in records.load_commit(storage, job, *name)[1]:
                yield from self._row_checked(job, name.shard, row)

    def _row_checked(self, job: JobId, shard: int, row: Any) -> Iterator[str]:
        """A failure has a cause: an item that kills, or violence against its shard's workers."""
        items = {item.id: item.image for item in records.load_shard(self.world.storage, job, shard)}
        has_cause = self.world.killers & set(items.values()) or (str(job), shard) in self.world.hurt
        if row.status == "failed" and not has_cause:
            yield f"{job}: the healthy item {row.item} failed: {json.dumps(row.error.detail)}"
