"""From which probability a distortion is named, and how uncertain a score is: fitted on held-out contents.

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
        severities: of the same shape, 0-5; NaN where it is not known.

    Returns:
        distortion -> threshold.
    """
    there = severities >= NAMED_FROM
    named = probabilities[None] >= CANDIDATES[:, None, None]
    cost = (named & ~there & ~np.isnan(severities)).sum(1) + MISSED_WEIGHT * (~named & there).sum(1)
    best = [CANDIDATES[np.flatnonzero(column == column.min())] for column in cost.T]
    return {name: round(float(np.median(values)), 3) for name, values in zip(DISTORTIONS, best, strict=True)}


#: Shares of a normal distribution within one and within two standard deviations.
ONE_STD_SHARE, TWO_STD_SHARE = 0.6827, 0.9545
#: Least uncertainties that are tried.
LEAST_STDS = np.linspace(0, 0.8, 81)


def std_calibration(stds: np.ndarray, errors: np.ndarray, sets: np.ndarray) -> tuple[float, float]:
    """Fit how the spread of the level's distribution becomes the score's uncertainty, sqrt((a std)^2 + b^2).

    For each b, a is such that the share of errors within one uncertainty is that of a normal distribution; of all b
    that one is taken whose share within two comes nearest to it, too. Every data set counts alike.

    Args:
        stds: (videos,), standard deviations of the level's distribution.
        errors: (videos,), score less label.
        sets: (videos,), names of their data sets.

    Returns:
        (a, b).
    """
    names, members, counts = np.unique(sets, return_inverse=True, return_counts=True)
    weights = 1 / (len(names) * counts[members])
    fits = []
    for least in LEAST_STDS:
        needed = np.sqrt(np.maximum(0, errors**2 - least**2)) / np.maximum(stds, 1e-6)
        order = np.argsort(needed, kind="stable")
        place = np.searchsorted(np.cumsum(weights[order]), ONE_STD_SHARE)
        scale = float(needed[order][min(place, len(order) - 1)])
        within = float(weights[errors**2 <= 4 * ((scale * stds) ** 2 + least**2)].sum())
        fits.append((abs(within - TWO_STD_SHARE), scale, float(least)))
    _, scale, least = min(fits)
    return round(scale, 4), round(least, 4)
