"""Write the committed copy of the OpenAPI document: `python -m heatmill_api [FILE]`."""

import sys
from pathlib import Path

from flask import Flask

COPY = Path("docs/openapi.json")


def write_copy(app: Flask, path: Path) -> None:
    """Write the committed copy."""
    with app.test_client() as client:
        path.write_bytes(client.get("/openapi.json").data)


def main() -> None:
    """Write the copy to where the first argument says, or to `docs/openapi.json`."""
    from heatmill_api.wsgi import app

    write_copy(app, Path(sys.argv[1]) if len(sys.argv) > 1 else COPY)


if __name__ == "__main__":
    main()
