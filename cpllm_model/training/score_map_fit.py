"""Fitting a score map to ratings of one's own, and how much it gains on videos that it was not fitted to.

In: what a frozen model saw of rated videos, by content. Out: a `ScoreMap`, the uncertainty that goes with it, and
figures before and after. All figures after are of held-out contents: in each fold everything is fitted and chosen
anew from the others. Knows nothing of files.

The score of a whole video is a fixed mixture of its segments' scores, so it is linear in the map's levels and in what
a step of each severity adds: the fit is least squares with rising levels.

Shape legend: N videos, S segments, A levels, K distortions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import lsq_linear
from scipy.stats import rankdata

from cpllm_model.answers import LEVEL_WEIGHTS, ViewedVideo
from cpllm_model.errors import DataSetError
from cpllm_model.metrics import Bootstrap, Estimate, pearson
from cpllm_model.pooling import segment_weights
from cpllm_model.scale import DISTORTIONS, LEVELS, SCORE_MAX, SCORE_MIN
from cpllm_model.score_map import END_MARGIN, ScoreMap, severities
from cpllm_model.training.recipe.calibration import std_calibration

#: Fewer rated videos, or fewer contents among them, decide nothing.
FEWEST_VIDEOS, FEWEST_CONTENTS = 50, 20
#: Outer folds measure, and so often over; inner folds choose how stiff a map is.
FOLDS, REPEATS, INNER_FOLDS = 10, 3, 5
#: Weights, beside a mean squared error in MOS, of the squared bends of the map and of the squared severity steps.
BENDS, STEPS = (0.003, 0.03, 0.3, 3.0), (0.03, 0.3, 3.0)
#: The map rises by this from level to level at least, so that it never ties what the model tells apart.
LEAST_RISE = 0.05
#: Weight of the row that fixes a sum exactly (Lawson and Hanson, Solving Least Squares Problems, 1974, ch. 22).
_EXACT = 1e4


@dataclass(frozen=True, eq=False)
class RatedView:
    """A rated video as the frozen model sees it.

    Args:
        viewed: what the model answers, without a map.
        mos: what people rated, 1-5.
        content: what it is a version of.
    """

    viewed: ViewedVideo
    mos: float
    content: str


@dataclass(frozen=True)
class Fit:
    """A map for a model, and what speaks for and against it.

    Args:
        score_map: fitted to all videos.
        std_calibration: (a, b) of CPLLMConfig, fitted to the errors of held-out videos.
        videos, contents: how many.
        least_score, most_score: of the model as it is; outside of these the map goes on without evidence.
        before: figures of the model as it is: rmse, mae, bias, srcc, plcc, within_1_std, within_2_std.
        after: the same of the map, on held-out contents.
        gain: by how much the map lowers the RMSE, paired, on held-out contents.
        gain_of_severities: the same of the severity steps against the map alone; they are used if it is surely above 0.
    """

    score_map: ScoreMap
    std_calibration: tuple[float, float]
    videos: int
    contents: int
    least_score: float
    most_score: float
    before: dict[str, Estimate]
    after: dict[str, Estimate]
    gain: Estimate
    gain_of_severities: Estimate

    @property
    def objection(self) -> str | None:
        """Say in a sentence why the ratings do not support the map; None if they do."""
        srcc, gain = self.before["srcc"], self.gain
        if not srcc.low > 0:  # said so that no number (NaN) is an objection, too
            return f"The ratings do not surely rise with the model's scores: SRCC {in_words(srcc)}."
        if not gain.low > 0:
            return f"On held-out videos the map does not surely lower the error: RMSE falls by {in_words(gain)}."
        return None


def fit_score_map(rated: Sequence[RatedView], std: tuple[float, float], bootstrap: Bootstrap) -> Fit:
    """Fit a map, and measure by cross-validation over contents what it gains.

    Args:
        rated: at least FEWEST_VIDEOS videos of FEWEST_CONTENTS contents.
        std: the model's own std_calibration.
        bootstrap: makes the intervals.

    Raises:
        DataSetError: there are fewer.
    """
    enough(len(rated), len({one.content for one in rated}))
    problem = _Problem.of(rated)
    folds = [list(_folds(problem.contents, FOLDS, seed)) for seed in range(REPEATS)]
    plain_RN, plain_std_RN = _held_out(rated, problem, folds, with_steps=False)
    stepped_RN, stepped_std_RN = _held_out(rated, problem, folds, with_steps=True)
    of_steps = _rmse_fall(plain_RN, stepped_RN, rated, bootstrap)
    with_steps = of_steps.low > 0
    held_out_RN, std_RN = (stepped_RN, stepped_std_RN) if with_steps else (plain_RN, plain_std_RN)
    mos_N = np.array([one.mos for one in rated])
    own_N = np.array([one.viewed.score for one in rated])[None]
    own_std_N = np.array([one.viewed.level_variance**0.5 for one in rated])[None]
    fitted_std = std_calibration(std_RN.ravel(), (held_out_RN - mos_N).ravel(), np.full(held_out_RN.size, "own"))
    return Fit(
        score_map=_chosen(problem, np.ones(len(rated), bool), with_steps=with_steps),
        std_calibration=fitted_std,
        videos=len(rated),
        contents=len(set(problem.contents)),
        least_score=float(own_N.min()),
        most_score=float(own_N.max()),
        before=_figures(own_N, _stated(own_std_N, std), rated, bootstrap),
        after=_figures(held_out_RN, _stated(std_RN, fitted_std), rated, bootstrap),
        gain=_rmse_fall(own_N, held_out_RN, rated, bootstrap),
        gain_of_severities=of_steps,
    )


def enough(videos: int, contents: int) -> None:
    """Refuse too few ratings.

    Raises:
        DataSetError: there are too few.
    """
    if videos < FEWEST_VIDEOS or contents < FEWEST_CONTENTS:
        raise DataSetError(
            f"{videos} rated videos of {contents} contents are too few to calibrate on: "
            f"it takes {FEWEST_VIDEOS} videos of {FEWEST_CONTENTS} contents"
        )


@dataclass(frozen=True, eq=False)
class _Problem:
    """The least squares of a map: score = basis @ levels + steps @ per_severity + offset.

    Args:
        basis_NA: how much of each level's mapped score a video has.
        steps_NK: its mean severities, weighted as its segments are.
        offset_N: what frozen time adds, which no map moves.
        mos_N: what people rated.
        contents: of the videos.
    """

    basis_NA: np.ndarray
    steps_NK: np.ndarray
    offset_N: np.ndarray
    mos_N: np.ndarray
    contents: np.ndarray

    @classmethod
    def of(cls, rated: Sequence[RatedView]) -> _Problem:
        rows = []
        for one in rated:
            times, has = one.viewed.times, one.viewed.times.has_picture
            levels_SA, moving = one.viewed.answers[0][has], 1 - times.frozen_share
            weight_S = moving * segment_weights(levels_SA, times.length_s[has])
            # Linear between two levels: each score is a mixture of the two next to it.
            near_SA = np.clip(1 - np.abs((levels_SA @ LEVEL_WEIGHTS)[:, None] - LEVEL_WEIGHTS), 0, 1)
            rows.append((weight_S @ near_SA, weight_S @ severities(one.viewed.answers)[has], times.frozen_share))
        basis, steps, offset = (np.array(column) for column in zip(*rows, strict=True))
        mos = np.array([one.mos for one in rated])
        return cls(basis, steps, offset * SCORE_MIN, mos, np.array([one.content for one in rated]))

    def solve(self, chosen_N: np.ndarray, bend: float, step: float | None) -> ScoreMap:
        """Fit the chosen videos; without `step`, severities add nothing.

        Unknown are the rises from SCORE_MIN over the levels to SCORE_MAX, whose sum is fixed, and the severity steps.
        """
        count, gaps = int(chosen_N.sum()), len(LEVELS) + 1
        base_A = SCORE_MIN + END_MARGIN + LEAST_RISE * np.arange(len(LEVELS))
        rising_AG = np.tri(len(LEVELS), gaps)
        steps_NK = self.steps_NK[chosen_N] if step is not None else np.zeros((count, 0))
        kinds = steps_NK.shape[1]
        bends_BA = np.diff(np.eye(len(LEVELS)), 2, axis=0)
        weigh = np.sqrt(count)
        matrix = np.block(
            [
                [self.basis_NA[chosen_N] @ rising_AG, steps_NK],
                [weigh * np.sqrt(bend) * bends_BA @ rising_AG, np.zeros((len(bends_BA), kinds))],
                [np.zeros((kinds, gaps)), weigh * np.sqrt(step or 0.0) * np.eye(kinds)],
                [np.full((1, gaps), _EXACT), np.zeros((1, kinds))],
            ]
        )
        room = SCORE_MAX - SCORE_MIN - 2 * END_MARGIN - LEAST_RISE * (len(LEVELS) - 1)
        wanted = self.mos_N[chosen_N] - self.offset_N[chosen_N] - self.basis_NA[chosen_N] @ base_A
        target = np.concatenate([wanted, np.zeros(len(bends_BA) + kinds), [_EXACT * room]])
        least = np.concatenate([np.zeros(gaps), np.full(kinds, -np.inf)])
        found = lsq_linear(matrix, target, (least, np.inf), method="bvls").x
        rises_G, per_severity_K = np.maximum(found[:gaps], 0), found[gaps:]
        levels_A = base_A + rising_AG @ (rises_G * room / rises_G.sum())
        named = dict(zip(DISTORTIONS, per_severity_K.tolist(), strict=False))
        return ScoreMap(tuple(np.round(levels_A, 6).tolist()), {name: round(one, 6) for name, one in named.items()})

    def error(self, score_map: ScoreMap, chosen_N: np.ndarray) -> float:
        """Give the mean squared error on the chosen videos, as the least squares see it."""
        step_K = np.array([score_map.per_severity.get(name, 0.0) for name in DISTORTIONS])
        score_N = self.basis_NA @ np.array(score_map.levels) + self.steps_NK @ step_K + self.offset_N
        return float(np.mean((np.clip(score_N, SCORE_MIN, SCORE_MAX) - self.mos_N)[chosen_N] ** 2))


def _chosen(problem: _Problem, chosen_N: np.ndarray, *, with_steps: bool) -> ScoreMap:
    """Fit the chosen videos, as stiffly as their own cross-validation says: first the map, then the severity steps."""
    inner = list(_folds(problem.contents, INNER_FOLDS, seed=0, among_N=chosen_N))

    def cost(bend: float, step: float | None) -> float:
        return float(np.mean([problem.error(problem.solve(chosen_N & ~out_N, bend, step), out_N) for out_N in inner]))

    bend = min(BENDS, key=lambda bend: cost(bend, None))
    step = min(STEPS, key=lambda step: cost(bend, step)) if with_steps else None
    return problem.solve(chosen_N, bend, step)


def _folds(contents: np.ndarray, count: int, seed: int, among_N: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Give the members of each fold, bool (N,): all versions of a content are in one fold."""
    among_N = np.ones(len(contents), bool) if among_N is None else among_N
    names = np.unique(contents[among_N])
    shuffled = np.random.default_rng(seed).permutation(names)
    for part in np.array_split(shuffled, min(count, len(names))):
        yield np.isin(contents, part) & among_N


