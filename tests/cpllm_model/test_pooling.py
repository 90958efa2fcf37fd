"""The answer about a video is a stated function of the answers about its segments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpllm_model.pooling import (
    WORST_TIME,
    WORST_WEIGHT,
    by_score,
    covered_s,
    frozen_share,
    joined,
    pooled_levels,
    segment_weights,
    with_frozen_time,
    without,
)

LEVELS = np.arange(1, 6)
segments = st.lists(
    st.tuples(st.lists(st.floats(0.01, 1), min_size=5, max_size=5), st.floats(0.1, 600)), min_size=1, max_size=12
)


def arrays(drawn: list) -> tuple[np.ndarray, np.ndarray]:
    levels = np.array([levels for levels, _ in drawn])
    return levels / levels.sum(1, keepdims=True), np.array([length for _, length in drawn])


@given(segments, st.randoms())
def test_order_does_not_count(drawn: list, random) -> None:
    levels, lengths = arrays(drawn)
    order = random.sample(range(len(drawn)), len(drawn))
    assert pooled_levels(levels, lengths) == pytest.approx(pooled_levels(levels[order], lengths[order]), abs=1e-12)


@given(segments)
def test_weights_are_a_mixture_that_never_rates_above_the_mean(drawn: list) -> None:
    levels, lengths = arrays(drawn)
    weights = segment_weights(levels, lengths)
    assert weights.sum() == pytest.approx(1) and (weights > 0).all()
    scores = levels @ LEVELS
    assert scores.min() - 1e-9 <= weights @ scores <= np.average(scores, weights=lengths) + 1e-9


@given(st.floats(1, 5), st.lists(st.floats(0.1, 100), min_size=1, max_size=10))
def test_a_video_that_looks_alike_all_along_has_the_score_of_its_segments(score: float, lengths: list[float]) -> None:
    levels = np.tile(np.clip(1 - np.abs(score - LEVELS), 0, None), (len(lengths), 1))
    assert pooled_levels(levels, np.array(lengths)) @ LEVELS == pytest.approx(score)


def test_the_worst_tenth_has_its_share_of_the_weight() -> None:
    levels = np.eye(5)[[4, 0]]
    weights = segment_weights(levels, np.array([95.0, 5.0]))
    assert weights[1] == pytest.approx((1 - WORST_WEIGHT) * 0.05 + WORST_WEIGHT * 0.05 / WORST_TIME)


def test_frozen_time_counts_as_bad() -> None:
    excellent = np.eye(5)[[4]]
    assert pooled_levels(excellent, np.ones(1), 0.9) @ LEVELS == pytest.approx(1.4)


stretches = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)).map(lambda pair: (pair[0], sum(pair))))


@given(stretches, stretches)
def test_what_is_taken_from_stretches_is_gone_and_nothing_else(one: list, taken: list) -> None:
    def seconds(found) -> set[int]:
        return {second for start, end in found for second in range(start, end)}

    left = without(one, taken)
    assert seconds(left) == seconds(one) - seconds(taken) and list(left) == sorted(left)


shares = st.floats(0, 1)


@given(shares, shares, shares, shares)
def test_frozen_time_lowers_the_odds_and_the_other_video_has_the_rest(
    probability: float, frozen: float, more: float, other: float
) -> None:
    found = with_frozen_time(probability, frozen, other)
    assert 0 <= found <= 1 + 1e-12
    assert found == pytest.approx(1 - with_frozen_time(1 - probability, other, frozen))
    assert with_frozen_time(probability, max(frozen, more), other) <= found + 1e-12


def test_a_video_that_moves_all_along_is_compared_by_its_picture() -> None:
    assert with_frozen_time(0.3, 0.0, 0.0) == 0.3
    assert with_frozen_time(0.3, 1.0, 1.0) == 0.5
    assert with_frozen_time(0.99, 0.9, 0.0) == pytest.approx(0.099)


def test_frozen_time_that_overlaps_counts_once() -> None:
    assert frozen_share([(1.0, 3.0), (2.0, 5.0)], 8.0) == 0.5
    assert frozen_share([], 8.0) == 0.0
    assert frozen_share([(0.0, 9.0)], 8.0) == 1.0


def test_segments_that_stand_for_a_video_go_from_the_worst_to_the_best() -> None:
    scores = np.array([3.0, 1.0, 5.0, 4.0, 2.0])
    assert [scores[index] for index in by_score(scores, 3)] == [1, 3, 5]
    assert [scores[index] for index in by_score(scores, 8)] == [1, 2, 3, 4, 5]
    assert by_score(np.array([2.0]), 4) == [0]


def test_stretches_that_touch_or_overlap_are_one() -> None:
    assert joined([(4, 6), (0, 2), (2, 3), (5, 9)]) == ((0, 3), (4, 9))
    assert covered_s([(4, 6), (0, 2), (1, 3)]) == 5
