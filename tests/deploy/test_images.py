"""The Dockerfile, as far as it can be judged without building it."""

import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from heatmill.local import services
from heatmill.local.environment import inherited
from tests.deploy.files import PINNED, PROJECT, ROOT, program, stages

ROLES = {"api": "api", "control": "control", "explain": "zoo"}
TEMPORARY = Path("/", "tmp")
DOCKER = ROOT / "docker"
MODELS_FILE = "/etc/heatmill/models.toml"
START = ["python", "-m", "heatmill.stoppable"]


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
    (install,) = stages()[f"packages-{role}"].all("RUN")
    assert install.endswith(f"uv pip install -r pyproject.toml --extra {ROLES[role]} -c dependencies.lock")


def test_the_layers_of_an_image_go_from_what_changes_rarely_to_what_changes_with_each_release() -> None:
    environment = "/opt/heatmill /opt/heatmill"
    layers = {role: [line for line in stages()[role].all("COPY") if "--from" in line] for role in ROLES}
    for role in ("api", "control"):
        assert layers[role] == [f"--link --from=packages-{role} {environment}", f"--link --from=wheel-{role} /layer/ /"]
    assert layers["explain"] == [
        f"--link --from=torch {environment}",
        "--link --from=packages-explain /layer/ /",
        "--link --from=wheel-explain /layer/ /",
    ]
    for role in ROLES:
        (wheel,) = stages()[f"wheel-{role}"].all("RUN")
        assert wheel == "add-layer /layer uv pip install --no-deps /dist/*.whl"


def test_no_layer_of_packages_is_decided_by_the_code_or_the_version() -> None:
    decides = {
        name: {word for line in stages()[name].all("COPY") for word in line.split()[:-1] if "--" not in word}
        for name in ("torch-cuda", "torch-cpu", "packages-api", "packages-control", "packages-explain")
    }
    packages = {"/src/pyproject.toml", "/src/dependencies.lock"}
    assert decides == {
        "torch-cuda": {"/src/torch.lock"},
        "torch-cpu": {"/src/torch-cpu.txt"},
        **dict.fromkeys(("packages-api", "packages-control", "packages-explain"), packages),
    }


def test_the_lock_is_split_into_one_file_a_layer_and_nothing_is_lost(tmp_path: Path) -> None:
    split_lock(tmp_path)
    parts = {name: (tmp_path / f"{name}.lock").read_text() for name in ("torch", "dependencies")}
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    assert sorted("".join(parts.values()).splitlines()) == sorted(lines)
    heavy = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*")
    for name, text in parts.items():
        for package in re.findall(r"^([a-z0-9.-]+)(?:\[.*\])?==", text, re.MULTILINE):
            assert bool(heavy.fullmatch(package)) is (name == "torch")
    versions = (tmp_path / "torch-cpu.txt").read_text().split()
    assert [version.partition("==")[0] for version in versions] == ["torch", "torchvision"]
    assert all(f"{version} " in parts["torch"] for version in versions)
    assert 'version = "0"' in (tmp_path / "pyproject.toml").read_text()


def test_a_release_changes_no_file_that_decides_a_layer_of_packages(tmp_path: Path) -> None:
    for number in ("1.2.3", "1.2.4"):
        folder = tmp_path / number
        folder.mkdir()
        split_lock(folder, number)
    older, newer = (
        {file.name: file.read_bytes() for file in (tmp_path / number).iterdir()} for number in ("1.2.3", "1.2.4")
    )
    assert older == newer


def test_a_layer_holds_what_a_command_adds_and_nothing_else(tmp_path: Path) -> None:
    environment, layer = tmp_path / "environment", tmp_path / "layer"
    (environment / "lib").mkdir(parents=True)
    (environment / "lib/old.py").touch()
    adds = 'cd "$VIRTUAL_ENV"; mkdir -p lib/new bin; touch -d @0 "lib/new/a b.py"; ln -s ../lib/new bin/new'
    variables = {**inherited(), "VIRTUAL_ENV": str(environment)}
    subprocess.run([DOCKER / "add-layer", layer, "sh", "-c", adds], env=variables, check=True)
    found = {path.relative_to(layer / environment.relative_to("/")) for path in layer.rglob("*") if not path.is_dir()}
    assert {str(path) for path in found} == {"lib/new/a b.py"}
    assert (layer / environment.relative_to("/") / "bin/new").is_symlink()


def test_a_command_that_fails_makes_no_layer(tmp_path: Path) -> None:
    variables = {**inherited(), "VIRTUAL_ENV": str(tmp_path)}
    done = subprocess.run([DOCKER / "add-layer", tmp_path / "layer", "false"], env=variables, check=False)
    assert done.returncode


def split_lock(folder: Path, version: str | None = None) -> None:
    """As the build does, in a folder of its own."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    if version is not None:
        project = re.sub(r"^version = .*$", f'version = "{version}"', project, flags=re.MULTILINE)
    (folder / "pyproject.toml").write_text(project)
    (folder / "requirements.lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    subprocess.run([DOCKER / "split-lock"], cwd=folder, check=True)
    (folder / "requirements.lock").unlink()


@pytest.mark.parametrize("role", ROLES)
def test_an_image_has_a_place_for_models_of_the_operator(role: str) -> None:
    assert stages()[role].base == "runtime"
    (variables,) = stages()["runtime"].all("ENV")
    assert f"HEATMILL_MODELS_FILE={MODELS_FILE}" in variables
    assert f"touch {MODELS_FILE}" in stages()["runtime"].all("RUN")[0]


def test_the_explain_image_can_load_what_the_models_file_may_name() -> None:
    assert {"timm", "transformers"} <= extra(ROLES["explain"])


def test_only_the_explain_image_carries_torch() -> None:
    assert {role for role, name in ROLES.items() if "torch" in extra(name)} == {"explain"}


def test_no_image_carries_a_decoder_of_heic() -> None:
    assert extra("heic") == {"pi-heif"}
    assert not any(extra("heic") & extra(name) for name in ROLES.values())


def test_base_images_are_pinned() -> None:
    python = re.search(r"^ARG PYTHON=(\S+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert python is not None
    assert PINNED.match(python[1])
    assert {stage.base for stage in stages().values()} - set(stages()) == {"${PYTHON}", "torch-${TORCH}"}
    assert {"torch-cuda", "torch-cpu"} <= set(stages())


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
    assert set(command[1:]) - set(stack) == {"0.0.0.0:8000"}
    assert set(stack[1:]) - set(command) == {"127.0.0.1:8000", "--workers", "1"}
    assert command[: len(START)] == START
    module, _, name = command[-1].partition(":")
    assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize("role", ["control", "explain"])
def test_a_worker_starts_as_in_the_embedded_stack(role: str) -> None:
    command = stages()[role].command
    programs = {
        "control": services.control_worker(Path(), {}),
        "explain": services.explain_worker(1, Path(), {}),
    }
    assert command[: len(START) + 1] == [*START, "celery"]
    assert options(command) == options(list(programs[role].command))
    module, _, name = command[command.index("-A") + 1].partition(":")
    assert getattr(import_module(module), name).conf.task_queues


@pytest.mark.parametrize("role", ["control", "explain"])
def test_a_worker_is_asked_whether_it_lives_by_a_file_of_its_own(role: str) -> None:
    (check,) = stages()[role].all("HEALTHCHECK")
    assert check.endswith('CMD ["worker-alive"]')
    (file,) = re.findall(r"HEATMILL_ALIVE_FILE=(\S+)", " ".join(stages()[role].all("ENV")))
    # The only folder that is writable in a container whose root is read-only.
    assert Path(file).parent == TEMPORARY


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
