"""How well predicted scores agree with people's: the figures that the field reports.

In: arrays of predictions and of mean opinion scores (MOS). Out: SRCC, KRCC, PLCC before and after the
four-parameter logistic, RMSE after it, the share of pairs in the right order, the area under the ROC curve, and
bootstrap intervals of any figure. Knows nothing of files or models.

Shapes: N videos, or rows of any kind; F figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit
from scipy.stats import kendalltau, rankdata


@dataclass(frozen=True)
class Agreement:
    """Agreement of predictions with MOS; a correlation with something constant is NaN.

    srcc, krcc: rank correlations of Spearman and Kendall (tau-b), -1..1.
    plcc: Pearson's correlation of the predictions as they are, -1..1.
    plcc_fitted, rmse_fitted: after `fit_logistic`; the error in MOS units.
    pair_accuracy: share of pairs in the right order, 0..1, see `pair_accuracy`.
    """

    count: int
    srcc: float
    krcc: float
    plcc: float
    plcc_fitted: float
    rmse_fitted: float
    pair_accuracy: float


def agreement(prediction_N: np.ndarray, mos_N: np.ndarray) -> Agreement:
    """Compare predictions with mean opinion scores.

    Args:
        prediction_N: finite, on any scale.
        mos_N: finite, higher is better.

    Raises:
        ValueError: other shapes, fewer than two videos, or a number that is not finite.
    """
    plain, fitted = correlations(prediction_N, mos_N), fitted_agreement(prediction_N, mos_N)
    return Agreement(count=len(mos_N), **plain, **fitted, pair_accuracy=pair_accuracy(prediction_N, mos_N))


def correlations(prediction_N: np.ndarray, mos_N: np.ndarray) -> dict[str, float]:
    """Give srcc, krcc and plcc of `Agreement`; arguments and errors are `agreement`'s."""
    prediction_N, mos_N = _checked(prediction_N, mos_N)
    return {
        "srcc": pearson(rankdata(prediction_N), rankdata(mos_N)),
        "krcc": _kendall(prediction_N, mos_N),
        "plcc": pearson(prediction_N, mos_N),
    }


def fitted_agreement(prediction_N: np.ndarray, mos_N: np.ndarray) -> dict[str, float]:
    """Give plcc_fitted and rmse_fitted of `Agreement`; arguments and errors are `agreement`'s."""
    fitted_N = fit_logistic(prediction_N, mos_N)
    return {
        "plcc_fitted": pearson(fitted_N, mos_N),
        "rmse_fitted": float(np.sqrt(np.mean((fitted_N - mos_N) ** 2))),
    }


def fit_logistic(prediction_N: np.ndarray, mos_N: np.ndarray) -> np.ndarray:
    """Map predictions to the MOS scale by the monotone four-parameter logistic that fits best in least squares.

    The function is (b1 - b2) / (1 + exp(-(x - b3) / |b4|)) + b2 (VQEG, FR-TV phase I, 2000, and since then usual
    before PLCC and RMSE are taken).

    Args:
        prediction_N: finite, on any scale.
        mos_N: finite.

    Returns:
        float64 (N,): fitted MOS; the mean MOS everywhere when the predictions are constant.

    Raises:
        ValueError: as `agreement`.
    """
    prediction_N, mos_N = _checked(prediction_N, mos_N)
    if np.ptp(prediction_N) == 0 or np.ptp(mos_N) == 0:
        return np.full(len(mos_N), mos_N.mean())
    x_N = (prediction_N - prediction_N.mean()) / prediction_N.std()
    y_N = (mos_N - mos_N.mean()) / mos_N.std()

    def curve(centre_and_width: np.ndarray) -> np.ndarray:
        centre, log_width = centre_and_width
        step_N = expit((x_N - centre) / np.exp(log_width))
        # The two levels are linear in the MOS, so the best ones follow from centre and width.
        slope = np.mean((step_N - step_N.mean()) * y_N) / max(np.var(step_N), np.finfo(float).tiny)
        return slope * (step_N - step_N.mean())

    # Beyond these bounds the curve is a line or a step. The error has local minima, hence several starts.
    bounds = ([-10.0, np.log(0.02)], [10.0, np.log(50.0)])
    fits = [
        least_squares(lambda b: curve(b) - y_N, [0.0, np.log(width)], bounds=bounds, max_nfev=200)
        for width in (0.25, 1.0, 4.0)
    ]
    return curve(min(fits, key=lambda fit: fit.cost).x) * mos_N.std() + mos_N.mean()


