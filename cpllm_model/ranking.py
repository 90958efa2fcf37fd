"""Rankings from pairwise comparisons: which pairs to compare, and how strong that makes each item.

In: scores that give a first order, and probabilities that one item beats another. Out: pairs, round by round,
n log2 n in all; Bradley-Terry strengths in log-odds with standard errors; ranks. Everything is sparse and
deterministic. Knows nothing of videos or models.

Shapes: N items, P pairs, 2 the two items of a pair, K random draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph
from scipy.special import expit, ndtr, ndtri

#: Standard deviation of the prior on a strength, in log-odds. It is wide, and there only to keep items finite that
#: won or lost every comparison, or that no chain of comparisons joins to the rest.
PRIOR_SD = 10.0

#: How closely strengths are fitted, in log-odds: as good as exact.
PRECISION = 1e-8

#: Scores tell two items apart if they differ by so many standard deviations of their difference: a comparison, which is
#: right about as often as the scores, would add nothing.
TOLD_APART = 2.0

_JITTER_SD = 1.0
_TIE = 1e-6
_NEWTON_STEPS = 50
_CG_STEPS = 2000
_CG_TOLERANCE = 1e-7
_FIRST_CG_TOLERANCE = 0.1
_LEAST_DISPERSION = 1e-3
_EXACT_ITEMS = 1000
_DRAWS = 16
_DRAWS_AT_ONCE = 4
_DRAW_TOLERANCE = 1e-3


def round_count(n: int) -> int:
    """Return how many rounds of `next_pairs` rank n items: floor(log2 n), for at most n log2 n pairs in all."""
    return max(n.bit_length() - 1, 0)


def refits(round_index: int) -> bool:
    """Tell whether strengths are fitted anew before this round: before rounds 1, 3, 7, 15 and so on.

    Each time the comparisons have doubled, so that all fits together cost n log n, as the comparisons do. Later rounds
    make do with the strengths that are there.
    """
    return bool(round_index) and not round_index & (round_index + 1)


def next_pairs(
    score_N: np.ndarray,
    compared_P2: np.ndarray,
    strength_N: np.ndarray | None,
    round_index: int,
) -> np.ndarray:
    """Choose the pairs of one round.

    The items are laid in the order of their estimate plus a random shift, and neighbours are compared. So a round
    joins all items in one path, compares each with two others about as strong (where an outcome tells most), and
    the paths of several rounds together tie the far ends closely.

    Rounds of odd index put half the weight on the strengths. They never have it all: strengths that won by luck
    would only meet others that did, and their spread would grow unchecked (simulated with 200 to 1000 items and
    coin-flip outcomes, the 95 % intervals then hold 60 %; chosen as here, 95 %).

    Args:
        score_N: finite scores, higher is better; their order alone counts.
        compared_P2: int, the pairs compared already, in any order; these are not chosen again.
        strength_N: strengths fitted to the comparisons so far; None before the first fit. Their order alone counts.
        round_index: 0 for the first round; it seeds the shifts.

    Returns:
        int64 (at most N - 1, 2): pairs (i, j) with i < j, sorted, none twice.
    """
    n = len(score_N)
    estimate_N = _normal_quantiles(score_N)
    if strength_N is not None and round_index % 2:
        estimate_N = (estimate_N + _normal_quantiles(strength_N)) / 2
    shift_N = np.random.default_rng(round_index).uniform(-_JITTER_SD, _JITTER_SD, n)
    order_N = np.argsort(estimate_N + shift_N, kind="stable")
    chosen = np.sort(pair_codes(n, order_N[:-1], order_N[1:]))
    compared = pair_codes(n, *np.reshape(compared_P2, (-1, 2)).T)
    place = np.searchsorted(chosen, compared)
    repeated = np.zeros(len(chosen) + 1, dtype=bool)
    repeated[place[chosen.take(place, mode="clip") == compared] if len(chosen) else []] = True
    return np.stack(np.divmod(chosen[~repeated[:-1]], max(n, 1)), axis=1)


def told_by_scores(score_N: np.ndarray, std_N: np.ndarray, pairs_P2: np.ndarray) -> np.ndarray:
    """Give the probability that the first of a pair is better, where scores and their uncertainty tell.

    Args:
        score_N, std_N: scores and the standard deviations of their normal errors, independent of each other.
        pairs_P2: int, the items of each pair.

    Returns:
        float64 (P,); NaN where the scores are nearer than TOLD_APART standard deviations of their difference.
    """
    first, second = np.reshape(pairs_P2, (-1, 2)).T
    deviation_P = np.hypot(std_N[first], std_N[second])
    gap_P = score_N[first] - score_N[second]
    is_told_P = np.abs(gap_P) > TOLD_APART * deviation_P
    standard_P = np.divide(
        gap_P, deviation_P, out=np.copysign(np.full(len(gap_P), np.inf), gap_P), where=deviation_P > 0
    )
    return np.where(is_told_P, ndtr(standard_P), np.nan)


def _normal_quantiles(value_N: np.ndarray) -> np.ndarray:
    """Return what the values would be if they had their order from a standard normal distribution."""
    place_N = np.empty(len(value_N))
    place_N[np.argsort(value_N, kind="stable")] = np.arange(len(value_N))
    return ndtri((place_N + 0.5) / max(len(value_N), 1))


def pair_codes(n: int, one_P: np.ndarray, other_P: np.ndarray) -> np.ndarray:
    """Number pairs of n items, whichever item stands first: int64 (P,)."""
    return np.minimum(one_P, other_P).astype(np.int64) * n + np.maximum(one_P, other_P)


def components(n: int, pairs_P2: np.ndarray) -> np.ndarray:
    """Return the number, from 0, of each item's component: the items that comparisons join to it. int (N,)."""
    edges = sp.csr_array((np.ones(len(pairs_P2), bool), tuple(np.reshape(pairs_P2, (-1, 2)).T)), shape=(n, n))
    return csgraph.connected_components(edges, directed=False)[1]


