"""How good direct comparisons are, and what scores rest on: order, close pairs, swapped tokens.

In: compared pairs and swaps. Out: dicts of counts and `Estimate`s with intervals over contents. Pairs of rated and of
unrated videos are never pooled.

Shape legend: P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cpllm_model.metrics import Bootstrap, share
from cpllm_model.training.evaluation.answers import ComparedPair, Swapped
from cpllm_model.training.evaluation.columns import binned, contents, in_order, labels, means, scores

#: Bins of label gaps, half-open, MOS units; the first also holds rungs whose labels are equal or reversed.
GAP_EDGES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0, 4.01)
CONFIDENCE_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.01)


def comparison_figures(pairs: Sequence[ComparedPair], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how often comparisons name the better one, by label gap and by confidence, and how they lean on order.

    `right_by_score` is how often the scores order the same pairs; the rest is `order_figures`.
    """
    gap_P = labels([pair.a for pair in pairs]) - labels([pair.b for pair in pairs])
    right_P, by_score_P = _right(pairs)
    probability_P = np.array([pair.comparison.probability_a_better for pair in pairs])
    confidence_P = np.maximum(probability_P, 1 - probability_P)
    groups = _groups(pairs)
    return {
        "pairs": len(pairs),
        **bootstrap.estimate(means(right=right_P, right_by_score=by_score_P, confidence=confidence_P), *groups),
        **order_figures(pairs, bootstrap),
        "by_label_gap": binned(right_P, np.abs(gap_P), GAP_EDGES, bootstrap, *groups),
        "by_confidence": binned(right_P, confidence_P, CONFIDENCE_EDGES, bootstrap, *groups),
    }


def order_figures(pairs: Sequence[ComparedPair], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how much comparisons lean on the order in which the two are shown.

    `order_gap` is how far the answers of both orders are apart: its mean, median, 90th percentile and largest.
    `first_bias` is the probability given to the first video of the prompt, averaged over both orders, less a half:
    0 when order plays no part.
    """
    gap_P = np.array([pair.comparison.order_gap for pair in pairs])
    bias_P = np.array([pair.comparison.first_bias for pair in pairs])

    def figures(counts_P: np.ndarray) -> dict[str, float]:
        if not counts_P.any():
            return dict.fromkeys(("order_gap", "order_gap_median", "order_gap_p90", "first_bias"), np.nan)
        drawn = np.repeat(gap_P, counts_P)
        median, p90 = np.quantile(drawn, [0.5, 0.9]).tolist()
        bias = share(counts_P @ bias_P, counts_P.sum())
        return {
            "order_gap": float(drawn.mean()),
            "order_gap_median": median,
            "order_gap_p90": p90,
            "first_bias": bias,
        }

    return {**bootstrap.estimate(figures, *_groups(pairs)), "order_gap_max": float(gap_P.max())}


def self_figures(pairs: Sequence[ComparedPair], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give `order_figures` of videos compared with themselves: both orders are one question, and 0 is right."""
    return {"videos": len(pairs)} | order_figures(pairs, bootstrap)


def close_figures(pairs: Sequence[ComparedPair], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give, on pairs of one content with close scores, how often the comparison and the score difference are right.

    `gain` is the paired difference, comparison less scores: above 0 a comparison says more than two scores do.
    """
    right_P, by_score_P = _right(pairs)
    columns = means(right=right_P, right_by_score=by_score_P, gain=right_P - by_score_P)
    content = contents([pair.a for pair in pairs])
    return {"pairs": len(pairs), "contents": len(set(content)), **bootstrap.estimate(columns, content)}


def swap_figures(swaps: Sequence[Swapped], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how far a score moves, mean absolute, with the context or pixel tokens of another video.

    `score_gap` is how far apart the scores of the two videos are: what swapping everything would move.
    """
    if not swaps:
        return {}
    own_N, other_N = scores([one.own for one in swaps]), scores([one.other for one in swaps])
    columns = means(
        context_shift=np.abs(np.array([one.with_other_context for one in swaps]) - own_N),
        pixel_shift=np.abs(np.array([one.with_other_pixels for one in swaps]) - own_N),
        score_gap=np.abs(other_N - own_N),
    )
    groups = contents([one.own for one in swaps]), contents([one.other for one in swaps])
    return {"videos": len(swaps), **bootstrap.estimate(columns, *groups)}


def _right(pairs: Sequence[ComparedPair]) -> tuple[np.ndarray, np.ndarray]:
    """Give 1, a half or 0 for each pair: whether the comparison, and whether the scores, name the better one."""
    side_P = np.sign(labels([pair.a for pair in pairs]) - labels([pair.b for pair in pairs]))
    probability_P = np.array([pair.comparison.probability_a_better for pair in pairs])
    score_P = scores([pair.a for pair in pairs]) - scores([pair.b for pair in pairs])
    zero_P = np.zeros(len(pairs))
    return in_order(side_P * (probability_P - 0.5), zero_P), in_order(side_P * score_P, zero_P)


def _groups(pairs: Sequence[ComparedPair]) -> tuple[list[str], list[str]]:
    return contents([pair.a for pair in pairs]), contents([pair.b for pair in pairs])
