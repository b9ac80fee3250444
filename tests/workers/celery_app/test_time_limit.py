"""A group of images that takes too long ends its process, whatever it hangs in."""

import subprocess
import sys
import time

import pytest

RUN = """
import time
from heatmill_workers.celery_app.time_limit import restart_time_limit, time_limited
with time_limited({limit}):
    for _ in range({groups}):
        restart_time_limit({limit})
        {work}
time.sleep({after})
print("done")
"""
# Holds Python's lock for minutes.
HANGS = "sum(range(10**11))"


def run(limit: float, groups: int, work: str, after: float = 0.0) -> "subprocess.CompletedProcess[str]":
    code = RUN.format(limit=limit, groups=groups, work=work, after=after)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("work", ["time.sleep(600)", HANGS])
def test_a_group_that_hangs_ends_its_process_and_says_where_it_hung(work: str) -> None:
    started = time.monotonic()
    ended = run(0.3, 1, work)

    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert 'File "<string>", line 7' in ended.stderr
    assert time.monotonic() - started < 50


def test_each_group_has_the_time_anew_and_what_comes_after_has_no_limit() -> None:
    ended = run(1.5, 3, "time.sleep(0.6)", after=1.6)

    assert (ended.returncode, ended.stdout) == (0, "done\n")
