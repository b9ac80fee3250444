"""Where Redis is and how its certificate is checked, read once, for redis-py and for Celery.

Both libraries read URLs, and differ: for `rediss://` kombu checks no certificate by default, and each of them
ignores other options without a word. Here one reading serves both.
"""

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import SplitResult, parse_qsl, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from heatmill.errors import RedisUnsuitable

ONE_REDIS = "heatmill needs one Redis, whose scripts touch keys of several jobs"
# `celery` and `redis-py` spell these in several ways; so do the names of both in older documents.
CERTIFICATES = {
    "required": "required",
    "cert_required": "required",
    "optional": "optional",
    "cert_optional": "optional",
    "none": "none",
    "cert_none": "none",
}
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
SWITCHES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
# Of each of up to four waits, by which a process that starts is kept by a server that hangs.
CHECK_SECONDS = 1.0
# Of one process; the API has 32 threads, each of which may read several jobs at a time.
MAX_CONNECTIONS = 64
DATABASE = re.compile(r"/?[0-9]*")


@dataclass(frozen=True)
class RedisAddress:
    """One Redis.

    Args:
        url: Without options.
        tls: Options of redis-py's `SSLConnection`; None where the connection is not encrypted.
    """

    url: str
    tls: Mapping[str, str | bool] | None


def read_address(url: str) -> RedisAddress:
    """Read `redis://` or `rediss://`, where the certificate is verified unless the URL says otherwise.

    Raises:
        RedisUnsuitable: The URL names no single Redis, or has an option that one of the two libraries would ignore.
    """
    split = urlsplit(url)
    scheme = split.scheme.lower()
    _check_scheme(scheme)
    _check_server(url, split)
    options = dict(parse_qsl(split.query, keep_blank_values=True))
    bare = split._replace(scheme=scheme, query="", fragment="").geturl()
    if scheme == "redis" and not options:
        return RedisAddress(bare, None)
    if scheme == "redis":
        raise RedisUnsuitable("HEATMILL_REDIS_URL: only rediss:// takes options, which are those of TLS")
    return RedisAddress(bare, MappingProxyType(_tls(options)))


def open_client(url: str, timeout_seconds: float = 10.0) -> redis.Redis:
    """A client of redis-py; nothing is sent yet.

    Raises:
        RedisUnsuitable: The URL names no Redis that heatmill can work with.
    """
    address = read_address(url)
    pool = redis.BlockingConnectionPool.from_url(
        address.url,
        # Where all are taken, as by many lists of jobs at once, a thread waits for one: Redis is not at fault.
        max_connections=MAX_CONNECTIONS,
        timeout=timeout_seconds,
        decode_responses=True,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=min(timeout_seconds, 5.0),
        socket_keepalive=True,
        health_check_interval=25,
        # One retry after a dropped connection, and none of a server that hangs: every script gives the same answer when
        # it runs twice, but for the attempts and the turns, where one too many does no harm.
        retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
        **(address.tls or {}),
    )
    return redis.Redis.from_pool(pool)


def check_server(url: str) -> None:
    """Refuse a server that is no single Redis; one that does not answer soon, or may not tell, is left to later.

    Raises:
        RedisUnsuitable: It is a node of a Redis Cluster, or a Sentinel; or the URL cannot be read.
    """
    with closing(open_client(url, CHECK_SECONDS)) as client:
        try:
            told = client.info()
        except redis.RedisError:
            return
    if str(told.get("cluster_enabled", 0)) == "1":
        raise RedisUnsuitable(f"the Redis of HEATMILL_REDIS_URL is a node of a Redis Cluster; {ONE_REDIS}")
    if told.get("redis_mode") == "sentinel":
        raise RedisUnsuitable("HEATMILL_REDIS_URL names a Sentinel; name the Redis that holds the data")


def _check_scheme(scheme: str) -> None:
    if scheme in ("redis", "rediss"):
        return
    for word in ("sentinel", "cluster"):
        if word in scheme:
            raise RedisUnsuitable(
                f"HEATMILL_REDIS_URL begins with {scheme}://, and Redis {word.capitalize()} is not supported; "
                f"{ONE_REDIS}: redis:// or rediss://"
            )
    # The rest may hold a password.
    raise RedisUnsuitable("HEATMILL_REDIS_URL must begin with redis:// or rediss://")


def _check_server(url: str, split: SplitResult) -> None:
    if not split.hostname or ";" in url or "," in split.netloc.rpartition("@")[2]:
        raise RedisUnsuitable(f"HEATMILL_REDIS_URL must name one server; {ONE_REDIS}")
    if not _has_port(split):
        raise RedisUnsuitable("HEATMILL_REDIS_URL: the port is no number from 0 to 65535")
    if not DATABASE.fullmatch(split.path):
        raise RedisUnsuitable(f"HEATMILL_REDIS_URL: the database is a number, as in /0, and not {split.path[:20]!r}")


def _has_port(split: SplitResult) -> bool:
    """Whether the port can be read, or is the default one."""
    try:
        return split.port is None or split.port >= 0
    except ValueError:
        return False


def _tls(options: Mapping[str, str]) -> dict[str, str | bool]:
    unknown = sorted(options.keys() - {*FILES, "ssl_cert_reqs", "ssl_check_hostname"})
    if unknown:
        known = ", ".join(("ssl_cert_reqs", "ssl_check_hostname", *FILES))
        raise RedisUnsuitable(f"HEATMILL_REDIS_URL has the unknown option {unknown[0][:30]!r}; there are {known}")
    certificates = CERTIFICATES.get(options.get("ssl_cert_reqs", "required").lower())
    if certificates is None:
        raise RedisUnsuitable("HEATMILL_REDIS_URL: ssl_cert_reqs is `required` or `optional` or `none`")
    hostname = SWITCHES.get(options.get("ssl_check_hostname", "true").lower())
    if hostname is None:
        raise RedisUnsuitable("HEATMILL_REDIS_URL: ssl_check_hostname is `true` or `false`")
    files = {name: options[name] for name in FILES if options.get(name)}
    return {"ssl_cert_reqs": certificates, "ssl_check_hostname": hostname, **files}
