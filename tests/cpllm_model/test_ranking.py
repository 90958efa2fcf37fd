"""Pair selection and Bradley-Terry: properties, closed forms, and simulations with known truth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csgraph
from scipy.special import expit, logit
from scipy.stats import norm

from cpllm_model import ranking
from cpllm_model.metrics import pair_accuracy
from cpllm_model.ranking import (
    PRIOR_SD,
    TOLD_APART,
    BradleyTerry,
    bradley_terry,
    next_pairs,
    rank,
    refits,
    round_count,
    told_by_scores,
)

NO_PAIRS = np.zeros((0, 2), np.int64)
SEEDS = st.integers(0, 100_000)


def random_comparisons(seed: int, n: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    first = random.integers(0, n, count)
    second = (first + random.integers(1, n, count)) % n
    return np.stack([first, second], axis=1), random.choice([0.0, 0.2, 0.5, 0.9, 1.0], count)


def tournament(n: int, seed: int, outcome: str, noise: float = 1.0) -> tuple[np.ndarray, BradleyTerry, int]:
    """Rank n items of known strengths by all rounds; return the strengths, the fit and the number of pairs."""
    random = np.random.default_rng(seed)
    true_N = random.normal(0, 2, n)
    true_N -= true_N.mean()
    score_N = true_N + random.normal(0, noise, n)
    pairs_P2, probability_P, fitted = NO_PAIRS, np.zeros(0), None
    for index in range(round_count(n)):
        if refits(index):
            fitted = bradley_terry(n, pairs_P2, probability_P)
        pairs_Q2 = next_pairs(score_N, pairs_P2, fitted.strength_N if fitted else None, index)
        expected_Q = expit(true_N[pairs_Q2[:, 0]] - true_N[pairs_Q2[:, 1]])
        if outcome == "coin":
            answers_Q = (random.random(len(pairs_Q2)) < expected_Q).astype(float)
        else:
            answers_Q = random.beta(10 * expected_Q, 10 * (1 - expected_Q))
        pairs_P2 = np.concatenate([pairs_P2, pairs_Q2])
        probability_P = np.concatenate([probability_P, answers_Q])
    return true_N, bradley_terry(n, pairs_P2, probability_P), len(pairs_P2)


def test_all_fits_together_cost_n_log_n() -> None:
    assert [index for index in range(40) if refits(index)] == [1, 3, 7, 15, 31]


@given(n=st.integers(0, 200), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_rounds_join_all_items_and_repeat_no_pair(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    score_N = random.integers(0, 5, n).astype(float)
    compared_P2 = NO_PAIRS
    for index in range(round_count(n)):
        strength_N = random.normal(size=n) if index else None
        pairs_Q2 = next_pairs(score_N, compared_P2[:, ::-1], strength_N, index)
        assert np.array_equal(pairs_Q2, next_pairs(score_N, compared_P2, strength_N, index))
        assert (pairs_Q2[:, 0] < pairs_Q2[:, 1]).all() and len(pairs_Q2) <= n - 1
        compared_P2 = np.concatenate([compared_P2, pairs_Q2])
        graph = sp.csr_array((np.ones(len(compared_P2)), compared_P2.T), shape=(n, n))
        assert csgraph.connected_components(graph, directed=False)[0] == 1
    assert len({tuple(pair) for pair in compared_P2.tolist()}) == len(compared_P2) <= n * np.log2(max(n, 1))
    assert not n or compared_P2.max(initial=0) < n


def test_only_the_order_of_scores_and_strengths_counts() -> None:
    random = np.random.default_rng(3)
    score_N, strength_N = random.normal(size=(2, 50))
    here = next_pairs(score_N, NO_PAIRS, strength_N, 1)
    assert np.array_equal(here, next_pairs(np.exp(score_N), NO_PAIRS, 1000 * strength_N, 1))
    assert not np.array_equal(here, next_pairs(score_N, NO_PAIRS, -strength_N, 1))


def test_neighbours_in_score_are_compared() -> None:
    n = 1000
    place_N = np.random.default_rng(0).permutation(n).astype(float)
    pairs_P2 = next_pairs(place_N, NO_PAIRS, None, 0)
    assert np.median(np.abs(place_N[pairs_P2[:, 0]] - place_N[pairs_P2[:, 1]])) < n / 4
    assert (np.bincount(pairs_P2.ravel(), minlength=n) <= 2).all()


def test_scores_tell_items_apart_beyond_their_uncertainty() -> None:
    score_N, std_N = np.array([3.0, 3.5, 4.5, 1.0, 1.0, 1.1]), np.array([0.3, 0.4, 0.3, np.nan, 0.0, 0.0])
    told_P = told_by_scores(score_N, std_N, np.array([[0, 1], [0, 2], [2, 0], [0, 3], [4, 5], [4, 4]]))
    assert np.isnan(told_P[[0, 3, 5]]).all()  # near, of unknown uncertainty, the same
    assert told_P[1] == pytest.approx(1 - told_P[2]) and told_P[1] < 1 - norm.cdf(TOLD_APART) and told_P[4] == 0
    assert told_P[2] == pytest.approx(norm.cdf(1.5 / np.hypot(0.3, 0.3)))
    assert len(told_by_scores(score_N, std_N, NO_PAIRS)) == 0


def test_two_items_have_the_logit_between_them() -> None:
    for probability in (0.5, 0.75, 0.02):
        fitted = bradley_terry(2, np.array([[1, 0]]), np.array([probability]))
        gap = fitted.strength_N[1] - fitted.strength_N[0]
        assert gap == pytest.approx(logit(probability), rel=0.2, abs=1e-9)
        assert abs(gap) <= abs(logit(probability)) + 1e-9
    many = bradley_terry(2, np.tile([[0, 1]], (1000, 1)), np.repeat([1.0, 0.0], [750, 250]))
    assert many.strength_N[0] - many.strength_N[1] == pytest.approx(np.log(3), rel=1e-4)
    # Half the gap's standard error: the binomial one, 1 / sqrt(n p q) = 0.073.
    assert many.strength_se_N == pytest.approx([0.0365, 0.0365], rel=0.01)


def test_consistent_probabilities_give_back_their_strengths() -> None:
    random = np.random.default_rng(1)
    true_N = random.normal(0, 1.5, 60)
    true_N -= true_N.mean()
    pairs_P2, _ = random_comparisons(1, 60, 500)
    fitted = bradley_terry(60, pairs_P2, expit(true_N[pairs_P2[:, 0]] - true_N[pairs_P2[:, 1]]))
    assert fitted.strength_N == pytest.approx(true_N, rel=0.05, abs=0.05)
    assert fitted.strength_se_N.max() < 0.1


@given(seed=SEEDS, n=st.integers(2, 30), count=st.integers(1, 120))
@settings(max_examples=30, deadline=None)
def test_the_fit_does_not_depend_on_how_comparisons_are_written(seed: int, n: int, count: int) -> None:
    pairs_P2, probability_P = random_comparisons(seed, n, count)
    random = np.random.default_rng(seed)
    here = bradley_terry(n, pairs_P2, probability_P)
    order_P = random.permutation(count)
    shuffled = bradley_terry(n, pairs_P2[order_P], probability_P[order_P])
    assert np.array_equal(shuffled.strength_N, here.strength_N)
    assert np.array_equal(shuffled.strength_se_N, here.strength_se_N)

    turned = bradley_terry(n, pairs_P2[:, ::-1], 1 - probability_P)
    assert turned.strength_N == pytest.approx(here.strength_N, abs=1e-6)
    lost = bradley_terry(n, pairs_P2, 1 - probability_P)
    assert lost.strength_N == pytest.approx(-here.strength_N, abs=1e-6)
    names_N = random.permutation(n)
    renamed = bradley_terry(n, names_N[pairs_P2], probability_P)
    assert renamed.strength_N[names_N] == pytest.approx(here.strength_N, abs=1e-6)
    elsewhere = bradley_terry(n, pairs_P2, probability_P, random.normal(0, 5, n))
    assert elsewhere.strength_N == pytest.approx(here.strength_N, abs=1e-6)

    assert abs(here.strength_N.mean()) < 1e-9
    assert np.isfinite(here.strength_N).all() and (here.strength_se_N > 0).all()
    assert here.comparisons_N.sum() == 2 * count


@given(seed=SEEDS, n=st.integers(2, 12))
@settings(max_examples=15, deadline=None)
def test_the_fit_is_a_maximum(seed: int, n: int) -> None:
    pairs_P2, probability_P = random_comparisons(seed, n, 30)
    fitted = bradley_terry(n, pairs_P2, probability_P).strength_N

    def value(strength_N: np.ndarray) -> float:
        gap_P = strength_N[pairs_P2[:, 0]] - strength_N[pairs_P2[:, 1]]
        log_likelihood = np.sum(probability_P * gap_P - np.logaddexp(0, gap_P))
        return float(log_likelihood - np.sum(strength_N**2) / (2 * PRIOR_SD**2))

    random = np.random.default_rng(seed)
    assert all(value(fitted + random.normal(0, 1e-2, n)) < value(fitted) for _ in range(20))


def test_winning_everything_stays_finite() -> None:
    ladder = np.array([[i, i + 1] for i in range(9)])
    fitted = bradley_terry(10, ladder, np.ones(9))
    assert (np.diff(fitted.strength_N) < 0).all()
    assert np.abs(fitted.strength_N).max() < 5 * PRIOR_SD
    assert (fitted.strength_se_N > 1).all()


def test_parts_that_never_met_are_told_apart() -> None:
    fitted = bradley_terry(5, np.array([[0, 1], [2, 3]]), np.array([0.9, 0.9]))
    assert fitted.component_N[0] == fitted.component_N[1] != fitted.component_N[2] == fitted.component_N[3]
    assert len(set(fitted.component_N.tolist())) == 3
    assert fitted.strength_N[4] == pytest.approx(0)
    assert fitted.strength_se_N[4] == pytest.approx(PRIOR_SD * np.sqrt(1 - 1 / 5))
    assert fitted.comparisons_N.tolist() == [1, 1, 1, 1, 0]


def test_nothing_to_fit() -> None:
    for n in (0, 1, 3):
        fitted = bradley_terry(n, NO_PAIRS, np.zeros(0))
        assert fitted.strength_N.tolist() == [0.0] * n
        assert fitted.component_N.tolist() == list(range(n)) and len(fitted.strength_se_N) == n


@pytest.mark.parametrize(
    ("pairs", "probability", "message"),
    [
        ([[0, 3]], [0.5], "outside of 0..2"),
        ([[-1, 0]], [0.5], "items -1..0"),
        ([[1, 1]], [0.5], "with itself"),
        ([[0, 1]], [1.5], "outside of"),
        ([[0, 1]], [np.nan], "outside of"),
        ([[0, 1]], [], "1 pairs but 0"),
    ],
)
def test_impossible_comparisons_are_refused(pairs: list, probability: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bradley_terry(3, np.array(pairs), np.array(probability))


@pytest.mark.parametrize("outcome", ["coin", "probability"])
@pytest.mark.parametrize(("n", "seeds"), [(30, 80), (200, 8)])
def test_intervals_hold_the_truth(n: int, seeds: int, outcome: str) -> None:
    held = [
        np.abs(fitted.strength_N - true_N) < 1.96 * fitted.strength_se_N
        for true_N, fitted, _ in (tournament(n, seed, outcome) for seed in range(seeds))
    ]
    assert 0.93 < np.mean(held) < 0.97


def test_comparisons_improve_on_the_scores() -> None:
    true_N, fitted, count = tournament(500, 0, "probability", noise=1.5)
    noisy_N = true_N + np.random.default_rng(1).normal(0, 1.5, 500)
    assert pair_accuracy(noisy_N, true_N) < 0.82
    assert pair_accuracy(fitted.strength_N, true_N) > 0.96
    assert count <= 500 * np.log2(500)


def test_drawn_standard_errors_match_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fitted, _ = tournament(400, 2, "coin")
    exact_N = fitted.strength_se_N
    monkeypatch.setattr(ranking, "_EXACT_ITEMS", 0)
    drawn_N = fitted._data.standard_errors(fitted.strength_N)
    assert np.sqrt(np.mean((drawn_N / exact_N - 1) ** 2)) < 0.05


@given(st.lists(st.integers(-3, 3), max_size=30))
def test_ranks_by_counting(values: list[int]) -> None:
    strength_N = np.array(values, dtype=float)
    rank_N, percentile_N = rank(strength_N + np.linspace(0, 1e-9, len(values)))
    for value, place, percentile in zip(values, rank_N, percentile_N, strict=True):
        assert place == 1 + sum(other > value for other in values)
        beaten = sum(other < value for other in values) + (values.count(value) - 1) / 2
        assert percentile == pytest.approx(100 * beaten / (len(values) - 1) if len(values) > 1 else 100)
