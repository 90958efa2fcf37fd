"""Asset checks: what must hold in the published tables of a library.

All libraries share a check's status in the UI, so each result names its library. Publishing has validated the rows
already; these checks compare tables with one another and with what a person may expect of them.
"""

from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
from pydantic import Field

from cpllm_dagster.assets.catalog import video_catalog
from cpllm_dagster.assets.publication import published
from cpllm_dagster.assets.quality import ASSETS
from cpllm_dagster.assets.rankings import quality_rankings
from cpllm_dagster.objects import library_name
from cpllm_dagster.report import failures_by_type, plain
from cpllm_dagster.resources import TableLake
from cpllm_model.scale import SCORE_MAX, SCORE_MIN


class FailureLimit(dg.Config):
    """How many failures are too many."""

    largest_share: float = Field(default=0.2, ge=0, le=1, description="Largest share of videos without a score.")


class AgreementLimit(dg.Config):
    """How closely comparisons and scores must agree."""

    smallest_correlation: float = Field(default=0.5, description="Smallest Spearman correlation of strength and score.")
    smallest_library: int = Field(default=5, ge=3, description="Fewer ranked videos than this are not judged.")


@dg.asset_check(asset=ASSETS["scores"], additional_deps=[video_catalog], blocking=True)
def one_score_row_per_video(context: dg.AssetCheckExecutionContext, lake: TableLake) -> dg.AssetCheckResult:
    """Every row of the catalogue has exactly one score row, of the same bytes, and no other score row is there."""
    library = _library(context)
    catalog, scores = (_versions(published(lake.open(), name, library)) for name in ("catalog", "scores"))
    missing, surplus = catalog - scores, scores - catalog
    return _result(
        library,
        not missing and not surplus,
        f"{len(catalog)} videos, {len(missing)} without a score row, {len(surplus)} score rows of no listed video",
        videos=sorted(uri for uri, _ in missing | surplus)[:5],
    )


@dg.asset_check(asset=ASSETS["scores"], blocking=True)
def scores_in_range(context: dg.AssetCheckExecutionContext, lake: TableLake) -> dg.AssetCheckResult:
    """Every scored video has a score from 1 to 5, every failed one has none."""
    library = _library(context)
    scores = published(lake.open(), "scores", library)
    wrong = scores_out_of_range(scores)
    return _result(library, not wrong, f"{len(wrong)} of {len(scores)} rows are wrong", videos=wrong[:5])


@dg.asset_check(asset=ASSETS["scores"])
def failure_rate(context: dg.AssetCheckExecutionContext, config: FailureLimit, lake: TableLake) -> dg.AssetCheckResult:
    """Few videos fail."""
    library = _library(context)
    scores = published(lake.open(), "scores", library)
    failures = failures_by_type(scores)
    failed = sum(count for _, count in failures)
    share = failed / max(len(scores), 1)
    detail = f"{failed} of {len(scores)} videos failed ({share:.1%}, limit {config.largest_share:.1%})"
    return _result(
        library, share <= config.largest_share, detail, dg.AssetCheckSeverity.WARN, failures_by_type=dict(failures)
    )


@dg.asset_check(asset=quality_rankings)
def ranking_agrees_with_scores(
    context: dg.AssetCheckExecutionContext, config: AgreementLimit, lake: TableLake
) -> dg.AssetCheckResult:
    """The order that comparisons give is close to the order of the scores (Spearman)."""
    library = _library(context)
    scores, rankings = (published(lake.open(), name, library) for name in ("scores", "rankings"))
    correlation = ranking_correlation(scores, rankings)
    if correlation is None or len(rankings) < config.smallest_library:
        return _result(library, True, f"{len(rankings)} ranked videos are too few or too equal to judge")
    detail = f"Spearman correlation {correlation:.3f} over {len(rankings)} videos"
    passed = correlation >= config.smallest_correlation
    return _result(library, passed, detail, dg.AssetCheckSeverity.WARN, spearman=correlation)


CHECKS = [one_score_row_per_video, scores_in_range, failure_rate, ranking_agrees_with_scores]


def scores_out_of_range(scores: pa.Table) -> list[str]:
    """Give the videos whose score lies outside of 1-5, or is missing, or stands beside a failure."""
    return [
        row["uri"]
        for row in scores.select(["uri", "status", "score"]).to_pylist()
        if (row["status"] == "ok") != (row["score"] is not None and SCORE_MIN <= row["score"] <= SCORE_MAX)
    ]


def ranking_correlation(scores: pa.Table, rankings: pa.Table) -> float | None:
    """Give Spearman's correlation of strength and score over the ranked videos; None where either is constant."""
    from scipy.stats import spearmanr

    score_of = dict(zip(scores["video_id"].to_pylist(), scores["score"].to_pylist(), strict=True))
    score_N = np.array([score_of[video_id] for video_id in rankings["video_id"].to_pylist()], float)
    strength_N = rankings["strength"].to_numpy()
    if len(score_N) < 2 or np.ptp(score_N) == 0 or np.ptp(strength_N) == 0:
        return None
    return float(spearmanr(strength_N, score_N)[0])


def _library(context: dg.AssetCheckExecutionContext) -> str:
    operation = context.op_execution_context
    if not operation.has_partition_key:
        raise dg.Failure("a check is about one library: run it with the assets of a partition")
    return library_name(operation.partition_key)


def _versions(table: pa.Table) -> set[tuple[str, str]]:
    return set(zip(table["uri"].to_pylist(), table["etag"].to_pylist(), strict=True))


def _result(
    library: str,
    passed: bool,
    detail: str,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    **metadata: Any,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=passed,
        severity=severity,
        description=f"{plain(library)}: {detail}",
        metadata={"library": library, **metadata},
    )
