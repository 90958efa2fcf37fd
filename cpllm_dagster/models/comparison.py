"""Whether one model predicts held-out videos better than another: what is gained, with intervals.

In: the predictions of both for the same videos, as evaluation writes them. Out: each figure of both models and the
interval of its difference. Both models share every resample of the contents (paired bootstrap), so that what makes a
content hard for both does not blur what sets them apart. Knows nothing of Dagster, of Ray, nor of model folders.

Shapes: N videos, P pairs of one content's versions, F figures; an axis of length 2 holds incumbent and candidate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cpllm_model.errors import DataSetError

#: Fewer contents than this span no interval that means anything.
FEWEST_CONTENTS = 8
COLUMNS = ("video_id", "dataset", "content_id", "mos", "score", "status")
#: A video's data set and its name there.
Key = tuple[str, str]


@dataclass(frozen=True)
class Gain:
    """One figure of both models, and the bounds of the 95 % interval of candidate minus incumbent."""

    incumbent: float
    candidate: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """Give what the candidate gains."""
        return self.candidate - self.incumbent

    def __str__(self) -> str:
        bounds = f"95 % interval {self.low:+.3f} to {self.high:+.3f}"
        return f"{self.incumbent:.3f} -> {self.candidate:.3f}, gain {self.value:+.3f} ({bounds})"


@dataclass(frozen=True)
class ModelComparison:
    """What a candidate gains over an incumbent on the videos that both answer.

    Args:
        videos, contents: how many were compared.
        unanswered: videos with a score of the incumbent, but none of the candidate.
        srcc: Spearman's correlation with the MOS, mean of the data sets.
        srcc_of: the same for each data set.
        pair_accuracy: share of pairs of one content's versions in the right order; None without such a pair.
    """

    videos: int
    contents: int
    unanswered: int
    srcc: Gain
    srcc_of: dict[str, Gain]
    pair_accuracy: Gain | None

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> ModelComparison:
        """Rebuild a comparison from its `dataclasses.asdict`."""
        pairs = found["pair_accuracy"]
        return cls(
            **dict(found)
            | {
                "srcc": Gain(**found["srcc"]),
                "srcc_of": {dataset: Gain(**gain) for dataset, gain in found["srcc_of"].items()},
                "pair_accuracy": None if pairs is None else Gain(**pairs),
            }
        )


@dataclass(frozen=True, eq=False)
class _Answered:
    """The videos that both models score."""

    dataset_N: np.ndarray
    content_N: np.ndarray
    mos_N: np.ndarray
    score_2N: np.ndarray


def compare_predictions(candidate_table: pa.Table, incumbent_table: pa.Table) -> ModelComparison:
    """Compare two models on the same held-out videos.

    Args:
        candidate_table, incumbent_table: their predictions, with COLUMNS; videos without a MOS are left out.

    Raises:
        DataSetError: the two are not predictions of the same videos, or of too few contents.
    """
    from cpllm_model.metrics import Bootstrap, share  # half a second that only a comparison needs

    found, unanswered = _answered(_by_video(candidate_table), _by_video(incumbent_table))
    contents = len(set(found.content_N))
    if contents < FEWEST_CONTENTS:
        raise DataSetError(
            f"{contents} held-out contents are answered by both models; below {FEWEST_CONTENTS} nothing can be told"
        )
    datasets = {name: np.flatnonzero(found.dataset_N == name) for name in sorted(set(found.dataset_N))}
    first_P, right_2P = _pairs(found)

    def figures(counts_N: np.ndarray) -> np.ndarray:
        """Give mean SRCC, pair accuracy and the SRCC of each data set, (F, 2), of rows that are there so many times."""
        srcc = [_srcc(found, np.repeat(rows, counts_N[rows])) for rows in datasets.values()]
        counts_P = counts_N[first_P]
        return np.array([np.mean(srcc, 0), [share(counts_P @ right_P, counts_P.sum()) for right_P in right_2P], *srcc])

    def gains(counts_N: np.ndarray) -> dict[str, float]:
        return {str(index): gain for index, gain in enumerate(np.diff(figures(counts_N))[:, 0].tolist())}

    intervals = Bootstrap().estimate(gains, found.content_N.tolist()).values()
    both_F2 = figures(np.ones(len(found.mos_N), int)).tolist()
    srcc, pair_accuracy, *srcc_of = (
        Gain(incumbent, candidate, interval.low, interval.high)
        for (incumbent, candidate), interval in zip(both_F2, intervals, strict=True)
    )
    return ModelComparison(
        videos=len(found.mos_N),
        contents=contents,
        unanswered=unanswered,
        srcc=srcc,
        srcc_of=dict(zip(datasets, srcc_of, strict=True)),
        pair_accuracy=pair_accuracy if len(first_P) else None,
    )


def _by_video(predictions: pa.Table) -> dict[Key, dict[str, Any]]:
    try:
        rows = predictions.select(list(COLUMNS)).to_pylist()
    except KeyError as error:
        raise DataSetError(f"predictions have no column {error}") from error
    return {(row["dataset"], row["video_id"]): row for row in rows if row["mos"] is not None}


def _answered(
    candidate: Mapping[Key, dict[str, Any]], incumbent: Mapping[Key, dict[str, Any]]
) -> tuple[_Answered, int]:
    """Give the videos that both score, and how many the candidate alone does not."""
    if candidate.keys() != incumbent.keys() or any(
        candidate[key][name] != incumbent[key][name] for key in candidate for name in ("content_id", "mos")
    ):
        raise DataSetError("the predictions of candidate and incumbent are not of the same held-out videos")
    scored = [key for key in sorted(incumbent) if incumbent[key]["status"] == "ok"]
    both = [key for key in scored if candidate[key]["status"] == "ok"]
    return _Answered(
        dataset_N=np.array([dataset for dataset, _ in both]),
        content_N=np.array([f"{dataset}/{candidate[dataset, name]['content_id']}" for dataset, name in both]),
        mos_N=np.array([candidate[key]["mos"] for key in both], float),
        score_2N=np.array([[model[key]["score"] for key in both] for model in (incumbent, candidate)], float),
    ), len(scored) - len(both)


def _pairs(found: _Answered) -> tuple[np.ndarray, np.ndarray]:
    """Give the pairs within contents that evaluation counts: the row of the first, and whether each model is right.

    Returns:
        int (P,) and float (2, P): 1 in order, 0 in reverse, a half for a tie.
    """
    from cpllm_model.training.evaluation.answers import LEAST_GAP

    rows = [np.flatnonzero(found.content_N == content) for content in np.unique(found.content_N)]
    pairs_2P = np.concatenate([row[np.stack(np.triu_indices(len(row), 1))] for row in rows], axis=1)
    gap_P = found.mos_N[pairs_2P[0]] - found.mos_N[pairs_2P[1]]
    pairs_2P, gap_P = pairs_2P[:, np.abs(gap_P) > LEAST_GAP], gap_P[np.abs(gap_P) > LEAST_GAP]
    apart_2P = found.score_2N[:, pairs_2P[0]] - found.score_2N[:, pairs_2P[1]]
    return pairs_2P[0], (1 + np.sign(apart_2P) * np.sign(gap_P)) / 2


def _srcc(found: _Answered, rows: np.ndarray) -> list[float]:
    """Give both models' rank correlation with the MOS; scores that are all alike order nothing: 0."""
    from scipy.stats import rankdata

    from cpllm_model.metrics import pearson

    if not len(rows):
        return [np.nan, np.nan]
    mos_N = rankdata(found.mos_N[rows])
    return [float(np.nan_to_num(pearson(rankdata(score_N[rows]), mos_N))) for score_N in found.score_2N]
