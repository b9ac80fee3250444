"""What a job's commit records add up to: a bit for each shard, since a large job has hundreds of thousands."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Shards:
    """A set of shard numbers.

    Args:
        bits: As Redis numbers them: shard 0 is the highest bit of the first byte.
    """

    bits: bytes = b""

    @classmethod
    def of(cls, numbers: Iterable[int]) -> "Shards":
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
class Committed:
    """What a job's commit records add up to."""

    shards: Shards = Shards()
    succeeded: int = 0
    failed: int = 0
    cached: int = 0
