"""Every check finds what it is there for, in tables of which something is wrong, and names the library."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cpllm_dagster import checks
from cpllm_dagster.automation import PARTITION_SET
from cpllm_dagster.catalog.objects import partition_key
from cpllm_dagster.definitions import build_definitions, read_settings
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.tables import Lake
from cpllm_model.errors import ConfigurationError

MODEL = "tiny-000000000000"
LIBRARY = "fil ms"


def catalog_row(video: str, etag: str = "1") -> dict[str, Any]:
    row = {"video_id": video, "uri": f"s3://b/{video}", "etag": etag, "size_bytes": 9, "probe_status": "ok"}
    return row | {"last_modified": datetime(2026, 1, 1, tzinfo=UTC)}


def score_row(video: str, score: float | None, etag: str = "1") -> dict[str, Any]:
    row = {"video_id": video, "uri": f"s3://b/{video}", "etag": etag, "model_id": MODEL, "run_id": "r"}
    row |= {"scored_at": datetime(2026, 1, 1, tzinfo=UTC), "score": score, "status": "ok" if score else "failed"}
    return row | {"error_type": None if score else "corrupt_video"}


def ranking_row(video: str, strength: float, rank: int) -> dict[str, Any]:
    row = {"video_id": video, "model_id": MODEL, "rank": rank, "percentile": 50.0, "strength": strength}
    return row | {"strength_se": 0.1, "comparisons": 2}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Six videos, of which one failed, ranked as they are scored."""
    lake = Lake(str(tmp_path / "lake"))
    scores: dict[str, float | None] = {"a": 1.5, "b": 2.0, "c": 3.0, "d": 4.0, "e": 4.5, "f": None}
    write(lake, "catalog", [catalog_row(video) for video in scores])
    write(lake, "scores", [score_row(video, score) for video, score in scores.items()])
    ranked = sorted((score, video) for video, score in scores.items() if score)
    write(lake, "rankings", [ranking_row(video, score - 3, 5 - place) for place, (score, video) in enumerate(ranked)])
    return lake


def write(lake: Lake, table_name: str, rows: list[dict[str, Any]]) -> None:
    lake.write(table_name, LIBRARY, rows, run_id="r", model_id=MODEL)


def test_sound_tables_pass(lake: Lake) -> None:
    assert checks.judge_coverage(lake, LIBRARY).passed
    assert checks.judge_range(lake, LIBRARY).passed
    assert checks.judge_failures(lake, LIBRARY, 0.2).passed
    agreement = checks.judge_agreement(lake, LIBRARY, 0.5, 5)
    assert agreement.passed and agreement.metadata["spearman"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("rows", "detail"),
    [
        ([score_row("a", 2.0)], "2 videos, 1 without a score row, 0 score rows"),
        ([score_row("a", 2.0), score_row("b", 2.0, etag="2")], "2 videos, 1 without a score row, 1 score rows"),
        ([score_row("a", 2.0), score_row("b", 2.0), score_row("c", 2.0)], "2 videos, 0 without a score row, 1 score"),
    ],
    ids=["missing", "other bytes", "surplus"],
)
def test_scores_that_do_not_cover_the_catalogue(lake: Lake, rows: list[dict[str, Any]], detail: str) -> None:
    write(lake, "catalog", [catalog_row("a"), catalog_row("b")])
    write(lake, "scores", rows)
    verdict = checks.judge_coverage(lake, LIBRARY)
    assert not verdict.passed and verdict.detail.startswith(detail)
    assert set(verdict.metadata["examples"]) <= {"s3://b/b", "s3://b/c"}


