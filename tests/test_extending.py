"""docs/extending/ is true: what its pages show joins a copy of the tree as it stands there, and passes its checks."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heatmill_workers import methods
from heatmill_workers.methods.registry import register
from tests.test_house import files

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending" / "method.md"
METHOD, TEST = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
NAME = "gradient_norm"
MODULE = f"{methods.__name__}.{NAME}"
PLACES = {f"workers/heatmill_workers/methods/{NAME}.py": METHOD, f"tests/workers/methods/test_{NAME}.py": TEST}


@pytest.fixture
def dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's method, in a folder that counts as the one of the methods."""
    (tmp_path / f"{NAME}.py").write_text(METHOD)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    register.cache_clear()
    yield
    sys.modules.pop(MODULE, None)
    vars(methods).pop(NAME, None)
    register.cache_clear()


@pytest.mark.usefixtures("dropped_in")
def test_the_method_joins_the_register() -> None:
    found = register()[NAME]
    assert found.title == "Gradient norm"
    assert found.summary.startswith("How long the gradient")


@pytest.mark.usefixtures("dropped_in")
def test_the_methods_own_tests_pass() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(TEST, str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
    tests: list[Callable[[], None]] = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the page's files in their places."""
    folder = tmp_path_factory.mktemp("tree")
    for file in files():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, folder / file)
    for place, text in PLACES.items():
        (folder / place).write_text(text)
    return folder


@pytest.mark.verify
@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "format", "--check", *PLACES),
        ("ruff", "check", *PLACES),
        ("importlinter.cli:lint_imports_command",),
        ("mypy", *PLACES),
        ("pytest", "-q", "-p", "no:cacheprovider", *PLACES, "tests/workers/methods/test_register.py", "-k", NAME),
    ],
    ids=lambda command: command[0],
)
def test_the_pages_method_passes_the_checks_of_the_tree(tree: Path, command: tuple[str, ...]) -> None:
    path = ":".join(str(tree / part) for part in ("shared", "api", "workers", ""))
    run = [sys.executable, "-m", *command]
    if ":" in command[0]:
        module, _, function = command[0].partition(":")
        run = [sys.executable, "-c", f"from {module} import {function} as run; run(['--no-cache'])"]
    environment = {"PATH": "", "PYTHONPATH": path}
    found = subprocess.run(run, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
