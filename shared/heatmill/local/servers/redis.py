"""Redis, as broker and as memory of open jobs."""

from collections.abc import Mapping
from pathlib import Path

import redis

from heatmill.local.ports import LOOPBACK
from heatmill.local.processes import Program
from heatmill.local.servers.programs import redis_program

CONFIG = """\
bind {host}
port {port}
requirepass {password}
# A crash of the machine costs at most a second of messages, which repair sends again.
appendonly yes
appendfsync everysec
save ""
# A broker must refuse new messages rather than drop old ones.
maxmemory-policy noeviction
dir .
"""


def redis_url(port: int, password: str) -> str:
    """How clients reach it."""
    return f"redis://:{password}@{LOOPBACK}:{port}/0"


def redis_server(folder: Path, port: int, password: str, environment: Mapping[str, str]) -> Program:
    """A server that keeps its data in a folder; the password goes by file, since arguments can be read by anyone.

    Raises:
        ProgramMissing: Redis is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "redis.conf"
    config.touch(mode=0o600)
    config.write_text(CONFIG.format(host=LOOPBACK, port=port, password=password))
    return Program("redis", (redis_program(), config.name), folder, environment)


def redis_answers(url: str) -> bool:
    """Whether it takes commands; while it loads its file it does not."""
    with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
