"""The deployment files, read once, and what several tests want to know of them."""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from heatmill.local.environment import inherited
from heatmill.local.servers.programs import script
from heatmill.settings import Settings

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SETTINGS = {f"HEATMILL_{name.upper()}" for name in Settings.model_fields}
# A version with its last part, and not a tag that moves.
PINNED = re.compile(r"^[a-z0-9./-]+:\d+\.\d+(\.\d+)?(-[a-z0-9.-]+)?$")


@dataclass(frozen=True)
class Stage:
    """One stage of the Dockerfile: instructions by name, in order."""

    base: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        """The arguments of every instruction of that name."""
        return [text for instruction, text in self.instructions if instruction == name]

    @property
    def command(self) -> list[str]:
        """CMD, which must be in exec form."""
        (text,) = self.all("CMD")
        words: list[str] = json.loads(text)
        return words


def stages() -> dict[str, Stage]:
    """The Dockerfile's stages by name."""
    lines = [line for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines() if not line.startswith("#")]
    found: dict[str, Stage] = {}
    name = ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, text = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = text.partition(" AS ")
            found[name] = Stage(base, ())
        elif name and instruction:
            stage = found[name]
            found[name] = Stage(stage.base, (*stage.instructions, (instruction, text.strip())))
    return found


def documents(text: str) -> list[dict[str, Any]]:
    """The documents of a YAML text."""
    return [document for document in yaml.safe_load_all(text) if document]


def program(name: str) -> str:
    """A program that comes with the test dependencies: without it a laptop skips, and CI fails."""
    found = script(name)
    if found is None and "CI" not in inherited():
        pytest.skip(f"there is no {name} here")
    assert found, f"{name} is one of the test dependencies"
    return found
