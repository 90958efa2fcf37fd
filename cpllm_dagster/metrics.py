"""What Prometheus is told of the platform: the state of libraries, runs, daemons and of the code location.

In: the lake's tables, the Dagster instance, the address of the code server. Out: a page in Prometheus' text form, made
anew at most every KEPT_S. Ray's nodes have a page of their own and are not repeated here. Names of libraries are
labels; names of videos are none.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import dagster as dg
import duckdb
from dagster._daemon.controller import get_daemon_statuses
from dagster._grpc.client import DagsterGrpcClient
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cpllm_dagster.automation import PARTITION_SET, score_library
from cpllm_dagster.catalog.objects import library_name
from cpllm_dagster.lake.tables import Lake
from cpllm_model.errors import ConfigurationError, CPLLMError

log = logging.getLogger(__name__)

KEPT_S = 60.0
_LIBRARIES = """
    SELECT library, count(*) FILTER (status = 'ok'), count(*) FILTER (status <> 'ok'), avg(score),
           count(*) FILTER (score < 3), epoch(max(scored_at))
    FROM scores GROUP BY library
"""
_FAILURES = "SELECT library, error_type, count(*) FROM scores WHERE status <> 'ok' GROUP BY ALL"
UNFINISHED = {
    "queued": [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED],
    "running": [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING],
}
ENDED = {"success": dg.DagsterRunStatus.SUCCESS, "failure": dg.DagsterRunStatus.FAILURE}


@dataclass(eq=False)
class PlatformCollector(Collector):
    """The platform's figures.

    Args:
        lake: the tables.
        instance: the records of runs and daemons.
        code_server: host and port of the code server, None where there is none.
    """

    lake: Lake
    instance: dg.DagsterInstance
    code_server: tuple[str, int] | None = None
    _kept: list[Metric] = field(default_factory=list)
    _kept_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def collect(self) -> Iterable[Metric]:
        """Give all figures; a source that cannot be asked is 0 in cpllm_up and has none."""
        with self._lock:
            if time.monotonic() >= self._kept_until:
                self._kept = self._asked()
                self._kept_until = time.monotonic() + KEPT_S
            return self._kept

    def describe(self) -> Iterable[Metric]:
        """Give nothing, so that the registry asks no source before somebody does."""
        return ()

    def _asked(self) -> list[Metric]:
        up = _gauge("cpllm_up", "Whether a part of the platform answers.", "part")
        found: list[Metric] = [up]
        for part, ask in (("lake", self._library_figures), ("dagster", self._run_figures)):
            try:
                found += ask()
            except (CPLLMError, duckdb.Error, dg.DagsterError, OSError) as error:
                log.warning("no figures of the %s: %s", part, error)
                up.add_metric([part], 0)
            else:
                up.add_metric([part], 1)
        if self.code_server:
            host, port = self.code_server
            status = DagsterGrpcClient(host=host, port=port).health_check_query()
            up.add_metric(["code_location"], status == "SERVING")
        return found

    def _library_figures(self) -> Iterator[Metric]:
        videos = _gauge("cpllm_videos", "Videos with a score row.", "library", "status")
        failed = _gauge("cpllm_failed_videos", "Videos without a score, by reason.", "library", "error_type")
        mean = _gauge("cpllm_score_mean", "Mean score of the scored videos, 1 to 5.", "library")
        low = _gauge("cpllm_low_score_videos", "Videos with a score below 3 (fair).", "library")
        scored_at = _gauge("cpllm_last_scored_timestamp_seconds", "When a video was last scored.", "library")
        with self.lake.connect() as connection:
            for library, good, bad, score, below, newest in connection.execute(_LIBRARIES).fetchall():
                videos.add_metric([library, "ok"], good)
                videos.add_metric([library, "failed"], bad)
                low.add_metric([library], below)
                if score is not None:
                    mean.add_metric([library], score)
                if newest is not None:
                    scored_at.add_metric([library], newest)
            for library, reason, count in connection.execute(_FAILURES).fetchall():
                failed.add_metric([library, reason], count)
        yield from (videos, failed, mean, low, scored_at)

    def _run_figures(self) -> Iterator[Metric]:
        runs = _gauge("cpllm_runs", "Runs that have not ended.", "state")
        for state, statuses in UNFINISHED.items():
            runs.add_metric([state], self.instance.get_runs_count(dg.RunsFilter(statuses=statuses)))
        ended = _gauge("cpllm_last_run_timestamp_seconds", "When a library's last run ended so.", "library", "status")
        for key in self.instance.get_dynamic_partitions(PARTITION_SET):
            for name, status in ENDED.items():
                asked = dg.RunsFilter(job_name=score_library.name, statuses=[status], tags={"dagster/partition": key})
                for record in self.instance.get_run_records(asked, limit=1):
                    ended.add_metric([library_name(key), name], record.end_time or 0)
        daemons = _gauge("cpllm_daemon_healthy", "Whether a daemon of Dagster has given a sign of life.", "daemon")
        for name, status in get_daemon_statuses(self.instance, self.instance.get_required_daemon_types()).items():
            daemons.add_metric([name], bool(status.healthy))
        yield from (runs, ended, daemons)


def serve_metrics(collector: Collector, host: str, port: int) -> tuple[int, Callable[[], None]]:
    """Serve the figures over HTTP from a thread.

    Args:
        collector: what is asked for them.
        host: interface to listen on.
        port: 0 is any free one.

    Returns:
        The port, and what waits for the server's end.

    Raises:
        ConfigurationError: the port cannot be listened on.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigurationError(f"metrics cannot be served on {host}:{port}: {error.strerror or error}") from error
    return server.server_port, thread.join


def _gauge(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, labels=labels)
