"""Which line of a manifest has which id."""

import sqlite3
from types import TracebackType
from typing import Self

from heatmill.errors import TransientError

# Of each manifest that is being read, of which there may be `planner.MAX_OPEN`.
CACHE_KIB = 4096


class LineIds:
    """Ids and their lines, on disk: a manifest may have millions, and the memory of a planner is bounded.

    SQLite's unnamed database lies in the folder for temporary files once it is larger than its cache, and goes when it
    is closed. Ids are compared byte by byte, so case and Unicode's forms keep them apart.
    """

    def __init__(self) -> None:
        # A generator that is given up may be closed by another thread.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE lines (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def claim(self, name: str, line: int) -> int:
        """The first line that has claimed this id: the given one, unless an earlier line has.

        Raises:
            TransientError: The disk is full, or fails.
        """
        try:
            if self._database.execute("INSERT OR IGNORE INTO lines VALUES (?, ?)", (name, line)).rowcount:
                return line
            found = self._database.execute("SELECT line FROM lines WHERE id = ?", (name,)).fetchone()
        except sqlite3.Error as error:
            raise TransientError(f"the ids of a manifest cannot be kept in the temporary folder: {error}") from error
        return int(found[0])
