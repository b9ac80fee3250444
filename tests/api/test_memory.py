"""The memory that a request takes is bounded by its size, whatever it holds."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("size", [200_000, 6_000_000])
def test_no_body_takes_more_than_64_mb_and_four_times_its_size(size: int) -> None:
    command = [sys.executable, "-m", "tests.api.memory", str(size)]

    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)

    over = {kind: entry for kind, entry in found.items() if entry[1] > 64 * 2**20 + 4 * entry[0]}
    assert over == {}
    refused = {
        kind for kind, (_, _, code) in found.items() if code in {"invalid_request", "malformed_request", "too_large"}
    }
    assert set(found) - refused <= {"items: good ones"}
