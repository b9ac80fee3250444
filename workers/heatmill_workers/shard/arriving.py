"""Rows on their way into commit records: kept until a part of the shard is whole."""

from collections import deque
from collections.abc import Iterable

from heatmill.jobs.parts import Part
from heatmill.schemas import Row


class ArrivingRows:
    """The rows of parts that are not committed yet.

    Args:
        parts: In the order in which their items are explained.
        first_index: Of the shard's items.
    """

    def __init__(self, parts: Iterable[Part], first_index: int) -> None:
        self._parts = deque(parts)
        self._first_index = first_index
        self._rows: deque[Row] = deque()

    @property
    def is_done(self) -> bool:
        """Whether no part is left."""
        return not self._parts

    def add(self, rows: Iterable[Row]) -> None:
        """Take the rows of whole items, in their order."""
        self._rows.extend(rows)

    def take_whole(self) -> list[tuple[Part, list[Row]]]:
        """The parts of which all items have arrived, with their rows; nothing of them is kept."""
        taken = []
        while self._parts and self._rows and self._rows[-1].index >= self._stop(self._parts[0]) - 1:
            part = self._parts.popleft()
            rows = []
            while self._rows and self._rows[0].index < self._stop(part):
                rows.append(self._rows.popleft())
            taken.append((part, rows))
        return taken

    def _stop(self, part: Part) -> int:
        return self._first_index + part.positions.stop
