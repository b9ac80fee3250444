"""What a job's commit records add up to: a bit for each shard, since a large job has hundreds of thousands."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ShardSet:
    """A set of shard numbers.

    Args:
        bits: As Redis numbers them: shard 0 is the highest bit of the first byte.
    """

    bits: bytes = b""

    @classmethod
    def of(cls, numbers: Iterable[int]) -> "ShardSet":
        """These shards; their numbers are not all held at once."""
        bits = bytearray()
        for number in numbers:
            byte, place = divmod(number, 8)
            bits.extend(bytes(max(0, byte + 1 - len(bits))))
            bits[byte] |= 0x80 >> place
        return cls(bytes(bits))

    def __len__(self) -> int:
        return int.from_bytes(self.bits).bit_count()


@dataclass(frozen=True)
class HalfDone:
    """A shard of which some parts are committed, and not all.

    Args:
        parts: The sum of 2 ** number over the parts.
    """

    parts: int
    succeeded: int
    failed: int
    cached: int

    def __str__(self) -> str:
        """As Redis remembers it; `commit.lua` reads and writes the same."""
        return f"{self.parts} {self.succeeded} {self.failed} {self.cached}"


@dataclass(frozen=True)
class CommittedTotals:
    """What a job's commit records add up to.

    Args:
        shards: Those that are committed as a whole.
        half_done: Further shards, by number; their results are counted too.
    """

    shards: ShardSet = ShardSet()
    succeeded: int = 0
    failed: int = 0
    cached: int = 0
    half_done: Mapping[int, HalfDone] = field(default_factory=dict)
