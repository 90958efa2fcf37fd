"""Dagster's default run launcher, which also knows whether the process of a run is still there.

In: a run that was launched on a code server. Out: its process's state, which Dagster's run monitoring asks for.
Without an answer, a run that ended together with its code server would count as running, and hold its place in the
queue, until its longest run time has passed. Knows nothing of what a run does.
"""

from __future__ import annotations

import json
from typing import Any

from dagster import DagsterRun, DefaultRunLauncher
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value


class CheckedRunLauncher(DefaultRunLauncher):
    """Launch runs on the code server, and ask it whether their processes live."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Ask the code server for the process of a run.

        A server on another machine that does not answer may come back with its runs alive: that is no finding. One
        behind a socket file is a child of a process of this machine, and so are its runs: they are gone with it.
        """
        if GRPC_INFO_TAG not in run.tags:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the run was not launched on a code server")
        server: dict[str, Any] = json.loads(run.tags[GRPC_INFO_TAG])
        client = DagsterGrpcClient(
            host=server["host"], port=server.get("port"), socket=server.get("socket"),
            use_ssl=bool(server.get("use_ssl")),
        )  # fmt: skip
        try:
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id))
        except DagsterUserCodeUnreachableError:
            if server.get("socket"):
                return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the code server of the run has ended")
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the code server does not answer")
        if deserialize_value(answer, CanCancelExecutionResult).can_cancel:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the code server holds no process of this run")
