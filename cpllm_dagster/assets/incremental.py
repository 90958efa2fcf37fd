"""Which answers of earlier runs still hold, and which videos are to be scored.

In: the catalogue, the published tables and the parts of a broken run. Out: a plan. An answer holds for one version of a
video (id and ETag) and one model; a failure that may pass is tried again. Pure tables: opens nothing, runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cpllm_dagster.batch import VideoItem
from cpllm_model.errors import VideoError, video_error

#: Failures that may pass: rows with these are tried again by the next run.
TRANSIENT_TYPES = frozenset(error.error_type for error in VideoError.__subclasses__() if error.transient)

#: Tables that have a row for each scored video beside its row in `scores`.
COMPANIONS = ("descriptions", "features")

#: A video's version: its id and its ETag.
Version = tuple[str, str]


@dataclass(frozen=True)
class QualityPlan:
    """What holds and what is to be done for one library and model.

    Args:
        kept: versions whose published rows hold, scored or failed.
        recovered: for each table, the rows of a broken run that hold and are not published.
        refused: failures of the catalogue that are not yet among the scores.
        todo: videos to decode and score.
        complete: nothing is to be done, and the published tables have no row too many.
    """

    kept: frozenset[Version]
    recovered: dict[str, pa.Table]
    refused: list[tuple[VideoItem, VideoError]]
    todo: list[VideoItem]
    complete: bool


def plan_quality(
    catalog: pa.Table, before: dict[str, pa.Table], parts: dict[str, pa.Table], model_id: str
) -> QualityPlan:
    """Decide what is to be scored.

    Args:
        catalog: the library's catalogue.
        before: published scores, descriptions and features; of the last two the key columns suffice.
        parts: the same of a broken run.
        model_id: the model that is to answer.
    """
    readable = {version_of(row): row for row in catalog.filter(pc.field("status") == "ok").to_pylist()}
    failed = {version_of(row): row for row in catalog.filter(pc.field("status") == "failed").to_pylist()}
    same_failure = {
        version
        for version, error_type in _failures(before["scores"], model_id).items()
        if version in failed and failed[version]["error_type"] == error_type
    }
    published_answers = _answers(before, model_id) & readable.keys()
    recovered_answers = (_answers(parts, model_id) & readable.keys()) - published_answers
    kept = frozenset(published_answers | same_failure)
    refused = [
        (item_of(row), video_error(row["error_type"], row["uri"], row["error_message"]))
        for version, row in failed.items()
        if version not in same_failure
    ]
    todo = [
        item_of(row)
        for version, row in readable.items()
        if version not in published_answers and version not in recovered_answers
    ]
    return QualityPlan(
        kept=kept,
        recovered={name: rows_of(parts[name], recovered_answers, model_id) for name in ("scores", *COMPANIONS)},
        refused=refused,
        todo=todo,
        complete=not (refused or todo or recovered_answers)
        and all(len(rows_of(table, kept, model_id)) == len(table) for table in before.values()),
    )


def rows_of(table: pa.Table, versions: frozenset[Version] | set[Version], model_id: str) -> pa.Table:
    """Give the rows of these versions and this model."""
    columns = (table[name].to_pylist() for name in ("video_id", "etag", "model_id"))
    chosen = [
        row
        for row, (video, etag, model) in enumerate(zip(*columns, strict=True))
        if model == model_id and (video, etag) in versions
    ]
    return table if len(chosen) == len(table) else table.take(pa.array(chosen, pa.int64()))


def version_of(row: dict) -> Version:
    """Give the version that a row is about."""
    return row["video_id"], row["etag"]


def item_of(row: dict) -> VideoItem:
    """Give the batch's item of a catalogue row."""
    return VideoItem(row["video_id"], row["uri"], row["etag"], row["size_bytes"])


def _answers(tables: dict[str, pa.Table], model_id: str) -> set[Version]:
    """Versions that are scored with all companions, or failed for good."""
    scores = tables["scores"]
    scored = set(_versions(scores.filter(pc.field("status") == "ok"), model_id))
    for name in COMPANIONS:
        scored &= set(_versions(tables[name], model_id))
    return scored | {
        version for version, error_type in _failures(scores, model_id).items() if error_type not in TRANSIENT_TYPES
    }


def _failures(scores: pa.Table, model_id: str) -> dict[Version, str]:
    failed = scores.filter(pc.field("status") == "failed")
    return {
        version_of(row): row["error_type"]
        for row in failed.select(["video_id", "etag", "model_id", "error_type"]).to_pylist()
        if row["model_id"] == model_id
    }


def _versions(table: pa.Table, model_id: str) -> list[Version]:
    columns = (table[name].to_pylist() for name in ("video_id", "etag", "model_id"))
    return [(video, etag) for video, etag, model in zip(*columns, strict=True) if model == model_id]
