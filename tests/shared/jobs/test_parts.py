"""The parts of a shard follow from its number of items alone."""

import pytest

from heatmill.jobs.parts import MAX_PARTS, parts_of


@pytest.mark.parametrize("items", [*range(70), 511, 512, 9999])
def test_the_parts_of_a_shard_hold_each_item_once_and_are_an_eighth_of_it_or_shorter(items: int) -> None:
    parts = parts_of(items)

    assert [position for part in parts for position in part.positions] == list(range(items))
    assert [part.number for part in parts] == list(range(len(parts)))
    assert {part.of for part in parts} <= {len(parts)}
    assert len(parts) <= MAX_PARTS
    assert {len(part.positions) for part in parts[:-1]} <= {-(-items // MAX_PARTS)}
    assert all(part.positions for part in parts)


def test_a_shard_of_few_items_has_a_part_for_each() -> None:
    assert [list(part.positions) for part in parts_of(3)] == [[0], [1], [2]]
