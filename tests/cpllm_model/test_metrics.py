"""Agreement figures, against published ones and against their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from cpllm_model.metrics import agreement, fit_logistic, pair_accuracy

GOLDEN = Path(__file__).parents[3] / "shared" / "labels" / "golden"


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the rated data sets' labels are not here")
@pytest.mark.parametrize(
    ("name", "srcc", "krcc", "plcc", "plcc_fitted", "rmse_fitted"),
    [
        ("konvid", 0.8737, 0.6921, 0.8776, 0.8800, 0.3044),
        ("lsvq_1080p", 0.7809, 0.5894, 0.8177, 0.8197, 5.9517),
        ("live_vqc", 0.8194, 0.6295, 0.8472, 0.8474, 9.0569),
        ("youtubeugc", 0.7713, 0.5711, 0.7875, 0.7901, 0.4000),
    ],
)
def test_published_predictions_give_the_known_figures(
    name: str, srcc: float, krcc: float, plcc: float, plcc_fitted: float, rmse_fitted: float
) -> None:
    mos_N, prediction_N = np.loadtxt(GOLDEN / f"{name}.csv", delimiter=",", skiprows=1, unpack=True)
    found = agreement(prediction_N, mos_N)
    assert found.count == len(mos_N)
    assert (found.srcc, found.krcc, found.plcc) == pytest.approx((srcc, krcc, plcc), abs=6e-5)
    assert (found.plcc_fitted, found.rmse_fitted) == pytest.approx((plcc_fitted, rmse_fitted), abs=6e-5)
    # Without ties Kendall's tau is twice the pair accuracy less one; these have few.
    assert found.pair_accuracy == pytest.approx((found.krcc + 1) / 2, abs=2e-3)


def test_twelve_videos_give_the_figures_of_another_implementation() -> None:
    # The figures are scipy's spearmanr, kendalltau and pearsonr, and its Nelder-Mead on the logistic, 200 starts.
    mos_N = np.array([1.2, 1.4, 1.3, 1.8, 2.2, 2.2, 2.9, 3.4, 3.9, 4.3, 4.2, 4.5])
    prediction_N = np.array([-4.1, -2.9, -3.3, -0.4, -1.6, -0.9, 0.2, -0.4, 0.8, 2.6, 1.9, 4.4])
    found = agreement(prediction_N, mos_N)
    assert (found.srcc, found.krcc, found.plcc) == pytest.approx((0.957895, 0.892308, 0.931683), abs=1e-6)
    assert (found.plcc_fitted, found.rmse_fitted) == pytest.approx((0.952764, 0.363212), abs=1e-6)
    assert found.pair_accuracy == pytest.approx(61.5 / 65)


def test_a_logistic_relation_is_fitted_exactly() -> None:
    prediction_N = np.linspace(-300.0, 500.0, 80)
    mos_N = 1.5 + 3 * expit((prediction_N - 40) / 60)
    found = agreement(prediction_N, mos_N)
    assert found.plcc < 0.97
    assert found.plcc_fitted == pytest.approx(1, abs=1e-9)
    assert found.rmse_fitted < 1e-5
    assert (found.srcc, found.krcc, found.pair_accuracy) == (pytest.approx(1), pytest.approx(1), 1)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 1000), shift=st.floats(-1e4, 1e4))
@settings(max_examples=6, deadline=None)
def test_units_do_not_matter_and_the_fit_is_no_worse_than_a_line(seed: int, scale: float, shift: float) -> None:
    random = np.random.default_rng(seed)
    mos_N = random.uniform(1, 5, 40)
    prediction_N = mos_N + random.normal(0, 1, 40)
    here, there = agreement(prediction_N, mos_N), agreement(prediction_N * scale + shift, mos_N)
    for name in ("srcc", "krcc", "plcc", "plcc_fitted", "rmse_fitted", "pair_accuracy"):
        assert getattr(there, name) == pytest.approx(getattr(here, name), abs=2e-4), name
    line_N = np.polyval(np.polyfit(prediction_N, mos_N, 1), prediction_N)
    assert here.rmse_fitted <= np.sqrt(np.mean((line_N - mos_N) ** 2)) + 1e-3
    fitted_N = fit_logistic(prediction_N, mos_N)[np.argsort(prediction_N)]
    assert (np.diff(fitted_N) >= -1e-12).all()


def test_a_reversed_prediction_is_as_far_from_chance() -> None:
    random = np.random.default_rng(5)
    mos_N = random.normal(3, 1, 60)
    prediction_N = mos_N + random.normal(0, 0.5, 60)
    here, there = agreement(prediction_N, mos_N), agreement(-prediction_N, mos_N)
    assert there.srcc == pytest.approx(-here.srcc)
    assert there.pair_accuracy == pytest.approx(1 - here.pair_accuracy)
    assert there.plcc_fitted == pytest.approx(here.plcc_fitted, abs=1e-6)


def test_pairs_by_hand() -> None:
    mos_N, prediction_N = np.array([1.0, 2.0, 2.0, 4.0]), np.array([0.0, 0.0, 5.0, 3.0])
    # Of five pairs with unlike MOS: one tie, three right, one wrong.
    assert pair_accuracy(prediction_N, mos_N) == pytest.approx(3.5 / 5)
    assert pair_accuracy(prediction_N, mos_N, least_gap=1.5) == pytest.approx(2 / 3)
    assert np.isnan(pair_accuracy(prediction_N, mos_N, least_gap=3.0))


def test_constants_have_no_correlation() -> None:
    for prediction_N, mos_N in (([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2])):
        found = agreement(np.array(prediction_N), np.array(mos_N))
        assert np.isnan([found.srcc, found.krcc, found.plcc, found.plcc_fitted]).all()
        assert found.rmse_fitted == pytest.approx(np.std(mos_N))


def test_two_videos_are_enough() -> None:
    found = agreement(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    assert (found.srcc, found.pair_accuracy) == (pytest.approx(1), 1)


@pytest.mark.parametrize(
    ("prediction", "mos", "message"),
    [
        ([1.0], [1.0], "not two equal rows"),
        ([1.0, 2.0], [1.0], "not two equal"),
        ([1.0, np.nan], [1, 2], "1 values of"),
    ],
)
def test_unusable_numbers_are_refused(prediction: list[float], mos: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agreement(np.array(prediction), np.array(mos))
