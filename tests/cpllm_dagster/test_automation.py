"""The schedule, the sensors and the job for all libraries, evaluated on a real instance."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cpllm_dagster.automation import PARTITION_SET
from cpllm_dagster.catalog.objects import partition_key
from cpllm_dagster.definitions import build_definitions, read_settings
from cpllm_model.errors import ConfigurationError

HOSTILE = "50% off & 'more'…"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with a reference to itself, which the daemon's way to partitions needs."""
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as found:
        yield found


@pytest.fixture
def definitions(tmp_path: Path) -> dg.Definitions:
    """The platform over a folder of two libraries."""
    for library in ("films", HOSTILE):
        (tmp_path / "videos" / library).mkdir(parents=True)
    return build_definitions(read_settings(catalog_uri=str(tmp_path / "videos"), lake=str(tmp_path / "lake")))


def evaluate_sensor(definitions: dg.Definitions, instance: dg.DagsterInstance) -> dg.SensorExecutionData:
    """Evaluate the sensor for new libraries as the daemon does."""
    repository = definitions.get_repository_def()
    resources = {"catalog": (definitions.resources or {})["catalog"]}
    with dg.build_sensor_context(
        instance_ref=instance.get_ref(), repository_def=repository, resources=resources
    ) as context:
        return repository.get_sensor_def("new_libraries").evaluate_tick(context)


def test_the_sensor_registers_new_libraries_and_requests_their_first_run(
    definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    found = evaluate_sensor(definitions, instance)
    keys = sorted(partition_key(library) for library in ("films", HOSTILE))
    assert sorted(request.partition_key or "" for request in found.run_requests or []) == keys
    (added,) = found.dynamic_partitions_requests or []
    assert sorted(added.partition_keys) == keys
    instance.add_dynamic_partitions(PARTITION_SET, list(added.partition_keys))
    again = evaluate_sensor(definitions, instance)
    assert not again.run_requests
    assert "2 registered" in (again.skip_message or "")


def test_links_in_circles_stop_no_sensor(
    definitions: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "videos" / "loop").symlink_to("loop")
    (tmp_path / "videos" / "here").symlink_to(".")
    found = evaluate_sensor(definitions, instance)
    assert len(found.run_requests or []) == 2


def test_a_wrong_catalogue_fails_the_sensor_with_a_sentence(
    definitions: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "videos").rename(tmp_path / "gone")
    with pytest.raises(ConfigurationError, match="is not a folder"):
        evaluate_sensor(definitions, instance)


def test_every_night_each_library_gets_one_run(definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
    repository = definitions.get_repository_def()
    schedule = repository.get_schedule_def("nightly")
    assert schedule.cron_schedule == "0 2 * * *"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING

    def evaluate() -> dg.ScheduleExecutionData:
        night = datetime(2026, 3, 1, 2, tzinfo=UTC)
        with dg.build_schedule_context(
            instance=instance, repository_def=repository, scheduled_execution_time=night
        ) as context:
            return schedule.evaluate_tick(context)

    assert "no library" in (evaluate().skip_message or "")
    instance.add_dynamic_partitions(PARTITION_SET, ["films", "shows"])
    requests = evaluate().run_requests or []
    assert [(request.partition_key, request.run_key) for request in requests] == [
        ("films", "2026-03-01T02:00+00:00/films"),
        ("shows", "2026-03-01T02:00+00:00/shows"),
    ]


def test_the_job_for_all_registers_and_then_requests_each_library(
    definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    result = definitions.resolve_job_def("score_all_libraries").execute_in_process(instance=instance)
    assert result.success
    assert len(instance.get_dynamic_partitions(PARTITION_SET)) == 2
    repository = definitions.get_repository_def()
    context = dg.build_run_status_sensor_context(
        sensor_name="all_libraries_requested",
        dagster_event=result.get_run_success_event(),
        dagster_instance=instance,
        dagster_run=result.dagster_run,
    )
    evaluate: Any = repository.get_sensor_def("all_libraries_requested")
    requests = list(evaluate(context))
    assert {request.partition_key for request in requests} == set(instance.get_dynamic_partitions(PARTITION_SET))
    assert len({request.run_key for request in requests}) == 2


def test_scoring_and_training_are_apart(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    scoring, training = (
        {node.name for node in repository.get_job(name).nodes} for name in ("score_library", "train_and_promote")
    )
    assert training == {
        "distortion_corpus", "training_run", "model_evaluation", "model_evaluation_better_than_promoted",
        "promoted_model",
    }  # fmt: skip
    assert {"video_catalog", "quality", "quality_scores_one_score_row_per_video", "quality_rankings"} <= scoring
    assert not scoring & training
    assert repository.get_job("train_and_promote").partitions_def is None
