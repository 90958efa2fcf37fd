"""Print the time, peak memory and size of the page of a made-up library, without pictures.

Scores, segments, events and nights are made up; the tables are written and read as a run does it.
Run: python benchmarks/library_report.py [--videos 100000] [--keep page.html]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from made_up_library import NOW, Stages
from scipy.special import expit
from scipy.stats import rankdata

from cpllm_dagster.assets.history import append_night, change_rows, night_row
from cpllm_dagster.lake.rows import validate
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.tables import Lake, video_id
from cpllm_dagster.report.page import chart_library, library_page, no_pictures
from cpllm_model.scale import DISTORTIONS, level_of

LIBRARY = "films"
MODEL = "tiny-000000000000"
CODECS = {"h264": 0.6, "hevc": 0.2, "vp9": 0.1, "av1": 0.05, "mpeg2video": 0.03, "prores": 0.02}
SIZES = np.array([(640, 360), (1280, 720), (1920, 1080), (3840, 2160)])
SEGMENTS = 8
FAILED_SHARE = 0.01
NIGHTS = 30


def main() -> None:
    """Publish a library, make its page and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, help="where the page is kept")
    arguments = parser.parse_args()
    stages = Stages()
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        publish_library(lake, arguments.videos)
        with stages("bundle the charting library"):
            chart_library()
        with stages("make the page"):
            page = library_page(lake, LIBRARY, no_pictures)
    size_kb = len(page.html.encode()) / 1000
    print(f"  {arguments.videos:,} videos: {size_kb:,.0f} kB", file=sys.stderr)
    if arguments.keep:
        arguments.keep.write_text(page.html)


def publish_library(lake: Lake, count: int) -> None:
    """Publish tables of so many videos and the history of a month, the last night with changes."""
    random = np.random.default_rng(0)
    quality_N = random.normal(0.6, 1.2, count)
    score_N = 1 + 4 * expit(quality_N)
    failed_N = random.random(count) < FAILED_SHARE
    keys = [f"films/season {index % 40:02}/episode {index:06}.mp4" for index in range(count)]
    uris = [f"s3://bucket/{key}" for key in keys]
    ids = [video_id(uri) for uri in uris]
    size_N2 = SIZES[random.integers(0, len(SIZES), count)]
    bits_per_pixel_N = np.exp(random.normal(-2.6, 0.8, count) + 0.25 * quality_N)
    duration_N = random.uniform(60, 3600, count)
    shared: dict[str, Any] = {"video_id": ids, "uri": uris, "key": keys, "etag": ["1"] * count}
    catalog = shared | {
        "size_bytes": random.integers(10**6, 10**9, count),
        "duration_s": duration_N,
        "width_px": size_N2[:, 0],
        "height_px": size_N2[:, 1],
        "fps": np.full(count, 25.0),
        "codec": random.choice(list(CODECS), count, p=list(CODECS.values())).tolist(),
        "bit_rate_bps": (bits_per_pixel_N * size_N2.prod(axis=1) * 25).astype(np.int64),
        "probe_status": ["ok"] * count,
    }
    write(lake, "catalog", catalog)
    edges = np.linspace(0, 1, SEGMENTS + 1) * duration_N[:, None]
    segment_NK = np.clip(score_N[:, None] + random.normal(0, 0.3, (count, SEGMENTS)), 1, 5)
    segments = segment_NK.tolist()
    for row in range(0, count, 7):
        segments[row][0] = None
    frozen_N = random.random(count) < 0.05
    scores = shared | {
        "model_id": [MODEL] * count,
        "score": pa.array(score_N, mask=failed_N),
        "score_std": pa.array(np.full(count, 0.5), mask=failed_N),
        "level": pa.array([level_of(score) for score in score_N], mask=failed_N),
        "segment_start_s": edges[:, :-1].tolist(),
        "segment_end_s": edges[:, 1:].tolist(),
        "segment_score": segments,
        "score_worst": pa.array(segment_NK.min(axis=1), mask=failed_N),
        "events": [
            [
                {"kind": "black", "start_s": 0.0, "end_s": 0.03 * length_s, "share": 1.0},
                {"kind": "freeze", "start_s": 0.4 * length_s, "end_s": 0.47 * length_s, "share": 1.0},
            ]
            if frozen or row % 7 == 0
            else []
            for row, (frozen, length_s) in enumerate(zip(frozen_N, duration_N, strict=True))
        ],
        "status": np.where(failed_N, "failed", "ok"),
        "error_type": pa.array(random.choice(["corrupt_video", "too_short", "decode_timeout"], count), mask=~failed_N),
        "error_message": pa.array(["its last key frame does not decode"] * count, mask=pa.array(~failed_N)),
        "scored_at": pa.array([NOW] * count, SCHEMAS["scores"].field("scored_at").type),
        "run_id": ["made-up"] * count,
    }
    table = write(lake, "scores", scores)
    good_N = ~failed_N
    write(lake, "descriptions", _described(ids, score_N, duration_N, good_N, random))
    _write_ranking(lake, np.array(ids)[good_N], quality_N[good_N])
    _write_nights(lake, table, random)


