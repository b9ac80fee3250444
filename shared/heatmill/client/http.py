"""HTTP with patience: every request of the client goes through here, to the API and to the object store."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from itertools import count
from pathlib import Path
from random import uniform
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from heatmill.errors import InvalidRequest, RequestError, ServiceUnavailable
from heatmill.schemas.byte_range import ByteRange, span

M = TypeVar("M", bound=BaseModel)

TRIED_AGAIN = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
# A proxy from the environment never leads to this machine.
NO_PROXY = {f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}
# Above the longest `?wait=`, which the service may use up before it answers.
READ_SECONDS = 60.0


@dataclass(frozen=True)
class Retries:
    """How a request that failed for no fault of its own is tried again.

    Args:
        first_seconds: Longest first pause; each following one is twice as long.
        longest_seconds: Longest pause that is chosen here; a server's Retry-After may ask for more.
        patience_seconds: No new try starts later than this after the first.
        connect_patience_seconds: The same for a host that has never answered: it is probably not there, whereas one
            that has answered is probably being restarted.
    """

    first_seconds: float = 0.5
    longest_seconds: float = 10.0
    patience_seconds: float = 60.0
    connect_patience_seconds: float = 4.0


class Transport:
    """One HTTP connection pool that retries; thread-safe.

    Args:
        url: What paths are added to.
        headers: Sent with every request.
        retries: When to give up.
    """

    def __init__(self, url: str, headers: Mapping[str, str], retries: Retries) -> None:
        self._retries = retries
        self._has_answered = False
        self._client = httpx.Client(
            base_url=url,
            headers=dict(headers),
            timeout=httpx.Timeout(READ_SECONDS, connect=10.0),
            mounts=NO_PROXY,
        )

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def send(self, method: str, url: str, *, file: Path | None = None, **options: Any) -> httpx.Response:
        """Send a request until it is answered, and give back an answer that is not an error.

        Every request that heatmill's API knows can be repeated: a POST of a job carries its Idempotency-Key.

        Args:
            method: The HTTP method.
            url: A path of the service, or a whole URL.
            file: Streamed as the body.
            **options: As httpx takes them.

        Raises:
            RequestError: The service refused the request; the subclass says why. What JSON cannot hold is not sent.
            ServiceUnavailable: No answer, or none that is of use, within the patience of `Retries`.
        """
        if "json" in options:
            _check_json(options["json"])
        started = time.monotonic()
        for attempt in count():
            answer = self._try(method, url, file, options)
            if isinstance(answer, httpx.Response) and answer.status_code not in TRIED_AGAIN:
                break
            pause = self._pause(attempt, answer)
            if time.monotonic() + pause > started + self._patience:
                break
            time.sleep(pause)
        if isinstance(answer, httpx.TransportError):
            reason = str(answer) or type(answer).__name__
            raise ServiceUnavailable(f"{_origin(answer.request.url)} cannot be reached: {reason}") from answer
        _refuse_errors(answer)
        return answer

    def read(self, url: str, part: ByteRange | None = None) -> bytes:
        """What lies behind a URL, or one part of it.

        Raises:
            RequestError: The URL is refused.
            ServiceUnavailable: No answer, or none that is of use, within the patience of `Retries`.
        """
        if part is None:
            return self.send("GET", url).content
        answer = self.send("GET", url, headers={"Range": part})
        # What stands between here and the store may pass on the whole.
        return answer.content if answer.status_code == HTTPStatus.PARTIAL_CONTENT else answer.content[span(part)]

    @property
    def _patience(self) -> float:
        return self._retries.patience_seconds if self._has_answered else self._retries.connect_patience_seconds

    def _try(
        self, method: str, url: str, file: Path | None, options: dict[str, Any]
    ) -> httpx.Response | httpx.TransportError:
        try:
            if file is None:
                answer = self._client.request(method, url, **options)
            else:
                with file.open("rb") as content:
                    answer = self._client.request(method, url, content=content, **options)
        except httpx.TransportError as error:
            return error
        self._has_answered = True
        return answer

    def _pause(self, attempt: int, answer: httpx.Response | httpx.TransportError) -> float:
        """Seconds until the next try: jittered, so that many clients do not come back at once."""
        longest = min(self._retries.longest_seconds, self._retries.first_seconds * 2.0**attempt)
        asked = retry_after(answer) if isinstance(answer, httpx.Response) else 0.0
        return asked + uniform(longest / 2, longest)  # noqa: S311 - jitter keeps no secret


def _check_json(body: object) -> None:
    """Refuse infinities, NaN, and the bytes of an argument that are no text."""
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise InvalidRequest(f"the request cannot be written as JSON: {error}") from error


def retry_after(response: httpx.Response) -> float:
    """Seconds that the service asks to wait; 0 where it does not say."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def service_url(text: str) -> str:
    """A service's URL as the client uses it.

    Raises:
        InvalidRequest: It is not one of http or https.
    """
    try:
        parsed = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"the service's URL {text!r} is not a URL: {error}") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise InvalidRequest(f"the service's URL {text!r} must begin with http:// or https://")
    return text.rstrip("/")


def read_answer(response: httpx.Response, model: type[M]) -> M:
    """An answer as its model; fields that a newer service has added are passed over.

    Raises:
        ServiceUnavailable: Something else than heatmill has answered.
    """
    try:
        return model.model_validate_json(response.content, extra="ignore")
    except ValidationError as error:
        where = response.url.copy_with(query=None)
        reason = error.errors(include_url=False)[0]["msg"]
        raise ServiceUnavailable(f"{where} did not answer as heatmill does: {reason}") from error


def _origin(url: httpx.URL) -> str:
    return str(url.copy_with(path="/", query=None, fragment=None)).rstrip("/")


def _refuse_errors(response: httpx.Response) -> None:
    if response.is_success:
        return
    problem = _problem(response)
    code = str(problem.get("type", "")).rsplit("/", 1)[-1]
    detail = str(problem.get("detail") or problem.get("title") or response.reason_phrase)
    if not problem or response.is_server_error:
        raise ServiceUnavailable(f"{response.url.copy_with(query=None)} answered {response.status_code}: {detail}")
    kind = _by_code(RequestError).get(code, RequestError)
    raise kind(detail, [entry for entry in problem.get("errors") or [] if isinstance(entry, dict)])


def _problem(response: httpx.Response) -> dict[str, Any]:
    """The problem in an error's body; empty where there is none."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _by_code(kind: type[RequestError]) -> dict[str, type[RequestError]]:
    found = {error.code: error for error in kind.__subclasses__()}
    return found | {code: error for child in kind.__subclasses__() for code, error in _by_code(child).items()}
