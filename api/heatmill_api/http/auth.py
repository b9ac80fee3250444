"""API keys: who may ask, and as which tenant. Only the keys' hashes are known."""

import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from flask import Blueprint, Flask, current_app, g, request
from werkzeug.datastructures import Authorization

from heatmill.errors import Unauthorized
from heatmill.schemas.manifest_lines import distinct_names
from heatmill.storage.keys import TENANT_PATTERN, reserved_names

DEFAULT_TENANT = "default"
TENANT = re.compile(TENANT_PATTERN)
SHA256 = re.compile(r"[0-9a-f]{64}")
EXTENSION = "heatmill-keys"
# Between two looks whether the file has changed.
LOOK_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(frozen=True)
class ApiKeys:
    """Which key speaks for which tenant.

    Args:
        tenants: Key sha256 -> tenant; None lets everybody in, as the tenant `default`.
    """

    tenants: Mapping[str, str] | None

    def tenant(self, key: str | None) -> str:
        """The tenant that a key speaks for.

        Raises:
            Unauthorized: The key is missing or unknown.
        """
        if self.tenants is None:
            return DEFAULT_TENANT
        if not key:
            raise Unauthorized("send an API key: `Authorization: Bearer KEY`")
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        # Every entry is compared, each in constant time: the answer's time tells nothing about the keys.
        found = [tenant for known, tenant in self.tenants.items() if hmac.compare_digest(known, digest)]
        if not found:
            raise Unauthorized("the API key is unknown")
        return found[0]


def read_keys(path: Path | None) -> ApiKeys:
    """The keys in an operator's file.

    Raises:
        ValueError: The file is not a JSON object of key sha256 -> tenant.
    """
    if path is None:
        return ApiKeys(None)
    tenants = _read_object(path)
    for digest, tenant in tenants.items():
        if not SHA256.fullmatch(digest):
            raise ValueError(f"{path}: {digest[:8]}... is not the sha256 of a key, in 64 lowercase hex digits")
        if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
            raise ValueError(f"{path}: the tenant {tenant!r} must be 1 to 63 of a-z, 0-9 and -")
        if tenant in reserved_names():
            raise ValueError(f"{path}: the tenant {tenant!r} has a reserved name: heatmill's own objects lie below it")
    return ApiKeys(tenants)


def _read_object(path: Path) -> dict[str, Any]:
    reason = "it is another value"
    try:
        found = json.loads(path.read_text("utf-8"), object_pairs_hook=distinct_names)
    except (OSError, ValueError) as error:
        found, reason = None, str(error)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: wanted a JSON object of key sha256 -> tenant; {reason}")  # noqa: TRY004 - as for others
    return found


class KeysFile:
    """An operator's file of keys, read again when it changes; while it is wrong or away, the last ones hold.

    Args:
        path: None where everybody is the same tenant.

    Raises:
        ValueError: The file is wrong at the start.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen = self._look()
        self._keys = read_keys(path)
        self._looked = time.monotonic()

    def current(self) -> ApiKeys:
        """The keys of at most `LOOK_SECONDS` ago."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            # Looked at before it is read: what is written meanwhile is seen the next time.
            if (seen := self._look()) != self._seen:
                self._seen = seen
                self._read_again()
        return self._keys

    def _read_again(self) -> None:
        try:
            self._keys = read_keys(self._path)
        except ValueError as error:
            log.error("API keys not read again; the former ones hold", error=str(error))  # noqa: TRY400 - no trace
        else:
            log.info("API keys read again", keys=len(self._keys.tenants or ()))

    def _look(self) -> tuple[int, ...]:
        """What changes with the file: Kubernetes replaces a link to it, editors the file."""
        if self._path is None:
            return ()
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns


def install_keys(app: Flask, keys: KeysFile) -> None:
    """Make the keys known to `require_key`."""
    app.extensions[EXTENSION] = keys


def require_key(blueprint: Blueprint) -> None:
    """Ask for a key before each view of the blueprint."""
    blueprint.before_request(_authenticate)


def keys_of(app: Flask) -> ApiKeys:
    """The keys as they are now."""
    keys: KeysFile = app.extensions[EXTENSION]
    return keys.current()


def _authenticate() -> None:
    g.tenant = keys_of(current_app).tenant(_sent_key())


def _sent_key() -> str | None:
    """The bearer token, or else the header that people know from elsewhere."""
    return key_in(request.headers.get("Authorization"), request.headers.get("X-API-Key"))


def key_in(authorization: str | None, other: str | None) -> str | None:
    """The key in a request's headers: the bearer token, or else the header that people know from elsewhere."""
    sent = Authorization.from_header(authorization)
    return sent.token if sent is not None and sent.type == "bearer" else other
