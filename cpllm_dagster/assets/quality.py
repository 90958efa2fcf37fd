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
from cpllm_dagster.assets.incremental import QualityPlan, plan_quality, rows_of
from cpllm_dagster.assets.parts import PartKeeper, Rows
from cpllm_dagster.assets.progress import Progress
from cpllm_dagster.assets.publication import (
    publish,
    publish_versions,
    published,
    published_or_empty,
    table_metadata,
)
from cpllm_dagster.assets.retries import COSTLY_TYPES, earlier_failures, stated
from cpllm_dagster.batch.supervisor import VideoItem, VideoResult, score_videos
from cpllm_dagster.catalog.objects import library_name
from cpllm_dagster.lake.append_only import VERSION, RowView
from cpllm_dagster.lake.rows import places, version_places
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
    now = {name: published_or_empty(tables, name, library) for name in ("scores", "descriptions")}
    before, features = now["scores"], tables.view("features", library)
    # Visual tokens are by far the largest column: what a plan needs of them are the versions.
    versions = SCHEMAS["features"].empty_table().select(VERSION) if features is None else features.versions
    listed = published(tables, "catalog", library)
    plan = plan_quality(
        listed,
        now | {"features": versions},
        tables.read_parts(library, model_id)[0],
        model_id,
        retry_archived=config.retry_archived,
    )
    context.log.info(f"{library!r}: {len(plan.todo)} videos to score, {len(plan.kept)} answered by {model_id}")

    started = time.monotonic()
    if plan.todo:
        ray.require(context)
        settings = config.batch_settings(ray)
        results = score_videos(
            plan.todo, store=catalog.open(), model=model.source, settings=settings, limits=limits.decode_limits()
        )
        earlier = earlier_failures(before, model_id)
        # The parts are the only place where results are kept: those of a large library are larger than memory.
        keeper = PartKeeper(tables, library, model_id, config.part_videos, config.part_interval_s)
        with keeper, closing(results):
            progress = Progress(library, len(plan.todo), context.log.info, context.log.warning)
            for result in results:
                rows = result_rows(result, model_id, run_id)
                keeper.add(rows | {"scores": [stated(row, earlier) for row in rows["scores"]]})
                error = result.error
                progress.add(result.item.uri, error and error.error_type, error and error.cause)
            context.log.info(progress.line())
    elapsed_s = time.monotonic() - started
    fresh = finished_rows(tables, library, model_id, plan)
    scored = _rows_among(fresh["scores"], plan.todo)
    good = len(rows_of(now["descriptions"], plan.kept, model_id)) + len(
        rows_of(fresh["descriptions"], plan.recovered, model_id)
    )
    require_readable(library, scored["error_type"].to_pylist(), good)
    refused = [failure_row(item, error, model_id, run_id) for item, error in plan.refused]
    scored = pa.concat_tables([scored, pa.Table.from_pylist(refused, SCHEMAS["scores"])])
    repeated_N = repeated_failures(scored, before, model_id)
    staying = scored.filter(repeated_N).select(plan.kept.column_names).cast(plan.kept.schema)
    holding = pa.concat_tables([plan.kept, staying])
    scored = scored.filter(~repeated_N)
    fresh["scores"] = pa.concat_tables([rows_of(fresh["scores"], plan.recovered, model_id), scored])

    made = {"scores": len(scored), "descriptions": len(_rows_among(fresh["descriptions"], plan.todo))}
    put_by: list[str] = []
    if not plan.complete:
        put_by = put_removed_by(tables, library, model_id, now, features, listed)
        for name in now:
            # A table of an earlier version may not have all nullable columns.
            pieces = [rows_of(now[name], holding, model_id), fresh[name]]
            now[name] = pa.concat_tables(pieces, promote_options="default")
        now["scores"] = with_keys(now["scores"], listed)
    recorded_at = datetime.now(UTC)
    changes = change_rows(before, now["scores"], run_id=run_id, recorded_at=recorded_at)
    spent_s = {"scoring_s": elapsed_s, **{f"{name}_sum": seconds for name, seconds in spent(scored).items()}}
    night = night_row(
        now["scores"], changes, run_id=run_id, recorded_at=recorded_at, model_id=model_id, spent_s=spent_s
    )
    if len(changes):
        keep_pending(tables, library, changes, night)
    now_versions = pa.concat_tables([rows_of(versions, holding, model_id), fresh["features"].select(VERSION)])
    yield publish_versions(
        tables,
        "features",
        library,
        versions,
        fresh["features"],
        now_versions,
        made=made["descriptions"],
        run_id=run_id,
        model_id=model_id,
        asset_key=ASSETS["features"],
    )
    for name in now:
        yield publish(
            tables,
            name,
            library,
            None if plan.complete else now[name],
            made=made[name],
            run_id=run_id,
            model_id=model_id,
            metadata=score_metadata(now, scored, elapsed_s) if name == "scores" else None,
            asset_key=ASSETS[name],
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


def put_removed_by(
    tables: Lake,
    library: str,
    model_id: str,
    now: dict[str, pa.Table],
    features: RowView | None,
    listed: pa.Table,
) -> list[str]:
    """Keep the answers for videos that are no longer in the catalogue as parts: the next run takes them up again.

    It drops those that it also misses. So a video that comes back after one night is not decoded again.

    Args:
        tables, library, model_id: where, and whose answers.
        now, features: scores and descriptions, and visual tokens, as published.
        listed: the catalogue.

    Returns:
        The names of the parts.
    """

    def gone_rows(table: pa.Table) -> np.ndarray:
        of_model_N = places(table["model_id"], pa.array([model_id])) == 0
        return np.flatnonzero(of_model_N & (places(table["video_id"], ids) < 0))

    ids = listed["video_id"].unique()
    removed = {name: taken(table, gone_rows(table)) for name, table in now.items()}
    if features is not None:
        removed["features"] = features.rows(gone_rows(features.versions))
    return [
        tables.append_part(library, model_id, {name: table.slice(start, ROWS_AT_ONCE)})
        for name, table in removed.items()
        for start in range(0, len(table), ROWS_AT_ONCE)  # tokens of many videos are larger than memory
    ]


def with_keys(scores: pa.Table, catalog: pa.Table) -> pa.Table:
    """Give the scores with the keys of their videos, as the catalogue has them."""
    row_N = places(scores["video_id"], catalog["video_id"])
    key = catalog["key"].take(pa.array(row_N, mask=row_N < 0))
    at = scores.column_names.index("key") if "key" in scores.column_names else len(scores.column_names)
    scores = scores.drop_columns(["key"]) if at < len(scores.column_names) else scores
    return scores.add_column(at, SCHEMAS["scores"].field("key"), key)


def finished_rows(tables: Lake, library: str, model_id: str, plan: QualityPlan) -> dict[str, pa.Table]:
    """Give the rows of what this run and a broken one before it have finished, as they lie in the parts.

    Raises:
        LakeError: a part has been damaged since it was written.
    """
    if not (plan.todo or len(plan.recovered)):
        return {name: SCHEMAS[name].empty_table() for name in ASSETS}
    parts, damaged = tables.read_parts(library, model_id)
    wanted = pa.concat_tables([plan.recovered, _versions_of(plan.todo, plan.recovered.schema)])
    rows = {name: rows_of(parts[name], wanted, model_id) for name in ASSETS}
    scored = len(rows["scores"].filter(pc.field("status") == "ok"))
    counts = {"scores": len(wanted), "descriptions": scored, "features": scored}
    for name, count in counts.items():
        if len(rows[name]) != count:
            raise LakeError(
                f"library {library!r}: the parts hold {len(rows[name])} of {count} rows of {name}; "
                f"{len(damaged)} parts are damaged. Run again: what is missing is computed anew"
            )
    return rows


def _versions_of(items: list[VideoItem], schema: pa.Schema) -> pa.Table:
    """Give id and ETag of videos."""
    return pa.table([[getattr(item, name) for item in items] for name in schema.names], schema=schema)


def _rows_among(table: pa.Table, items: list[VideoItem]) -> pa.Table:
    """Give the rows of these videos."""
    return table.filter(places(table["video_id"], pa.array([item.video_id for item in items], pa.string())) >= 0)


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


def repeated_failures(rows: pa.Table, before: pa.Table, model_id: str) -> np.ndarray:
    """Tell which rows failed as they had failed before, so that their older row stays: bool (N,).

    Not of failures that are counted: their new row says how often they happened.

    Args:
        rows: of the scores table, new.
        before: the scores table as published.
        model_id: whose.
    """
    old = before.filter((pc.field("status") == "failed") & (pc.field("model_id") == model_id))
    is_costly_N = places(rows["error_type"], pa.array(sorted(COSTLY_TYPES))) >= 0
    return (version_places(rows, old, "etag", "error_type") >= 0) & ~is_costly_N


def spent(scored: pa.Table) -> dict[str, float]:
    """Sum up the seconds that rows of the scores table took in decoding and in the model."""
    return {name: pc.sum(scored[name]).as_py() or 0.0 for name in ("decode_s", "inference_s")}  # pyright: ignore[reportAttributeAccessIssue]


def score_metadata(tables: dict[str, pa.Table], new: pa.Table, elapsed_s: float) -> dict[str, Any]:
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
        "videos_per_s": len(new) / elapsed_s if len(new) else 0.0,
        **spent(new),
        "score_histogram": dg.MetadataValue.md(score_histogram(values)),
        "worst_and_best": dg.MetadataValue.md(worst_and_best(scores, tables["descriptions"])),
    }
