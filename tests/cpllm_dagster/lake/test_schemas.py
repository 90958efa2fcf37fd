"""Rows of every table: what is taken, what is refused."""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cpllm_dagster.lake.rows import validate
from cpllm_dagster.lake.schemas import CHANGES, KEYS, LOGS, SCHEMAS, SENTENCES, comment, severity_column
from cpllm_model.errors import LakeError
from cpllm_model.scale import DISTORTIONS

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)

ROWS: dict[str, dict[str, Any]] = {
    "catalog": {
        "video_id": "a1",
        "uri": "s3://b/k",
        "key": "k",
        "etag": "e",
        "size_bytes": 12,
        "last_modified": NOW,
        "duration_s": 1.5,
        "width_px": 640,
        "height_px": 360,
        "fps": 29.97,
        "codec": "h264",
        "pixel_format": "yuv420p",
        "rotation_deg": 90,
        "bit_rate_bps": 1000,
        "probe_status": "ok",
        "probe_error_type": None,
        "probe_error_message": None,
    },
    "scores": {
        "video_id": "a1",
        "uri": "s3://b/k",
        "key": "k",
        "etag": "e",
        "model_id": "m",
        "score": 3.5,
        "score_std": 0.25,
        "level": "fair",
        "level_probabilities": [0.0, 0.1, 0.5, 0.3, 0.1],
        "segment_start_s": (0.0, 1.0),
        "segment_end_s": [1.0, 2.0],
        "segment_score": [None, 3.5],
        "score_worst": 3.5,
        "worst_start_s": 1.0,
        "worst_end_s": 2.0,
        "events": [{"kind": "black", "start_s": 0.0, "end_s": 1.0, "share": 1.0}],
        "scene": {"light": "dark", "detail": "rich", "motion": "still", "kind": "camera"},
        "sampling_plan": "keyframe",
        "damaged_frames": 2,
        "status": "ok",
        "error_type": None,
        "error_message": None,
        "failed_runs": None,
        "retry_after": None,
        "decode_s": 0.5,
        "inference_s": 0.25,
        "scored_at": NOW,
        "run_id": "r",
    },
    "descriptions": {
        "video_id": "a1",
        "etag": "e",
        "model_id": "m",
        "description": "A <b>clip</b>; DROP TABLE scores",
        "distortions": [{"name": "blur", "severity": 2.0, "probability": 0.75, "named": True}],
        "distortion_times": [{"name": "blur", "start_s": 0.0, "end_s": 1.0}],
    },
    "features": {
        "video_id": "a1",
        "etag": "e",
        "model_id": "m",
        "segment_start_s": [0.0],
        "tokens": np.zeros((1, 2, 3), np.float16).tobytes(),
        "tokens_shape": [1, 2, 3],
    },
    "comparisons": {
        "video_id_a": "a1",
        "video_id_b": "b2",
        "etag_a": "e",
        "etag_b": "f",
        "model_id": "m",
        "probability_a_better": 0.75,
        "order_gap": 0.125,
    },
    "rankings": {
        "video_id": "a1",
        "model_id": "m",
        "rank": 1,
        "percentile": 100.0,
        "strength": -0.5,
        "strength_se": 0.25,
        "comparisons": 7,
    },
    "videos": {
        "video_id": "a1",
        "uri": "s3://b/k",
        "key": "k",
        "file_name": "k",
        "status": "ok",
        "error_type": None,
        "error_message": None,
        "score": 3.5,
        "score_std": 0.25,
        "level": "fair",
        "rank": 1,
        "percentile": 100.0,
        "score_worst": 3.0,
        "worst_start_s": 0.0,
        "worst_end_s": 1.0,
        "description": "The picture is clean.",
        "named_distortions": ["blur"],
        **{severity_column(family): 0.5 for family in DISTORTIONS},
        "codec": "h264",
        "width_px": 640,
        "height_px": 360,
        "fps": 25.0,
        "duration_s": 2.0,
        "size_bytes": 12,
        "bit_rate_bps": 1000,
        "bits_per_pixel": 0.1,
        "etag": "e",
        "model_id": "m",
        "scored_at": NOW,
    },
    "key_frames": {
        "video_id": "a1",
        "etag": "e",
        "model_id": "m",
        "moment_start_s": 0.0,
        "moment_end_s": 1.5,
        "picture": b"RIFF",
    },
    "score_history": {
        "run_id": "r",
        "recorded_at": NOW,
        "video_id": "a1",
        "key": "k",
        "etag": "e",
        "model_id": "m",
        "change": "changed",
        "score": 3.5,
        "score_std": 0.25,
        "level": "fair",
        "status": "ok",
        "error_type": None,
        "previous_score": 4.0,
    },
    "nights": {
        "run_id": "r",
        "recorded_at": NOW,
        "model_id": "m",
        "videos": 2,
        "failed_videos": 1,
        "failed_share": 0.5,
        "failures_by_type": [{"error_type": "too_short", "videos": 1}],
        **dict.fromkeys(("score_mean", "score_p5", "score_p25", "score_median", "score_p75", "score_p95"), 3.5),
        "share_below_3": 0.0,
        "unchanged": 1,
        **{f"videos_{change}": int(change == "new") for change in CHANGES},
        "scoring_s": 4.0,
        "decode_s_sum": 1.0,
        "inference_s_sum": 0.5,
    },
}
FAILED = {"status": "failed", "error_type": "empty_file", "score": None}


