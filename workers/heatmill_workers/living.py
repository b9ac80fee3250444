"""Say that an explain worker lives: as many shards are sent as the living can take."""

from heatmill.errors import QueueUnavailable
from heatmill.state import RedisJobStore
from heatmill_workers.timer import every

SECONDS = 5.0
# A worker that is killed counts for so long.
LIFE_SECONDS = 20.0


def live(state: RedisJobStore, name: str) -> None:
    """Say so now and every few seconds, in a thread, for as long as this process lives."""

    def say() -> None:
        try:
            state.schedule.note_worker(name, LIFE_SECONDS)
        except QueueUnavailable:
            # The next time, then: nothing is sent either while Redis is away.
            return

    say()
    every("living", SECONDS, say)
