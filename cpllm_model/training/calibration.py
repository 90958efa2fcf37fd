"""From which probability a distortion is named: thresholds fitted on held-out contents.

Rare distortions have low probabilities even where they are seen; one threshold for all would never name them.
"""

from __future__ import annotations

import numpy as np

from cpllm_model.scale import DISTORTIONS
from cpllm_model.training.distortions import NAMED_FROM

#: Thresholds that are tried.
CANDIDATES = np.linspace(0.05, 0.95, 91)


def naming_thresholds(probabilities: np.ndarray, severities: np.ndarray) -> dict[str, float]:
    """Choose, for each distortion, the threshold that names the fewest clips wrongly.

    What counts is that a clip's whole set of names is right, so a wrong name and a missing one weigh the same. Of
    equally good thresholds the middle one is taken.

    Args:
        probabilities: (clips, distortions), 0-1, in the order of DISTORTIONS.
        severities: of the same shape, 0-5.

    Returns:
        distortion -> threshold.
    """
    there = severities >= NAMED_FROM
    wrong = ((probabilities[None] >= CANDIDATES[:, None, None]) != there[None]).sum(1)
    best = [CANDIDATES[np.flatnonzero(column == column.min())] for column in wrong.T]
    return {name: round(float(np.median(values)), 3) for name, values in zip(DISTORTIONS, best, strict=True)}