def _held_out(
    rated: Sequence[RatedView], problem: _Problem, folds: Sequence[Sequence[np.ndarray]], *, with_steps: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Score each video by maps that were fitted without its content.

    The maps are applied as a calibrated model applies them.

    Returns:
        scores and standard deviations of the levels, float64 (repeats, N).
    """
    found = np.zeros((2, len(folds), len(rated)))
    for repeat, parts in enumerate(folds):
        for out_N in parts:
            score_map = _chosen(problem, ~out_N, with_steps=with_steps)
            for index in np.flatnonzero(out_N).tolist():
                viewed = rated[index].viewed
                mapped = replace(viewed, answers=score_map.apply(viewed.answers))
                found[:, repeat, index] = mapped.score, mapped.level_variance**0.5
    return found[0], found[1]


def _stated(std_RN: np.ndarray, calibration: tuple[float, float]) -> np.ndarray:
    slope, least = calibration
    return np.sqrt((slope * std_RN) ** 2 + least**2)


def _figures(
    score_RN: np.ndarray, std_RN: np.ndarray, rated: Sequence[RatedView], bootstrap: Bootstrap
) -> dict[str, Estimate]:
    """Give figures of scores, averaged over repeats, with intervals over contents."""
    mos_N = np.array([one.mos for one in rated])
    error_RN = score_RN - mos_N

    def figures(counts_N: np.ndarray) -> dict[str, float]:
        mos, weight_N = np.repeat(mos_N, counts_N), counts_N / counts_N.sum()
        drawn = [np.repeat(score_N, counts_N) for score_N in score_RN]
        return {
            "rmse": float(np.sqrt((error_RN**2 @ weight_N).mean())),
            "mae": float((np.abs(error_RN) @ weight_N).mean()),
            "bias": float((error_RN @ weight_N).mean()),
            "srcc": float(np.mean([pearson(rankdata(score), rankdata(mos)) for score in drawn])),
            "plcc": float(np.mean([pearson(score, mos) for score in drawn])),
            "within_1_std": float(((np.abs(error_RN) <= std_RN) @ weight_N).mean()),
            "within_2_std": float(((np.abs(error_RN) <= 2 * std_RN) @ weight_N).mean()),
        }

    return bootstrap.estimate(figures, [one.content for one in rated])


def _rmse_fall(
    before_RN: np.ndarray, after_RN: np.ndarray, rated: Sequence[RatedView], bootstrap: Bootstrap
) -> Estimate:
    """Give by how much the RMSE falls, on the same videos, with its interval over contents."""
    mos_N = np.array([one.mos for one in rated])
    squares = [((score_RN - mos_N) ** 2).mean(0) for score_RN in (before_RN, after_RN)]

    def fall(counts_N: np.ndarray) -> dict[str, float]:
        before, after = (float(np.sqrt(counts_N @ square_N / counts_N.sum())) for square_N in squares)
        return {"fall": before - after}

    return bootstrap.estimate(fall, [one.content for one in rated])["fall"]


def in_words(estimate: Estimate) -> str:
    """Write a figure with its interval."""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
