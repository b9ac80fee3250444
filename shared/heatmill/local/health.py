"""What the service says of itself, for the person in front of `heatmill up`."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

SECONDS = 10.0


@contextmanager
def faults_told(url: str, say: Callable[[str], None], seconds: float = SECONDS) -> Iterator[None]:
    """Say when something that the API stands on fails, and when it does not any more."""
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(url, say, seconds, ended), name="health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _watch(url: str, say: Callable[[str], None], seconds: float, ended: threading.Event) -> None:
    told = ""
    while not ended.wait(seconds):
        try:
            found = _faults(httpx.get(f"{url}/readyz", timeout=seconds).json())
        except (httpx.HTTPError, ValueError):
            # The supervisor tells of parts that end.
            continue
        if found != told:
            say(found or "the object store and Redis answer again")
            told = found


def _faults(answer: Mapping[str, Any]) -> str:
    names = {"redis": "Redis", "storage": "the object store"}
    parts = {words: answer.get(name, {}) for name, words in names.items()}
    return "; ".join(
        f"{words}: {part.get('message')}" for words, part in parts.items() if part.get("status", "ok") != "ok"
    )
