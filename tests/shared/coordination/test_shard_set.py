"""Sets of shards as bits, as Redis has them."""

from hypothesis import given
from hypothesis import strategies as st

from heatmill.coordination.job_store import RedisJobStore, key
from heatmill.coordination.shard_set import CommittedTotals, ShardSet
from tests.shared.known_jobs import JOB, LONG, known, taken

MANY = 100_000


@given(st.sets(st.integers(0, 2000)))
def test_a_set_has_as_many_shards_as_went_into_it_in_any_order(numbers: set[int]) -> None:
    assert len(ShardSet.of(sorted(numbers))) == len(numbers)
    assert ShardSet.of(sorted(numbers, reverse=True)) == ShardSet.of([*numbers, *numbers])


def test_redis_reads_the_bits_as_shards(state: RedisJobStore) -> None:
    known(state, shards=20, committed=CommittedTotals(ShardSet.of((0, 7, 8, 17))))
    assert taken(state) == [number for number in range(20) if number not in {0, 7, 8, 17}]


def test_a_large_job_is_known_again_by_a_bit_for_each_shard(state: RedisJobStore) -> None:
    before = int(state.client.info("stats")["total_net_input_bytes"])
    known(state, shards=MANY, committed=CommittedTotals(ShardSet.of(range(MANY - 1))))
    told = int(state.client.info("stats")["total_net_input_bytes"]) - before
    assert told < MANY / 8 + 4096
    assert int(state.client.hget(key(JOB, "job"), "cursor") or 0) == MANY - 1, "the search begins behind them"
    assert state.take_next_shard(JOB, LONG) == MANY - 1
    whole = sum(state.client.memory_usage(name) or 0 for name in state.client.scan_iter("heatmill:{*"))
    assert whole < MANY / 8 * 2 + 4096
