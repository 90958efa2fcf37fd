"""What a run changed is recorded once, whenever it dies, and forgotten when its time has come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpllm_dagster.assets.history import (
    append_night,
    change_rows,
    keep_pending,
    night_row,
    prune,
    score_figures,
    settle_pending,
)
from cpllm_dagster.lake.rows import validate
from cpllm_dagster.lake.tables import Lake

NOW = datetime(2026, 3, 4, 2, tzinfo=UTC)
SPENT = {"scoring_s": 3.0, "decode_s_sum": 2.0, "inference_s_sum": 1.0}


def score_row(
    video: str, score: float | None = 3.0, etag: str = "1", model: str = "m", error: str = "too_short"
) -> Any:
    row = {"video_id": video, "uri": f"s3://b/{video}", "key": video, "etag": etag, "model_id": model, "run_id": "r"}
    row |= {"scored_at": NOW, "score": score, "status": "ok" if score else "failed"}
    return row | ({} if score else {"error_type": error})


def scores(*rows: dict[str, Any]) -> pa.Table:
    return validate("scores", list(rows))


def changes(before: pa.Table, after: pa.Table, run_id: str = "r2") -> pa.Table:
    return change_rows(before, after, run_id=run_id, recorded_at=NOW)


def night(after: pa.Table, changed: pa.Table, run_id: str = "r2", recorded_at: datetime = NOW) -> dict[str, Any]:
    return night_row(after, changed, run_id=run_id, recorded_at=recorded_at, model_id="m", spent_s=SPENT)


BEFORE = scores(
    score_row("same"), score_row("same failure", None), score_row("bytes", 4.0), score_row("model", 2.0),
    score_row("breaks", 5.0), score_row("mends", None), score_row("other reason", None), score_row("again", 3.0),
    score_row("gone", 1.5),
)  # fmt: skip
AFTER = scores(
    score_row("same"), score_row("same failure", None), score_row("bytes", 4.0, etag="2"),
    score_row("model", 2.5, model="n"), score_row("breaks", None), score_row("mends", 3.5),
    score_row("other reason", None, error="source_read"), score_row("again", 3.25), score_row("added", 2.75),
)  # fmt: skip


def test_each_kind_of_change_has_its_row_and_what_stays_has_none() -> None:
    found = {row["video_id"]: row for row in changes(BEFORE, AFTER).to_pylist()}
    assert {video: (row["change"], row["score"], row["previous_score"]) for video, row in found.items()} == {
        "bytes": ("changed", 4.0, 4.0),
        "model": ("rescored", 2.5, 2.0),
        "breaks": ("failed", None, 5.0),
        "mends": ("recovered", 3.5, None),
        "other reason": ("failed", None, None),
        "again": ("rescored", 3.25, 3.0),
        "added": ("new", 2.75, None),
        "gone": ("removed", None, 1.5),
    }
    assert (found["gone"]["status"], found["gone"]["key"], found["gone"]["etag"]) == (None, "gone", "1")
    assert found["model"]["model_id"] == "n" and found["other reason"]["error_type"] == "source_read"
    assert {(row["run_id"], row["recorded_at"]) for row in found.values()} == {("r2", NOW)}


def test_tables_of_earlier_versions_can_be_compared() -> None:
    older = BEFORE.drop_columns(["key", "segment_end_s"])
    assert changes(older, AFTER).drop_columns(["key"]).equals(changes(BEFORE, AFTER).drop_columns(["key"]))


def test_a_night_counts_what_changed_and_what_did_not() -> None:
    found = night(AFTER, changes(BEFORE, AFTER))
    assert (found["videos"], found["unchanged"], found["videos_rescored"], found["videos_removed"]) == (9, 2, 2, 1)
    assert found["failures_by_type"] == [
        {"error_type": "too_short", "videos": 2}, {"error_type": "source_read", "videos": 1},
    ]  # fmt: skip
    assert (found["failed_videos"], found["failed_share"]) == (3, pytest.approx(1 / 3))
    assert found["score_median"] == pytest.approx(3.125) and found["share_below_3"] == pytest.approx(2 / 6)
    assert len(validate("nights", [found])) == 1


@given(st.lists(st.one_of(st.none(), st.floats(1, 5)), max_size=20))
def test_figures_of_any_scores_are_in_order_or_null(values: list[float | None]) -> None:
    table = scores(*(score_row(f"{number:02}", value) for number, value in enumerate(values)))
    figures = score_figures(table)
    names = ("score_p5", "score_p25", "score_median", "score_p75", "score_p95")
    ordered = [figures[name] for name in names]
    if any(values):
        assert ordered == sorted(ordered) and 1 <= figures["score_mean"] <= 5.0000001
    else:
        assert ordered == [None] * 5 and figures["share_below_3"] is None
    assert figures["videos"] == len(values)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake whose library was scored by a first run."""
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, BEFORE, "r1")
    return lake


def publish(lake: Lake, table: pa.Table, run_id: str) -> None:
    lake.write("scores", "films", table, run_id=run_id, model_id="m")


def recorded(lake: Lake) -> list[str]:
    """The runs of the nights that are recorded."""
    table = lake.read("nights", "films")
    return [] if table is None else table["run_id"].to_pylist()


def test_a_run_that_dies_before_it_publishes_leaves_no_trace(lake: Lake) -> None:
    changed = changes(BEFORE, AFTER)
    keep_pending(lake, "films", changed, night(AFTER, changed))
    settle_pending(lake, "films")
    assert recorded(lake) == [] and lake.read("score_history", "films") is None
    assert not list(Path(lake.uri).rglob("*.part"))


def test_a_run_that_dies_after_it_has_published_is_recorded_by_the_next(lake: Lake) -> None:
    changed = changes(BEFORE, AFTER)
    keep_pending(lake, "films", changed, night(AFTER, changed))
    publish(lake, AFTER, "r2")
    settle_pending(lake, "films")
    files = sorted(Path(lake.uri).rglob("*_r2.parquet"))
    # It dies again, after it has appended and before it has dropped what was pending.
    keep_pending(lake, "films", changed, night(AFTER, changed))
    settle_pending(lake, "films")
    assert sorted(Path(lake.uri).rglob("*_r2.parquet")) == files and len(files) == 2
    found = lake.read("score_history", "films")
    assert recorded(lake) == ["r2"] and found is not None and found.equals(changed)


def test_nights_are_read_in_their_order_and_the_newest_alone(lake: Lake) -> None:
    for day in (3, 1, 2):
        at = NOW + timedelta(days=day)
        append_night(lake, "films", None, night(AFTER, changes(AFTER, AFTER), f"run {day}", at))
    assert recorded(lake) == ["run 1", "run 2", "run 3"]
    newest = lake.read_log("nights", "films", newest=2)
    assert newest is not None and newest["run_id"].to_pylist() == ["run 2", "run 3"]
    with lake.connect() as connection:
        found = connection.execute("SELECT library, run_id, videos FROM nights ORDER BY recorded_at").fetchall()
        assert found == [("films", f"run {day}", 9) for day in (1, 2, 3)]
    assert (lake.metadata("nights", "films") or {})["run_id"] == "run 3"


def test_history_is_forgotten_after_its_days(lake: Lake) -> None:
    now = datetime.now(UTC)
    for days in (401, 399):
        at = now - timedelta(days=days)
        changed = change_rows(BEFORE, AFTER, run_id=f"r{days}", recorded_at=at)
        append_night(lake, "films", changed, night(AFTER, changed, f"r{days}", at))
    assert prune(lake, "films", 0) == []
    assert len(prune(lake, "films", 400)) == 2
    assert recorded(lake) == ["r399"]
