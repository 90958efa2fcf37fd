"""A lake as three nights leave it: two libraries, of which one got worse, gained a video, lost one and has failures."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from PIL import Image

from cpllm_dagster.assets.history import append_night, change_rows, night_row
from cpllm_dagster.lake.rows import validate
from cpllm_dagster.lake.tables import Lake, video_id
from cpllm_model.scale import DISTORTIONS, level_of

MODEL = "tiny-000000000000"
#: Each night's scores by library and name; None is a failure.
NIGHTS: list[dict[str, dict[str, float | None]]] = [
    {"films": {"a.mp4": 4.5, "b.mp4": 4.0, "c.mp4": 2.5, "d.mp4": None}, "shows/2026": {"e.mkv": 3.5, "f.mkv": 4.25}},
    {"films": {"a.mp4": 4.5, "b.mp4": 4.0, "c.mp4": 2.5, "d.mp4": None}, "shows/2026": {"e.mkv": 3.5, "f.mkv": 4.25}},
    {
        "films": {"a.mp4": 4.5, "b.mp4": 1.75, "d.mp4": None, "new 'n\n.mp4": 3.0},
        "shows/2026": {"e.mkv": 3.5, "f.mkv": 4.25},
    },
]
#: The last night is a little while ago, whenever the tests run.
LAST = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0) - timedelta(days=1)


def fill(lake: Lake) -> None:
    """Publish what the nights leave."""
    before: dict[str, pa.Table] = {}
    for number, night in enumerate(NIGHTS):
        at = LAST - timedelta(days=len(NIGHTS) - 1 - number)
        for library, score_of in night.items():
            old = before.get(library, validate("scores", []))
            scores = validate("scores", [_score(library, name, score, number, at) for name, score in score_of.items()])
            changes = change_rows(old, scores, run_id=f"run {number}", recorded_at=at)
            spent_s = {"scoring_s": 9.0, "decode_s_sum": 12.0, "inference_s_sum": 4.0}
            row = night_row(scores, changes, run_id=f"run {number}", recorded_at=at, model_id=MODEL, spent_s=spent_s)
            append_night(lake, library, changes, row)
            before[library] = scores
    for library, scores in before.items():
        rows = scores.to_pylist()
        good = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: -row["score"])
        tables: dict[str, list[dict[str, Any]]] = {
            "catalog": [_probed(row) for row in rows],
            "descriptions": [_described(row) for row in good],
            "rankings": [_ranked(row, place, len(good)) for place, row in enumerate(good)],
            "key_frames": [_pictured(row) for row in good[-1:]],
        }
        for name, table in ({"scores": scores} | tables).items():
            lake.write(name, library, table, run_id="run 2", model_id=MODEL)


def _score(library: str, name: str, score: float | None, night: int, at: datetime) -> dict[str, Any]:
    key = f"libraries/{library}/{name}"
    # The bytes of b.mp4 have changed in the last night.
    etag = "2" if name == "b.mp4" and night == len(NIGHTS) - 1 else "1"
    row = {"video_id": video_id(f"s3://b/{key}"), "uri": f"s3://b/{key}", "key": key, "etag": etag, "model_id": MODEL}
    row |= {"run_id": f"run {night}", "scored_at": at}
    if score is None:
        return row | {"status": "failed", "error_type": "corrupt_video", "error_message": "no key frame"}
    segments = [min(5.0, score + 0.25), max(1.0, score - 0.5), score, None]
    return row | {
        "status": "ok", "score": score, "score_std": 0.58, "level": level_of(score), "segment_score": segments,
        "segment_start_s": [0.0, 2.5, 5.0, 7.5], "scene": dict.fromkeys(("light", "detail", "motion", "kind"), "x"),
    }  # fmt: skip


def _probed(row: dict[str, Any]) -> dict[str, Any]:
    named = {name: row[name] for name in ("video_id", "uri", "key", "etag")} | {"size_bytes": 2_500_000}
    if row["status"] == "failed":
        return named | {"probe_status": "failed", "probe_error_type": "corrupt_video", "probe_error_message": "x"}
    codec = "h264" if row["key"].endswith("mp4") else "hevc"
    form = {"duration_s": 10.0, "width_px": 640, "height_px": 360, "fps": 25.0, "codec": codec, "rotation_deg": 0}
    return (
        named
        | form
        | {
            "bit_rate_bps": 2_500_000 if "/b." in row["key"] or "/e." in row["key"] else 2_000_000,
            "pixel_format": "yuv420p",
            "probe_status": "ok",
        }
    )


def _described(row: dict[str, Any]) -> dict[str, Any]:
    severities = {"compression": 5 - row["score"], "blur": 3.0, "noise": 0.5}
    distortions = [
        {"name": name, "severity": severities.get(name, 0.1), "probability": 0.5, "named": severities.get(name, 0) >= 1}
        for name in reversed(DISTORTIONS)
    ]
    words = {"description": f"The picture quality is {row['level']}.", "distortions": distortions}
    return {name: row[name] for name in ("video_id", "etag", "model_id")} | words


def _ranked(row: dict[str, Any], place: int, count: int) -> dict[str, Any]:
    percentile = 100.0 * (count - 1 - place) / max(count - 1, 1)
    return {
        "video_id": row["video_id"], "model_id": row["model_id"], "rank": place + 1, "percentile": percentile,
        "strength": 1.0 - place, "strength_se": 0.5, "comparisons": 3,
    }  # fmt: skip


def _pictured(row: dict[str, Any]) -> dict[str, Any]:
    """Give a grey picture of the second segment, which has the lowest score."""
    content = io.BytesIO()
    Image.new("RGB", (160, 90), "grey").save(content, "WEBP")
    moment = {"moment_start_s": 2.5, "moment_end_s": 5.0, "picture": content.getvalue()}
    return {name: row[name] for name in ("video_id", "etag", "model_id")} | moment
