"""docker-compose.yml: against the published schema, against the code, and its servers against the real programs."""

import re
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import redis
import yaml

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.local.environment import inherited
from heatmill.local.ports import LOOPBACK, free_ports
from heatmill.local.processes import Program, running
from heatmill.local.servers.programs import object_store_program, redis_program
from heatmill.local.servers.redis import redis_answers, redis_url
from heatmill.local.servers.seaweedfs import REGION, Credentials, ObjectStorePorts, endpoint
from heatmill.settings import Settings
from tests.deploy.files import PINNED, PROJECT, ROOT, SETTINGS, program, stages
from tests.deploy.test_images import MODELS_FILE
from tests.services.fixtures import service

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
GPU: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text("utf-8"))
MINIO: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.minio.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("api", "control", "explain")
START_SECONDS = 30


def test_all_files_follow_the_compose_specification() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    files = ("docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.minio.yml")
    found = subprocess.run(
        [program("check-jsonschema"), *schema, *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", OURS)
def test_settings_are_settings(name: str) -> None:
    variables = SERVICES[name]["environment"]
    assert {variable for variable in variables if variable.startswith("HEATMILL_")} <= SETTINGS
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= set(variables)


@pytest.mark.parametrize("name", OURS)
def test_what_we_build_is_a_stage_and_carries_the_version(name: str) -> None:
    assert SERVICES[name]["build"]["target"] == name
    assert name in stages()
    variant = "-cpu" if name == "explain" else ""
    assert SERVICES[name]["image"] == f"heatmill-{name}:{PROJECT['version']}{variant}"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    assert PINNED.match(SERVICES[name]["image"])


@pytest.mark.parametrize("name", OURS)
def test_the_servers_come_first_and_can_be_asked(name: str) -> None:
    for other, how in SERVICES[name]["depends_on"].items():
        assert how == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", SERVICES)
def test_volumes_exist(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", [*OURS, "redis"])
def test_containers_can_do_little(name: str) -> None:
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


def test_a_shard_can_be_finished_before_the_worker_is_killed() -> None:
    limit = Settings.model_fields["shard_limit_seconds"].default
    assert int(SERVICES["explain"]["stop_grace_period"].removesuffix("s")) > limit


def test_every_variable_is_explained_in_the_example() -> None:
    asked = set(re.findall(r"\$\{([A-Z0-9_]+)", (ROOT / "docker-compose.yml").read_text("utf-8")))
    explained = set(re.findall(r"^([A-Z0-9_]+)=", (ROOT / ".env.example").read_text("utf-8"), re.MULTILINE))
    assert asked == explained


def test_minio_takes_the_place_of_the_store_under_the_same_address_and_buckets() -> None:
    (name,) = MINIO["services"]
    store = MINIO["services"][name]
    assert re.fullmatch(r"minio/minio:RELEASE[.][0-9TZ-]+", store["image"])
    assert SERVICES["api"]["environment"]["HEATMILL_S3_ENDPOINT"] == f"http://{name}:8333"
    assert "--address :8333" in store["command"][0]
    assert {"/data/heatmill", "/data/sources"} <= set(store["command"][0].split())
    assert [volume.split(":")[0] for volume in store["volumes"]] == list(MINIO["volumes"])


def test_the_gpu_file_changes_services_that_exist() -> None:
    assert set(GPU["services"]) <= set(SERVICES)


def test_cuda_is_built_and_asked_for_by_the_gpu_file_alone() -> None:
    plain, gpu = SERVICES["explain"], GPU["services"]["explain"]
    assert (plain["build"]["args"], gpu["build"]["args"]) == ({"TORCH": "cpu"}, {"TORCH": "cuda"})
    assert gpu["image"] == f"heatmill-explain:{PROJECT['version']}"
    assert gpu["environment"] == {"HEATMILL_DEVICE": "cuda"}


@pytest.mark.parametrize("name", OURS)
def test_a_stop_reaches_a_role_from_the_first_moment(name: str) -> None:
    assert SERVICES[name]["init"] is True


@pytest.mark.parametrize("name", OURS)
def test_models_of_the_operator_have_a_place(name: str) -> None:
    (mount,) = (mount for mount in SERVICES[name]["volumes"] if mount.endswith(".toml:ro"))
    source, target, _ = mount.split(":")
    assert load_catalogue(ROOT / source).models
    assert target == MODELS_FILE


def test_redis_takes_its_command_and_its_configuration(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    shell, flag, text = SERVICES["redis"]["command"]
    config = (ROOT / "k8s/base/redis.conf").read_text("utf-8").replace("dir /data", f"dir {tmp_path}")
    (tmp_path / "redis.conf").write_text(config)
    with service("redis"):
        server = redis_program()
    here = text.replace("redis-server /etc/redis.conf", f"{server} redis.conf --bind {LOOPBACK} --port {port}")
    command = (shell, flag, here.replace("$$", "$"))
    environment = {**inherited(), "REDISCLI_AUTH": "secret"}
    url = redis_url(port, "secret")
    with running(Program("redis", command, tmp_path, environment), tmp_path / "log", lambda: redis_answers(url), 30):
        with closing(redis.Redis(port=port)) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with closing(redis.Redis.from_url(url)) as client:
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_the_object_store_is_healthy_when_the_bucket_takes_objects(tmp_path: Path) -> None:
    with service("object store"):
        server = object_store_program()
    ports = ObjectStorePorts.choose()
    credentials = Credentials("test-access", "test-secret")
    # What comes last wins: this machine's ports, and nobody but this machine.
    here = (f"-dir={tmp_path}", f"-ip.bind={LOOPBACK}", *ports.options)
    command = (server, "-logtostderr=true", *SERVICES["objects"]["command"], *here)
    objects = Program("objects", command, tmp_path, {**inherited(), **credentials.environment})
    url = SERVICES["objects"]["healthcheck"]["test"][-1].replace("8888", str(ports.filer))
    with running(objects, tmp_path / "log", lambda: answers(url), START_SECONDS):
        session = boto3.session.Session(credentials.access_key, credentials.secret_key)
        with closing(session.client("s3", endpoint_url=endpoint(ports.s3), region_name=REGION)) as client:
            bucket = SERVICES["api"]["environment"]["HEATMILL_BUCKET"]
            client.put_object(Bucket=bucket, Key="a", Body=b"")
            assert client.head_object(Bucket=bucket, Key="a")["ContentLength"] == 0
    ports.remove_sockets()


def answers(url: str) -> bool:
    """What the image's wget would say."""
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.HTTPError:
        return False
