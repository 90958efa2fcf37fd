"""Fitting a score map: what is put in comes out, and ratings that support none are refused. Answers are made up."""

from dataclasses import replace

import numpy as np
import pytest

from cpllm_model.answers import LEVEL_WEIGHTS, SegmentTimes, ViewedVideo
from cpllm_model.errors import DataSetError
from cpllm_model.metrics import Bootstrap
from cpllm_model.scale import DISTORTIONS, SCENE_FACTS
from cpllm_model.score_map import ScoreMap
from cpllm_model.training import score_map_fit
from cpllm_model.training.score_map_fit import RatedView, fit_score_map

STD = (1.0, 0.0)
MAP = ScoreMap((1.5, 2.6, 3.6, 4.2, 4.7))
BOOTSTRAP = Bootstrap(resamples=300)


def viewed(quality, severity_K, rng):
    """A video of one to four segments of about one quality, with given severities."""
    count = int(rng.integers(1, 5))
    score_S = np.clip(quality + rng.normal(0, 0.2, count), 1, 5)
    levels = np.exp(-((LEVEL_WEIGHTS - score_S[:, None]) ** 2) / 0.8)
    strengths = [np.exp(-((np.arange(6) - severity) ** 2) / 0.5) for severity in severity_K]
    answers = [levels, *[np.tile(row, (count, 1)) for row in strengths], *[np.ones((count, 3))] * len(SCENE_FACTS)]
    start = np.arange(count, dtype=float)
    return ViewedVideo(
        np.zeros((count, 0, 0), np.float16),
        [row / row.sum(1, keepdims=True) for row in answers],
        SegmentTimes(start, start + 1, np.ones(count, bool)),
    )


def rated(count, true, noise=0.4, seed=1):
    """Videos, two of a content, whose ratings are a map of the model's scores, and noise."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        severity = np.where(rng.random(len(DISTORTIONS)) < 0.3, rng.uniform(1, 4, len(DISTORTIONS)), 0)
        video = viewed(rng.uniform(1.5, 4.7), severity, rng)
        mos = replace(video, answers=true.apply(video.answers)).score + rng.normal(0, noise)
        found.append(RatedView(video, float(np.clip(mos, 1, 5)), f"content {index // 2}"))
    return found


@pytest.fixture(autouse=True)
def one_repeat(monkeypatch):
    monkeypatch.setattr(score_map_fit, "REPEATS", 1)


def test_the_map_that_made_the_ratings_is_found():
    fit = fit_score_map(rated(100, MAP), STD, BOOTSTRAP)
    assert fit.objection is None and fit.videos == 100 and fit.contents == 50
    assert np.allclose(fit.score_map.levels[1:4], MAP.levels[1:4], atol=0.25)  # where the scores lie
    assert np.all(np.diff(fit.score_map.levels) >= score_map_fit.LEAST_RISE - 1e-5)
    assert fit.gain.low > 0 and fit.after["rmse"].value < fit.before["rmse"].value
    assert abs(fit.after["bias"].value) < 0.1 < abs(fit.before["bias"].value)
    assert 0.58 <= fit.after["within_1_std"].value <= 0.78
    # These raters mind no distortion more than the model does.
    assert not fit.score_map.per_severity and not fit.gain_of_severities.low > 0


def test_severities_are_used_where_raters_mind_them_otherwise():
    true = ScoreMap(MAP.levels, {"noise": -0.4, "blur": 0.25})
    fit = fit_score_map(rated(120, true), STD, BOOTSTRAP)
    assert fit.objection is None and fit.gain_of_severities.low > 0
    assert fit.score_map.per_severity["noise"] < -0.2 and fit.score_map.per_severity["blur"] > 0.1
    others = [abs(step) for name, step in fit.score_map.per_severity.items() if name not in ("noise", "blur")]
    assert max(others) < 0.15
    assert fit.after["srcc"].value > fit.before["srcc"].value


def test_ratings_on_the_models_own_scale_support_no_map():
    fit = fit_score_map(rated(100, ScoreMap((1.0, 2.0, 3.0, 4.0, 5.0))), STD, BOOTSTRAP)
    assert fit.objection and "does not surely lower" in fit.objection


def test_shuffled_ratings_support_no_map_although_a_flat_one_has_less_error():
    videos = rated(100, MAP)
    shuffled = np.random.default_rng(0).permutation([one.mos for one in videos])
    mixed = [replace(one, mos=float(mos)) for one, mos in zip(videos, shuffled, strict=True)]
    fit = fit_score_map(mixed, STD, BOOTSTRAP)
    assert fit.gain.low > 0
    assert fit.objection and "do not surely rise" in fit.objection


def test_frozen_time_stays_bad():
    problem = score_map_fit._Problem.of(rated(60, MAP))
    frozen = replace(problem, offset_N=problem.offset_N + 0.5, mos_N=problem.mos_N + 0.5)
    everything = np.ones(60, bool)
    assert problem.solve(everything, 0.03, None) == frozen.solve(everything, 0.03, None)


@pytest.mark.parametrize(("count", "contents"), [(49, 49), (60, 19)])
def test_too_few_ratings_are_refused(count, contents):
    videos = [replace(one, content=str(index % contents)) for index, one in enumerate(rated(count, MAP))]
    with pytest.raises(DataSetError, match="too few to calibrate on"):
        fit_score_map(videos, STD, BOOTSTRAP)
