"""TLS in front of a Redis: certificates made on the spot, and a process' thread that forwards what it decrypts."""

import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from heatmill.local.environment import inherited
from heatmill.local.ports import LOOPBACK

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Authority:
    """Signs the certificates of servers.

    Args:
        folder: Where its files lie.
    """

    folder: Path

    @property
    def certificate(self) -> Path:
        """What a client trusts."""
        return self.folder / "ca.pem"

    def server(self, address: str) -> tuple[Path, Path]:
        """A certificate for an IP address, and its key."""
        key, request, signed = (self.folder / f"{address}.{end}" for end in ("key", "csr", "pem"))
        names = self.folder / f"{address}.names"
        names.write_text(f"subjectAltName=IP:{address}\n")
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={address}", "-keyout", key, "-out", request)
        signer = ("-CA", self.certificate, "-CAkey", self.folder / "ca.key", "-CAcreateserial")
        _openssl("x509", "-req", "-in", request, *signer, "-days", "2", "-extfile", names, "-out", signed)
        return signed, key


def new_authority(folder: Path) -> Authority:
    """One that nobody trusts yet."""
    made = Authority(folder)
    out = ("-keyout", folder / "ca.key", "-out", made.certificate)
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Test", *out)
    return made


@contextmanager
def tls_front(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """A port that speaks TLS for a server on another port of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    ended = threading.Event()
    threads: list[threading.Thread] = []
    with socket.create_server((LOOPBACK, 0)) as server:
        server.settimeout(POLL_SECONDS)

        def accept() -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    threads.append(threading.Thread(target=_serve, args=(server.accept()[0], context, port, ended)))
                    threads[-1].start()

        threads.append(threading.Thread(target=accept))
        threads[0].start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            for thread in threads:
                thread.join()


def _serve(plain: socket.socket, context: ssl.SSLContext, port: int, ended: threading.Event) -> None:
    with (
        plain,
        suppress(OSError),
        context.wrap_socket(plain, server_side=True) as client,
        socket.create_connection((LOOPBACK, port)) as server,
    ):
        while not ended.is_set():
            ready = [client] if client.pending() else select.select([client, server], [], [], POLL_SECONDS)[0]
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                (server if source is client else client).sendall(data)


def _openssl(*arguments: str | Path) -> None:
    program = shutil.which("openssl")
    if program is None and "CI" not in inherited():
        pytest.skip("there is no openssl here")
    subprocess.run([program or "openssl", *map(str, arguments)], check=True, capture_output=True)
