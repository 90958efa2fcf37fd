"""The manifests of Kubernetes and Ray, and the values of Dagster's chart."""

from __future__ import annotations

import copy
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster_ray.kuberay.configs import RayClusterSpec

from tests.infra.commands import require_command

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kuberay"
PLATFORM = list(yaml.safe_load_all((FOLDER / "platform.yaml").read_text()))
CLUSTER = yaml.safe_load((FOLDER / "raycluster.yaml").read_text())
VALUES = yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())
#: The oldest and the newest Kubernetes that the manifests are held against.
VERSIONS = ("1.30", "1.34")


def groups() -> list[dict[str, Any]]:
    return [CLUSTER["spec"]["headGroupSpec"], *CLUSTER["spec"]["workerGroupSpecs"]]


@pytest.mark.parametrize("kubernetes", VERSIONS)
@pytest.mark.parametrize("manifest", PLATFORM, ids=lambda found: f"{found['kind']} {found['metadata']['name']}")
def test_manifests_fit_the_schemas(manifest: dict[str, Any], kubernetes: str) -> None:
    kubernetes_validate.validate(manifest, kubernetes, strict=True)


@pytest.mark.parametrize("kubernetes", VERSIONS)
def test_pods_of_the_ray_cluster_fit_the_schemas(kubernetes: str) -> None:
    for group in groups():
        template = copy.deepcopy(group["template"])
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"} | template.get("metadata", {})}
        kubernetes_validate.validate(pod | {"spec": template["spec"]}, kubernetes, strict=True)


def snake(value: Any) -> Any:
    """Names as dagster-ray's models have them, down to where Kubernetes' own objects begin."""
    if isinstance(value, list):
        return [snake(one) for one in value]
    if not isinstance(value, dict):
        return value
    own = ("template", "rayStartParams", "resources")
    return {
        re.sub(r"[A-Z]", lambda found: "_" + found[0].lower(), key): part if key in own else snake(part)
        for key, part in value.items()
    }


def test_the_cluster_has_only_fields_that_kuberay_knows() -> None:
    spec = RayClusterSpec(**snake(CLUSTER["spec"]))
    assert not spec.model_extra
    assert spec.auth_options and not spec.auth_options.model_extra
    assert spec.auth_options.mode == "token" and spec.auth_options.secret_name == "cpllm-ray-token"


def test_ray_is_of_the_installed_version() -> None:
    assert CLUSTER["spec"]["rayVersion"] == version("ray")
    assert f"--version {version('dagster')}" in (FOLDER / "README.md").read_text()


def test_ray_start_takes_the_parameters() -> None:
    for group in groups():
        require_command(["ray", "start", *(f"--{name}={value}" for name, value in group["rayStartParams"].items())])


def test_workers_scale_to_zero_on_nodes_that_terraform_makes() -> None:
    nodes = (ROOT / "infra" / "terraform" / "nodes.tf").read_text()
    for group in CLUSTER["spec"]["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
        spec = group["template"]["spec"]
        (toleration,) = spec["tolerations"]
        assert spec["nodeSelector"] == {"cpllm/pool": group["groupName"]}
        assert re.search(rf"^ +{group['groupName']} = ", nodes, re.MULTILINE)
        assert f'key = "{toleration["key"]}"' in nodes


def containers() -> list[dict[str, Any]]:
    specs = [group["template"]["spec"] for group in groups()]
    specs += [one["spec"]["template"]["spec"] for one in PLATFORM if one["kind"] == "Deployment"]
    for spec in specs:
        assert spec["securityContext"]["runAsUser"] == 10001 and spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}  # allows the decoders' own
        assert spec["serviceAccountName"] == "cpllm"
    return [container for spec in specs for container in spec["containers"]]


def test_containers_have_limits_and_no_rights_to_spare() -> None:
    for container in containers():
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]["cpu"] and container["resources"]["limits"]["memory"]
        if "command" in container:
            require_command(container["command"])
            assert str(container["ports"][0]["containerPort"]) in container["command"]


def test_everything_runs_one_version_of_the_image() -> None:
    images = {container["image"] for container in containers()}
    images |= {f"{image['repository']}:{image['tag']}" for image in (
        VALUES["dagsterWebserver"]["image"], VALUES["dagsterDaemon"]["image"],
        VALUES["dagster-user-deployments"]["deployments"][0]["image"],
    )}  # fmt: skip
    assert images == {f"registry.example.com/cpllm:{target}-{version('cpllm')}" for target in ("cpu", "cuda")}


def test_what_is_referred_to_is_there() -> None:
    there = {(one["kind"], one["metadata"]["name"]) for one in PLATFORM}
    page = (FOLDER / "README.md").read_text()
    (settings,) = (one["data"] for one in PLATFORM if one["kind"] == "ConfigMap")
    text = yaml.safe_dump_all([*PLATFORM, CLUSTER])
    for name in re.findall(r"claimName: (\S+)", text):
        assert ("PersistentVolumeClaim", name) in there
    (code,) = VALUES["dagster-user-deployments"]["deployments"]
    launcher = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    for names in (code["envConfigMaps"], launcher["envConfigMaps"], VALUES["dagsterDaemon"]["envConfigMaps"]):
        assert all(("ConfigMap", one["name"]) in there for one in names)
    secrets = {one["name"] for one in [*code["envSecrets"], *launcher["envSecrets"]]}
    secrets |= {
        CLUSTER["spec"]["authOptions"]["secretName"],
        *re.findall(r"secretKeyRef:\n +key: \S+\n +name: (\S+)", text),
    }
    assert secrets == {"cpllm-secrets", "cpllm-ray-token", "dagster-postgresql-secret"}
    assert all(f"create secret generic {name}" in page for name in secrets)
    assert VALUES["serviceAccount"]["name"] == "cpllm"
    # KubeRay names the head's service after the cluster.
    assert settings["CPLLM_RAY_ADDRESS"] == f"ray://{CLUSTER['metadata']['name']}-head-svc:10001"
    (metrics,) = (one for one in PLATFORM if one["kind"] == "Deployment")
    given = {one["name"]: one.get("value") for one in metrics["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert (given["DAGSTER_CODE_HOST"], given["DAGSTER_CODE_PORT"]) == (code["name"], str(code["port"]))
    assert given["DAGSTER_POSTGRES_USER"] == VALUES["postgresql"]["postgresqlUsername"]


def test_the_code_server_understands_its_arguments() -> None:
    (code,) = VALUES["dagster-user-deployments"]["deployments"]
    require_command(["dagster", "api", "grpc", "--port", str(code["port"]), *code["dagsterApiGrpcArgs"]])


def camel(value: Any) -> Any:
    if isinstance(value, list):
        return [camel(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {re.sub(r"_([a-z])", lambda found: found[1].upper(), key): camel(part) for key, part in value.items()}


def test_runs_are_treated_as_on_one_machine() -> None:
    instance = yaml.safe_load((ROOT / "infra" / "dagster" / "dagster.yaml").read_text())
    assert VALUES["dagsterDaemon"]["runMonitoring"] == camel(instance["run_monitoring"])
    assert VALUES["dagsterDaemon"]["runRetries"] == camel(instance["run_retries"])
    concurrency = dict(VALUES["concurrency"])
    assert concurrency.pop("enabled")
    assert concurrency == camel(instance["concurrency"])
    retention = dict(VALUES["retention"])
    assert retention.pop("enabled") and retention == camel(instance["retention"])
    assert VALUES["telemetry"]["enabled"] is instance["telemetry"]["enabled"] is False
