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
#: Slopes and least uncertainties that are tried.
SLOPES, LEAST_STDS = np.linspace(0, 3, 61), np.linspace(0, 0.8, 41)
#: Fits that come so near to the best are as good: of these the steepest is taken, since an uncertainty that is the same
#: for every video says nothing.
AS_GOOD = 0.02


def std_calibration(stds: np.ndarray, errors: np.ndarray, sets: np.ndarray) -> tuple[float, float]:
    """Fit how the spread of the level's distribution becomes the score's uncertainty, sqrt((a std)^2 + b^2).

    Taken are the a and b with which the shares of errors within one and within two uncertainties come nearest to those
    of a normal distribution, in every data set by itself: what is lowest is the mean over data sets of how far both
    shares are off.

    Args:
        stds: (videos,), standard deviations of the level's distribution.
        errors: (videos,), score less label.
        sets: (videos,), names of their data sets.

    Returns:
        (a, b).
    """
    cost = np.zeros((len(SLOPES), len(LEAST_STDS)))
    for name in np.unique(sets):
        std_V, error_V = stds[sets == name], np.abs(errors[sets == name])
        for place, slope in enumerate(SLOPES):
            ratio_BV = error_V / np.sqrt((slope * std_V) ** 2 + LEAST_STDS[:, None] ** 2 + 1e-12)
            cost[place] += np.abs((ratio_BV <= 1).mean(1) - ONE_STD_SHARE) + np.abs(
                (ratio_BV <= 2).mean(1) - TWO_STD_SHARE
            )
    good = np.argwhere(cost <= cost.min() + AS_GOOD * len(np.unique(sets)))
    steepest = good[good[:, 0] == good[:, 0].max()]
    slope, least = min(steepest.tolist(), key=lambda place: cost[tuple(place)])
    return round(float(SLOPES[slope]), 4), round(float(LEAST_STDS[least]), 4)
