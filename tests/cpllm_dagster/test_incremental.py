"""What holds from earlier runs: new, changed, removed and failed videos, other models, parts of a broken run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from cpllm_dagster.assets.incremental import QualityPlan, plan_quality
from cpllm_dagster.assets.quality import with_keys
from cpllm_dagster.lake.schemas import SCHEMAS

MODEL = "tiny-000000000000"
TABLES = ("scores", "descriptions", "features")


def catalog_row(video: str, etag: str = "1", error_type: str | None = None) -> dict[str, Any]:
    """A listed video, broken if it has an error type."""
    row = {"video_id": video, "uri": f"s3://b/{video}", "key": video, "etag": etag, "size_bytes": 9}
    row |= {"last_modified": datetime(2026, 1, 1, tzinfo=UTC), "probe_status": "failed" if error_type else "ok"}
    return row | {"probe_error_type": error_type, "probe_error_message": error_type and "why"}


def answer(video: str, etag: str = "1", model: str = MODEL, error_type: str | None = None) -> dict[str, list]:
    """The rows that scoring a video gives."""
    key = {"video_id": video, "etag": etag, "model_id": model}
    score = key | {"uri": f"s3://b/{video}", "scored_at": datetime(2026, 1, 1, tzinfo=UTC), "run_id": "r"}
    if error_type:
        return {"scores": [score | {"status": "failed", "error_type": error_type}]}
    return {
        "scores": [score | {"status": "ok", "score": 3.0}],
        "descriptions": [key | {"description": "fair", "distortions": []}],
        "features": [key | {"segment_start_s": [0.0], "tokens": b"", "tokens_shape": [0]}],
    }


def tables(*answers: dict[str, list]) -> dict[str, pa.Table]:
    """Answers as tables."""
    return {
        name: pa.Table.from_pylist([row for one in answers for row in one.get(name, [])], SCHEMAS[name])
        for name in TABLES
    }


def plan(rows: list[dict], before: dict[str, pa.Table], parts: dict[str, pa.Table] | None = None) -> QualityPlan:
    """Plan for a catalogue of these rows."""
    return plan_quality(pa.Table.from_pylist(rows, SCHEMAS["catalog"]), before, parts or tables(), MODEL)


def todo(found: QualityPlan) -> list[str]:
    """The ids of what is to be scored."""
    return [item.video_id for item in found.todo]


def test_nothing_changed_is_complete() -> None:
    found = plan(
        [catalog_row("a"), catalog_row("b", error_type="corrupt_video")],
        tables(answer("a"), answer("b", error_type="corrupt_video")),
    )
    assert found.complete
    assert todo(found) == [] and found.refused == []
    assert found.kept.to_pylist() == [{"video_id": "a", "etag": "1"}, {"video_id": "b", "etag": "1"}]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([catalog_row("a"), catalog_row("new")], ["new"]),
        ([catalog_row("a", etag="2")], ["a"]),
        ([], []),
    ],
    ids=["added", "changed", "removed"],
)
def test_only_what_changed_is_scored(rows: list[dict], expected: list[str]) -> None:
    found = plan(rows, tables(answer("a")))
    assert todo(found) == expected
    assert not found.complete


def test_another_model_scores_all() -> None:
    found = plan([catalog_row("a")], tables(answer("a", model="tiny-111111111111")))
    assert todo(found) == ["a"]
    assert not len(found.kept)


@pytest.mark.parametrize(("error_type", "expected"), [("corrupt_video", []), ("decode_timeout", ["a"])])
def test_only_failures_that_may_pass_are_tried_again(error_type: str, expected: list[str]) -> None:
    assert todo(plan([catalog_row("a")], tables(answer("a", error_type=error_type)))) == expected


def test_an_archived_object_that_the_catalogue_can_read_again_is_scored() -> None:
    row = answer("a", error_type="object_archived")
    assert todo(plan([catalog_row("a")], tables(row))) == ["a"]
    assert plan([catalog_row("a", error_type="object_archived")], tables(row)).complete
    # One that was in the catalogue and was archived before it could be decoded is left alone until a person asks.
    row["scores"][0]["decode_s"] = 0.1
    assert todo(plan([catalog_row("a")], tables(row))) == []
    catalog = pa.Table.from_pylist([catalog_row("a")], SCHEMAS["catalog"])
    assert todo(plan_quality(catalog, tables(row), tables(), MODEL, retry_archived=True)) == ["a"]


def test_scores_of_an_earlier_version_are_not_complete_and_gain_their_keys() -> None:
    before = tables(answer("b"), answer("a"))
    before["scores"] = before["scores"].drop_columns(["key"])
    rows = [catalog_row("a"), catalog_row("b")]
    assert not plan(rows, before).complete and todo(plan(rows, before)) == []
    catalog = pa.Table.from_pylist(rows, SCHEMAS["catalog"])
    for scores in (before["scores"], tables(answer("b"), answer("a"))["scores"]):
        found = with_keys(scores, catalog)
        assert dict(zip(found["video_id"].to_pylist(), found["key"].to_pylist(), strict=True)) == {"a": "a", "b": "b"}


@pytest.mark.parametrize("lost", ["descriptions", "features"])
def test_a_score_without_its_companions_does_not_hold(lost: str) -> None:
    before = tables(answer("a"), answer("b"))
    before[lost] = before[lost].slice(1)
    assert todo(plan([catalog_row("a"), catalog_row("b")], before)) == ["a"]


def test_a_broken_run_is_gone_on_from() -> None:
    parts = tables(
        answer("b"), answer("c", etag="old"), answer("d", error_type="worker_lost"), answer("e", error_type="too_short")
    )
    found = plan([catalog_row(video) for video in "abcde"], tables(answer("a")), parts)
    assert todo(found) == ["c", "d"]
    assert found.recovered["video_id"].to_pylist() == ["b", "e"]
    assert not found.complete


def test_what_is_published_is_not_recovered_again() -> None:
    found = plan([catalog_row("a")], tables(answer("a")), tables(answer("a")))
    assert found.complete
    assert len(found.recovered) == 0


def test_failures_of_the_catalogue_become_score_rows_once() -> None:
    broken = [catalog_row("a", error_type="empty_file")]
    first = plan(broken, tables())
    assert [(item.video_id, error.error_type, error.cause) for item, error in first.refused] == [
        ("a", "empty_file", "why")
    ]
    assert plan(broken, tables(answer("a", error_type="empty_file"))).complete
    # The same video failed otherwise before.
    assert len(plan(broken, tables(answer("a", error_type="not_a_video"))).refused) == 1


def test_rows_too_many_are_not_complete() -> None:
    before = tables(answer("a"))
    before["features"] = pa.concat_tables([before["features"], tables(answer("gone"))["features"]])
    assert not plan([catalog_row("a")], before).complete
