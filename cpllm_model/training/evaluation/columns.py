"""Columns of numbers from answers and pairs, and means of them in the form that a bootstrap takes.

In: answers. Out: arrays. Every figure of an evaluation is made of these. Judges nothing.

Shape legend: N videos or rows of any kind, P pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from cpllm_model.metrics import Bootstrap, share
from cpllm_model.training.evaluation.answers import Answer, order_label


def scores(answers: Sequence[Answer]) -> np.ndarray:
    """Give the scores (N,)."""
    return np.array([one.rating.score for one in answers])


def labels(answers: Sequence[Answer]) -> np.ndarray:
    """Give the labels (N,), as `order_label`: MOS, or of unrated versions what is left of their source."""
    return np.array([order_label(one.video) for one in answers], float)


def contents(answers: Sequence[Answer]) -> list[str]:
    """Give the contents' names."""
    return [one.video.content_id for one in answers]


def by_content(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """Group versions of one content."""
    groups = defaultdict(list)
    for one in answers:
        groups[one.video.content_id].append(one)
    return groups


def in_order(better_P: np.ndarray, worse_P: np.ndarray) -> np.ndarray:
    """Give 1 where the better one has the higher score, 0 where the lower, a half for a tie."""
    return (1 + np.sign(better_P - worse_P)) / 2


def pairs_in_order(pairs: Sequence[tuple[Answer, Answer]]) -> np.ndarray:
    """Give `in_order` of the scores of pairs, each with the better one first."""
    return in_order(scores([a for a, _ in pairs]), scores([b for _, b in pairs]))


def means(**columns_N: np.ndarray) -> Callable[[np.ndarray], dict[str, float]]:
    """Give the function of counts that a bootstrap takes, for the mean of each column; NaN rows are left out."""
    known = {name: np.isfinite(np.asarray(column, float)) for name, column in columns_N.items()}
    filled = {name: np.where(known[name], column, 0.0) for name, column in columns_N.items()}
    return lambda counts_N: {name: share(counts_N @ filled[name], counts_N @ known[name]) for name in columns_N}


def binned(
    right_P: np.ndarray, value_P: np.ndarray, edges: Sequence[float], bootstrap: Bootstrap, *groups: Sequence[str]
) -> list[dict[str, Any]]:
    """Give the mean of `right_P` in each half-open bin of `value_P` that holds a row."""
    bins = []
    for low, high in pairwise(edges):
        inside = np.flatnonzero((value_P >= low) & (value_P < high)).tolist()
        if inside:
            here = bootstrap.estimate(means(right=right_P[inside]), *([group[i] for i in inside] for group in groups))
            bins.append({"from": low, "to": high, "pairs": len(inside), "mean": float(value_P[inside].mean()), **here})
    return bins
