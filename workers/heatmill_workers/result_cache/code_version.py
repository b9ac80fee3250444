"""What this worker's code is: a result that other code made is never taken for one of ours."""

import hashlib
import json
import platform
from collections.abc import Iterable
from functools import cache
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from heatmill_workers.methods.registry import register

# Decoding lies in the shared package.
OWN_PACKAGES = frozenset({"heatmill", "heatmill_workers"})


@cache
def code_version() -> str:
    """A sha256 over our own source files, those of packages that add methods, and every installed distribution.

    All of them, since models come from several libraries, which rest on others: an upgrade too many costs the cache,
    one too few would serve an old heatmap.
    """
    methods = {method.function.__module__.partition(".")[0] for method in register().values()}
    installed = sorted({f"{each.name} {each.version}" for each in distributions()})
    said = [platform.python_version(), installed, sources(OWN_PACKAGES | methods)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def sources(packages: Iterable[str]) -> list[tuple[str, str]]:
    """Name and sha256 of each source file; what is installed editably changes without a new version."""
    return [
        (f"{package}/{file.relative_to(root)}", hashlib.sha256(file.read_bytes()).hexdigest())
        for package in sorted(packages)
        for root, file in _files(package)
    ]


def _files(package: str) -> list[tuple[Path, Path]]:
    """Source files of a package, or of a module that is one file, each with the folder that it is told from."""
    spec = find_spec(package)
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [(Path(spec.origin).parent, Path(spec.origin))] if spec.origin else []
    roots = [Path(location) for location in spec.submodule_search_locations]
    return [(root, file) for root in roots for file in sorted(root.rglob("*.py"))]
