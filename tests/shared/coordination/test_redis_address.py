"""One reading of the Redis URL for both libraries; what cannot work is refused in a sentence."""

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Timer
from urllib.parse import urlsplit

import pytest
import redis
from kombu.exceptions import OperationalError

from heatmill.coordination.job_store import open_state
from heatmill.coordination.redis_address import CHECK_SECONDS, check_server, open_client, read_address
from heatmill.coordination.task_queue import Dispatcher, celery_app
from heatmill.errors import QueueUnavailable, RedisUnsuitable
from heatmill.local.environment import inherited
from heatmill.local.ports import free_ports
from heatmill.local.processes import running
from heatmill.local.servers.redis import redis_answers, redis_server
from heatmill.local.servers.redis import redis_url as url_of
from heatmill.settings import Settings
from tests.services.fixtures import service
from tests.shared.coordination.tls_front import Authority, new_authority, tls_front


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return new_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def encrypted(authority: Authority, redis_url: str) -> Iterator[str]:
    """The session's Redis behind TLS, under a certificate that no client trusts by itself."""
    with tls_front(urlsplit(redis_url).port or 0, *authority.server("127.0.0.1")) as port:
        yield f"rediss://:secret@127.0.0.1:{port}/0"


def ping(url: str) -> None:
    """By redis-py's half."""
    with closing(open_state(url).client) as client:
        client.ping()


def send(url: str) -> None:
    """By Celery's half."""
    with celery_app(Settings(redis_url=url), "test") as app, app.connection_for_write() as connection:
        connection.connect()


def consume(url: str) -> None:
    """By Celery's half as the workers have it, with their transport."""
    with celery_app(Settings(redis_url=url), "test") as app:
        app.conf.broker_transport = "heatmill_workers.celery_app.transport:Transport"
        with app.connection_for_read() as connection:
            connection.connect()


HALVES = [ping, send, consume]


@pytest.mark.parametrize("half", HALVES)
def test_a_certificate_that_nobody_trusts_is_refused(half: type, encrypted: str) -> None:
    with pytest.raises((redis.ConnectionError, OperationalError), match="certificate verify failed"):
        half(encrypted)


@pytest.mark.parametrize("half", HALVES)
def test_a_certificate_of_a_trusted_authority_is_taken(half: type, encrypted: str, authority: Authority) -> None:
    half(f"{encrypted}?ssl_ca_certs={authority.certificate}")


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("word", ["none", "CERT_NONE"])
def test_verification_can_be_turned_off_in_so_many_words(half: type, encrypted: str, word: str) -> None:
    half(f"{encrypted}?ssl_cert_reqs={word}")


@pytest.mark.parametrize("half", HALVES)
def test_a_certificate_of_another_host_is_refused(half: type, authority: Authority, redis_url: str) -> None:
    with tls_front(urlsplit(redis_url).port or 0, *authority.server("127.0.0.2")) as port:
        url = f"rediss://:secret@127.0.0.1:{port}/0?ssl_ca_certs={authority.certificate}"
        with pytest.raises((redis.ConnectionError, OperationalError), match="certificate verify failed"):
            half(url)
        half(f"{url}&ssl_check_hostname=false")


def test_a_message_over_tls_arrives(encrypted: str, authority: Authority) -> None:
    url = f"{encrypted}?ssl_ca_certs={authority.certificate}"
    with closing(open_state(url).client) as client, celery_app(Settings(redis_url=url), "test") as app:
        before = client.llen("control:3")
        Dispatcher(app).feed()
        assert client.llen("control") + client.llen("control:3") > before
        app.pool.force_close_all()


