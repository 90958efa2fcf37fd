"""How two models differ on the same videos: paired differences of their figures, and a plot of both.

In: the predictions of both, as evaluation writes them. Out: for each data set the difference of each figure, the other
model minus the first, with its interval; a picture. Both models share every resample of the contents (paired
bootstrap), so that what makes a content hard for both does not blur what sets them apart.

Shape legend: N videos, P pairs of versions of one content; an axis of length 2 holds the first and the other model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import rankdata

from cpllm_model.metrics import Bootstrap, Estimate, pearson
from cpllm_model.scale import SCORE_MAX, SCORE_MIN
from cpllm_model.training.data.manifests import LEAST_GAP
from cpllm_model.training.evaluation.columns import in_order, means
from cpllm_model.training.evaluation.plots import BLUE, GREY, ORANGE, new_figure, plain_text

#: Figure -> its words, and whether more is better.
FIGURES = {
    "srcc": ("SRCC", True), "plcc": ("PLCC", True), "rmse": ("RMSE (MOS)", False),
    "pairs_right": ("pairs of one content in order", True),
}  # fmt: skip
#: Fewer contents than this span no interval that means anything.
FEWEST_CONTENTS = 8
_COLUMNS = ("dataset", "video_id", "content_id", "mos", "quality_left", "status", "score")


@dataclass(frozen=True, eq=False)
class Both:
    """The videos of a data set that both models score.

    Args:
        contents: of the videos.
        label_N: MOS, or 1 + 4 x the share of quality left where nobody rated the video.
        rated_N: whether the label is a MOS.
        score_2N: of both models.
    """

    contents: list[str]
    label_N: np.ndarray
    rated_N: np.ndarray
    score_2N: np.ndarray


@dataclass(frozen=True, eq=False)
class Compared:
    """Two models and how they differ.

    Args:
        first, other: their model ids.
        found: what `differences` gave.
        picture: what `draw_differences` drew.
    """

    first: str
    other: str
    found: dict[str, dict[str, Any]]
    picture: Path

    def rows(self) -> Iterator[tuple[str, str, float, float, Estimate]]:
        """Give data set, figure, both models' values and the difference."""
        for dataset, one in self.found.items():
            for key, (words, _) in FIGURES.items():
                if key in one:
                    yield dataset, words, one[key]["first"], one[key]["other"], one[key]["difference"]

    def lines(self) -> Iterator[str]:
        """Give a line for each figure."""
        for dataset, words, first, other, gap in self.rows():
            interval = f" ({gap.low:+.3f} to {gap.high:+.3f})" if np.isfinite(gap.low) else ""
            yield f"{dataset}: {words} {first:.3f} -> {other:.3f}, {gap.value:+.3f}{interval}"


