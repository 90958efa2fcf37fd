"""Definitions load quickly, quietly and without torch or Ray; what is wrong in the environment is one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from cpllm_dagster.assets.quality import QualityConfig
from cpllm_dagster.assets.rankings import ComparisonConfig
from cpllm_dagster.batch.placement import Precision, Workers
from cpllm_dagster.catalog.listing import EXCLUDED
from cpllm_dagster.definitions import build_definitions, read_settings, video_store
from cpllm_model.errors import ConfigurationError, CPLLMError

CHECKOUT = Path(__file__).parents[2]
VARIABLES = (
    "CPLLM_CATALOG_URI", "CPLLM_LAKE_URI", "CPLLM_MODEL", "CPLLM_MODELS_URI", "CPLLM_S3_ENDPOINT_URL",
    "CPLLM_RAY_ADDRESS", "CPLLM_EXCLUDE", "CPLLM_LARGEST_LOSS", "CPLLM_CATALOG_ACCESS",
    "CPLLM_HISTORY_DAYS", "CPLLM_SCHEDULE", "CPLLM_TIMEZONE", "CPLLM_STALE_HOURS", "CPLLM_OWNERS",
    "CPLLM_DECODE_WORKERS", "CPLLM_MODEL_WORKERS", "CPLLM_MODEL_GPUS", "CPLLM_BATCH_SIZE", "CPLLM_PRECISION",
    "CPLLM_ALERT_WEBHOOK", "CPLLM_ALERT_MAIL", "CPLLM_ALERT_FROM", "CPLLM_SMTP_URL", "CPLLM_UI_URL",
)  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment with just what is required."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "videos").mkdir()
    monkeypatch.setenv("CPLLM_CATALOG_URI", str(tmp_path / "videos"))
    monkeypatch.setenv("CPLLM_LAKE_URI", str(tmp_path / "lake"))
    return monkeypatch


def test_definitions_load_without_torch_ray_or_warnings(tmp_path: Path) -> None:
    program = """
