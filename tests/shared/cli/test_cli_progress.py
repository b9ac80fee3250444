"""What a person sees of a job that takes its time."""

from datetime import UTC, datetime

import pytest

from heatmill.cli.progress import job_progress
from heatmill.schemas import Condition, Counts, Job

WAITS = Condition(type="waiting_for_storage", detail="one/a: [507] no room", since=datetime.now(UTC))
JOB = Job(
    id="0" * 32,
    state="running",
    done=False,
    progress=0.0,
    counts=Counts(total=4, succeeded=0, failed=0),
    created_at=datetime.now(UTC),
    model="m",
    methods=(),
    priority="normal",
    condition=WAITS,
)


@pytest.mark.parametrize("colours", [None, "1"], ids=["piped", "terminal"])
def test_a_job_that_stands_still_says_why(
    colours: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    if colours:
        monkeypatch.setenv("FORCE_COLOR", colours)
    with job_progress(quiet=False) as tell:
        assert tell is not None
        tell(JOB)

    assert "waiting_for_storage: one/a: [507] no room" in capsys.readouterr().err
