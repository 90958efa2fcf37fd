"""Videos that cost a deadline each time are tried again ever more seldom, and at last left alone; their row says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from cpllm_dagster.assets.incremental import plan_quality
from cpllm_dagster.assets.quality import failure_row, repeated_failures
from cpllm_dagster.assets.retries import COLUMNS, COSTLY_TYPES, MOST_RUNS, earlier_failures, stated
from cpllm_dagster.batch.supervisor import VideoItem
from cpllm_dagster.lake.rows import validate
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_model.errors import video_error

MODEL = "tiny-000000000000"
ITEM = VideoItem("a", "s3://b/a", "1", 9)
CATALOG = pa.Table.from_pylist(
    [{"video_id": "a", "uri": "s3://b/a", "etag": "1", "size_bytes": 9, "probe_status": "ok"}], SCHEMAS["catalog"]
)
FIRST_NIGHT = datetime(2026, 1, 1, 2, tzinfo=UTC)


def table(*rows: dict[str, Any]) -> pa.Table:
    return validate("scores", [*rows])


def is_tried(scores: pa.Table, now: datetime, catalog: pa.Table = CATALOG, model: str = MODEL) -> bool:
    before = {"scores": scores, **{name: SCHEMAS[name].empty_table() for name in ("descriptions", "features")}}
    parts = {name: SCHEMAS[name].empty_table() for name in before}
    return bool(plan_quality(catalog, before, parts, model, now=now).todo)


def failed(error_type: str, night: datetime, scores: pa.Table) -> dict[str, Any]:
    """The row of a night in which the video fails so."""
    row = failure_row(ITEM, video_error(error_type, ITEM.uri, "it took too long"), MODEL, "r")
    return stated(row | {"scored_at": night}, earlier_failures(scores, MODEL))


@pytest.mark.parametrize("error_type", sorted(COSTLY_TYPES))
def test_it_is_tried_ever_more_seldom_and_at_last_left_alone(error_type: str) -> None:
    scores, tried = SCHEMAS["scores"].empty_table(), []
    for number in range(60):
        # Runs start some minutes sooner or later, and end later.
        night = FIRST_NIGHT + timedelta(days=number, minutes=7 * (number % 3))
        if is_tried(scores, night):
            scores = table(failed(error_type, night + timedelta(hours=1), scores))
            tried.append(number)
    assert tried == [0, 1, 3, 7, 15] and len(tried) == MOST_RUNS
    (row,) = scores.to_pylist()
    assert row["failed_runs"] == MOST_RUNS and row["retry_after"] is None


def test_new_bytes_or_another_model_begin_anew() -> None:
    row = failed("worker_lost", FIRST_NIGHT, SCHEMAS["scores"].empty_table()) | {
        "failed_runs": MOST_RUNS,
        "retry_after": None,
    }
    scores, later = table(row), FIRST_NIGHT + timedelta(days=1)
    assert not is_tried(scores, later)
    assert is_tried(scores, later, CATALOG.set_column(3, CATALOG.schema.field("etag"), pa.array(["2"])))
    assert is_tried(scores, later, model="tiny-111111111111")
    assert earlier_failures(scores, "tiny-111111111111") == {}


def test_the_two_failures_count_together_and_others_are_tried_each_night() -> None:
    first = table(failed("decode_timeout", FIRST_NIGHT, SCHEMAS["scores"].empty_table()))
    assert failed("worker_lost", FIRST_NIGHT, first)["failed_runs"] == 2
    other = failed("source_read", FIRST_NIGHT, first)
    assert not set(COLUMNS) & set(other)
    assert is_tried(table(other), FIRST_NIGHT + timedelta(minutes=1))


def test_a_row_of_a_version_without_the_columns_counts_as_one_run() -> None:
    old = table(failed("decode_timeout", FIRST_NIGHT, SCHEMAS["scores"].empty_table())).drop_columns([*COLUMNS])
    assert is_tried(old, FIRST_NIGHT)
    assert earlier_failures(old, MODEL) == {("a", "1"): 1}


def test_a_counted_failure_gets_a_new_row() -> None:
    scores = table(failed("decode_timeout", FIRST_NIGHT, SCHEMAS["scores"].empty_table()))
    again = failed("decode_timeout", FIRST_NIGHT + timedelta(days=1), scores)
    assert repeated_failures(table(again), scores, MODEL).tolist() == [False]
