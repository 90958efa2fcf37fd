"""What a report tells of a library: counted right, whatever the size, and no video at both ends."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.report.facts import RANKED, SHOWN, library_facts, moments
from cpllm_model.scale import level_of
from tests.cpllm_dagster.example_lake import MODEL, fill

KEY = {"etag": "1", "model_id": MODEL}


def facts_of(lake: Lake, library: str) -> dict[str, Any]:
    with lake.connect(library) as connection:
        return library_facts(connection)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The example."""
    lake = Lake(str(tmp_path_factory.mktemp("facts")))
    fill(lake)
    return lake


def publish(lake: Lake, count: int, failed: int = 0) -> None:
    """Publish a library of so many videos with scores from 1 to 5, and failures."""
    names = [f"v{index:04}" for index in range(count + failed)]
    shared = [KEY | {"video_id": name, "uri": f"s3://b/{name}.mp4", "key": f"{name}.mp4"} for name in names]
    when = {"run_id": "r", "scored_at": datetime(2026, 1, 1, tzinfo=UTC)}
    scores = [1 + 4 * index / max(count - 1, 1) for index in range(count)]
    good = [{"score": score, "score_std": 0.5, "level": level_of(score), "status": "ok"} for score in scores]
    bad = [{"status": "failed", "error_type": "too_short", "error_message": "no burst"}] * failed
    rows = [name | when | found for name, found in zip(shared, good + bad, strict=True)]
    lake.write("scores", "films", rows, run_id="r", model_id=MODEL)
    ranks = [
        {"video_id": row["video_id"], "model_id": MODEL, "rank": count - index, "percentile": 50.0}
        | {"strength": row["score"], "strength_se": 0.1, "comparisons": 7}
        for index, row in enumerate(rows[:count])
    ]
    lake.write("rankings", "films", ranks, run_id="r", model_id=MODEL)
    probed = {"size_bytes": 1000, "probe_status": "ok", "codec": "h264", "width_px": 100, "height_px": 100, "fps": 10.0}
    catalog = [
        {name: row[name] for name in ("video_id", "uri", "key", "etag")} | probed | {"bit_rate_bps": 5000 << index % 3}
        for index, row in enumerate(rows)
    ]
    lake.write("catalog", "films", catalog, run_id="r", model_id=MODEL)


def test_the_summary_is_of_one_library(lake: Lake) -> None:
    summary = facts_of(lake, "films")["summary"]
    assert (summary["videos"], summary["scored"], summary["failed"]) == (4, 3, 1)
    assert summary["score_median"] == 3.0 and summary["share_below_3"] == pytest.approx(1 / 3)
    assert summary["model_ids"] == [MODEL]
    assert facts_of(lake, "shows/2026")["summary"]["videos"] == 2


def test_changes_are_those_of_the_last_run(lake: Lake) -> None:
    facts = facts_of(lake, "films")
    assert {row["change"]: row["videos"] for row in facts["changes"]} == {"changed": 1, "new": 1, "removed": 1}
    (fallen,) = facts["fallen"]
    assert (fallen["key"], fallen["previous_score"], fallen["score"]) == ("libraries/films/b.mp4", 4.0, 1.75)
    assert facts["risen"] == [] and facts["newly_failed"] == []
    assert [night["run_id"] for night in facts["nights"]] == ["run 0", "run 1", "run 2"]
    assert facts_of(lake, "shows/2026")["changes"] == []


def test_segments_without_a_picture_have_no_score_and_the_moment_is_the_worst(lake: Lake) -> None:
    facts = facts_of(lake, "films")
    worst = facts["worst"][0]
    assert worst["key"] == "libraries/films/b.mp4"
    assert [segment["score"] for segment in worst["segments"]] == [2.0, 1.25, 1.75, None]
    assert worst["segments"][-1] == {"start_s": 7.5, "end_s": 10.0, "score": None, "level": None}
    assert (worst["moment_start_s"], worst["moment_end_s"]) == (2.5, 5.0)
    best = facts["best"][0]
    assert best["key"] == "libraries/films/a.mp4" and best["moment_start_s"] == 0.0
    with lake.connect("films") as connection:
        wanted = moments(connection, library_facts(connection))
    assert [moment.video_id for moment in wanted] == [row["video_id"] for row in facts["worst"] + facts["best"]]
    assert {moment.size_bytes for moment in wanted} == {2_500_000}


@pytest.mark.parametrize("count", [1, 2, 5, 2 * SHOWN, 300])
def test_both_ends_are_shown_and_no_video_twice(tmp_path: Path, count: int) -> None:
    publish(Lake(str(tmp_path)), count, failed=3)
    facts = facts_of(Lake(str(tmp_path)), "films")
    shown = [row["video_id"] for row in facts["worst"] + facts["best"]]
    assert len(shown) == len(set(shown)) == min(count, 2 * SHOWN)
    assert [row["score"] for row in facts["worst"]] == sorted(row["score"] for row in facts["worst"])
    assert facts["worst"][0]["score"] == 1.0
    assert sum(row["videos"] for row in facts["histogram"]) == count
    assert len(facts["ranking"]) == min(count, 2 * RANKED)
    assert (facts["failures"][0]["videos"], facts["failures"][0]["examples"]) == (
        3,
        [f"v{count + index:04}.mp4" for index in range(3)],
    )


def test_ranges_are_of_all_videos_and_points_are_a_sample(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    publish(lake, 1200)
    facts = facts_of(lake, "films")
    assert facts["with_rate"] == 1200 and len(facts["points"]) == 500
    assert sum(row["videos"] for row in facts["rates"]) == 1200
    assert [row["bits_per_pixel"] for row in facts["rates"]] == pytest.approx([2**-4.25 * 2**n for n in range(3)], 0.2)
    (codec,) = facts["codecs"]
    assert (codec["videos"], codec["p50"]) == (1200, pytest.approx(3.0))


def test_a_library_without_any_score_has_no_figures(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    publish(lake, 0, failed=2)
    facts = facts_of(lake, "films")
    assert (facts["summary"]["videos"], facts["summary"]["score_mean"]) == (2, None)
    assert facts["worst"] == facts["best"] == facts["histogram"] == facts["points"] == []
    lake.write("scores", "empty", SCHEMAS["scores"].empty_table(), run_id="r", model_id=MODEL)
    assert facts_of(lake, "empty")["summary"]["videos"] == 0