def write(lake: Lake, name: str, columns: dict[str, Any]) -> pa.Table:
    """Publish a table; columns that are not given are null."""
    count = len(columns["video_id"])
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(count, field.type)
        for field in SCHEMAS[name]
    ]
    return lake.write(name, LIBRARY, pa.table(arrays, SCHEMAS[name]), run_id="made-up", model_id=MODEL)


def _described(ids: list[str], score_N: Any, duration_N: Any, good_N: Any, random: Any) -> dict[str, Any]:
    rows_G = np.flatnonzero(good_N)
    severity_GD = np.clip(random.exponential(0.6, (len(rows_G), len(DISTORTIONS))), 0, 5)
    severity_GD[:, 0] = np.clip(5 - score_N[rows_G] + random.normal(0, 0.4, len(rows_G)), 0, 5)
    named_GD = severity_GD >= 1.8
    distortions = [
        [
            {"name": name, "severity": severity, "probability": 0.5, "named": named}
            for name, severity, named in zip(DISTORTIONS, severities, names, strict=True)
        ]
        for severities, names in zip(severity_GD.tolist(), named_GD.tolist(), strict=True)
    ]
    times = [
        [
            {"name": name, "start_s": 0.2 * s, "end_s": 0.7 * s}
            for name, is_named in zip(DISTORTIONS, names, strict=True)
            if is_named
        ]
        for names, s in zip(named_GD.tolist(), duration_N[rows_G].tolist(), strict=True)
    ]
    return {
        "video_id": [ids[row] for row in rows_G],
        "etag": ["1"] * len(rows_G),
        "model_id": [MODEL] * len(rows_G),
        "description": [f"The picture quality is {level_of(score_N[row])}. The scene is evenly lit." for row in rows_G],
        "distortions": distortions,
        "distortion_times": times,
    }  # fmt: skip


def _write_ranking(lake: Lake, ids_G: Any, strength_G: Any) -> None:
    rank_G = rankdata(-strength_G, method="min").astype(np.int64)
    columns = {
        "video_id": ids_G.tolist(),
        "model_id": [MODEL] * len(ids_G),
        "rank": rank_G,
        "percentile": 100 * (1 - (rank_G - 1) / len(rank_G)),
        "strength": strength_G,
        "strength_se": np.full(len(ids_G), 0.15),
        "comparisons": np.full(len(ids_G), 17),
    }
    write(lake, "rankings", columns)


def _write_nights(lake: Lake, scores: pa.Table, random: Any) -> None:
    """Append a month of nights, of which the last changes one video in a hundred."""
    shift_N = np.where(random.random(len(scores)) < 0.01, random.normal(0.3, 0.4, len(scores)), 0.0)
    score_N = scores["score"].to_numpy(zero_copy_only=False)
    older = pa.array(np.clip(score_N + shift_N, 1, 5), from_pandas=True)
    at = scores.column_names.index("score")
    before = validate("scores", scores.set_column(at, SCHEMAS["scores"].field("score"), older))
    spent_s = {"scoring_s": 60.0, "decode_s_sum": 50.0, "inference_s_sum": 40.0}
    for night in range(NIGHTS):
        now, then = (scores, before) if night == NIGHTS - 1 else (before, before)
        run_id, recorded_at = f"run {night}", NOW + timedelta(days=night)
        changes = change_rows(then, now, run_id=run_id, recorded_at=recorded_at)
        row = night_row(now, changes, run_id=run_id, recorded_at=recorded_at, model_id=MODEL, spent_s=spent_s)
        append_night(lake, LIBRARY, changes, row)


if __name__ == "__main__":
    main()
