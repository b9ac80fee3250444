"""Rows come in runs of whole items, and leave in whole parts."""

from hypothesis import given
from hypothesis import strategies as st

from heatmill.jobs.parts import parts_of
from heatmill.schemas import Row
from heatmill_workers.shard.arriving import ArrivingRows

FIRST_INDEX = 100


def rows_of(position: int) -> list[Row]:
    """An item has one row or two."""
    names = ["saliency", "lime"][: 1 + position % 2]
    index = FIRST_INDEX + position
    return [Row(item=str(index), index=index, method=name, rank=0, status="failed") for name in names]


@given(items=st.integers(1, 70), done=st.sets(st.integers(0, 7)), runs=st.lists(st.integers(1, 20)))
def test_every_row_leaves_once_with_its_part_as_soon_as_that_is_whole(
    items: int, done: set[int], runs: list[int]
) -> None:
    parts = [part for part in parts_of(items) if part.number not in done]
    positions = [position for part in parts for position in part.positions]
    arriving, taken, given_in = ArrivingRows(parts, FIRST_INDEX), [], 0
    for run in [*runs, len(positions)]:
        arriving.add([row for position in positions[given_in : given_in + run] for row in rows_of(position)])
        given_in = min(given_in + run, len(positions))
        taken += arriving.take_whole()
        whole = [part for part in parts if part.positions[-1] in positions[:given_in]]
        assert [part for part, _ in taken] == whole

    assert [part for part, _ in taken] == parts
    for part, rows in taken:
        assert rows == [row for position in part.positions for row in rows_of(position)]
