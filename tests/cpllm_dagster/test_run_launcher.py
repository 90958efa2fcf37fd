"""Whether the process of a run is there, asked of a real code server and of servers that are gone."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc.constants import GrpcServerCommand
from dagster._grpc.server import GrpcServerProcess

from cpllm_dagster.run_launcher import CheckedRunLauncher


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance whose launcher is this project's."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text(
        "run_launcher: {module: cpllm_dagster.run_launcher, class: CheckedRunLauncher}\ntelemetry: {enabled: false}\n"
    )
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as found:
        yield found


def health(instance: dg.DagsterInstance, server: dict | None) -> WorkerStatus:
    launcher = instance.run_launcher
    assert isinstance(launcher, CheckedRunLauncher) and launcher.supports_check_run_worker_health
    run = dg.DagsterRun(job_name="job", tags={GRPC_INFO_TAG: json.dumps(server)} if server else {})
    return launcher.check_run_worker_health(run).status


def test_a_run_without_a_server_is_left_alone(instance: dg.DagsterInstance) -> None:
    assert health(instance, None) is WorkerStatus.RUNNING


def test_a_server_of_this_machine_that_is_gone_took_its_runs_along(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assert health(instance, {"host": "localhost", "socket": str(tmp_path / "gone")}) is WorkerStatus.NOT_FOUND


def test_a_server_elsewhere_that_does_not_answer_may_come_back(instance: dg.DagsterInstance) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert health(instance, {"host": "127.0.0.1", "port": port}) is WorkerStatus.RUNNING


def test_a_server_that_has_started_anew_knows_no_run_of_the_old_one(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "code.py").write_text("import dagster as dg\n\n@dg.job\ndef job(): ...\n")
    origin = LoadableTargetOrigin(python_file=str(tmp_path / "code.py"), executable_path=None)
    with GrpcServerProcess(
        instance_ref=instance.get_ref(), server_command=GrpcServerCommand.API_GRPC,
        loadable_target_origin=origin, force_port=True, wait_on_exit=True, startup_timeout=180,
    ) as server:  # fmt: skip
        client = server.create_client()
        assert health(instance, {"host": client.host, "port": client.port}) is WorkerStatus.NOT_FOUND
