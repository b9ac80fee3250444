"""API keys: who may ask, and as which tenant. Only the keys' hashes are known."""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flask import Blueprint, Flask, current_app, g, request

from heatmill.errors import Unauthorized
from heatmill.keys import reserved_names

DEFAULT_TENANT = "default"
TENANT = re.compile(r"[a-z0-9-]{1,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")
EXTENSION = "heatmill-keys"


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
    try:
        tenants = dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: wanted a JSON object of key sha256 -> tenant; {error}") from error
    for digest, tenant in tenants.items():
        if not SHA256.fullmatch(digest):
            raise ValueError(f"{path}: {digest[:8]}... is not the sha256 of a key, in 64 lowercase hex digits")
        if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
            raise ValueError(f"{path}: the tenant {tenant!r} must be 1 to 63 of a-z, 0-9 and -")
        if tenant in reserved_names():
            raise ValueError(f"{path}: the tenant {tenant!r} has a reserved name: heatmill's own objects lie below it")
    return ApiKeys(tenants)


def install_keys(app: Flask, keys: ApiKeys) -> None:
    """Make the keys known to `require_key`."""
    app.extensions[EXTENSION] = keys


def require_key(blueprint: Blueprint) -> None:
    """Ask for a key before each view of the blueprint."""
    blueprint.before_request(_authenticate)


def _authenticate() -> None:
    keys: ApiKeys = current_app.extensions[EXTENSION]
    g.tenant = keys.tenant(_sent_key())


def _sent_key() -> str | None:
    """The bearer token, or else the header that people know from elsewhere."""
    sent = request.authorization
    if sent is not None and sent.type == "bearer":
        return sent.token
    return request.headers.get("X-API-Key")
