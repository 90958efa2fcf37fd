"""From answers about the segments of a video to the answer about the whole: a stated function, whatever their order.

In: the distribution over levels of each segment, its length, whether it shows a picture, and how long the video is
frozen. Out: the weight of each segment, and the distribution over levels of the whole. Pure arithmetic.

The whole is a mixture of its segments' distributions, so its score is the same mixture of their scores. Each segment
weighs by its length; a share of the weight goes to the worst tenth of the time, since viewers remember the worst
moments (VQPooling, Park et al., 2013; ITU-T P.1203.3 corrects the mean over time likewise). The share is this project's
choice.
Frozen time counts as bad: that is how ITU-T P.1203 treats stalling. In comparisons it does likewise: a moment of one
video is compared with a moment of the other, and a frozen one loses to a moving one.

Shape legend: N segments, A levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Share of the time that counts as its worst part, and the share of the weight that goes to it.
WORST_TIME, WORST_WEIGHT = 0.1, 0.25
#: Segments of one kind that are no further apart are one stretch, s.
_TOUCHING_S = 1e-6

Stretch = tuple[float, float]


def segment_weights(levels_NA: np.ndarray, length_s: np.ndarray) -> np.ndarray:
    """Weigh segments by length and by how bad they are.

    Args:
        levels_NA: distributions over levels, bad to excellent.
        length_s: (N,), positive.

    Returns:
        float64 (N,), sum 1.
    """
    share = length_s / length_s.sum()
    scores = levels_NA @ np.arange(1, levels_NA.shape[1] + 1)
    # Segments of equal scores are told apart by all that is known of them, so that their order does not count.
    order = np.lexsort((share, *levels_NA.T, scores))
    passed = np.cumsum(share[order]) - share[order]
    of_worst = np.empty_like(share)
    of_worst[order] = np.clip(np.minimum(share[order], WORST_TIME - passed), 0, None)
    return (1 - WORST_WEIGHT) * share + WORST_WEIGHT * of_worst / of_worst.sum()


def pooled_levels(levels_NA: np.ndarray, length_s: np.ndarray, frozen_share: float = 0.0) -> np.ndarray:
    """Give the distribution over levels of a whole video.

    Args:
        levels_NA: of the segments that show a picture.
        length_s: (N,) of these.
        frozen_share: share of the time during which the video is frozen, 0-1.

    Returns:
        float64 (A,), sum 1.
    """
    levels_A = segment_weights(levels_NA, length_s) @ levels_NA
    bad_A = np.zeros_like(levels_A)
    bad_A[0] = 1
    return (1 - frozen_share) * levels_A + frozen_share * bad_A


def frozen_share(freezes: Sequence[Stretch], duration_s: float) -> float:
    """Give the share of a video's time during which it is frozen, 0-1."""
    return min(1.0, covered_s(freezes) / duration_s)


def with_frozen_time(probability: float, frozen: float, other_frozen: float) -> float:
    """Give the probability that a video is better than another, frozen time included.

    Args:
        probability: that its picture looks better while both move.
        frozen, other_frozen: share of the time during which it is frozen, and during which the other is, 0-1.

    Returns:
        0-1; the other's is the complement.
    """
    both_move, one_moves = (1 - frozen) * (1 - other_frozen), (1 - frozen) * other_frozen
    return both_move * probability + one_moves + frozen * other_frozen / 2


def covered_s(stretches: Sequence[Stretch]) -> float:
    """Give the length of what stretches cover together."""
    return sum(end - start for start, end in joined(stretches))


def joined(stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """Join stretches that touch or overlap; in order of time."""
    found: list[Stretch] = []
    for start, end in sorted(stretches):
        if found and start <= found[-1][1] + _TOUCHING_S:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def without(stretches: Sequence[Stretch], taken: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """Give what is left of stretches where others are taken from them; in order of time."""
    left = list(joined(stretches))
    for first, last in joined(taken):
        parts = [((start, min(end, first)), (max(start, last), end)) for start, end in left]
        left = [part for pair in parts for part in pair if part[1] - part[0] > _TOUCHING_S]
    return tuple(left)


def by_score(scores: np.ndarray, count: int) -> list[int]:
    """Choose segments that stand for a video: at evenly spaced places of their scores, the worst first.

    Args:
        scores: (N,).
        count: at most so many.

    Returns:
        indices; those of a permutation of the segments name the same segments.
    """
    order = np.argsort(scores, kind="stable").tolist()
    if len(order) <= count:
        return order
    return [order[place * (len(order) - 1) // max(1, count - 1)] for place in range(count)]