def test_a_score_out_of_range_is_found_whoever_wrote_it(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    # Lake.write refuses such rows, so another writer is needed.
    monkeypatch.setattr("cpllm_dagster.lake.tables.validate", _unchecked)
    write(lake, "scores", [score_row("a", 7.0), score_row("b", 3.0), score_row("c", 2.0) | {"status": "failed"}])
    verdict = checks.judge_range(lake, LIBRARY)
    assert not verdict.passed and verdict.metadata["examples"] == ["s3://b/a", "s3://b/c"]
    assert (verdict.metadata["videos"], verdict.metadata["wrong"]) == (3, 2)


def _unchecked(table_name: str, rows: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, SCHEMAS[table_name])


def test_too_many_failures(lake: Lake) -> None:
    verdict = checks.judge_failures(lake, LIBRARY, 0.1)
    assert not verdict.passed
    assert verdict.detail == "1 of 6 videos failed (16.7%, limit 10.0%)"
    assert verdict.metadata["failures_by_type"] == {"corrupt_video": 1}
    assert verdict.metadata["failed_share"] == pytest.approx(1 / 6)


def test_a_ranking_against_the_scores(lake: Lake) -> None:
    write(lake, "rankings", [ranking_row(video, -place, place + 1) for place, video in enumerate("abcde")])
    verdict = checks.judge_agreement(lake, LIBRARY, 0.5, 5)
    assert not verdict.passed and verdict.metadata["spearman"] == pytest.approx(-1.0)


@pytest.mark.parametrize("ranked", [[], [("a", 1.0)], [("a", 1.0), ("b", 1.0)]])
def test_rankings_that_cannot_be_judged_pass(lake: Lake, ranked: list[tuple[str, float]]) -> None:
    write(lake, "rankings", [ranking_row(video, strength, 1) for video, strength in ranked])
    assert checks.judge_agreement(lake, LIBRARY, 0.5, 5).passed


def night(lake: Lake, number: int, mean: float | None, model_id: str = MODEL) -> None:
    row = {name: 0 for name in SCHEMAS["nights"].names if name.startswith("videos_")}
    row |= {"videos": 1, "failed_videos": 0, "failed_share": 0.0, "failures_by_type": [], "unchanged": 1}
    row |= {"scoring_s": 0.0, "decode_s_sum": 0.0, "inference_s_sum": 0.0, "score_mean": mean, "model_id": model_id}
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
    row |= {"run_id": f"run {number}", "recorded_at": at}
    lake.append("nights", LIBRARY, [row], recorded_at=at, run_id=f"run {number}", model_id=model_id)


@pytest.mark.parametrize(
    ("means", "passed", "fall"),
    [
        ([4.0, 4.0, 4.0], True, 0.0),
        ([4.0, 1.0, 4.0, 3.5], False, 0.5),  # one bad night is no usual one
        ([4.0, 3.9], True, 0.1),
        ([3.0, 4.0], True, -1.0),
        ([1.0] * 5 + [4.0] * 7 + [3.5], False, 0.5),  # only the last seven nights count
        ([4.0], True, None),
        ([4.0, None], True, None),
        ([None, 4.0], True, None),
    ],
)
def test_a_fall_of_the_scores(lake: Lake, means: list[float | None], passed: bool, fall: float | None) -> None:
    for number, mean in enumerate(means):
        night(lake, number, mean)
    verdict = checks.judge_fall(lake, LIBRARY, 0.2, 7)
    assert verdict.passed is passed
    assert verdict.metadata.get("fall") == (fall if fall is None else pytest.approx(fall))


def test_scores_of_two_models_are_not_compared(lake: Lake) -> None:
    night(lake, 0, 4.5, "other")
    night(lake, 1, 3.0)
    assert checks.judge_fall(lake, LIBRARY, 0.2, 7).passed
    night(lake, 2, 2.5)
    assert not checks.judge_fall(lake, LIBRARY, 0.2, 7).passed


def comparison(one: str, other: str, probability: float) -> dict[str, Any]:
    row = {"video_id_a": one, "video_id_b": other, "etag_a": "1", "etag_b": "1", "model_id": MODEL}
    return row | {"probability_a_better": probability, "order_gap": 0.0}


@pytest.fixture
def platform(lake: Lake, tmp_path: Path) -> dg.Definitions:
    """The definitions over two libraries, of which one has comparisons that contradict its scores."""
    for library, probability in ((LIBRARY, 0.9), ("aaa", 0.1)):
        table = lake.read("scores", LIBRARY)
        assert table is not None
        lake.write("scores", library, table, run_id="r", model_id=MODEL)
        rows = [comparison(one, other, probability) for one, other in pairwise("abcde")]
        lake.write("comparisons", library, rows, run_id="r", model_id=MODEL)
    return build_definitions(read_settings(catalog_uri=str(tmp_path / "catalogue"), lake=lake.uri))


def test_each_library_has_a_status_of_its_own(platform: dg.Definitions) -> None:
    keys = {library: partition_key(library) for library in ("aaa", LIBRARY)}
    found = {}
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(PARTITION_SET, list(keys.values()))
        for library, key in keys.items():
            result = platform.resolve_job_def("score_library").execute_in_process(
                instance=instance, partition_key=key, asset_selection=[dg.AssetKey("quality_rankings")]
            )
            (found[library],) = result.get_asset_check_evaluations()
    assert {library: (one.passed, one.partition) for library, one in found.items()} == {
        "aaa": (True, "aaa"),
        LIBRARY: (False, keys[LIBRARY]),
    }
    failed = found[LIBRARY]
    assert failed.severity is dg.AssetCheckSeverity.WARN
    assert (failed.description or "").startswith("fil ms: Spearman correlation -1.000 over 5 videos")
    shown = {name: failed.metadata[name].value for name in ("library", "videos", "spearman", "limit")}
    assert shown == {"library": "fil ms", "videos": 5, "spearman": pytest.approx(-1.0), "limit": 0.5}


def test_a_check_without_a_library_says_how_it_is_run(platform: dg.Definitions) -> None:
    with pytest.raises(ConfigurationError, match="one_score_row_per_video has a result a library: materialize"):
        dg.materialize(
            [checks.one_score_row_per_video],
            selection=dg.AssetSelection.checks(checks.one_score_row_per_video),
            resources=dict(platform.resources or {}),
        )
