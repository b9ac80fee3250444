"""The parts of a shard: the unit of commit and of progress."""

from dataclasses import dataclass

MAX_PARTS = 8


@dataclass(frozen=True)
class Part:
    """A run of a shard's items that has a commit record of its own.

    Args:
        number: From 0, in the order of the items.
        of: How many parts the shard has.
        positions: Of the part's items in the shard, from 0.
    """

    number: int
    of: int
    positions: range


def parts_of(items: int) -> tuple[Part, ...]:
    """The parts of a shard of so many items; whoever works on the shard finds the same ones."""
    size = max(1, -(-items // MAX_PARTS))
    starts = range(0, items, size)
    return tuple(
        Part(number, len(starts), range(start, min(start + size, items))) for number, start in enumerate(starts)
    )
