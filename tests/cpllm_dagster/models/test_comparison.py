"""What a model gains over another: the field's figures, paired intervals, and what cannot be compared."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cpllm_dagster.models.comparison import FEWEST_CONTENTS, ModelComparison, compare_predictions
from cpllm_model.errors import DataSetError
from cpllm_model.metrics import agreement, pair_accuracy
from cpllm_model.training.data.manifests import LEAST_GAP

CONTENTS, VERSIONS = 40, 6
RNG = np.random.default_rng(5)
MOS_CV = RNG.uniform(1, 5, (CONTENTS, VERSIONS))
#: Pairs that are apart enough to be asked about; each is there in both orders.
PAIRS_C = (np.abs(MOS_CV[:, :, None] - MOS_CV[:, None]) > LEAST_GAP).sum((1, 2)) // 2


def predictions(noise: float, seed: int = 0, dataset: str = "a", contents: int = CONTENTS) -> list[dict[str, Any]]:
    """Scores that are the MOS with noise; what a content adds is the same for every model."""
    rng = np.random.default_rng(seed)
    bias_C = np.random.default_rng(99).normal(0, 0.5, CONTENTS)
    return [
        {
            "video_id": f"{c}.{v}", "dataset": dataset, "content_id": f"c{c}", "mos": float(MOS_CV[c, v]),
            "score": float(MOS_CV[c, v] + bias_C[c] + rng.normal(0, noise)), "status": "ok",
        }
        for c in range(contents)
        for v in range(VERSIONS)
    ]  # fmt: skip


def compared(candidate: list[dict[str, Any]], incumbent: list[dict[str, Any]]) -> ModelComparison:
    return compare_predictions(pa.Table.from_pylist(candidate), pa.Table.from_pylist(incumbent))


def test_figures_are_those_of_the_metrics() -> None:
    good, bad = predictions(0.2, 1), predictions(1.0, 2)
    found = compared(good, bad)
    assert found.pair_accuracy is not None
    for rows, srcc, pairs in (
        (good, found.srcc.candidate, found.pair_accuracy.candidate),
        (bad, found.srcc.incumbent, found.pair_accuracy.incumbent),
    ):
        score_CV = np.array([row["score"] for row in rows]).reshape(CONTENTS, VERSIONS)
        assert srcc == pytest.approx(agreement(score_CV.ravel(), MOS_CV.ravel()).srcc)
        shares = [pair_accuracy(*both, LEAST_GAP) for both in zip(score_CV, MOS_CV, strict=True)]
        assert pairs == pytest.approx(np.average(shares, weights=PAIRS_C))
    assert found.srcc_of == {"a": found.srcc}
    assert (found.videos, found.contents, found.unanswered) == (CONTENTS * VERSIONS, CONTENTS, 0)


def test_better_worse_and_the_same() -> None:
    good, bad = predictions(0.2, 1), predictions(1.0, 2)
    assert compared(good, bad).srcc.low > 0.05
    assert compared(bad, good).srcc.high < -0.05
    same = compared(good, good)
    assert same.pair_accuracy is not None
    for gain in (same.srcc, same.pair_accuracy):
        assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)
    other = compared(predictions(0.2, 3), good).srcc
    assert other.low < 0 < other.high and other.high - other.low < 0.03


def test_the_order_of_rows_does_not_matter_and_the_result_is_repeatable() -> None:
    good, bad = predictions(0.2, 1), predictions(0.5, 2)
    shuffled = [good[i] for i in np.random.default_rng(1).permutation(len(good))]
    assert compared(shuffled, bad) == compared(good, bad)


def test_data_sets_count_alike() -> None:
    good = predictions(0.1, 1) + predictions(0.1, 2, "b", contents=5)
    bad = predictions(0.1, 1) + predictions(2.0, 2, "b", contents=5)
    found = compared(good, bad)
    assert set(found.srcc_of) == {"a", "b"}
    assert found.srcc.value == pytest.approx(found.srcc_of["b"].value / 2)
    assert found.srcc_of["a"].value == 0


def test_scores_all_alike_order_nothing() -> None:
    constant = [row | {"score": 3.0} for row in predictions(0.2)]
    found = compared(constant, predictions(0.2))
    assert found.pair_accuracy is not None
    assert (found.srcc.candidate, found.pair_accuracy.candidate) == (0.0, 0.5)


def test_videos_that_only_the_incumbent_answers_are_counted_and_left_out() -> None:
    good = predictions(0.2)
    failed = [row | {"score": None, "status": "failed"} if i < 3 else row for i, row in enumerate(good)]
    assert (compared(failed, good).unanswered, compared(failed, good).videos) == (3, CONTENTS * VERSIONS - 3)
    assert compared(good, failed).unanswered == 0


def test_without_versions_there_are_no_pairs() -> None:
    single = [row | {"content_id": row["video_id"]} for row in predictions(0.2)]
    assert compared(single, single).pair_accuracy is None


def test_what_cannot_be_compared_is_refused() -> None:
    good = predictions(0.2)
    for other in (good[1:], [good[0] | {"mos": 1.0}, *good[1:]], [good[0] | {"content_id": "x"}, *good[1:]]):
        with pytest.raises(DataSetError, match="not of the same held-out videos"):
            compared(other, good)
    few = predictions(0.2, contents=FEWEST_CONTENTS - 1)
    with pytest.raises(DataSetError, match=f"{FEWEST_CONTENTS - 1} held-out contents"):
        compared(few, few)
    with pytest.raises(DataSetError, match="no column"):
        compare_predictions(pa.table({"video_id": ["a"]}), pa.table({"video_id": ["a"]}))
    unrated = [row | {"mos": None} if row["content_id"] != "c0" else row for row in good]
    with pytest.raises(DataSetError, match="1 held-out contents"):
        compared(unrated, unrated)


def test_a_comparison_survives_json() -> None:
    found = compared(predictions(0.2, 1), predictions(0.5, 2))
    assert ModelComparison.from_dict(json.loads(json.dumps(asdict(found)))) == found
