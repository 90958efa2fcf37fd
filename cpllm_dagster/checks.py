"""Asset checks: what must hold in the published tables of a library, and of a model before it is promoted.

The checks of a library are partitioned as its assets are: each library has a status of its own, so that no green one
hides a red one. What a check counts is its metadata, as numbers that the UI plots. Publishing has validated the rows
already: here tables are compared with one another, with earlier nights, and with what a person may expect of them.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
from pydantic import Field

from cpllm_dagster.assets.catalog import video_catalog
from cpllm_dagster.assets.publication import published
from cpllm_dagster.assets.quality import ASSETS, HISTORY_ASSETS
from cpllm_dagster.assets.rankings import quality_rankings
from cpllm_dagster.assets.training import comparison_metadata, last_evaluation, model_evaluation
from cpllm_dagster.catalog.objects import library_name
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.partitions import LIBRARIES
from cpllm_dagster.report.tables import failures_by_type, plain
from cpllm_dagster.resources import TableLake
from cpllm_model.errors import ConfigurationError, LakeError
from cpllm_model.scale import SCORE_MAX, SCORE_MIN


class FailureLimit(dg.Config):
    """How many failures are too many."""

    largest_share: float = Field(default=0.2, ge=0, le=1, description="Largest share of videos without a score.")


class AgreementLimit(dg.Config):
    """How closely comparisons and scores must agree."""

    smallest_correlation: float = Field(default=0.5, description="Smallest Spearman correlation of strength and score.")
    smallest_library: int = Field(default=5, ge=3, description="Fewer ranked videos than this are not judged.")


class FallLimit(dg.Config):
    """How far the scores of a library may fall from one night to the next."""

    largest_fall: float = Field(default=0.2, gt=0, description="Largest fall of the mean score.")
    nights: int = Field(default=7, ge=1, description="Earlier nights whose median is compared with.")


@dataclass(frozen=True)
class Verdict:
    """What a check finds in one library."""

    passed: bool
    detail: str
    metadata: dict[str, Any] = field(default_factory=dict)


def _library_check(asset: Any, **options: Any) -> Callable[[Any], dg.AssetChecksDefinition]:
    """Make an asset check with a partition a library."""
    with warnings.catch_warnings():
        # Partitions of checks are a preview in Dagster 1.13, which pyproject.toml keeps to.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        make = dg.asset_check(asset=asset, partitions_def=LIBRARIES, **options)

    def made(function: Any) -> dg.AssetChecksDefinition:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.PreviewWarning)
            return make(function)

    return made


@_library_check(ASSETS["scores"], additional_deps=[video_catalog], blocking=True)
def one_score_row_per_video(context: dg.AssetCheckExecutionContext, lake: TableLake) -> dg.AssetCheckResult:
    """Every row of the catalogue has exactly one score row, of the same bytes, and there is no other score row."""
    return _result(context, lake.open(), judge_coverage)


@_library_check(ASSETS["scores"], blocking=True)
def scores_in_range(context: dg.AssetCheckExecutionContext, lake: TableLake) -> dg.AssetCheckResult:
    """Every scored video has a score from 1 to 5, every failed one has none."""
    return _result(context, lake.open(), judge_range)


@_library_check(ASSETS["scores"])
def failure_rate(context: dg.AssetCheckExecutionContext, config: FailureLimit, lake: TableLake) -> dg.AssetCheckResult:
    """Few videos fail."""
    judge = partial(judge_failures, largest_share=config.largest_share)
    return _result(context, lake.open(), judge, dg.AssetCheckSeverity.WARN)


@_library_check(quality_rankings)
def ranking_agrees_with_scores(
    context: dg.AssetCheckExecutionContext, config: AgreementLimit, lake: TableLake
) -> dg.AssetCheckResult:
    """The order that comparisons give is close to the order of the scores (Spearman)."""
    judge = partial(
        judge_agreement, smallest_correlation=config.smallest_correlation, smallest_library=config.smallest_library
    )
    return _result(context, lake.open(), judge, dg.AssetCheckSeverity.WARN)


@_library_check(HISTORY_ASSETS["nights"])
def scores_have_not_fallen(
    context: dg.AssetCheckExecutionContext, config: FallLimit, lake: TableLake
) -> dg.AssetCheckResult:
    """The mean score is not far below that of the nights before, by the same model."""
    judge = partial(judge_fall, largest_fall=config.largest_fall, nights=config.nights)
    return _result(context, lake.open(), judge, dg.AssetCheckSeverity.WARN)


@dg.asset_check(asset=model_evaluation, blocking=True)
def better_than_promoted(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """The trained model is surely better than the promoted one on held-out videos; until then it is not promoted."""
    record = last_evaluation(context.op_execution_context.instance)
    return dg.AssetCheckResult(
        passed=record.objection is None,
        description=record.objection or f"{record.candidate_id} is better than {record.incumbent_id}.",
        metadata=comparison_metadata(record),
    )


CHECKS = [
    one_score_row_per_video,
    scores_in_range,
    failure_rate,
    ranking_agrees_with_scores,
    scores_have_not_fallen,
    better_than_promoted,
]


def judge_coverage(tables: Lake, library: str) -> Verdict:
    """Compare the versions in the catalogue with those among the scores; a table has each video once."""
    catalog, scores = (
        set(zip(table["uri"].to_pylist(), table["etag"].to_pylist(), strict=True))
        for table in (published(tables, name, library, ["uri", "etag"]) for name in ("catalog", "scores"))
    )
    missing, surplus = catalog - scores, scores - catalog
    return Verdict(
        not missing and not surplus,
        f"{len(catalog)} videos, {len(missing)} without a score row, {len(surplus)} score rows of no listed video",
        {
            "videos": len(catalog),
            "missing": len(missing),
            "surplus": len(surplus),
            "examples": sorted(uri for uri, _ in missing | surplus)[:5],
        },
    )


def judge_range(tables: Lake, library: str) -> Verdict:
    """Look for scores outside of 1-5, missing scores, and scores beside a failure."""
    rows = published(tables, "scores", library, ["uri", "status", "score"]).to_pylist()
    wrong = [
        row["uri"]
        for row in rows
        if (row["status"] == "ok") != (row["score"] is not None and SCORE_MIN <= row["score"] <= SCORE_MAX)
    ]
    counted = {"videos": len(rows), "wrong": len(wrong), "examples": wrong[:5]}
    return Verdict(not wrong, f"{len(wrong)} of {len(rows)} rows are wrong", counted)


def judge_failures(tables: Lake, library: str, largest_share: float) -> Verdict:
    """Hold the share of failed videos against its limit."""
    scores = published(tables, "scores", library, ["status", "error_type"])
    by_type = dict(failures_by_type(scores))
    share = sum(by_type.values()) / max(len(scores), 1)
    detail = f"{sum(by_type.values())} of {len(scores)} videos failed ({share:.1%}, limit {largest_share:.1%})"
    counted = {"videos": len(scores), "failed": sum(by_type.values()), "failed_share": share, "limit": largest_share}
    return Verdict(share <= largest_share, detail, counted | {"failures_by_type": by_type})


def judge_agreement(tables: Lake, library: str, smallest_correlation: float, smallest_library: int) -> Verdict:
    """Hold the correlation of strength and score against its limit."""
    rankings = published(tables, "rankings", library)
    correlation = ranking_correlation(published(tables, "scores", library), rankings)
    if correlation is None or len(rankings) < smallest_library:
        return Verdict(
            True, f"{len(rankings)} ranked videos are too few or too alike to judge", {"videos": len(rankings)}
        )
    detail = f"Spearman correlation {correlation:.3f} over {len(rankings)} videos"
    counted = {"videos": len(rankings), "spearman": correlation, "limit": smallest_correlation}
    return Verdict(correlation >= smallest_correlation, detail, counted)


def judge_fall(tables: Lake, library: str, largest_fall: float, nights: int) -> Verdict:
    """Hold the mean score of the last night against the median of those before, as far as one model made them."""
    found = tables.read_log("nights", library, newest=nights + 1)
    if found is None:
        raise LakeError(f"library {library!r} has no night yet: materialize quality_scores before this check")
    *before, last = found.to_pylist()
    means = [
        night["score_mean"]
        for night in before
        if night["model_id"] == last["model_id"] and night["score_mean"] is not None
    ]
    if not means or last["score_mean"] is None:
        return Verdict(True, "there are no scores of earlier nights and this one by one model", {"nights": 0})
    usual = float(np.median(means))
    fall = usual - last["score_mean"]
    detail = (
        f"mean score {last['score_mean']:.2f}, {usual:.2f} in the {len(means)} nights before "
        f"(limit of the fall {largest_fall:.2f})"
    )
    counted = {"score_mean": last["score_mean"], "usual_score_mean": usual, "fall": fall, "limit": largest_fall}
    return Verdict(fall <= largest_fall, detail, counted | {"nights": len(means)})


def ranking_correlation(scores: pa.Table, rankings: pa.Table) -> float | None:
    """Give Spearman's correlation of strength and score over the ranked videos; None where either is constant."""
    from scipy.stats import rankdata  # the figures of metrics.py take more than this one

    score_of = dict(zip(scores["video_id"].to_pylist(), scores["score"].to_pylist(), strict=True))
    score_N = np.array([score_of[video_id] for video_id in rankings["video_id"].to_pylist()], float)
    strength_N = rankings["strength"].to_numpy()
    if len(score_N) < 2 or np.ptp(score_N) == 0 or np.ptp(strength_N) == 0:
        return None
    return float(np.corrcoef(rankdata(strength_N), rankdata(score_N))[0, 1])


def _result(
    context: dg.AssetCheckExecutionContext,
    tables: Lake,
    judge: Callable[[Lake, str], Verdict],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """Judge the library of the run's partition."""
    run = context.op_execution_context
    if not run.has_partition_key:  # Dagster 1.13 runs a check alone without its partition
        raise ConfigurationError(
            f"{context.check_specs[0].name} has a result a library: materialize its asset for one, and it runs with it"
        )
    library = library_name(run.partition_key)
    verdict = judge(tables, library)
    return dg.AssetCheckResult(
        passed=verdict.passed,
        severity=severity,
        description=f"{plain(library)}: {verdict.detail}",
        metadata={"library": plain(library)} | verdict.metadata,
    )