import json, sys
from dagster import Definitions
import cpllm_dagster.definitions as module
found = module.defs()
repository = found.get_repository_def()
print(json.dumps({
    "heavy": sorted({"torch", "ray", "transformers", "av", "matplotlib", "moto"} & set(sys.modules)),
    "assets": sorted(key.to_user_string() for key in repository.assets_defs_by_key),
    "jobs": sorted(name for name in repository.job_names if not name.startswith("__")),
    "checks": len(repository.asset_checks_defs_by_key),
}))
"""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"CPLLM_CATALOG_URI": str(tmp_path / "videos"), "CPLLM_LAKE_URI": str(tmp_path / "lake")}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "heavy": [],
        "assets": [
            "content_libraries", "distortion_corpus", "library_report", "model_evaluation", "nights",
            "pairwise_comparisons",
            "promoted_model", "quality_descriptions", "quality_rankings", "quality_scores", "score_history",
            "training_run", "video_catalog", "video_overview", "visual_features",
        ],
        "jobs": ["score_all_libraries", "score_library", "train_and_promote"],
        "checks": 6,
    }  # fmt: skip
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("CPLLM_CATALOG_URI", None, "CPLLM_CATALOG_URI is not set"),
        ("CPLLM_CATALOG_URI", "  ", "CPLLM_CATALOG_URI is not set"),
        ("CPLLM_CATALOG_URI", "gs://bucket", "gs://bucket"),
        ("CPLLM_LAKE_URI", None, "CPLLM_LAKE_URI is not set"),
        ("CPLLM_LAKE_URI", "ftp://host/lake", "ftp"),
        ("CPLLM_MODEL", "no-such-model", "no-such-model"),
        ("CPLLM_MODEL", "promoted", "CPLLM_MODELS_URI is not set"),
        ("CPLLM_S3_ENDPOINT_URL", "localhost:9000", "CPLLM_S3_ENDPOINT_URL is 'localhost:9000'"),
        ("CPLLM_CATALOG_ACCESS", "public", "CPLLM_CATALOG_ACCESS is 'public'; give one of signed, unsigned"),
        ("CPLLM_LARGEST_LOSS", "some", "CPLLM_LARGEST_LOSS is 'some'"),
        ("CPLLM_LARGEST_LOSS", "30", "a share from 0 to 1"),
        ("CPLLM_HISTORY_DAYS", "-1", "CPLLM_HISTORY_DAYS is '-1'; give a number of days"),
        ("CPLLM_HISTORY_DAYS", "1000000", "0 to 36500"),
        ("CPLLM_STALE_HOURS", "0", "give a number of hours, 1 to"),
        ("CPLLM_SCHEDULE", "every night", "the schedule 'every night' in the time zone 'UTC' is not known"),
        ("CPLLM_TIMEZONE", "Mars/Phobos", "'Mars/Phobos' is not known"),
        ("CPLLM_OWNERS", "team:video, bob", "CPLLM_OWNERS names 'bob'"),
        ("CPLLM_ALERT_WEBHOOK", "file:///etc/passwd", "the webhook for alerts is no"),
        ("CPLLM_ALERT_MAIL", "a@b.de; c@d.de", "is not a mail address"),
        ("CPLLM_SMTP_URL", "mail.example.com:25", "the mail server is not given as smtp://"),
        ("CPLLM_DECODE_WORKERS", "0", "CPLLM_DECODE_WORKERS is '0'; give a whole number from 1 on"),
        ("CPLLM_MODEL_WORKERS", "many", "CPLLM_MODEL_WORKERS is 'many'"),
        ("CPLLM_MODEL_GPUS", "1.5", "CPLLM_MODEL_GPUS is '1.5'; give a share from 0 to 1, or a whole number"),
        ("CPLLM_MODEL_GPUS", "-1", "CPLLM_MODEL_GPUS is '-1'"),
        ("CPLLM_BATCH_SIZE", "4.0", "CPLLM_BATCH_SIZE is '4.0'"),
        ("CPLLM_PRECISION", "int8", "CPLLM_PRECISION is 'int8'; give one of float32, bfloat16"),
    ],
)
def test_a_missing_or_wrong_value_is_one_sentence(
    environment: pytest.MonkeyPatch, name: str, value: str | None, sentence: str
) -> None:
    if value is None:
        environment.delenv(name)
    else:
        environment.setenv(name, value)
    with pytest.raises(CPLLMError, match=sentence) as raised:
        build_definitions(read_settings())
    assert "\n" not in str(raised.value)


def test_what_is_given_goes_before_the_environment(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("CPLLM_RAY_ADDRESS", "ray://head:10001")
    settings = read_settings(lake=str(tmp_path / "other"))
    assert settings.lake_uri == str(tmp_path / "other")
    assert settings.catalog_uri == str(tmp_path / "videos")
    assert (settings.model, settings.s3_endpoint_url, settings.ray_address) == ("tiny", None, "ray://head:10001")
    assert read_settings().lake_uri == str(tmp_path / "lake")


def test_how_s3_is_asked_reaches_the_videos(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CPLLM_CATALOG_ACCESS", "unsigned")
    settings = read_settings()
    catalog: Any = build_definitions(settings).resources["catalog"]  # pyright: ignore[reportOptionalSubscript]
    assert catalog.open().access == video_store(settings).access == "unsigned"


def test_what_is_left_out_and_what_may_be_lost_are_settings(environment: pytest.MonkeyPatch) -> None:
    assert (read_settings().exclude, read_settings().largest_loss) == (EXCLUDED, 0.3)
    environment.setenv("CPLLM_LARGEST_LOSS", "0.5")
    for value, expected in (
        ("*proxy*, old", ("*proxy*", "old")),
        ("..., old", (*EXCLUDED, "old")),
        ("none", ()),
    ):
        environment.setenv("CPLLM_EXCLUDE", value)
        settings = read_settings()
        assert settings.exclude == expected == video_store(settings).exclude
        catalog = (build_definitions(settings).resources or {})["catalog"]
        assert (tuple(catalog.exclude), catalog.largest_loss) == (expected, 0.5)


def test_how_long_history_is_kept_is_a_setting(environment: pytest.MonkeyPatch) -> None:
    assert read_settings().history_days == 400
    environment.setenv("CPLLM_HISTORY_DAYS", "0")
    lake: Any = (build_definitions(read_settings()).resources or {})["lake"]
    assert lake.history_days == 0


@pytest.mark.parametrize("model", ["tiny", "promoted"])
def test_assets_say_whose_they_are_where_they_lie_and_what_they_come_from(
    environment: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    environment.setenv("CPLLM_OWNERS", "team:video, owner@example.com")
    environment.setenv("CPLLM_STALE_HOURS", "30")
    environment.setenv("CPLLM_MODEL", model)
    environment.setenv("CPLLM_MODELS_URI", str(tmp_path / "models"))
    graph = build_definitions(read_settings()).get_repository_def().asset_graph
    scores, catalog = (graph.get(dg.AssetKey(name)) for name in ("quality_scores", "video_catalog"))
    assert list(scores.owners) == ["team:video", "owner@example.com"] and scores.tags["domain"] == "video-quality"
    assert scores.metadata["dagster/uri"] == f"{tmp_path / 'lake'}/scores/"
    assert scores.freshness_policy == dg.FreshnessPolicy.time_window(timedelta(hours=30))
    columns = scores.metadata["dagster/column_schema"].columns  # pyright: ignore[reportAttributeAccessIssue]
    assert all(column.description for column in columns)
    assert {key.to_user_string() for key in catalog.parent_keys} == {"content_libraries"}
    promoted = {"promoted_model"} if model == "promoted" else set()
    assert {key.to_user_string() for key in scores.parent_keys} == {"video_catalog"} | promoted


def test_schedules_and_sensors_are_described(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CPLLM_SCHEDULE", "30 1 * * *")
    environment.setenv("CPLLM_TIMEZONE", "Europe/Berlin")
    assert not [name for name in sensors() if "alert" in name]
    environment.setenv("CPLLM_ALERT_MAIL", "night@example.com")
    assert {"run_alerts", "run_failure_alerts"} < set(sensors())
    repository = build_definitions(read_settings()).get_repository_def()
    schedule = repository.get_schedule_def("nightly")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 1 * * *", "Europe/Berlin")
    assert all(found.description for found in (*repository.sensor_defs, schedule))


def sensors() -> list[str]:
    return [sensor.name for sensor in build_definitions(read_settings()).get_repository_def().sensor_defs]


def test_what_the_environment_says_of_workers_reaches_the_nightly_run(environment: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("DECODE_WORKERS", "6"), ("MODEL_WORKERS", "2"), ("MODEL_GPUS", "0.5"), ("BATCH_SIZE", "32"),
        ("PRECISION", "bfloat16"),
    ):  # fmt: skip
        environment.setenv(f"CPLLM_{name}", value)
    workers = Workers(6, 2, 0.5, 32, Precision.bfloat16)
    settings = read_settings()
    assert settings.workers == workers
    repository = build_definitions(settings).get_repository_def()
    # The schedule's requests have no config of their own: a run takes the job's resources and its ops' defaults.
    ray: Any = (build_definitions(settings).resources or {})["ray"]
    assert repository.get_job("score_library").resource_defs.keys() >= {"ray"}
    for config in (QualityConfig(), ComparisonConfig()):
        batch = config.batch_settings(ray)
        assert {field.name: getattr(batch, field.name) for field in fields(Workers)} == asdict(workers)
    # What a person states in the launchpad goes before it, and what is given on the command line, too.
    assert QualityConfig(model_gpus=0.0, batch_size=1).batch_settings(ray).model_gpus == 0
    assert read_settings(workers=Workers(model_gpus=0.0, decode_workers=1)).workers == replace(
        workers, model_gpus=0.0, decode_workers=1
    )


@pytest.mark.parametrize("lake", ["videos", "videos/lake", "videos/../videos/lake"])
def test_a_lake_inside_the_catalogue_is_refused(environment: pytest.MonkeyPatch, tmp_path: Path, lake: str) -> None:
    environment.setenv("CPLLM_LAKE_URI", str(tmp_path / lake))
    with pytest.raises(ConfigurationError, match="lies inside the catalogue"):
        build_definitions(read_settings())


def test_a_hostile_endpoint_is_refused_without_its_password(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CPLLM_S3_ENDPOINT_URL", "http://user:secret@host")
    with pytest.raises(ConfigurationError) as raised:
        build_definitions(read_settings())
    assert "secret" not in str(raised.value)


def test_the_promoted_model_may_be_named_before_there_is_one(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("CPLLM_MODEL", "promoted")
    environment.setenv("CPLLM_MODELS_URI", str(tmp_path / "models"))
    assert build_definitions(read_settings()).get_repository_def().has_job("train_and_promote")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("job", "names"),
    [
        ("score_library", ("video_catalog", "quality", "pairwise_comparisons")),
        ("train_and_promote", ("distortion_corpus", "training_run", "model_evaluation")),
    ],
)
def test_every_knob_is_described(job: str, names: tuple[str, ...]) -> None:
    repository = build_definitions(read_settings()).get_repository_def()
    for name in names:
        (node,) = [node for node in repository.get_job(job).nodes if node.name == name]
        schema: Any = node.definition.config_schema  # pyright: ignore[reportAttributeAccessIssue]
        fields = schema.config_type.fields
        assert fields
        assert all(field.description for field in fields.values())


def test_the_instance_configuration_is_accepted_by_dagster(tmp_path: Path) -> None:
    configuration = CHECKOUT / "infra" / "dagster" / "dagster.yaml"
    (tmp_path / "dagster.yaml").write_text(configuration.read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        limits = instance.get_concurrency_config().run_queue_config
        assert limits is not None and limits.tag_concurrency_limits == [
            {"key": "dagster/partition", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
        ]
        assert instance.run_monitoring_enabled and instance.run_retries_enabled and not instance.telemetry_enabled


def test_the_workspace_names_the_definitions() -> None:
    (location,) = yaml.safe_load((CHECKOUT / "workspace.yaml").read_text())["load_from"]
    assert location["python_module"]["module_name"] == "cpllm_dagster.definitions"
