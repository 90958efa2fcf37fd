"""The plots of an evaluation, as PNG files.

In: answers, compared pairs and the figures made of them. Out: one file a plot, only those that the data set has labels
for. Names from manifests are shown as plain ASCII and never as mathematics or glyphs that a font lacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpllm_model.metrics import Estimate, fit_logistic
from cpllm_model.scale import LEVELS, SCORE_MAX, SCORE_MIN
from cpllm_model.training.evaluation.answers import Answer
from cpllm_model.training.evaluation.columns import labels, scores
from cpllm_model.training.evaluation.metrics import TOLD_APART, codec_of, rate_ladders

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#3b6fb6", "#d9822b", "#4f9d69", "#8a8a8a"
CODEC_COLOURS = (BLUE, ORANGE, GREEN, "#b0508f", "#7a62c9", "#8c6d31")
LADDERS_SHOWN = 60


def draw_plots(answers: Sequence[Answer], figures: dict[str, Any], out: Path, prefix: str) -> list[tuple[Path, str]]:
    """Draw every plot that the figures allow.

    Args:
        answers: of one data set.
        figures: its figures, by section.
        out: folder.
        prefix: of the files' names.

    Returns:
        each file and what it shows, in words.
    """
    rated = [one for one in answers if one.video.mos is not None]
    unrated = [one for one in answers if one.video.mos is None]
    drawn = []
    for section, name, words, draw in (
        ("score", "scores", "Each video's score against its label.", lambda: scores_plot(rated, figures["score"])),
        ("levels", "levels", "The level said against the label's, in percent of a row.",
         lambda: levels_plot(figures["levels"]["confusion"])),
        ("ladders", "ladders", "Scores along rate ladders, and the smallest rate step that they tell apart.",
         lambda: ladders_plot(rated, figures["ladders"])),
        ("unrated_ladders", "unrated_ladders", "The same of videos without ratings.",
         lambda: ladders_plot(unrated, figures["unrated_ladders"])),
        ("comparisons", "comparisons", "Direct comparisons: how often they are right, and whether they know it.",
         lambda: comparisons_plot(figures["comparisons"])),
        ("calibration", "calibration", "How far the stated uncertainty says how wrong a score is.",
         lambda: calibration_plot(figures["calibration"])),
        ("distortions", "distortions", "How well each distortion is told and named.",
         lambda: distortions_plot(figures["distortions"])),
    ):  # fmt: skip
        if section in figures:
            path = out / f"{prefix}_{name}.png"
            draw().savefig(path)
            drawn.append((path, words))
    return drawn


def scores_plot(rated: Sequence[Answer], figures: dict[str, Any]) -> Figure:
    """Scatter of scores and labels with the fitted logistic."""
    figure, (axes,) = new_figure(1, width=4.7, height=4.4)
    score_N, mos_N = scores(rated), labels(rated)
    order = np.argsort(score_N)
    axes.plot([SCORE_MIN, SCORE_MAX], [SCORE_MIN, SCORE_MAX], color=GREY, lw=1, ls="--", label="score = label")
    # Many videos would be one blot: the more there are, the fainter each is.
    alpha = float(np.clip(12 / np.sqrt(len(score_N)), 0.12, 0.8))
    axes.scatter(score_N, mos_N, s=14, color=BLUE, alpha=alpha, lw=0, label="a video")
    axes.plot(score_N[order], fit_logistic(score_N, mos_N)[order], color=ORANGE, lw=2, label="fitted logistic")
    axes.set(xlabel="score (1 bad, 5 excellent)", ylabel="label (MOS, 1-5)", aspect="equal",
             xlim=(SCORE_MIN - 0.1, SCORE_MAX + 0.1), ylim=(SCORE_MIN - 0.1, SCORE_MAX + 0.1))  # fmt: skip
    srcc, plcc = figures["srcc"].value, figures["plcc"].value
    axes.set_title(f"{len(rated)} videos: SRCC {srcc:.3f}, PLCC {plcc:.3f}")
    axes.legend(frameon=False, loc="upper left")
    return figure


def levels_plot(confusion: list[list[int]]) -> Figure:
    """Confusion of levels, each row in percent."""
    figure, (axes,) = new_figure(1, width=4.4, height=4.0)
    count_55 = np.array(confusion)
    percent_55 = 100 * count_55 / np.maximum(count_55.sum(1, keepdims=True), 1)
    axes.imshow(percent_55, cmap="Blues", vmin=0, vmax=100)
    for (row, column), percent in np.ndenumerate(percent_55):
        if count_55[row].sum():
            axes.text(column, row, f"{percent:.0f}", ha="center", va="center",
                      color="white" if percent > 55 else "black")  # fmt: skip
    axes.set_xticks(range(len(LEVELS)), LEVELS)
    axes.set_yticks(range(len(LEVELS)), [f"{level} ({n})" for level, n in zip(LEVELS, count_55.sum(1), strict=True)])
    axes.set(xlabel="level said", ylabel="level of the label (videos)", title="Levels, % of a row")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def ladders_plot(answers: Sequence[Answer], figures: dict[str, Any]) -> Figure:
    """Scores along ladders, and the share of rungs in order by label gap."""
    from matplotlib.ticker import MaxNLocator

    figure, (left, right) = new_figure(2)
    ladders = rate_ladders(answers)
    frequent = [codec for codec, _ in Counter(codec_of(rungs[0].video) for rungs in ladders).most_common()]
    colours = dict(zip(frequent, CODEC_COLOURS, strict=False))
    shown = ladders[:: max(1, -(-len(ladders) // LADDERS_SHOWN))]
    for rungs in shown:
        colour = colours.get(codec_of(rungs[0].video), GREY)
        left.plot([one.video.ladder_rung or 0 for one in rungs], scores(rungs), color=colour, lw=0.9, alpha=0.55)
    for codec in dict.fromkeys(codec for codec in frequent if codec in colours):
        left.plot([], [], color=colours[codec], label=plain_text(codec))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="rung (0 is the highest rate)", ylabel="score", ylim=(SCORE_MIN - 0.1, SCORE_MAX + 0.1),
             title=f"{len(ladders)} ladders, {figures['monotone'].value:.0%} fully in order")  # fmt: skip
    left.legend(frameon=False, loc="lower left")
    _draw_bins(right, figures["by_label_gap"], BLUE, None)
    right.axhline(TOLD_APART, color=GREY, lw=1, ls="--")
    right.set(xlabel="label gap of two rungs (MOS)", ylabel="share in order",
              title=f"Rungs in order by gap; dashed: {TOLD_APART:.0%}")  # fmt: skip
    return figure


def comparisons_plot(figures: dict[str, Any]) -> Figure:
    """Accuracy of comparisons by label gap, and by stated confidence."""
    figure, (left, right) = new_figure(2)
    for (name, words), colour in zip(
        (
            ("same_content", "one content"),
            ("other_content", "different contents"),
            ("same_content_unrated", "one content, unrated"),
        ),
        (BLUE, ORANGE, GREEN),
        strict=True,
    ):
        if name in figures:
            _draw_bins(left, figures[name]["by_label_gap"], colour, words)
            bins = figures[name]["by_confidence"]
            _errorbar(right, [part["mean"] for part in bins], [part["right"] for part in bins], colour, words)
    left.axhline(0.5, color=GREY, lw=1, ls="--")
    left.set(xlabel="label gap (MOS)", ylabel="share right", title="Right by label gap; dashed: chance")
    right.plot([0.5, 1], [0.5, 1], color=GREY, lw=1, ls="--")
    right.set(xlabel="stated confidence", ylabel="share right", ylim=(-0.03, 1.03), xlim=(0.48, 1.02),
              title="Right by confidence; dashed: as stated")  # fmt: skip
    left.legend(frameon=False, loc="lower right")
    return figure


def calibration_plot(figures: dict[str, Any]) -> Figure:
    """Coverage of intervals, and real error by stated uncertainty."""
    figure, (left, right) = new_figure(2)
    from scipy.stats import norm

    multiples = [float(k) for k in figures["coverage"]]
    _errorbar(left, multiples, list(figures["coverage"].values()), BLUE, "labels covered", joined=True)
    reference = np.linspace(0, max(multiples), 100)
    left.plot(reference, 2 * norm.cdf(reference) - 1, color=GREY, lw=1, ls="--", label="normal distribution")
    left.set(xlabel="interval: score ± k stated deviations, k", ylabel="share of labels inside", ylim=(-0.03, 1.03),
             title="Coverage of the stated uncertainty")  # fmt: skip
    left.legend(frameon=False, loc="lower right")
    bins = figures["by_std"]
    _errorbar(right, [part["mean_std"] for part in bins], [part["rmse"] for part in bins], BLUE, "a part of the videos")
    top = 1.1 * np.nanmax([[part["mean_std"], part["rmse"].value, part["rmse"].high] for part in bins])
    right.plot([0, top], [0, top], color=GREY, lw=1, ls="--", label="error as stated")
    right.set(xlabel="stated standard deviation (MOS)", ylabel="RMSE (MOS)", xlim=(0, top), ylim=(0, top),
              title="Error by stated uncertainty")  # fmt: skip
    right.legend(frameon=False, loc="lower right")
    return figure


def distortions_plot(figures: dict[str, Any]) -> Figure:
    """AUC, and precision, recall and F1, of each family."""
    families = figures["by_family"]
    figure, (left, right) = new_figure(2, height=0.36 * len(families) + 1.6)
    place = np.arange(len(families))
    _horizontal(left, place, [one["auc"] for one in families.values()], BLUE, None)
    left.axvline(0.5, color=GREY, lw=1, ls="--")
    left.set_yticks(place, [f"{name} ({one['videos']})" for name, one in families.items()])
    left.set(xlim=(-0.03, 1.03), xlabel="area under the ROC curve", title="Told apart; dashed: chance")
    _horizontal(right, place, [one["f1"] for one in families.values()], BLUE, "F1")
    for name, mark, colour in (("precision", ">", ORANGE), ("recall", "<", GREEN)):
        values = [one[name].value for one in families.values()]
        right.plot(values, place, mark, ms=6, color=colour, label=name, alpha=0.9)
    right.set_yticks(place, [])
    right.set(xlim=(-0.03, 1.03), xlabel="share", title="Named in the description")
    figure.legend(*right.get_legend_handles_labels(), frameon=False, ncols=3, loc="outside lower right")
    for axes in (left, right):
        axes.invert_yaxis()
        axes.grid(axis="x", color="#e4e4e4")
    return figure


def new_figure(panels: int, width: float = 9.6, height: float = 4.0) -> tuple[Figure, Sequence[Axes]]:
    """Give a figure with panels side by side."""
    # pyplot would keep every figure alive and ask for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.set_axisbelow(True)
    return figure, axes


def _draw_bins(axes: Axes, bins: Sequence[dict[str, Any]], colour: str, label: str | None) -> None:
    """Draw shares over label gaps; gaps span orders of magnitude, hence the logarithmic axis."""
    _errorbar(axes, [part["mean"] for part in bins], [part["right"] for part in bins], colour, label, joined=True)
    axes.set_xscale("symlog", linthresh=0.05, linscale=0.5)
    ticks = [0, 0.05, 0.1, 0.2, 0.5, 1, 2, 4]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(ylim=(-0.03, 1.03), xlim=(-0.01, 4.5))


def _errorbar(
    axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], colour: str, label: str | None, joined: bool = False
) -> None:
    axes.errorbar(
        x, [one.value for one in estimates], yerr=_bars(estimates), fmt="o-" if joined else "o", ms=5, lw=1.4,
        elinewidth=1, capsize=2.5, color=colour, label=label,
    )  # fmt: skip


def _horizontal(axes: Axes, y: np.ndarray, estimates: Sequence[Estimate], colour: str, label: str | None) -> None:
    axes.errorbar(
        [one.value for one in estimates], y, xerr=_bars(estimates), fmt="o", ms=6, elinewidth=1.2, capsize=2.5,
        color=colour, label=label,
    )  # fmt: skip


def _bars(estimates: Sequence[Estimate]) -> np.ndarray:
    """Give how far each interval reaches below and above its value, (2, estimates); nothing where there is none."""
    reach = [(max(one.value - one.low, 0.0), max(one.high - one.value, 0.0)) for one in estimates]
    return np.nan_to_num(np.array(reach).T)


def plain_text(name: str) -> str:
    """Give a name as ASCII that matplotlib shows as it is."""
    return ascii(name)[1:-1].replace("$", r"\$")[:40]
