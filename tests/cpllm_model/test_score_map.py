"""The map from a model's scores to those of one's own raters, on distributions of any form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpllm_model.answers import LEVEL_WEIGHTS
from cpllm_model.errors import CheckpointError
from cpllm_model.scale import DISTORTIONS, LEVELS
from cpllm_model.score_map import END_MARGIN, ScoreMap, tilted

DISTRIBUTION = st.lists(st.floats(0, 1), min_size=5, max_size=5).filter(lambda row: sum(row) > 0.1)


def answers(levels_NA, severity=0.0):
    """Answers about segments whose every distortion has this severity."""
    rows = np.zeros((len(levels_NA), 6))
    rows[:, int(severity)] = 1
    return [np.array(levels_NA, float), *[rows] * len(DISTORTIONS)]


@settings(deadline=None, max_examples=50)  # machines that share their cores would fail at random
@given(st.lists(DISTRIBUTION, min_size=1, max_size=4), st.floats(1 + END_MARGIN, 5 - END_MARGIN))
def test_a_tilted_distribution_has_the_mean_and_stays_a_distribution(rows, mean):
    levels = np.array([np.array(row) / sum(row) for row in rows])
    moved = tilted(levels, np.full(len(levels), mean))
    assert np.allclose(moved.sum(1), 1) and (moved >= 0).all()
    assert np.allclose(moved @ LEVEL_WEIGHTS, mean, atol=1e-9)


def test_a_tilt_to_the_mean_that_it_has_changes_nothing():
    levels = np.random.default_rng(0).dirichlet(np.ones(5), 20)
    assert np.allclose(tilted(levels, levels @ LEVEL_WEIGHTS), levels, atol=1e-9)


def test_each_level_gets_its_mapped_score_and_those_between_lie_between():
    score_map = ScoreMap((1.5, 2.0, 3.5, 4.0, 4.9))
    moved = score_map.apply(answers(np.eye(5)))[0] @ LEVEL_WEIGHTS
    assert np.allclose(moved, score_map.levels)
    half = score_map.apply(answers([[0, 0.5, 0.5, 0, 0]]))[0] @ LEVEL_WEIGHTS
    assert np.allclose(half, 2.75)


def test_severities_move_the_score_and_nothing_else():
    score_map = ScoreMap((1.0, 2.0, 3.0, 4.0, 5.0), {"noise": -0.25})
    before = answers([[0, 0, 0, 1, 0]], severity=2)
    levels, *others = score_map.apply(before)
    assert np.allclose(levels @ LEVEL_WEIGHTS, 3.5)
    assert all(one is other for one, other in zip(others, before[1:], strict=True))


def test_no_score_leaves_the_scale():
    score_map = ScoreMap((1.0, 2.0, 3.0, 4.0, 5.0), {"noise": -3.0})
    moved = score_map.apply(answers(np.eye(5), severity=5))[0] @ LEVEL_WEIGHTS
    assert np.allclose(moved, 1 + END_MARGIN)


@pytest.mark.parametrize(
    "fields",
    [
        {"levels": [1, 2, 3], "per_severity": {}},
        {"levels": [1, 2, 3, 4, float("nan")], "per_severity": {}},
        {"levels": [1, 3, 2, 4, 5], "per_severity": {}},
        {"levels": [1, 2, 3, 4, 5], "per_severity": {"charm": 1.0}},
        {"levels": [1, 2, 3, 4, 5]},
        {"levels": "12345", "per_severity": {}},
        [],
        7,
    ],
)
def test_a_map_that_is_none_is_refused(fields):
    with pytest.raises(CheckpointError, match="score_map"):
        ScoreMap.from_config(fields)


def test_a_map_survives_its_configuration():
    score_map = ScoreMap((1.5, 2.0, 3.5, 4.0, 4.9), {"blur": 0.1})
    assert ScoreMap.from_config(score_map.to_config()) == score_map and ScoreMap.from_config(None) is None
    assert len(score_map.levels) == len(LEVELS)
