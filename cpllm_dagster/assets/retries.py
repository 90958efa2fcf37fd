"""When a video is tried again whose decoding took too long, or whose workers died: with a back-off, and an end.

Such a failure may be the machine's, so another night may succeed; but a video that does it each time would cost its
deadline every night for ever. In: rows of the scores table. Out: the columns `failed_runs` and `retry_after`, and which
rows hold for now. Opens nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_model.errors import DecodeTimeoutError, WorkerLostError

#: Failures that cost a deadline or a worker each time.
COSTLY_TYPES = frozenset({DecodeTimeoutError.error_type, WorkerLostError.error_type})
#: After so many runs with such a failure a video is left alone, until its bytes or the model change.
MOST_RUNS = 5
#: The wait after the first; each further one is twice as long. A run that starts a few hours early is not put off.
FIRST_WAIT, EARLY = timedelta(days=1), timedelta(hours=6)
COLUMNS = ("failed_runs", "retry_after")


def earlier_failures(scores: pa.Table, model_id: str) -> dict[tuple[str, str], int]:
    """Give, by id and ETag, in how many runs videos have failed in a costly way so far.

    Args:
        scores: as published; rows of versions without the columns count as one run.
        model_id: whose rows count.
    """
    failed = with_columns(scores).filter(
        pc.field("error_type").isin(pa.array(sorted(COSTLY_TYPES))) & (pc.field("model_id") == model_id)
    )
    rows = failed.select(["video_id", "etag", "failed_runs"]).to_pylist()
    return {(row["video_id"], row["etag"]): row["failed_runs"] or 1 for row in rows}


def stated(row: dict[str, Any], earlier: dict[tuple[str, str], int]) -> dict[str, Any]:
    """Give a row of the scores table, of a costly failure with how often it happened and when it is tried again.

    Args:
        row: of `result_rows`.
        earlier: of `earlier_failures`.
    """
    if row.get("error_type") not in COSTLY_TYPES:
        return row
    runs = earlier.get((row["video_id"], row["etag"]), 0) + 1
    wait = FIRST_WAIT * 2 ** (runs - 1) - EARLY
    return row | {"failed_runs": runs, "retry_after": row["scored_at"] + wait if runs < MOST_RUNS else None}


def rests(now: datetime) -> pc.Expression:
    """Select the rows of costly failures that are not to be tried now: it is too early, or was too often."""
    return (pc.field("retry_after") > pa.scalar(now, pa.timestamp("us", "UTC"))) | (
        pc.field("failed_runs") >= MOST_RUNS
    )


def with_columns(scores: pa.Table) -> pa.Table:
    """Give scores with the columns of this file, empty where a table of an earlier version has none."""
    for name in COLUMNS:
        if name not in scores.column_names:
            field = SCHEMAS["scores"].field(name)
            scores = scores.append_column(field, pa.nulls(len(scores), field.type))
    return scores