@dataclass(frozen=True, eq=False)
class BradleyTerry:
    """A fitted model: P(i beats j) = 1 / (1 + exp(strength_j - strength_i)).

    strength_N: float64 log-odds, mean 0.
    comparisons_N: int64, comparisons an item took part in.
    """

    strength_N: np.ndarray
    comparisons_N: np.ndarray
    _data: _Comparisons = field(repr=False)

    @cached_property
    def strength_se_N(self) -> np.ndarray:  # noqa: N802
        """Standard errors, float64; that of an item without comparisons is the prior's."""
        return self._data.standard_errors(self.strength_N)

    @cached_property
    def component_N(self) -> np.ndarray:  # noqa: N802
        """Items joined by comparisons share a number, from 0; strengths compare within one component."""
        return self._data.components()


def bradley_terry(
    n: int,
    pairs_P2: np.ndarray,
    probability_P: np.ndarray,
    start_N: np.ndarray | None = None,
    precision: float = PRECISION,
) -> BradleyTerry:
    """Fit strengths by maximum likelihood under a wide normal prior.

    An outcome may be a result (0 or 1), a tie (0.5) or a probability. Standard errors follow the
    quasi-likelihood (Wedderburn 1974): the inverse information, scaled by how far outcomes scatter about the fit,
    so that they hold for coin flips and for consistent probabilities alike.

    Args:
        n: number of items.
        pairs_P2: int in [0, n), the items compared; a pair may occur several times.
        probability_P: float in [0, 1], probability that the first of the pair is better.
        start_N: strengths to start from, for speed; the result does not depend on it beyond the precision.
        precision: the last step's largest change of a strength, in log-odds.

    Raises:
        ValueError: a pair or a probability out of range, or an item compared with itself.
    """
    data = _Comparisons(n, *_merge(n, np.asarray(pairs_P2), np.asarray(probability_P, dtype=float)))
    strength_N = data.fit(np.zeros(n) if start_N is None else np.asarray(start_N, dtype=float), precision)
    return BradleyTerry(strength_N, data.degrees(), data)


