"""The assets of one pass of the model: quality_scores, quality_descriptions, visual_features and their history.

In: the catalogue and what earlier runs left. Out: the tables `scores`, `descriptions` and `features`, and what has
changed in `score_history` and `nights`. Only videos that
are new, changed or unanswered by this model are decoded; every few results a part is kept, so that the next run goes on
from a broken one. Answers for videos that are gone are put by for the next run. What still holds is decided in
incremental.py, how work is spread over processes in batch.py.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from cpllm_dagster.assets.batch_config import BatchConfig
from cpllm_dagster.assets.catalog import failure_metadata, require_readable, video_catalog
from cpllm_dagster.assets.history import (
    append_night,
    change_rows,
    keep_pending,
    night_row,
    prune,
    score_figures,
    settle_pending,
)
from cpllm_dagster.assets.incremental import plan_quality, rows_of
from cpllm_dagster.assets.parts import PartKeeper, Rows
from cpllm_dagster.assets.progress import Progress
from cpllm_dagster.assets.publication import publish, published, published_or_empty, table_metadata
from cpllm_dagster.assets.retries import COSTLY_TYPES, earlier_failures, stated
from cpllm_dagster.batch.supervisor import VideoItem, VideoResult, score_videos
from cpllm_dagster.catalog.objects import library_name
from cpllm_dagster.lake.rows import places
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.spool import ROWS_AT_ONCE, taken
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.partitions import LIBRARIES
from cpllm_dagster.report.tables import score_histogram, worst_and_best
from cpllm_dagster.resources import BatchRay, Catalog, QualityModel, TableLake, VideoLimits
from cpllm_model.errors import LakeError, VideoError

#: Table -> asset, in the order of publication: a scored row is never there without its companions.
ASSETS = {"features": "visual_features", "descriptions": "quality_descriptions", "scores": "quality_scores"}
#: Table -> asset of what only grows.
HISTORY_ASSETS = {"score_history": "score_history", "nights": "nights"}
#: Assets that hold a model share this pool; the Dagster instance sets its limit.
MODEL_POOL = "model"


class QualityConfig(BatchConfig):
    """How a library is scored."""

    part_videos: int = Field(default=16, ge=1, description="Results per part; a killed run loses at most these.")
    part_interval_s: float = Field(default=60.0, gt=0, description="Seconds after which a part is written.")
    retry_archived: bool = Field(default=False, description="Try archived objects again, after they were restored.")


def _spec(table_name: str, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        (ASSETS | HISTORY_ASSETS)[table_name],
        deps=[video_catalog],
        description=description,
        group_name="library",
        kinds={"parquet", "ray"},
        metadata=table_metadata(table_name),
    )


@dg.multi_asset(
    specs=[
        _spec("features", "The visual tokens of each scored video; comparisons reuse them."),
        _spec("descriptions", "What each scored video looks like, in words and in distortions."),
        _spec("scores", "A score from 1 (bad) to 5 (excellent) for each video, or why it has none."),
        _spec("score_history", "What changed from run to run: new, changed, rescored, failed, recovered, removed."),
        _spec("nights", "One row a run: how many videos changed, and how the scores are distributed."),
    ],
    partitions_def=LIBRARIES,
    pool=MODEL_POOL,
)
def quality(
    context: dg.AssetExecutionContext,
    config: QualityConfig,
    catalog: Catalog,
    lake: TableLake,
    limits: VideoLimits,
    model: QualityModel,
    ray: BatchRay,
) -> Iterator[dg.MaterializeResult]:
    """Score and describe every video of a library that has no answer of this model yet."""
    library, model_id, run_id = library_name(context.partition_key), model.model_id, context.run.run_id
    tables = lake.claim(context, library)
    settle_pending(tables, library)
    now = {
        "scores": published_or_empty(tables, "scores", library),
        "descriptions": published_or_empty(tables, "descriptions", library),
        # The tokens are by far the largest column, and are read only when the table is written anew.
        "features": published_or_empty(tables, "features", library, ["video_id", "etag", "model_id"]),
    }
    before = now["scores"]
    parts, _ = tables.read_parts(library, model_id)
    listed = published(tables, "catalog", library)
    plan = plan_quality(listed, now, parts, model_id, retry_archived=config.retry_archived)
    context.log.info(f"{library!r}: {len(plan.todo)} videos to score, {len(plan.kept)} answered by {model_id}")

    started = time.monotonic()
    # Not the tokens: those lie in the parts until they are published.
    new: Rows = {"scores": [], "descriptions": []}
    if plan.todo:
        ray.require(context)
        settings = config.batch_settings(ray)
        results = score_videos(
            plan.todo, store=catalog.open(), model=model.source, settings=settings, limits=limits.decode_limits()
        )
        earlier = earlier_failures(now["scores"], model_id)
        keeper = PartKeeper(tables, library, model_id, config.part_videos, config.part_interval_s)
        with keeper, closing(results):
            progress = Progress(library, len(plan.todo), context.log.info, context.log.warning)
            for result in results:
                rows = result_rows(result, model_id, run_id)
                rows["scores"] = [stated(row, earlier) for row in rows["scores"]]
                for name, gathered in new.items():
                    gathered += rows.get(name, [])
                keeper.add(rows)
                error = result.error
                progress.add(result.item.uri, error and error.error_type, error and error.cause)
            context.log.info(progress.line())
    elapsed_s = time.monotonic() - started
    good = len(rows_of(now["descriptions"], plan.kept, model_id)) + len(plan.recovered["descriptions"])
    require_readable(library, (row.get("error_type") for row in new["scores"]), good)
    new["scores"] += [failure_row(item, error, model_id, run_id) for item, error in plan.refused]
    repeated = repeated_failures(new["scores"], now["scores"], model_id)
    new["scores"] = [row for row in new["scores"] if row["video_id"] not in repeated]
    holding = pa.concat_tables([plan.kept, pa.Table.from_pylist(list(repeated.values()), plan.kept.schema)])

    made = {name: len(new["scores" if name == "scores" else "descriptions"]) for name in ASSETS}
    put_by: list[str] = []
    if not plan.complete:
        fresh = {
            name: pa.concat_tables([plan.recovered[name], pa.Table.from_pylist(new[name], SCHEMAS[name])])
            for name in new
        }
        fresh["features"] = kept_tokens(tables, library, model_id, fresh["descriptions"])
        now["features"] = published_or_empty(tables, "features", library)
        put_by = put_removed_by(tables, library, model_id, now, listed)
        for name, rows in fresh.items():
            # A table of an earlier version may not have all nullable columns.
            now[name] = pa.concat_tables([rows_of(now[name], holding, model_id), rows], promote_options="default")
        now["scores"] = with_keys(now["scores"], listed)
    recorded_at = datetime.now(UTC)
    changes = change_rows(before, now["scores"], run_id=run_id, recorded_at=recorded_at)
    spent_s = {"scoring_s": elapsed_s, **{f"{name}_sum": seconds for name, seconds in spent(new["scores"]).items()}}
    night = night_row(
        now["scores"], changes, run_id=run_id, recorded_at=recorded_at, model_id=model_id, spent_s=spent_s
    )
    if len(changes):
        keep_pending(tables, library, changes, night)
    for name, asset in ASSETS.items():
        yield publish(
            tables,
            name,
            library,
            None if plan.complete else now[name],
            made=made[name],
            run_id=run_id,
            model_id=model_id,
            metadata=score_metadata(now, new["scores"], elapsed_s) if name == "scores" else None,
            asset_key=asset,
        )
    if len(changes):
        settle_pending(tables, library)
    else:
        append_night(tables, library, None, night)
    pruned = prune(tables, library, lake.history_days)
    for name, asset in HISTORY_ASSETS.items():
        rows = len(changes) if name == "score_history" else 1
        yield dg.MaterializeResult(
            asset_key=asset,
            # The run that added rows: what comes after is out of date only then.
            data_version=dg.DataVersion((tables.metadata(name, library) or {"run_id": ""})["run_id"]),
            metadata={"library": library, "new": rows, "files_removed": len(pruned)},
        )
    tables.clear_parts(library, model_id, but=put_by)


def put_removed_by(tables: Lake, library: str, model_id: str, now: dict[str, pa.Table], listed: pa.Table) -> list[str]:
    """Keep the answers for videos that are no longer in the catalogue as parts: the next run takes them up again.

    It drops those that it also misses. So a video that comes back after one night is not decoded again.

    Args:
        tables, library, model_id: where, and whose answers.
        now: scores, descriptions and features as published.
        listed: the catalogue.

    Returns:
        The names of the parts.
    """
    ids, names = listed["video_id"].unique(), []
    for name, table in now.items():
        of_model_N = places(table["model_id"], pa.array([model_id])) == 0
        gone = taken(table, np.flatnonzero(of_model_N & (places(table["video_id"], ids) < 0)))
        for start in range(0, len(gone), ROWS_AT_ONCE):  # tokens of many videos are larger than memory
            names.append(tables.append_part(library, model_id, {name: gone.slice(start, ROWS_AT_ONCE)}))
    return names


def with_keys(scores: pa.Table, catalog: pa.Table) -> pa.Table:
    """Give the scores with the keys of their videos, as the catalogue has them."""
    row_N = places(scores["video_id"], catalog["video_id"])
    key = catalog["key"].take(pa.array(row_N, mask=row_N < 0))
    at = scores.column_names.index("key") if "key" in scores.column_names else len(scores.column_names)
    scores = scores.drop_columns(["key"]) if at < len(scores.column_names) else scores
    return scores.add_column(at, SCHEMAS["scores"].field("key"), key)


def kept_tokens(tables: Lake, library: str, model_id: str, described: pa.Table) -> pa.Table:
    """Give the visual tokens of described videos, as they lie in the parts.

    Raises:
        LakeError: a part has been damaged since it was written.
    """
    parts, damaged = tables.read_parts(library, model_id)
    rows = rows_of(parts["features"], described.select(["video_id", "etag"]), model_id)
    if len(rows) != len(described):
        raise LakeError(
            f"library {library!r}: the parts hold the visual tokens of {len(rows)} of {len(described)} videos; "
            f"{len(damaged)} parts are damaged. Run again: what is missing is computed anew"
        )
    return rows


def result_rows(result: VideoResult, model_id: str, run_id: str) -> Rows:
    """Give a finished video's rows of each table.

    Args:
        result: answers, or the error in their place.
        model_id, run_id: whose answers.
    """
    names = ("decode_s", "inference_s", "sampling_plan", "damaged_frames")
    course = {name: getattr(result, name) for name in names}
    if result.error is not None:
        return {"scores": [failure_row(result.item, result.error, model_id, run_id) | course]}
    assert result.rating is not None and result.description is not None and result.tokens is not None
    key = {"video_id": result.item.video_id, "etag": result.item.etag, "model_id": model_id}
    tokens_NLD = result.tokens.tokens_NLD
    words = result.description
    score = key | asdict(result.rating) | course | {"uri": result.item.uri, "status": "ok"}
    score["events"] = [asdict(event) for event in words.events]
    return {
        "scores": [score | {"scored_at": datetime.now(UTC), "run_id": run_id}],
        "descriptions": [
            key
            | {
                "description": words.text,
                "distortions": [
                    {name: value for name, value in asdict(one).items() if name != "stretches"}
                    for one in words.distortions
                ],
                "distortion_times": [
                    {"name": one.name, "start_s": start_s, "end_s": end_s}
                    for one in words.distortions
                    for start_s, end_s in one.stretches
                ],
            }
        ],
        "features": [
            key
            | {
                "segment_start_s": result.tokens.segment_start_s.tolist(),
                "tokens": np.ascontiguousarray(tokens_NLD, np.float16).tobytes(),
                "tokens_shape": list(tokens_NLD.shape),
            }
        ],
    }


def failure_row(item: VideoItem, error: VideoError, model_id: str, run_id: str) -> dict[str, Any]:
    """Give the row of the scores table of a video that has no score."""
    return {
        "video_id": item.video_id,
        "uri": item.uri,
        "etag": item.etag,
        "model_id": model_id,
        "status": "failed",
        "error_type": error.error_type,
        "error_message": error.cause,
        "scored_at": datetime.now(UTC),
        "run_id": run_id,
    }


def repeated_failures(rows: list[dict[str, Any]], before: pa.Table, model_id: str) -> dict[str, dict[str, str]]:
    """Give, by video id, the id and ETag of those that failed as they had failed before: their older row stays.

    Not of failures that are counted: their new row says how often they happened.
    """
    same = ["video_id", "etag", "model_id", "error_type"]
    failed = before.filter((pc.field("status") == "failed") & (pc.field("model_id") == model_id))
    old = {tuple(row.values()) for row in failed.select(same).to_pylist()}
    return {
        row["video_id"]: {"video_id": row["video_id"], "etag": row["etag"]}
        for row in rows
        if row["status"] == "failed"
        and row["error_type"] not in COSTLY_TYPES
        and tuple(row[name] for name in same) in old
    }


def spent(new: list[dict[str, Any]]) -> dict[str, float]:
    """Sum up the seconds that rows of the scores table took in decoding and in the model."""
    return {name: sum((row.get(name) or 0.0 for row in new), 0.0) for name in ("decode_s", "inference_s")}


def score_metadata(tables: dict[str, pa.Table], new: list[dict[str, Any]], elapsed_s: float) -> dict[str, Any]:
    """Give what the UI shows of a library's scores.

    Args:
        tables: scores and descriptions as they are now.
        new: rows that this run made.
        elapsed_s: how long that took, Ray's and the model's start included.
    """
    scores = tables["scores"]
    values = scores["score"].drop_null().to_numpy()
    figures = {name: value for name, value in score_figures(scores).items() if value is not None}
    return {
        **figures,
        **failure_metadata(scores),
        "videos_per_s": len(new) / elapsed_s if new else 0.0,
        **spent(new),
        "score_histogram": dg.MetadataValue.md(score_histogram(values)),
        "worst_and_best": dg.MetadataValue.md(worst_and_best(scores, tables["descriptions"])),
    }