def differences(first: Path, other: Path, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Compare the predictions of two models.

    Args:
        first, other: folders that evaluation wrote, of the same data.
        bootstrap: makes the intervals.

    Returns:
        for each data set the number of videos and contents, and of each figure that the labels allow `first` and
        `other`, and `difference` as an Estimate; with few contents it has no interval.
    """
    return {name: _differences(both, bootstrap) for name, both in _both(first, other).items()}


def draw_differences(
    first: Path, other: Path, names: Sequence[str], found: dict[str, dict[str, Any]], out: Path
) -> Path:
    """Draw both models' scores against the labels, and the differences with their intervals.

    Args:
        first, other: as for `differences`.
        names: of the two models.
        found: what `differences` gave.
        out: the PNG file.
    """
    rows = [(f"{plain_text(dataset)}: {words}", one[key]["difference"], more)
            for dataset, one in found.items() for key, (words, more) in FIGURES.items() if key in one]  # fmt: skip
    figure, (left, right) = new_figure(2, height=max(4.0, 0.36 * len(rows) + 1.6))
    sets = [both for both in _both(first, other).values() if both.rated_N.any()]
    count = sum(int(both.rated_N.sum()) for both in sets)
    alpha = float(np.clip(12 / np.sqrt(max(count, 1)), 0.12, 0.8))
    for index, (name, colour) in enumerate(zip(names, (BLUE, ORANGE), strict=True)):
        for both in sets:
            rated = both.rated_N
            left.scatter(both.score_2N[index, rated], both.label_N[rated], s=14, color=colour, alpha=alpha, lw=0)
        left.scatter([], [], s=14, color=colour, label=plain_text(name))
    ends = [SCORE_MIN, SCORE_MAX]
    left.plot(ends, ends, color=GREY, lw=1, ls="--")
    left.set(xlabel="score", ylabel="label (MOS, 1-5)", title=f"{count} rated videos", aspect="equal")
    left.legend(frameon=False, loc="upper left", fontsize="small")
    for place, (_, gap, more) in enumerate(reversed(rows)):
        bounds = [gap.low, gap.high] if np.isfinite(gap.low) else [gap.value, gap.value]
        is_sure = np.isfinite(gap.low) and gap.low * gap.high > 0
        colour = GREY if not is_sure else (ORANGE if (gap.value > 0) is more else BLUE)
        right.plot(bounds, [place, place], color=colour, lw=2)
        right.plot(gap.value, place, "o", color=colour, ms=5)
    right.axvline(0, color=GREY, lw=1)
    right.set_yticks(range(len(rows)), [words for words, *_ in reversed(rows)], fontsize="small")
    right.set(xlabel="other minus first, coloured where it is sure")
    figure.savefig(out)
    return out


def _differences(both: Both, bootstrap: Bootstrap) -> dict[str, Any]:
    found: dict[str, Any] = {"videos": len(both.label_N), "contents": len(set(both.contents))}
    if np.count_nonzero(both.rated_N) > 1:
        rows = np.flatnonzero(both.rated_N)
        found |= _estimates(lambda counts_N: _agreement(both, np.repeat(rows, counts_N)), both, rows, bootstrap)
    better_P, worse_P = _pairs(both)
    if len(better_P):
        right_2P = in_order(both.score_2N[:, better_P], both.score_2N[:, worse_P])
        share_of = means(first=right_2P[0], other=right_2P[1])
        found |= _estimates(
            lambda counts_P: {"pairs_right": tuple(share_of(counts_P).values())}, both, better_P, bootstrap
        )
    return found


def _estimates(figures: Any, both: Both, rows: np.ndarray, bootstrap: Bootstrap) -> dict[str, Any]:
    """Give each figure of both models and its difference; `figures` takes counts and gives pairs by name."""
    groups = [both.contents[row] for row in rows.tolist()]
    gaps = bootstrap.estimate(
        lambda counts: {name: float(other) - float(first) for name, (first, other) in figures(counts).items()}, groups
    )
    if len(set(groups)) < FEWEST_CONTENTS:
        gaps = {name: Estimate(gap.value, np.nan, np.nan) for name, gap in gaps.items()}
    plain = figures(np.ones(len(rows), np.int64))
    return {
        name: {"first": float(plain[name][0]), "other": float(plain[name][1]), "difference": gap}
        for name, gap in gaps.items()
    }


def _agreement(both: Both, rows: np.ndarray) -> dict[str, tuple[float, ...]]:
    label = both.label_N[rows]
    ranks = rankdata(label)
    pairs = [
        (pearson(rankdata(score), ranks), pearson(score, label), float(np.sqrt(np.mean((score - label) ** 2))))
        for score in both.score_2N[:, rows]
    ]
    return dict(zip(("srcc", "plcc", "rmse"), zip(*pairs, strict=True), strict=True))


def _pairs(both: Both) -> tuple[np.ndarray, np.ndarray]:
    """Give the rows of the better and of the worse one of each pair of versions of one content."""
    names = np.array(both.contents)
    better, worse = [], []
    for content in np.unique(names):
        for is_rated in (True, False):  # their labels are on different scales
            rows = np.flatnonzero((names == content) & (both.rated_N == is_rated))
            for first in rows:
                lower = rows[both.label_N[first] - both.label_N[rows] > LEAST_GAP]
                better += [first] * len(lower)
                worse += lower.tolist()
    return np.array(better, int), np.array(worse, int)


def _both(first: Path, other: Path) -> dict[str, Both]:
    """Give, for each data set, what both models score and labels order."""
    tables = []
    for folder in (first, other):
        rows = pq.read_table(folder / "predictions.parquet", columns=list(_COLUMNS)).to_pylist()
        tables.append({(row["dataset"], row["video_id"]): row for row in rows if row["status"] == "ok"})
    found: dict[str, list[tuple[dict, dict]]] = {}
    for key, row in tables[0].items():
        if key in tables[1] and (row["mos"] is not None or row["quality_left"] is not None):
            found.setdefault(key[0], []).append((row, tables[1][key]))
    return {
        name: Both(
            [row["content_id"] for row, _ in rows],
            np.array([1 + 4 * row["quality_left"] if row["mos"] is None else row["mos"] for row, _ in rows]),
            np.array([row["mos"] is not None for row, _ in rows]),
            np.array([[row["score"] for row in pair] for pair in rows], float).T,
        )
        for name, rows in found.items()
    }
