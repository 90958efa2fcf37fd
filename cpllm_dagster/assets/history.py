"""What a run has changed: rows of the tables `score_history` and `nights`, which only grow.

In: the scores before and after a run. Out: one row a changed video, and one row for the run. The rows are kept as a
part before the scores are published and appended after that, so that a run that dies in between loses none of them and
the next run records none twice. Knows nothing of how scores are made.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cpllm_dagster.lake.rows import places, validate
from cpllm_dagster.lake.schemas import CHANGES, SCHEMAS
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.report.tables import failures_by_type

#: What the parts of a history that is not appended yet lie under, beside the names of models.
PENDING = "history"
#: Scores below this count as bad: the middle of the scale.
LOW_SCORE = 3.0
_PERCENTILES = {"score_p5": 5, "score_p25": 25, "score_median": 50, "score_p75": 75, "score_p95": 95}
_COMPARED = ("etag", "model_id", "status", "error_type", "score")


def keep_pending(lake: Lake, library: str, changes: pa.Table, night: dict[str, Any]) -> None:
    """Keep what a run is about to publish, before it publishes the scores."""
    lake.append_part(library, PENDING, {"score_history": changes, "nights": [night]})


def settle_pending(lake: Lake, library: str) -> None:
    """Append what is pending of a run whose scores are published, and drop what is pending of one that died before."""
    parts, _ = lake.read_parts(library, PENDING)
    published = lake.metadata("scores", library)
    for night in parts["nights"].to_pylist():
        if published is not None and night["run_id"] == published["run_id"]:
            changes = parts["score_history"].filter(pc.field("run_id") == night["run_id"])
            append_night(lake, library, changes, night)
    lake.clear_parts(library, PENDING)


def append_night(lake: Lake, library: str, changes: pa.Table | None, night: dict[str, Any]) -> None:
    """Append a run's row, and its changes if there are any."""
    origin = {name: night[name] for name in ("recorded_at", "run_id", "model_id")}
    if changes is not None and len(changes):
        lake.append("score_history", library, changes, **origin)
    lake.append("nights", library, [night], **origin)


def prune(lake: Lake, library: str, days: int) -> list[str]:
    """Remove the files of history that are older than so many days; 0 keeps all."""
    return lake.prune_logs(library, datetime.now(UTC) - timedelta(days=days)) if days else []


def change_rows(before: pa.Table, after: pa.Table, *, run_id: str, recorded_at: datetime) -> pa.Table:
    """Give a row of `score_history` for each video whose version, answer or status differs.

    Args:
        before, after: the table `scores` as it was and as it is to be.
        run_id: the run that changes it.
        recorded_at: when.
    """
    row_N = places(after["video_id"], before["video_id"])
    old = before.select(_COMPARED).take(pa.array(row_N, mask=row_N < 0))
    differs = {name: _differ(old[name], after[name]) for name in _COMPARED}
    was_ok_N, is_ok_N = (table["status"].to_numpy(zero_copy_only=False) == "ok" for table in (old, after))
    failed_N = ~is_ok_N & (was_ok_N | differs["error_type"])
    change_N = np.select(
        [row_N < 0, differs["etag"], differs["model_id"], failed_N, is_ok_N & ~was_ok_N, differs["score"]],
        ["new", "changed", "rescored", "failed", "recovered", "rescored"],
        default="",
    )
    chosen = pa.array(change_N != "")
    names = [name for name in SCHEMAS["score_history"].names if name in after.column_names and name != "run_id"]
    changed = after.select(names).append_column("previous_score", old["score"]).append_column("change", [change_N])
    removed = before.filter(pa.array(places(before["video_id"], after["video_id"]) < 0))
    gone = removed.select([name for name in ("video_id", "key", "etag", "model_id") if name in removed.column_names])
    gone = gone.append_column("previous_score", removed["score"])
    gone = gone.append_column("change", [pa.array(["removed"] * len(gone), pa.string())])
    rows = pa.concat_tables([changed.filter(chosen), gone], promote_options="default")
    for name, value in (("run_id", run_id), ("recorded_at", recorded_at)):
        rows = rows.append_column(name, [pa.array([value] * len(rows), SCHEMAS["score_history"].field(name).type)])
    return validate("score_history", rows)


def night_row(
    scores: pa.Table, changes: pa.Table, *, run_id: str, recorded_at: datetime, model_id: str, spent_s: dict[str, float]
) -> dict[str, Any]:
    """Give a run's row of `nights`.

    Args:
        scores: the table as it is after the run.
        changes: its rows of `score_history`.
        run_id, recorded_at, model_id: the run, when, and the model that answers.
        spent_s: `scoring_s`, `decode_s_sum` and `inference_s_sum`, in seconds.
    """
    counts = dict.fromkeys(CHANGES, 0)
    for change in changes["change"].to_pylist():
        counts[change] += 1
    figures = score_figures(scores)
    return {
        "run_id": run_id,
        "recorded_at": recorded_at,
        "model_id": model_id,
        "failed_videos": sum(count for _, count in failures_by_type(scores)),
        "failures_by_type": [{"error_type": name, "videos": count} for name, count in failures_by_type(scores)],
        **figures,
        "unchanged": len(scores) - len(changes) + counts["removed"],
        **{f"videos_{change}": count for change, count in counts.items()},
        **spent_s,
    }


def score_figures(scores: pa.Table) -> dict[str, Any]:
    """Give how the scores of a library are distributed; without any score the figures of scores are None.

    Args:
        scores: the table `scores`.
    """
    score_N = scores["score"].drop_null().to_numpy()
    failed = len(scores) - len(score_N)
    figures: dict[str, Any] = {"videos": len(scores), "failed_share": failed / max(len(scores), 1)}
    if not len(score_N):
        return figures | dict.fromkeys(("score_mean", *_PERCENTILES, "share_below_3"))
    percentiles = np.percentile(score_N, list(_PERCENTILES.values()))
    return (
        figures
        | {"score_mean": float(score_N.mean()), "share_below_3": float((score_N < LOW_SCORE).mean())}
        | dict(zip(_PERCENTILES, percentiles.tolist(), strict=True))
    )


def _differ(one: pa.ChunkedArray, other: pa.ChunkedArray) -> np.ndarray:
    """Tell where two columns differ; null equals null: bool (N,)."""
    unequal = pc.not_equal(one, other).fill_null(False)  # pyright: ignore[reportAttributeAccessIssue]
    return unequal.to_numpy() | (one.is_null().to_numpy() != other.is_null().to_numpy())
