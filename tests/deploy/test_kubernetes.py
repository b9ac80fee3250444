"""The Kubernetes manifests as they are rendered: against the published schemas, the code, and each other."""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from heatmill.settings import Settings
from heatmill_api import gunicorn_conf
from tests.deploy.files import PINNED, PROJECT, ROOT, SETTINGS, documents, program, stages
from tests.deploy.test_images import MODELS_FILE, TEMPORARY

KUBERNETES = "1.37"
OVERLAYS = ("k8s", "k8s/overlays/cpu")
OURS = ("api", "control", "explain")
COMPONENT = "app.kubernetes.io/component"
GPU = "nvidia.com/gpu"
VERSION = PROJECT["version"]

Document = dict[str, Any]


@cache
def rendered(overlay: str) -> str:
    """What `kubectl apply -k` would send."""
    done = subprocess.run(
        [program("kubectl"), "kustomize", overlay], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_kind(*kinds: str, overlay: str = "k8s") -> dict[str, Document]:
    """Documents by name."""
    return {each["metadata"]["name"]: each for each in documents(rendered(overlay)) if each["kind"] in kinds}


def pods(overlay: str = "k8s") -> dict[str, Document]:
    """The pod of each workload, by the workload's name."""
    workloads = of_kind("Deployment", "StatefulSet", overlay=overlay)
    return {name: each["spec"]["template"]["spec"] for name, each in workloads.items()}


def container(name: str, overlay: str = "k8s") -> Document:
    """A workload's only container."""
    (only,) = pods(overlay)[name]["containers"]
    found: Document = only
    return found


def labels(name: str) -> dict[str, str]:
    """What a workload's pods are labelled."""
    found: dict[str, str] = of_kind("Deployment", "StatefulSet")[name]["spec"]["template"]["metadata"]["labels"]
    return found


def chosen(selector: Document) -> set[str]:
    """The workloads whose pods a selector chooses."""
    exact = selector.get("matchLabels", {}).items()
    among = selector.get("matchExpressions", [])
    return {
        name
        for name in pods()
        if exact <= labels(name).items() and all(labels(name)[each["key"]] in each["values"] for each in among)
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_documents_follow_the_published_schemas(overlay: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered(overlay))
    command = [program("kubernetes-validate"), "--strict", "--kubernetes-version", KUBERNETES, str(file)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_everything_is_in_one_namespace_that_refuses_privileges() -> None:
    (namespace,) = of_kind("Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [each for each in documents(rendered("k8s")) if each["kind"] != "Namespace"]
    assert {each["metadata"]["namespace"] for each in others} == {namespace["metadata"]["name"]}


@pytest.mark.parametrize("name", OURS)
def test_settings_are_settings(name: str) -> None:
    sources = container(name)["envFrom"]
    maps = [of_kind("ConfigMap")[each["configMapRef"]["name"]]["data"] for each in sources if "configMapRef" in each]
    variables = [*(key for data in maps for key in data), *(each["name"] for each in container(name)["env"])]
    ours = {variable for variable in variables if variable.startswith("HEATMILL_")}
    assert "HEATMILL_REDIS_URL" in ours
    assert ours <= SETTINGS


def test_the_settings_are_valid() -> None:
    (data,) = (each["data"] for name, each in of_kind("ConfigMap").items() if name.startswith("settings-"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in data.items():
            patch.setenv(name, value)
        assert Settings().bucket == data["HEATMILL_BUCKET"]


@pytest.mark.parametrize("name", OURS)
def test_redis_is_named_by_its_service(name: str) -> None:
    variables = container(name)["env"]
    names = [each["name"] for each in variables]
    url = variables[names.index("HEATMILL_REDIS_URL")]["value"]
    (port,) = of_kind("Service")["redis"]["spec"]["ports"]
    assert url == f"redis://:$(REDIS_PASSWORD)@redis:{port['port']}/0"
    # Kubernetes fills in only what stands further up.
    assert names.index("REDIS_PASSWORD") < names.index("HEATMILL_REDIS_URL")


def test_secrets_are_explained_and_not_contained() -> None:
    assert not of_kind("Secret")
    text = rendered("k8s")
    asked = {*re.findall(r"secretName: (\S+)", text)}
    for pod in pods().values():
        for each in pod["containers"][0].get("env", []):
            if "valueFrom" in each:
                asked.add(each["valueFrom"]["secretKeyRef"]["name"])
        asked |= {each["secretRef"]["name"] for each in pod["containers"][0].get("envFrom", []) if "secretRef" in each}
    made = re.findall(r"create secret generic (\S+)", (ROOT / "k8s/README.md").read_text("utf-8"))
    assert sorted(made) == sorted(asked)


@pytest.mark.parametrize("name", [*OURS, "redis"])
def test_pods_run_with_few_rights(name: str) -> None:
    pod, security = pods()[name], container(name)["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    # Else a Service called api would set HEATMILL_API_PORT and the like in a namespace of another name.
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("name", OURS)
def test_pods_run_as_the_user_of_the_image(name: str) -> None:
    (user,) = stages()["runtime"].all("USER")
    security = pods()[name]["securityContext"]
    assert user == f"{security['runAsUser']}:{security['runAsGroup']}"


@pytest.mark.parametrize("name", [*OURS, "redis"])
def test_mounts_probes_and_limits_are_complete(name: str) -> None:
    pod, only = pods()[name], container(name)
    claims = of_kind("StatefulSet").get(name, {"spec": {}})["spec"].get("volumeClaimTemplates", [])
    volumes = {each["name"] for each in pod["volumes"]} | {each["metadata"]["name"] for each in claims}
    assert {each["name"] for each in only["volumeMounts"]} == volumes
    assert "livenessProbe" in only
    assert {"requests", "limits"} <= set(only["resources"])
    ports = {each["name"] for each in only.get("ports", [])}
    probes = [only[kind] for kind in ("startupProbe", "livenessProbe", "readinessProbe") if kind in only]
    asked = {each.get("httpGet", each.get("tcpSocket", {})).get("port") for each in probes} - {None}
    assert asked <= ports


@pytest.mark.parametrize("name", [*OURS, "redis"])
def test_images_are_pinned(name: str) -> None:
    image = container(name)["image"]
    assert PINNED.match(image)
    if name in OURS:
        assert image == f"heatmill-{name}:{PROJECT['version']}"


def test_selectors_choose_what_they_are_for() -> None:
    for name, workload in of_kind("Deployment", "StatefulSet").items():
        assert chosen(workload["spec"]["selector"]) == {name}
    for name, service in of_kind("Service").items():
        assert chosen({"matchLabels": service["spec"]["selector"]}) == {name}
        (port,) = service["spec"]["ports"]
        assert port["targetPort"] in {each["name"] for each in container(name)["ports"]}
    (budget,) = of_kind("PodDisruptionBudget").values()
    assert chosen(budget["spec"]["selector"]) == {"api"}
    assert of_kind("Deployment")["api"]["spec"]["replicas"] > budget["spec"]["minAvailable"]


def test_only_what_is_needed_gets_through() -> None:
    policies = {name: each["spec"] for name, each in of_kind("NetworkPolicy").items()}
    deny = policies.pop("default-deny")
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    open_to = {
        name: policy
        for policy in policies.values()
        for name in chosen(policy["podSelector"])
        if "Ingress" in policy["policyTypes"]
    }
    assert set(open_to) == {"api", "redis"}
    for name, policy in open_to.items():
        (rule,) = policy["ingress"]
        assert [each["port"] for each in rule["ports"]] == [each["containerPort"] for each in container(name)["ports"]]
    (senders,) = open_to["redis"]["ingress"][0]["from"]
    assert chosen(senders["podSelector"]) == set(OURS)
    egress = policies["heatmill-to-redis-and-store"]
    assert chosen(egress["podSelector"]) == set(OURS)
    assert chosen(egress["egress"][0]["to"][0]["podSelector"]) == {"redis"}


def test_graces_are_longer_than_what_they_wait_for() -> None:
    limit = Settings.model_fields["shard_limit_seconds"].default
    assert pods()["explain"]["terminationGracePeriodSeconds"] > limit
    pause = container("api")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pods()["api"]["terminationGracePeriodSeconds"] >= gunicorn_conf.graceful_timeout + pause


@pytest.mark.parametrize("name", ["control", "explain"])
def test_a_worker_is_asked_whether_it_lives_without_redis(name: str) -> None:
    for probe in ("startupProbe", "livenessProbe"):
        assert container(name)[probe]["exec"]["command"] == ["worker-alive"]
    # The folder of the file is a volume of the pod, on a root that is read-only.
    assert str(TEMPORARY) in {each["mountPath"] for each in container(name)["volumeMounts"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", OURS)
def test_models_of_the_operator_have_a_place(name: str, overlay: str) -> None:
    (mount,) = (each for each in container(name, overlay)["volumeMounts"] if each["name"] == "models-file")
    assert mount["mountPath"] == MODELS_FILE
    (volume,) = (each for each in pods(overlay)[name]["volumes"] if each["name"] == "models-file")
    assert mount["subPath"] in of_kind("ConfigMap", overlay=overlay)[volume["configMap"]["name"]]["data"]


@pytest.mark.parametrize("name", OURS)
def test_a_stop_reaches_a_role_from_the_first_moment(name: str) -> None:
    assert pods()[name]["shareProcessNamespace"] is True


def test_a_gpu_is_asked_for_but_in_the_overlay_without() -> None:
    assert container("explain")["resources"]["limits"][GPU] == 1
    assert GPU not in rendered("k8s/overlays/cpu")
    for overlay, device, image in (("k8s", "cuda", VERSION), ("k8s/overlays/cpu", "cpu", f"{VERSION}-cpu")):
        only = container("explain", overlay)
        assert {"name": "HEATMILL_DEVICE", "value": device} in only["env"]
        assert only["image"] == f"heatmill-explain:{image}"
