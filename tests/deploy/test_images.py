"""The Dockerfile, as far as it can be judged without building it."""

import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from heatmill.local import services
from tests.deploy.files import PINNED, PROJECT, ROOT, program, stages

ROLES = {"api": "api", "control": "control", "explain": "workers"}


def extra(name: str) -> set[str]:
    """The packages of an extra, with those of the extras that it includes."""
    packages: set[str] = set()
    for requirement in PROJECT["optional-dependencies"][name]:
        included = re.match(r"heatmill\[([a-z]+)\]", requirement)
        packages |= extra(included[1]) if included else {re.split(r"[^A-Za-z0-9_-]", requirement)[0]}
    return packages


def options(command: list[str]) -> list[str]:
    """What a worker is told, without the name that the embedded stack gives it."""
    words = command[command.index("-A") :]
    if "--hostname" in words:
        place = words.index("--hostname")
        del words[place : place + 2]
    return sorted(words)


def test_hadolint_finds_nothing() -> None:
    found = subprocess.run([program("hadolint"), "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("role", ROLES)
def test_a_role_installs_its_extra_from_the_lock(role: str) -> None:
    (install, _) = stages()[f"build-{role}"].all("RUN")
    assert install.endswith(f"uv pip install -r pyproject.toml --extra {ROLES[role]} -c requirements.lock")
    assert f"--from=build-{role} /opt/heatmill /opt/heatmill" in stages()[role].all("COPY")


def test_only_the_explain_image_carries_torch() -> None:
    assert {role for role, name in ROLES.items() if "torch" in extra(name)} == {"explain"}


def test_no_image_carries_a_decoder_of_heic() -> None:
    assert extra("heic") == {"pi-heif"}
    assert not any(extra("heic") & extra(name) for name in ROLES.values())


def test_base_images_are_pinned() -> None:
    python = re.search(r"^ARG PYTHON=(\S+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert python is not None
    assert PINNED.match(python[1])
    assert {stage.base for stage in stages().values()} - set(stages()) == {"${PYTHON}"}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_does_not_run_as_root(role: str) -> None:
    image = stages()[role]
    assert image.base == "runtime"
    assert not image.all("USER")
    assert stages()["runtime"].all("USER") == ["10001:10001"]


def test_the_api_starts_as_in_the_embedded_stack() -> None:
    command = stages()["api"].command
    stack = list(services.api(Path(), 8000, {}).command)
    # The stack lowers the number of processes for the sake of a small machine.
    assert set(command) - set(stack) == {"0.0.0.0:8000"}
    assert set(stack[3:]) - set(command) == {"127.0.0.1:8000", "--workers", "1"}
    module, _, name = command[-1].partition(":")
    assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize("role", ["control", "explain"])
def test_a_worker_starts_as_in_the_embedded_stack(role: str) -> None:
    command = stages()[role].command
    programs = {
        "control": services.control_worker(Path(), {}),
        "explain": services.explain_worker(1, Path(), {}),
    }
    assert command[0] == "celery"
    assert options(command) == options(list(programs[role].command))
    module, _, name = command[command.index("-A") + 1].partition(":")
    assert getattr(import_module(module), name).conf.task_queues


@pytest.mark.parametrize("role", ["control", "explain"])
def test_a_worker_is_asked_for_by_its_own_name(role: str) -> None:
    (check,) = stages()[role].all("HEALTHCHECK")
    assert check.endswith(f'CMD ["worker-alive", "{role}"]')


def test_what_is_copied_into_the_build_is_there_and_not_ignored() -> None:
    sources = {
        word
        for stage in stages().values()
        for line in stage.all("COPY")
        if "--from" not in line
        for word in line.split()[:-1]
        if not word.startswith("--")
    }
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text("utf-8").split() if line[0] == "!"}
    assert {Path(source).parts[0] for source in sources} == allowed
    assert all((ROOT / source).exists() for source in sources)