def pair_accuracy(prediction_N: np.ndarray, mos_N: np.ndarray, least_gap: float = 0.0) -> float:
    """Return the share of pairs that predictions put in the right order; a predicted tie counts half.

    Args:
        prediction_N: finite, on any scale.
        mos_N: finite.
        least_gap: pairs whose MOS differ by no more than this are left out, MOS units.

    Returns:
        0..1, NaN without any pair left.

    Raises:
        ValueError: as `agreement`.
    """
    prediction_N, mos_N = _checked(prediction_N, mos_N)
    right = pairs = 0.0
    for i in range(len(mos_N) - 1):
        gap = mos_N[i + 1 :] - mos_N[i]
        counted = np.abs(gap) > least_gap
        agrees = np.sign(prediction_N[i + 1 :] - prediction_N[i]) * np.sign(gap)
        right += float(np.sum((1 + agrees[counted]) / 2))
        pairs += int(counted.sum())
    return right / pairs if pairs else np.nan


def auc(value_N: np.ndarray, positive_N: np.ndarray, counts_N: np.ndarray | None = None) -> float:
    """Return the area under the ROC curve: how often a positive's value is above a negative's, a tie counting half.

    Args:
        value_N: finite, higher for positives.
        positive_N: bool.
        counts_N: how many times each row is there; once by default.

    Returns:
        0..1, NaN without a positive or without a negative.
    """
    counts_N = np.ones(len(value_N)) if counts_N is None else counts_N
    _, place_N = np.unique(value_N, return_inverse=True)
    positive, negative = (np.bincount(place_N, counts_N * side) for side in (positive_N, ~positive_N))
    below = np.cumsum(negative) - negative / 2
    return share(positive @ below, positive.sum() * negative.sum())


def share(part: SupportsFloat, whole: SupportsFloat) -> float:
    """Divide; NaN where there is nothing to divide by."""
    return float(part) / float(whole) if float(whole) else np.nan


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval it lies in; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals by resampling groups of rows that belong together, such as all versions of one content.

    Drawing single rows would take versions of one content for independent evidence, and the intervals would be too
    narrow. A row between two groups, such as a comparison of two contents, is there as often as the product of its
    groups' counts (the pigeonhole bootstrap, Owen 2007), which errs on the wide side. A share of exactly 0 or 1 gets an
    interval without width: what never happened among the rows happens in no resample.

    Args:
        resamples: how many times.
        confidence: share of intervals that should hold the true figure, 0..1.
        seed: decides every draw.
    """

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def estimate(
        self,
        figures: Callable[[np.ndarray], dict[str, float]],
        group_N: Sequence[str],
        other_group_N: Sequence[str] | None = None,
    ) -> dict[str, Estimate]:
        """Give figures with their intervals.

        Args:
            figures: takes int64 (N,), how many times each row is there, and gives figures by name, NaN if undefined.
            group_N: name of each row's group.
            other_group_N: name of the other group of rows between two; may be the same.

        Returns:
            The figures of the rows as they are; no interval with a single group or where every resample gave NaN.
        """
        pairs_N2 = np.stack([group_N, group_N if other_group_N is None else other_group_N], 1)
        groups, number = np.unique(pairs_N2, return_inverse=True)
        first_N, second_N = number.reshape(-1, 2).T
        found = figures(np.ones(len(first_N), np.int64))
        if len(groups) < 2:
            return {name: Estimate(value, np.nan, np.nan) for name, value in found.items()}
        rng = np.random.default_rng(self.seed)
        drawn = []
        for _ in range(self.resamples):
            times = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)))
            counts_N = times[first_N] * np.where(first_N == second_N, 1, times[second_N])
            drawn.append(list(figures(counts_N).values()))
        return {
            name: Estimate(value, *self._interval(column))
            for (name, value), column in zip(found.items(), np.array(drawn).T, strict=True)
        }

    def _interval(self, values: np.ndarray) -> tuple[float, float]:
        known = values[np.isfinite(values)]
        if not len(known):
            return np.nan, np.nan
        low, high = np.quantile(known, [(1 - self.confidence) / 2, (1 + self.confidence) / 2])
        return float(low), float(high)


def pearson(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Return Pearson's correlation, -1..1; NaN where one side is constant."""
    if np.ptp(a_N) == 0 or np.ptp(b_N) == 0:
        return np.nan
    return float(np.corrcoef(a_N, b_N)[0, 1])


def _kendall(a_N: np.ndarray, b_N: np.ndarray) -> float:
    tau: Any = kendalltau(a_N, b_N)
    return float(tau.statistic)


def _checked(prediction_N: np.ndarray, mos_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prediction_N, mos_N = np.asarray(prediction_N, float), np.asarray(mos_N, float)
    if prediction_N.ndim != 1 or prediction_N.shape != mos_N.shape or len(mos_N) < 2:
        raise ValueError(f"predictions {prediction_N.shape} and MOS {mos_N.shape} are not two equal rows")
    for name, value_N in (("prediction", prediction_N), ("MOS", mos_N)):
        if not np.isfinite(value_N).all():
            raise ValueError(f"{np.sum(~np.isfinite(value_N))} values of the {name} are not finite")
    return prediction_N, mos_N
