"""Classes by index or by name."""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from heatmill.errors import TargetUnknown

STOCK = frozenset({"imagenet", "digits"})


@lru_cache
def stock_labels(key: str) -> tuple[str, ...]:
    """The class names that ship with heatmill, in the order of the logits.

    Args:
        key: `imagenet` or `digits`.
    """
    return tuple(json.loads(files("heatmill.catalogue").joinpath("data", "labels", f"{key}.json").read_text("utf-8")))


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names from a JSON list or from a text file with one name per line.

    Raises:
        ValueError: The file cannot be read, or holds anything but names.
    """
    try:
        text = path.read_text("utf-8")
        names = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"labels {path}: {error}") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"labels {path}: wanted a list of class names")
    return tuple(names)


def config_labels(path: Path) -> tuple[str, ...]:
    """Class names from the config.json of a transformers model; `LABEL_0` and so on where it counts classes only.

    Raises:
        ValueError: The file cannot be read, or numbers no classes.
    """
    try:
        config = json.loads(path.read_text("utf-8"))
        if config.get("id2label") is None and type(count := config.get("num_labels")) is int and count > 0:
            return tuple(f"LABEL_{index}" for index in range(count))
        names = {int(index): str(name) for index, name in config["id2label"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = "" if isinstance(error, KeyError) else f": {error}"
        raise ValueError(f"{path} has no class names in `id2label`; give `labels`{reason}") from error
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"{path} does not number the classes in `id2label` from 0")
    return tuple(names[index] for index in range(len(names)))


def config_problem_type(path: Path) -> str | None:
    """What the config.json of a transformers model says that it was trained for, such as `regression`; or None.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        found = json.loads(path.read_text("utf-8")).get("problem_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return None if found is None else str(found)


def target_index(labels: tuple[str, ...], target: int | str) -> int:
    """The index of the class that a caller means.

    A name is compared without case, with the whole label or with one of its synonyms ("tench, Tinca tinca"). A text
    of digits that is no class's name is an index.

    Raises:
        TargetUnknown: No class, or more than one, answers to it.
    """
    if isinstance(target, str):
        found = _by_name(labels).get(target.strip().casefold(), ())
        if len(found) == 1:
            return found[0]
        if found or not target.isdecimal():
            raise TargetUnknown(_ambiguous(target, found) if found else _unknown(labels, target))
    index = int(target)
    if not 0 <= index < len(labels):
        raise TargetUnknown(f"there is no class {index}; the classes are 0 to {len(labels) - 1}")
    return index


@lru_cache(maxsize=64)
def _by_name(labels: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for index, label in enumerate(labels):
        for name in {label.casefold(), *(part.strip().casefold() for part in label.split(","))}:
            found[name] = (*found.get(name, ()), index)
    return found


def _ambiguous(target: str, found: Sequence[int]) -> str:
    return f"{target!r} names the classes {', '.join(map(str, found))}; give the index"


def _unknown(labels: tuple[str, ...], target: str) -> str:
    names = _by_name(labels)
    close = get_close_matches(target.strip().casefold(), names, n=5, cutoff=0.5)
    hint = ", ".join(f"{name!r} ({names[name][0]})" for name in close)
    return f"there is no class {target!r}" + (f"; the closest are {hint}" if hint else "")