@pytest.mark.parametrize("table_name", SCHEMAS)
def test_good_rows_pass(table_name: str) -> None:
    table = validate(table_name, [ROWS[table_name]])
    assert table.schema == SCHEMAS[table_name]
    row = table.to_pylist()[0]
    assert row == {
        name: list(value) if isinstance(value, (tuple, np.ndarray)) else value
        for name, value in ROWS[table_name].items()
    }
    assert validate(table_name, table).equals(table)
    assert len(validate(table_name, [])) == 0


def test_rows_are_sorted_by_key_into_one_chunk() -> None:
    rows = [ROWS["rankings"] | {"video_id": name} for name in "dbca"]
    chunked = pa.concat_tables([validate("rankings", rows[:2]), validate("rankings", rows[2:])])
    for given in (rows, rows[::-1], chunked):
        table = validate("rankings", given)
        assert table["video_id"].to_pylist() == list("abcd")
        assert table["video_id"].num_chunks == 1


def test_nullable_columns_may_be_left_out() -> None:
    required = {name: value for name, value in ROWS["catalog"].items() if name not in ("fps", "probe_error_type")}
    assert validate("catalog", [required])["fps"].to_pylist() == [None]
    table = validate("catalog", [ROWS["catalog"]]).drop_columns(["codec"])
    assert validate("catalog", table)["codec"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("table_name", "change", "message"),
    [
        ("scores", {"score": math.nan}, "scores.score: 1 numbers are not finite within 1.0..5.0: nan"),
        ("scores", {"score": 5.0001}, "within 1.0..5.0: 5.0001"),
        ("scores", {"segment_score": [3.0, 0.5]}, "scores.segment_score"),
        ("scores", {"segment_start_s": [math.inf]}, "scores.segment_start_s"),
        ("scores", {"level_probabilities": [1.5]}, "within 0.0..1.0"),
        ("scores", {"score": None}, "'ok' row has no score"),
        ("scores", {"error_type": "x"}, "'ok' row has an error_type"),
        ("scores", {"status": "failed", "error_type": "x"}, "'failed' row has one"),
        ("scores", FAILED | {"error_type": None}, "'failed' row has none"),
        ("scores", {"status": "done"}, "neither 'ok' nor 'failed'"),
        ("scores", {"etag": None}, "scores.etag: 1 of 1 values are missing"),
        ("scores", {"scored_at": "yesterday"}, "does not fit"),
        ("scores", {"uri": "\ud800"}, "does not fit"),
        ("scores", {"colour": 1}, "no column is named 'colour'"),
        ("catalog", {"size_bytes": 2**70}, "does not fit"),
        ("catalog", {"probe_error_type": "x"}, "'ok' row has an error_type"),
        ("score_history", {"status": None}, "'failed' row has one"),
        ("videos", {"blur_severity": 5.5}, "videos.blur_severity"),
        ("comparisons", {"video_id_b": "a1"}, "compared with itself"),
        ("comparisons", {"probability_a_better": -0.1}, "comparisons.probability_a_better"),
        ("descriptions", {"distortions": [{"name": "x", "severity": math.nan}]}, "descriptions.distortions"),
        ("rankings", {"percentile": 101.0}, "within 0.0..100.0"),
        ("nothing", {}, "no table is named 'nothing'; the tables are catalog, scores"),
    ],
)
def test_bad_rows_are_refused(table_name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(LakeError, match=re.escape(message)):
        validate(table_name, [ROWS.get(table_name, {}) | change])


@pytest.mark.parametrize("table_name", SCHEMAS)
def test_a_key_twice_is_refused(table_name: str) -> None:
    with pytest.raises(LakeError, match=r"1 keys are duplicated, the first is .*'(a1|r)'"):
        validate(table_name, [ROWS[table_name], ROWS[table_name]])
    assert set(KEYS[table_name]) <= set(SCHEMAS[table_name].names)


def test_a_pair_in_both_orders_is_one_pair() -> None:
    turned = ROWS["comparisons"] | {"video_id_a": "b2", "video_id_b": "a1"}
    with pytest.raises(LakeError, match="are duplicated"):
        validate("comparisons", [ROWS["comparisons"], turned])
    others = [ROWS["comparisons"] | {"video_id_b": name} for name in ("b2", "b3")]
    assert len(validate("comparisons", others)) == 2


def test_failed_rows_pass() -> None:
    validate("scores", [ROWS["scores"] | FAILED])
    failed = {"probe_status": "failed", "probe_error_type": "not_a_video", "probe_error_message": "text"}
    validate("catalog", [ROWS["catalog"] | failed | {"fps": None}])


def test_a_removed_video_has_no_status() -> None:
    gone = {"change": "removed", "status": None, "score": None, "score_std": None, "level": None}
    assert validate("score_history", [ROWS["score_history"] | gone])["status"].to_pylist() == [None]


@pytest.mark.parametrize("table_name", SCHEMAS)
def test_every_column_has_one_sentence(table_name: str) -> None:
    assert re.fullmatch(r"[A-Z].*\.", SENTENCES[table_name])
    for field in SCHEMAS[table_name]:
        assert re.fullmatch(r"([A-Z`]|libav's).*\.", comment(field)), field.name
        assert all(comment(column) == comment(field) for column in validate(table_name, []).schema if column == field)


def test_columns_of_one_name_mean_one_thing() -> None:
    """So that a natural join of tables of the present joins equal things."""
    meaning: dict[str, str] = {}
    for table_name, columns in SCHEMAS.items():
        for field in columns:
            if table_name not in LOGS:
                assert meaning.setdefault(field.name, comment(field)) == comment(field), (table_name, field.name)
