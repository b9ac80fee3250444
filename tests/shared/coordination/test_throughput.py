"""How fast a model is, by type of device: shards are cut for the slowest one that is about."""

import pytest

from heatmill.coordination.job_store import RedisJobStore
from heatmill.coordination.throughput import (
    KEPT_SECONDS,
    OUTDATED,
    lower_throughput,
    record_throughput,
    slowest_seconds_per_pass,
)


def test_the_slowest_type_of_device_counts(state: RedisJobStore) -> None:
    assert slowest_seconds_per_pass(state, "m") is None

    record_throughput(state, "m", "cuda", 0.001)
    assert slowest_seconds_per_pass(state, "m") == pytest.approx(0.001)
    record_throughput(state, "m", "cpu", 0.5)
    record_throughput(state, "m", "cuda", 0.002)
    assert slowest_seconds_per_pass(state, "m") == pytest.approx(0.5)
    assert slowest_seconds_per_pass(state, "another") is None


def test_a_device_on_which_nothing_was_measured_for_long_is_taken_for_one_that_is_gone(state: RedisJobStore) -> None:
    now, _ = state.client.time()
    state.client.hset("heatmill:pace:m", "cpu", f"0.5 {now - KEPT_SECONDS}")
    record_throughput(state, "m", "cuda", 0.001)

    assert slowest_seconds_per_pass(state, "m") == pytest.approx(0.001)
    assert 0 < state.client.ttl("heatmill:pace:m") <= KEPT_SECONDS


def test_what_earlier_versions_measured_whatever_the_device_is_not_read_and_goes(state: RedisJobStore) -> None:
    state.client.hset(OUTDATED, "m", 100.0)
    assert slowest_seconds_per_pass(state, "m") is None

    record_throughput(state, "m", "cpu", 0.5)

    assert not state.client.exists(OUTDATED)


@pytest.mark.parametrize(("seconds", "kept"), [(0.01, 0.01), (0.4, 0.3)])
def test_what_is_lower_than_is_assumed_or_known_of_the_device_is_kept(
    state: RedisJobStore, seconds: float, kept: float
) -> None:
    lower_throughput(state, "m", "cpu", 0.3, assumed=0.5)
    lower_throughput(state, "m", "cuda", 0.9, assumed=0.5)
    lower_throughput(state, "m", "cpu", seconds, assumed=0.0)

    assert slowest_seconds_per_pass(state, "m") == pytest.approx(kept)
