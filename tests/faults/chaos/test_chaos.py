"""The chaos run that every test run makes: half a minute of one seed. `make chaos` makes longer ones of any."""

from pathlib import Path

from tests.faults.chaos.running import run
from tests.faults.service import Service

SEED = 1
SECONDS = 25.0


def test_nothing_is_lost_or_doubled_whatever_breaks(service: Service, tmp_path: Path) -> None:
    done = run(service, SEED, SECONDS, tmp_path)

    assert not done.violations, done.report()
    assert len(done.evidence.jobs) > SECONDS / 4, "callers were served"
