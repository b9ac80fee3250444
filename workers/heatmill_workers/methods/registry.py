"""The methods that there are, by name."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from heatmill.errors import UnknownMethod
from heatmill_workers.methods.contract import Method

METHODS = "heatmill_workers.methods"
# Files beside the methods'.
NO_METHODS = {"contract", "explain", "registry", "self_check"}
ENTRY_POINTS = "heatmill.explainers"


@cache
def register() -> Mapping[str, Method]:
    """Every method by its public name: one per file in `methods/`, and those of installed packages.

    Raises:
        ValueError: Two methods have one name.
    """
    files = sorted({module.name for module in iter_modules(import_module(METHODS).__path__)} - NO_METHODS)
    found: list[Method] = [getattr(import_module(f"{METHODS}.{name}"), name) for name in files]
    found += [point.load() for point in entry_points(group=ENTRY_POINTS)]
    by_name = {method.name: method for method in found}
    if len(by_name) < len(found):
        names = [method.name for method in found]
        raise ValueError(f"two methods are called {next(name for name in names if names.count(name) > 1)!r}")
    return by_name


def explainer(name: str) -> Method:
    """The method of that name.

    Raises:
        UnknownMethod: There is none.
    """
    try:
        return register()[name]
    except KeyError:
        raise UnknownMethod(f"this worker has no method {name!r}") from None