def test_a_server_that_is_not_trusted_is_a_queue_that_does_not_answer(encrypted: str) -> None:
    with closing(open_state(encrypted).client), pytest.raises(QueueUnavailable, match="certificate"):
        open_state(encrypted).ping()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sentinel://10.0.0.1:26379", "Sentinel is not supported"),
        ("redis+sentinel://10.0.0.1:26379/mymaster/0", "Sentinel is not supported"),
        ("sentinel://10.0.0.1:26379;sentinel://10.0.0.2:26379", "Sentinel is not supported"),
        ("redis+cluster://10.0.0.1:6379", "Cluster is not supported"),
        ("rediss+cluster://10.0.0.1:6379", "Cluster is not supported"),
        ("rediscluster://10.0.0.1:6379", "Cluster is not supported"),
        ("redis://one:6379;redis://two:6379", "one server"),
        ("redis://one:6379,two:6379/0", "one server"),
        ("redis://", "one server"),
        ("unix:///run/redis.sock", "redis:// or rediss://"),
        ("amqp://guest@localhost", "redis:// or rediss://"),
        ("127.0.0.1:6379", "redis:// or rediss://"),
        ("redis://localhost:99999/0", "port"),
        ("redis://localhost:port/0", "port"),
        ("redis://localhost/jobs", "database"),
        ("redis://localhost/0?ssl_cert_reqs=none", "rediss://"),
        ("redis://localhost?db=3", "only rediss://"),
        ("rediss://localhost/0?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("rediss://localhost/0?ssl_check_hostname=maybe", "ssl_check_hostname"),
        ("rediss://localhost/0?ssl_ca_cert=/ca.pem", "'ssl_ca_cert'"),
        ("rediss://localhost/0?socket_timeout=3", "'socket_timeout'"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(url: str, words: str) -> None:
    for read in (read_address, open_state, lambda text: celery_app(Settings(redis_url=text), "test")):
        with pytest.raises(RedisUnsuitable, match=words):
            read(url)


@pytest.mark.parametrize("url", ["amqp://:s3cret@localhost", "redis://:s3cret@/0", "redis://:s3cret@h:bad/0"])
def test_a_refusal_does_not_show_the_password(url: str) -> None:
    with pytest.raises(RedisUnsuitable) as refusal:
        read_address(url)
    assert "s3cret" not in str(refusal.value)


def test_a_plain_url_is_left_as_it_is() -> None:
    url = "redis://user:p%40ss@[::1]:6380/2"
    assert (read_address(url).url, read_address(url).tls) == (url, None)


def answers(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    """Let INFO be what a node of another kind would say."""
    monkeypatch.setattr(redis.Redis, "info", lambda *_, **__: fields)


@pytest.mark.parametrize("value", [1, "1"])
def test_a_node_of_a_cluster_is_refused(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, redis_mode="cluster", cluster_enabled=value)
    with pytest.raises(RedisUnsuitable, match="Cluster"):
        check_server("redis://127.0.0.1/0")


def test_a_sentinel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, redis_mode="sentinel")
    with pytest.raises(RedisUnsuitable, match="Sentinel"):
        check_server("redis://127.0.0.1/0")


def test_one_redis_is_taken_and_one_that_is_away_is_left_to_later(redis_url: str) -> None:
    for url in (redis_url, "redis://127.0.0.1:9/0"):
        check_server(url)


def test_a_real_cluster_is_refused(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with service("redis"):
        plain = redis_server(tmp_path, port, "secret", inherited())
    config = tmp_path / "redis.conf"
    config.write_text(config.read_text().replace("save", "cluster-enabled yes\nsave", 1))
    url = url_of(port, "secret")
    with (
        running(plain, tmp_path / "log", lambda: redis_answers(url), 30),
        pytest.raises(RedisUnsuitable, match="node of a Redis Cluster"),
    ):
        check_server(url)


def test_a_server_that_hangs_keeps_a_process_from_starting_for_seconds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CHECK_SECONDS <= 1
    monkeypatch.setattr("heatmill.coordination.redis_address.CHECK_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        check_server(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        assert time.monotonic() - started < 2


def test_a_thread_waits_for_a_connection_where_all_are_taken(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heatmill.coordination.redis_address.MAX_CONNECTIONS", 1)
    with closing(open_client(redis_url)) as client:
        taken = client.connection_pool.get_connection()
        back = Timer(0.2, client.connection_pool.release, [taken])
        back.start()
        assert client.ping()
        back.join()
