"""What callers, API and workers of heatmill agree on; the Python client; the command line."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heatmill.client.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> object:
    """Import the client when it is asked for: the API and the workers live without an HTTP client."""
    if name == "Client":
        from heatmill.client.client import Client

        return Client
    raise AttributeError(f"module 'heatmill' has no attribute {name!r}")
