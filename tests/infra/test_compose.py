"""The compose files: accepted by compose itself, and their services reach each other where they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.infra.commands import BIN, options_of, require_command

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "compose"
OWN = ROOT / "infra" / "cpllm.env.example"


def config(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What compose makes of the files in its folder, with nothing of this process's environment."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    command = [BIN / "docker-compose", *arguments, "config", "--format", "json"]
    return subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False)


def services(*arguments: str) -> dict[str, dict[str, Any]]:
    found = config(*arguments)
    assert found.returncode == 0, found.stderr
    assert not found.stderr
    return json.loads(found.stdout)["services"]


@pytest.fixture(scope="module")
def demo() -> dict[str, dict[str, Any]]:
    """The services of `docker compose up` in infra/compose."""
    return services()


@pytest.fixture(scope="module")
def own() -> dict[str, dict[str, Any]]:
    """The services over buckets of one's own."""
    return services("--env-file", str(OWN))


def words_of(service: dict[str, Any]) -> list[str]:
    command = service.get("command") or []
    return command if isinstance(command, list) else shlex.split(command)


def test_the_demo_is_the_platform_and_its_libraries(demo: dict[str, Any], own: dict[str, Any]) -> None:
    platform = {"postgres", "code", "webserver", "daemon", "metrics", "ray-head", "ray-worker"}
    assert set(own) == platform
    assert set(demo) == platform | {"s3", "libraries"}


def test_without_an_address_nothing_starts() -> None:
    found = config("--env-file", "/dev/null", "--file", "compose.yaml")
    assert found.returncode != 0
    assert "required variable" in found.stderr


def test_commands_are_understood(demo: dict[str, Any]) -> None:
    for service in demo.values():
        if words := words_of(service):
            require_command(words)
        if test := service.get("healthcheck", {}).get("test"):
            assert test[0] == "CMD"
            require_command(test[1:])


def test_what_waits_for_health_waits_for_a_service_that_tells_it(demo: dict[str, Any]) -> None:
    for service in demo.values():
        for name, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in demo[name]
    assert {name for name, service in demo.items() if "healthcheck" not in service} == {"libraries", "ray-worker"}


def ports_of(service: dict[str, Any]) -> set[str]:
    """The ports that a service's command makes it listen on."""
    return {value for option, value in options_of(words_of(service)).items() if option.endswith("port")}


def test_addresses_lead_to_a_service_that_listens_there(demo: dict[str, Any]) -> None:
    found = set()
    for service in demo.values():
        given = service.get("environment", {})
        text = " ".join([*map(str, given.values()), *words_of(service)])
        found |= set(re.findall(r"(?:://|--address[= ])([a-z][\w-]*):(\d+)", text))
        if "DAGSTER_CODE_HOST" in given:
            found |= {(given[f"DAGSTER_{part}_HOST"], given[f"DAGSTER_{part}_PORT"]) for part in ("CODE", "POSTGRES")}
    assert found == {
        ("s3", "9000"),
        ("ray-head", "6379"),
        ("ray-head", "10001"),
        ("code", "4000"),
        ("postgres", "5432"),
    }
    for host, port in found - {("postgres", "5432")}:
        assert port in ports_of(demo[host])


def test_published_ports_are_those_listened_on_and_on_loopback_alone(demo: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in demo.items() if "ports" in service}
    assert set(published) == {"webserver", "metrics", "ray-head"}
    for name, ports in published.items():
        for port in ports:
            assert port["host_ip"] == "127.0.0.1"
            assert str(port["target"]) in ports_of(demo[name])


def test_our_containers_have_no_rights_to_spare(demo: dict[str, Any]) -> None:
    for name, service in demo.items():
        if name == "postgres":
            continue
        assert service["read_only"] and service["init"] and service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert not service.get("privileged") and service.get("network_mode") is None
        assert "docker.sock" not in json.dumps(service)


def test_volumes_are_folders_that_the_image_makes(demo: dict[str, Any]) -> None:
    made = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    for name, service in demo.items():
        for volume in service.get("volumes", []):
            if name != "postgres" and volume.get("source") is not None:
                assert re.search(rf"mkdir.* {volume['target']}\b", made)


def test_versions_of_images_are_pinned(demo: dict[str, Any]) -> None:
    for service in demo.values():
        assert re.fullmatch(r"[\w/.-]+:(?!latest)\S+", service["image"])


def test_no_secret_is_written_down(own: dict[str, Any]) -> None:
    text = (FOLDER / "compose.yaml").read_text()
    for variable in ("DAGSTER_POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"):
        assert f"${{{variable}:?" in text
    assert own["code"]["environment"]["RAY_AUTH_MODE"] == "token"
