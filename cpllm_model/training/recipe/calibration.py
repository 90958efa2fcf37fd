"""From which probability a distortion is named: thresholds fitted on held-out contents.

Rare distortions have low probabilities even where they are seen; one threshold for all would never name them.
"""

from __future__ import annotations

import numpy as np

from cpllm_model.scale import DISTORTIONS
from cpllm_model.training.data.distortions import NAMED_FROM

#: Thresholds that are tried.
CANDIDATES = np.linspace(0.05, 0.95, 91)
#: A missing name weighs as much as so many wrong ones. With one, sets are exactly right a little more often, but rare
#: distortions, which are seen less clearly, are hardly ever named.
MISSED_WEIGHT = 2


def naming_thresholds(probabilities: np.ndarray, severities: np.ndarray) -> dict[str, float]:
    """Choose, for each distortion, the threshold with the fewest wrong and missing names, weighted.

    Of equally good thresholds the middle one is taken.

    Args:
        probabilities: (clips, distortions), 0-1, in the order of DISTORTIONS.
        severities: of the same shape, 0-5.

    Returns:
        distortion -> threshold.
    """
    there = severities >= NAMED_FROM
    named = probabilities[None] >= CANDIDATES[:, None, None]
    cost = (named & ~there).sum(1) + MISSED_WEIGHT * (~named & there).sum(1)
    best = [CANDIDATES[np.flatnonzero(column == column.min())] for column in cost.T]
    return {name: round(float(np.median(values)), 3) for name, values in zip(DISTORTIONS, best, strict=True)}
