"""docs/adding-a-method.md is true: its method joins the register as it stands there, and its tests pass."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heatmill_workers import methods as explainers
from heatmill_workers.methods.registry import register

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-method.md"
METHOD, TEST = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
NAME = "input_x_gradient"
MODULE = f"{explainers.__name__}.{NAME}"


@pytest.fixture
def dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's method, in a folder that counts as one of the explainers'."""
    (tmp_path / f"{NAME}.py").write_text(METHOD)
    monkeypatch.setattr(explainers, "__path__", [*explainers.__path__, str(tmp_path)])
    register.cache_clear()
    yield
    sys.modules.pop(MODULE, None)
    vars(explainers).pop(NAME, None)
    register.cache_clear()


@pytest.mark.usefixtures("dropped_in")
def test_the_method_joins_the_register() -> None:
    method = register()[NAME]
    assert method.title == "Input x gradient"
    assert method.summary.startswith("How much each pixel")


@pytest.mark.usefixtures("dropped_in")
def test_the_methods_own_tests_pass() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(TEST, str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
    tests: list[Callable[[], None]] = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()
