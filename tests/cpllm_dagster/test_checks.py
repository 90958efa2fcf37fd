"""Every check finds what it is there for, in tables of which something is wrong, and names the library."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cpllm_dagster import checks
from cpllm_dagster.automation import PARTITION_SET
from cpllm_dagster.catalog.objects import partition_key
from cpllm_dagster.definitions import build_definitions, read_settings
from cpllm_dagster.lake.tables import Lake

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
    assert set(verdict.metadata["videos"]) <= {"s3://b/b", "s3://b/c"}


def test_a_score_out_of_range_is_found_whoever_wrote_it(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    # Lake.write refuses such rows, so another writer is needed.
    monkeypatch.setattr("cpllm_dagster.lake.tables.validate", _unchecked)
    write(lake, "scores", [score_row("a", 7.0), score_row("b", 3.0), score_row("c", 2.0) | {"status": "failed"}])
    verdict = checks.judge_range(lake, LIBRARY)
    assert not verdict.passed and verdict.metadata["videos"] == ["s3://b/a", "s3://b/c"]


def _unchecked(table_name: str, rows: Any) -> Any:
    import pyarrow as pa

    from cpllm_dagster.lake.schemas import SCHEMAS

    return pa.Table.from_pylist(rows, SCHEMAS[table_name])


def test_too_many_failures(lake: Lake) -> None:
    verdict = checks.judge_failures(lake, LIBRARY, 0.1)
    assert not verdict.passed
    assert verdict.detail == "1 of 6 videos failed (16.7%, limit 10.0%)"
    assert verdict.metadata["failures_by_type"] == {"corrupt_video": 1}


def test_a_ranking_against_the_scores(lake: Lake) -> None:
    write(lake, "rankings", [ranking_row(video, -place, place + 1) for place, video in enumerate("abcde")])
    verdict = checks.judge_agreement(lake, LIBRARY, 0.5, 5)
    assert not verdict.passed and verdict.metadata["spearman"] == pytest.approx(-1.0)


@pytest.mark.parametrize("ranked", [[], [("a", 1.0)], [("a", 1.0), ("b", 1.0)]])
def test_rankings_that_cannot_be_judged_pass(lake: Lake, ranked: list[tuple[str, float]]) -> None:
    write(lake, "rankings", [ranking_row(video, strength, 1) for video, strength in ranked])
    assert checks.judge_agreement(lake, LIBRARY, 0.5, 5).passed


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that knows the library."""
    with dg.DagsterInstance.ephemeral() as found:
        found.add_dynamic_partitions(PARTITION_SET, [partition_key(LIBRARY)])
        yield found


def test_a_check_by_itself_judges_all_libraries_and_tells_of_the_failed_first(
    lake: Lake, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    for name in ("catalog", "scores"):
        table = lake.read(name, LIBRARY)
        assert table is not None
        lake.write(name, "aaa", table, run_id="r", model_id=MODEL)
    write(lake, "scores", [score_row("a", 2.0)])
    definitions = build_definitions(read_settings(catalog_uri=str(tmp_path / "catalogue"), lake=lake.uri))
    result = dg.materialize(
        [checks.one_score_row_per_video],
        selection=dg.AssetSelection.checks(checks.one_score_row_per_video),
        resources=dict(definitions.resources or {}),
        instance=instance,
        raise_on_error=False,
    )
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR
    assert (evaluation.description or "").startswith("fil ms: 6 videos, 5 without a score row")
    assert "aaa: 6 videos, 0 without" in (evaluation.description or "")
    assert evaluation.metadata["library"].value == "fil ms, aaa"
