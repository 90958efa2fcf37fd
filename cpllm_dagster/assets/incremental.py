"""Which answers of earlier runs are still valid, and which videos must be scored.

In: the catalogue, the published tables and the parts of a broken run. Out: a plan. An answer holds for one version of a
video (id and ETag) and one model; a failure that may pass is tried again. Pure tables: opens nothing, runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cpllm_dagster.assets.retries import rests, with_columns
from cpllm_dagster.batch.supervisor import VideoItem
from cpllm_dagster.lake.rows import places, version_places
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.spool import taken
from cpllm_model.errors import ArchivedError, VideoError, video_error

#: Failures that may pass: rows with these are tried again by the next run.
TRANSIENT_TYPES = frozenset(error.error_type for error in VideoError.__subclasses__() if error.transient)
#: Not among them: only a person has an object restored.
ARCHIVED = ArchivedError.error_type

#: Tables that have a row for each scored video beside its row in `scores`.
COMPANIONS = ("descriptions", "features")


@dataclass(frozen=True)
class QualityPlan:
    """What is valid and what must be done for one library and model.

    Args:
        kept: id and ETag of the videos whose published rows hold, scored or failed.
        recovered: id and ETag of the videos whose rows in the parts of a broken run hold and are not published.
        refused: failures of the catalogue that are not yet among the scores.
        todo: videos to decode and score.
        complete: nothing must be done, and the published tables have exactly the right rows and all columns.
    """

    kept: pa.Table
    recovered: pa.Table
    refused: list[tuple[VideoItem, VideoError]]
    todo: list[VideoItem]
    complete: bool


def plan_quality(
    catalog: pa.Table,
    before: dict[str, pa.Table],
    parts: dict[str, pa.Table],
    model_id: str,
    *,
    retry_archived: bool = False,
    now: datetime | None = None,
) -> QualityPlan:
    """Decide what must be scored.

    Args:
        catalog: the library's catalogue.
        before: published scores, descriptions and features; of the last two the key columns suffice.
        parts: the same of a broken run.
        model_id: the model that is to answer.
        retry_archived: whether objects that had to be restored are asked for again.
        now: the time, for failures that are tried again with a back-off.
    """
    now = now or datetime.now(UTC)
    readable_N = catalog["probe_status"].to_numpy() == "ok"
    same_failure_N = ~readable_N & _failed_alike(before["scores"], catalog, model_id)
    published_N = readable_N & _answered(before, catalog, model_id, retry_archived, now)
    recovered_N = readable_N & _answered(parts, catalog, model_id, retry_archived, now) & ~published_N
    refused_N = ~readable_N & ~same_failure_N
    todo_N = readable_N & ~published_N & ~recovered_N
    versions = catalog.select(["video_id", "etag"])
    kept, recovered = (versions.filter(chosen_N) for chosen_N in (published_N | same_failure_N, recovered_N))
    refusals = catalog.filter(refused_N)
    refused = [
        (item, video_error(row["probe_error_type"], item.uri, row["probe_error_message"]))
        for item, row in zip(items_of(refusals), refusals.to_pylist(), strict=True)
    ]
    return QualityPlan(
        kept=kept,
        recovered=recovered,
        refused=refused,
        todo=items_of(catalog.filter(todo_N)),
        complete=not (refused or todo_N.any() or recovered_N.any())
        and set(SCHEMAS["scores"].names) <= set(before["scores"].column_names)  # an earlier version had fewer
        and all(len(rows_of(table, kept, model_id)) == len(table) for table in before.values()),
    )


def rows_of(table: pa.Table, versions: pa.Table, model_id: str) -> pa.Table:
    """Give the rows of these versions (id and ETag, each once) and this model."""
    chosen_P = _places(table, versions, model_id) >= 0
    return table if chosen_P.all() else taken(table, np.flatnonzero(chosen_P))


def items_of(catalog: pa.Table) -> list[VideoItem]:
    """Give the batch's items of rows of the catalogue."""
    columns = (catalog[name].to_pylist() for name in ("video_id", "uri", "etag", "size_bytes"))
    return [VideoItem(*values) for values in zip(*columns, strict=True)]


def _answered(
    tables: dict[str, pa.Table], catalog: pa.Table, model_id: str, retry_archived: bool, now: datetime
) -> np.ndarray:
    """Tell which videos of the catalogue are scored with all companions, or failed for good or for now: bool (N,)."""
    scores = with_columns(tables["scores"])
    scored_N = _there(scores.filter(pc.field("status") == "ok"), catalog, model_id)
    for name in COMPANIONS:
        scored_N &= _there(tables[name], catalog, model_id)
    transient = pc.field("error_type").isin(pa.array(sorted(TRANSIENT_TYPES)))
    restored = pc.field("error_type") == ARCHIVED
    if not retry_archived:  # a row that was never decoded is the catalogue's, which has read the object since
        restored &= pc.field("decode_s").is_null()
    failed = (pc.field("status") == "failed") & (~transient | rests(now)) & ~restored
    return scored_N | _there(scores.filter(failed), catalog, model_id)


def _failed_alike(scores: pa.Table, catalog: pa.Table, model_id: str) -> np.ndarray:
    """Tell which videos of the catalogue have failed among the scores as they failed there: bool (N,)."""
    failed = scores.filter(pc.field("status") == "failed")
    place_P = _places(failed, catalog, model_id)
    errors_P = failed["error_type"].to_numpy()
    alike_P = (place_P >= 0) & (catalog["probe_error_type"].to_numpy()[place_P] == errors_P)
    found_N = np.zeros(len(catalog), bool)
    found_N[place_P[alike_P]] = True
    return found_N


def _there(table: pa.Table, versions: pa.Table, model_id: str) -> np.ndarray:
    """Tell which versions have a row of this model: bool (N,)."""
    place_P = _places(table, versions, model_id)
    found_N = np.zeros(len(versions), bool)
    found_N[place_P[place_P >= 0]] = True
    return found_N


def _places(table: pa.Table, versions: pa.Table, model_id: str) -> np.ndarray:
    """Give where among the versions each row stands, -1 where it is of another version or model: int (P,)."""
    of_model_P = places(table["model_id"], pa.array([model_id])) == 0
    return np.where(of_model_P, version_places(table, versions, "etag"), -1)
