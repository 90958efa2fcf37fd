"""The page for Prometheus over a real lake and a real instance, as Prometheus' own parser reads it."""

from __future__ import annotations

import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cpllm_dagster.automation import PARTITION_SET, score_library
from cpllm_dagster.catalog.objects import partition_key
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.metrics import PlatformCollector, serve_metrics
from cpllm_model.errors import ConfigurationError

LIBRARY = 'fil "ms'
SCORED_AT = datetime(2026, 1, 1, tzinfo=UTC)


def score_row(video: str, score: float | None) -> dict[str, Any]:
    row = {"video_id": video, "uri": f"s3://b/{video}", "etag": "1", "model_id": "m-0", "run_id": "r"}
    row |= {"scored_at": SCORED_AT, "score": score, "status": "ok" if score else "failed"}
    return row | {"error_type": None if score else "corrupt_video"}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Four videos, one of them below 3, and one that failed."""
    lake = Lake(str(tmp_path / "lake"))
    scores: dict[str, float | None] = {"a": 1.5, "b": 3.5, "c": 4.0, "d": None}
    rows = [score_row(video, score) for video, score in scores.items()]
    lake.write("scores", LIBRARY, rows, run_id="r", model_id="m-0")
    return lake


def figures(collector: PlatformCollector) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    registry = CollectorRegistry()
    registry.register(collector)
    page = generate_latest(registry).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_libraries(lake: Lake) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        found = figures(PlatformCollector(lake, instance))
    assert found["cpllm_videos", LIBRARY, "ok"] == 3
    assert found["cpllm_videos", LIBRARY, "failed"] == 1
    assert found["cpllm_failed_videos", "corrupt_video", LIBRARY] == 1
    assert found["cpllm_score_mean", LIBRARY] == 3
    assert found["cpllm_low_score_videos", LIBRARY] == 1
    assert found["cpllm_last_scored_timestamp_seconds", LIBRARY] == SCORED_AT.timestamp()
    assert found["cpllm_up", "lake"] == found["cpllm_up", "dagster"] == 1
    assert ("cpllm_up", "code_location") not in found


def test_runs_and_daemons(lake: Lake, tmp_path: Path) -> None:
    key = partition_key(LIBRARY)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.add_dynamic_partitions(PARTITION_SET, [key])
        run = instance.add_run(
            dg.DagsterRun(
                job_name=score_library.name, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": key}
            )
        )
        collector = PlatformCollector(lake, instance)
        found = figures(collector)
        assert (found["cpllm_runs", "running"], found["cpllm_runs", "queued"]) == (1, 0)
        assert ("cpllm_last_run_timestamp_seconds", LIBRARY, "failure") not in found
        assert found["cpllm_daemon_healthy", "SENSOR"] == 0  # none was ever started
        instance.report_run_failed(run)
        assert figures(collector) == found  # asked again within the time that a page is kept
        found = figures(PlatformCollector(lake, instance))
    assert found["cpllm_runs", "running"] == 0
    assert found["cpllm_last_run_timestamp_seconds", LIBRARY, "failure"] > SCORED_AT.timestamp()


def test_what_cannot_be_asked_is_down_and_costs_no_other_figure(tmp_path: Path) -> None:
    broken = tmp_path / "lake"
    (broken / "scores" / "library=a").mkdir(parents=True)
    (broken / "scores" / "library=a" / "data.parquet").write_bytes(b"no table")
    with dg.DagsterInstance.ephemeral() as instance:
        found = figures(PlatformCollector(Lake(str(broken)), instance, ("127.0.0.1", 1)))
    assert found["cpllm_up", "lake"] == 0
    assert found["cpllm_up", "dagster"] == 1
    assert found["cpllm_up", "code_location"] == 0
    assert not any(name == "cpllm_videos" for name, *_ in found)


def test_the_page_is_served(lake: Lake) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        port, _ = serve_metrics(PlatformCollector(lake, instance), "127.0.0.1", 0)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
            page = response.read().decode()
        assert "# HELP cpllm_score_mean Mean score" in page
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}"):
            serve_metrics(PlatformCollector(lake, instance), "127.0.0.1", port)