def rank(strength_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank items by strength; items within a millionth of a log-odds unit share a rank.

    Args:
        strength_N: finite, higher is better.

    Returns:
        rank_N: int64, 1 is best; one more than the number of better items.
        percentile_N: float64 in [0, 100], the share of the others that this one beats; a tie counts half.
    """
    rounded_N = np.round(strength_N / _TIE)
    ascending = np.sort(rounded_N)
    worse_N = np.searchsorted(ascending, rounded_N, side="left")
    not_better_N = np.searchsorted(ascending, rounded_N, side="right")
    n = len(rounded_N)
    percentile_N = 100 * (worse_N + not_better_N - 1) / (2 * (n - 1)) if n > 1 else np.full(n, 100.0)
    return n - not_better_N + 1, percentile_N


def _merge(n: int, pairs_P2: np.ndarray, probability_P: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return, by distinct pair, its items i < j, the sum of i's outcomes, of their squares, and their number."""
    one_P, other_P = pairs_P2.reshape(-1, 2).T
    if len(one_P) != len(probability_P):
        raise ValueError(f"{len(one_P)} pairs but {len(probability_P)} probabilities")
    if len(one_P) and (pairs_P2.min() < 0 or pairs_P2.max() >= n):
        raise ValueError(f"pairs name items {pairs_P2.min()}..{pairs_P2.max()}, outside of 0..{n - 1}")
    if (one_P == other_P).any():
        raise ValueError("an item is compared with itself")
    if not ((probability_P >= 0) & (probability_P <= 1)).all():
        raise ValueError("a probability is outside of [0, 1]")
    wins_P = np.where(one_P > other_P, 1 - probability_P, probability_P)
    codes = pair_codes(n, one_P, other_P)
    # Sorted by pair and outcome, so that sums do not depend on the order of the input.
    order = np.lexsort((wins_P, codes))
    codes, wins_P = codes[order], wins_P[order]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    first_P, second_P = (item.astype(np.int32) for item in np.divmod(codes[starts], max(n, 1)))
    counts_P = np.diff(starts, append=len(codes)).astype(float)
    if not len(starts):
        return first_P, second_P, wins_P, wins_P, counts_P
    return first_P, second_P, np.add.reduceat(wins_P, starts), np.add.reduceat(wins_P**2, starts), counts_P


class _Comparisons:
    """Outcomes merged by pair (i < j), and the penalized likelihood over them."""

    def __init__(
        self,
        n: int,
        first_P: np.ndarray,
        second_P: np.ndarray,
        wins_P: np.ndarray,
        squares_P: np.ndarray,
        counts_P: np.ndarray,
    ) -> None:
        self.n, self.first_P, self.second_P = n, first_P, second_P
        self.wins_P, self.squares_P, self.counts_P = wins_P, squares_P, counts_P
        rows, columns = np.concatenate([first_P, second_P]), np.concatenate([second_P, first_P])
        # Entries are 1 + the index of the pair, since a zero may be dropped.
        pair_number = np.tile(np.arange(1, len(first_P) + 1, dtype=np.int32), 2)
        self._edges = sp.csr_array((pair_number, (rows, columns)), shape=(n, n))
        self._entry_pair: np.ndarray = np.asarray(self._edges.data, dtype=np.int32) - 1

    def degrees(self) -> np.ndarray:
        """Return how many comparisons each item took part in."""
        return self._per_item(self.counts_P, 1).astype(np.int64)

    def components(self) -> np.ndarray:
        """Return the number of each item's connected component."""
        return csgraph.connected_components(self._edges, directed=False)[1]

    def fit(self, strength_N: np.ndarray, precision: float) -> np.ndarray:
        """Maximize by Newton's method with conjugate gradients and step halving.

        The error of a Newton step is of the order of its square, so a step of size s is solved to a share s only.
        """
        value, gradient_N, weight_P = self._evaluate(strength_N)
        tolerance = _FIRST_CG_TOLERANCE
        for _ in range(_NEWTON_STEPS):
            step_N = self._information(weight_P).solve(gradient_N[:, None], tolerance)[:, 0]
            gain, scale = float(gradient_N @ step_N), 1.0
            while True:
                trial_N = strength_N + scale * step_N
                trial_value, gradient_N, weight_P = self._evaluate(trial_N)
                # The last steps gain less than the sum's rounding.
                if trial_value >= value + 1e-4 * scale * gain - 1e-12 * abs(value) or scale < 1e-6:
                    break
                scale /= 2
            strength_N, value = trial_N, trial_value
            largest = float(np.abs(step_N).max(initial=0.0))
            if largest < precision:
                break
            tolerance = min(max(largest, _CG_TOLERANCE), _FIRST_CG_TOLERANCE)
        return strength_N - (strength_N.mean() if self.n else 0.0)

    def standard_errors(self, strength_N: np.ndarray) -> np.ndarray:
        """Standard errors of centred strengths: exact for few items, else from random draws."""
        _, _, weight_P = self._evaluate(strength_N)
        weight_P = weight_P / self._dispersion(strength_N, weight_P)
        information = self._information(weight_P)
        if self.n <= _EXACT_ITEMS:
            # The prior's share of the common shift is no error of a centred strength.
            variance_N = np.diag(np.linalg.inv(information.dense())) - PRIOR_SD**2 / max(self.n, 1)
        else:
            variance_N = self._drawn_variance(information, weight_P)
        return np.sqrt(np.maximum(variance_N, 0.0))

    def _evaluate(self, strength_N: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the log posterior, its gradient, and each pair's information."""
        gap_P = strength_N[self.first_P] - strength_N[self.second_P]
        expected_P = expit(gap_P)
        value = self.wins_P @ gap_P - self.counts_P @ np.logaddexp(0.0, gap_P)
        value -= strength_N @ strength_N / (2 * PRIOR_SD**2)
        gradient_N = self._per_item(self.wins_P - self.counts_P * expected_P, -1) - strength_N / PRIOR_SD**2
        return float(value), gradient_N, self.counts_P * expected_P * (1 - expected_P)

    def _per_item(self, value_P: np.ndarray, sign: int) -> np.ndarray:
        """Sum over the pairs of each item: the value where it is the first, `sign` times it where the second."""
        return np.bincount(self.first_P, value_P, self.n) + sign * np.bincount(self.second_P, value_P, self.n)

    def _dispersion(self, strength_N: np.ndarray, weight_P: np.ndarray) -> float:
        """Return the scatter of outcomes about the fit, 1 for coin flips; 1 where too few tell.

        The fit takes up as much scatter as one comparison a fitted strength has, more of it where a comparison tells
        more: in proportion to the root of its information, which of the roots 0, 1/2 and 1 is the one whose 95 %
        intervals hold 93 to 97 % for 30 to 3000 items, coin flips and probabilities (benchmarks/ranking_simulation.py).
        """
        fitted = self.n - len(np.unique(self.components()))
        if self.counts_P.sum() <= fitted or not weight_P.sum():
            return 1.0
        expected_P = expit(strength_N[self.first_P] - strength_N[self.second_P])
        squares = (self.squares_P - 2 * expected_P * self.wins_P + self.counts_P * expected_P**2).sum()
        root_P = np.sqrt(weight_P / self.counts_P)
        taken_P = np.minimum(fitted * root_P / (self.counts_P @ root_P), 1)
        left = weight_P @ (1 - taken_P)
        return max(float(squares / left), _LEAST_DISPERSION) if left else 1.0

    def _information(self, weight_P: np.ndarray) -> _Information:
        entries = (weight_P[self._entry_pair], self._edges.indices, self._edges.indptr)
        weights = sp.csr_array(entries, shape=(self.n, self.n))
        return _Information(weights, np.asarray(weights.sum(axis=1)) + 1 / PRIOR_SD**2)

    def _drawn_variance(self, information: _Information, weight_P: np.ndarray) -> np.ndarray:
        """Estimate the inverse's diagonal by Rao-Blackwellized draws (Siden et al. 2018, JCGS).

        A draw x has the wanted covariance; var(x_i) = 1 / A_ii + var(E[x_i | the others]), where the first part
        is exact and most of the whole, and the second is averaged over the draws.
        """
        random = np.random.default_rng(0)
        square_N = np.zeros(self.n)
        for _ in range(_DRAWS // _DRAWS_AT_ONCE):
            noise_NK = random.standard_normal((self.n, _DRAWS_AT_ONCE)) / PRIOR_SD
            for noise_N in noise_NK.T:
                noise_N += self._per_item(np.sqrt(weight_P) * random.standard_normal(len(weight_P)), -1)
            draw_NK = information.solve(noise_NK, _DRAW_TOLERANCE)
            draw_NK -= draw_NK.mean(axis=0) + noise_NK / information.diagonal_N[:, None]
            square_N += (draw_NK**2).sum(axis=1)
        return 1 / information.diagonal_N + square_N / _DRAWS


@dataclass(frozen=True, eq=False)
class _Information:
    """The matrix diag(diagonal) - weights: the information on strengths, prior included."""

    weights: sp.csr_array
    diagonal_N: np.ndarray

    def dense(self) -> np.ndarray:
        return np.diag(self.diagonal_N) - self.weights.toarray()

    def solve(self, right_NK: np.ndarray, tolerance: float) -> np.ndarray:
        """Solve for each column by conjugate gradients, scaled by the diagonal; the prior bounds the steps.

        The residual ends at `tolerance` of what it was, in the norm of the scaling.
        """
        scale_N1 = 1 / self.diagonal_N[:, None]
        solution_NK = np.zeros_like(right_NK)
        residual_NK = right_NK.copy()
        direction_NK = scale_N1 * residual_NK
        power_K = np.einsum("nk,nk->k", residual_NK, direction_NK)
        target_K = power_K * tolerance**2
        for _ in range(_CG_STEPS):
            if (power_K <= target_K).all():
                break
            product_NK = self.diagonal_N[:, None] * direction_NK - self.weights @ direction_NK
            curvature_K = np.einsum("nk,nk->k", direction_NK, product_NK)
            step_K = power_K / np.where(curvature_K > 0, curvature_K, 1.0)
            solution_NK += step_K * direction_NK
            residual_NK -= step_K * product_NK
            scaled_NK = scale_N1 * residual_NK
            next_K = np.einsum("nk,nk->k", residual_NK, scaled_NK)
            direction_NK = scaled_NK + next_K / np.where(power_K > 0, power_K, 1.0) * direction_NK
            power_K = next_K
        return solution_NK
