"""How good a model's answers are: the figures of an evaluation, from labelled videos and what a model said of them.

In: what a model said of a data set. Out: nested dicts of counts and `Estimate`s with intervals over contents. A figure
whose labels are missing is left out, never guessed. Rated videos, which have a MOS, and unrated ones, whose
quality is known relative to their source alone, are never mixed. Knows nothing of files, plots or networks.

Shape legend: N videos, L rate ladders, P pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from cpllm_model.metrics import Bootstrap, correlations, fitted_agreement, pearson, share
from cpllm_model.scale import LEVELS, level_of
from cpllm_model.training.data.manifests import LEAST_GAP
from cpllm_model.training.evaluation.answers import Answer, DataSetAnswers, order_label
from cpllm_model.training.evaluation.columns import (
    binned,
    by_content,
    contents,
    in_order,
    labels,
    means,
    pairs_in_order,
    scores,
)
from cpllm_model.training.evaluation.comparisons import (
    GAP_EDGES,
    close_figures,
    comparison_figures,
    self_figures,
    swap_figures,
)
from cpllm_model.training.evaluation.naming import distortion_figures, scene_figures, text_figures

if TYPE_CHECKING:
    from cpllm_model.training.data.manifests import LabelledVideo

#: Multiples of the stated uncertainty within which the label should lie; a normal error would lie within one of it
#: in 0.68 of cases and within two in 0.95.
COVERAGE_STDS = (0.5, 1.0, 1.5, 2.0, 3.0)
STD_BINS = 5
#: Resamples at most of figures after the logistic, whose fit is slow where scores say little.
FITTED_RESAMPLES = 200
#: Share of rungs in order from which a rate step counts as told apart.
TOLD_APART = 0.9
#: A bin of fewer pairs decides nothing about the smallest rate step.
FEWEST_PAIRS = 10
#: A rank correlation within a content of fewer versions is mostly chance.
FEWEST_VERSIONS = 3
#: Beginnings of a content's name in a distortion corpus: what its source is. Clips alone come from real video, "rated"
#: are made of pictures that people rated.
SOURCE_KINDS = ("rated", "photo", "clip", "scene", "nature", "screen")


def figures_of(found: DataSetAnswers, bootstrap: Bootstrap) -> dict[str, Any]:
    """Give every figure that the labels of a data set allow, by section.

    Args:
        found: what the model said.
        bootstrap: makes the intervals.
    """
    answers = found.answers
    rated = [one for one in answers if one.video.mos is not None]
    unrated = [one for one in answers if one.video.mos is None and order_label(one.video) is not None]
    sections: dict[str, Any] = {"text": text_figures(answers, bootstrap), "scene": scene_figures(answers, bootstrap)}
    if len(rated) > 1:
        sections["score"] = score_figures(rated, bootstrap)
        sections["same_content_pairs"] = same_content_figures(rated, bootstrap)
        sections["levels"] = level_figures(rated, bootstrap)
        sections["calibration"] = calibration_figures(rated, bootstrap)
    sections["unrated"] = same_content_figures(unrated, bootstrap)
    sections["parts"] = part_figures(answers, bootstrap)
    sections["comparisons"] = {
        name: comparison_figures(chosen, bootstrap)
        for name, same, is_rated in (
            ("same_content", True, True),
            ("other_content", False, True),
            ("same_content_unrated", True, False),
        )
        if (chosen := [pair for pair in found.pairs if pair.same_content is same and pair.rated is is_rated])
    }
    sections["close_pairs"] = {
        name: close_figures(chosen, bootstrap)
        for name, is_rated in (("rated", True), ("unrated", False))
        if (chosen := [pair for pair in found.close if pair.rated is is_rated])
    }
    sections["self_comparisons"] = self_figures(found.own, bootstrap) if found.own else {}
    sections["swaps"] = swap_figures(found.swaps, bootstrap)
    sections["ladders"] = ladder_figures(rated, bootstrap)
    sections["unrated_ladders"] = ladder_figures(unrated, bootstrap)
    known = [one for one in answers if one.video.severities is not None]
    sections["distortions"] = distortion_figures(known, bootstrap)
    return {name: section for name, section in sections.items() if section}


def score_figures(rated: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give correlations of score and label, the share of all pairs in order, and errors in MOS units."""
    score_N, mos_N = scores(rated), labels(rated)

    def figures(counts_N: np.ndarray) -> dict[str, float]:
        score, mos = np.repeat(score_N, counts_N), np.repeat(mos_N, counts_N)
        plain = correlations(score, mos)
        return {
            **plain,
            "pairs_right": _share_in_order(score, mos, plain["krcc"]),
            "rmse": float(np.sqrt(np.mean((score - mos) ** 2))),
            "mae": float(np.mean(np.abs(score - mos))),
            "bias": float(np.mean(score - mos)),
        }

    def fitted(counts_N: np.ndarray) -> dict[str, float]:
        return fitted_agreement(np.repeat(score_N, counts_N), np.repeat(mos_N, counts_N))

    fewer = replace(bootstrap, resamples=min(bootstrap.resamples, FITTED_RESAMPLES))
    content = contents(rated)
    return {"videos": len(rated), **bootstrap.estimate(figures, content), **fewer.estimate(fitted, content)}


def same_content_figures(answers: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how well scores order the versions of each content.

    `right` is the share of pairs, labels more than LEAST_GAP apart, that are in order; `srcc_within` the mean over
    contents of FEWEST_VERSIONS or more versions of their SRCC. All answers are rated, or none is.
    """
    better, worse = [], []
    ranked: dict[str, float] = {}
    for content, versions in by_content(answers).items():
        ordered = sorted(zip(labels(versions), versions, strict=True), key=lambda pair: -pair[0])
        for (label, one), (other_label, other) in combinations(ordered, 2):
            if label - other_label > LEAST_GAP:
                better.append(one)
                worse.append(other)
        if len(versions) >= FEWEST_VERSIONS:
            ranked[content] = pearson(rankdata(scores(versions)), rankdata(labels(versions)))
    if not better:
        return {}
    found = bootstrap.estimate(means(right=in_order(scores(better), scores(worse))), contents(better))
    if ranked:
        found |= bootstrap.estimate(means(srcc_within=np.array(list(ranked.values()))), list(ranked))
    return {"pairs": len(better), "contents": len(set(contents(better))), **found}


def part_figures(answers: Sequence[Answer], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Give the main figures of each part of a data set by itself: its subsets and the kinds of its sources.

    Rated and unrated videos of a part are rows of their own. Of rated ones: correlations, errors, all pairs in order,
    and labels within one and two stated deviations; of both: order within contents.
    """
    parts: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for one in answers:
        if order_label(one.video) is not None:
            for part in _parts_of(one.video):
                parts[part, "unrated" if one.video.mos is None else "rated"].append(one)
    rows = []
    for (part, kind), chosen in sorted(parts.items()):
        row: dict[str, Any] = {"part": part, "labels": kind, "videos": len(chosen)}
        row["contents"] = len(set(contents(chosen)))
        if kind == "rated" and len(chosen) > 1:
            row |= {key: value for key, value in score_figures(chosen, bootstrap).items() if key != "videos"}
            calibration = calibration_figures(chosen, bootstrap)
            row |= {key: calibration[key] for key in ("within_1_std", "within_2_std")}
        within = same_content_figures(chosen, bootstrap)
        rows.append(row | {f"same_content_{key}": value for key, value in within.items() if key != "contents"})
    return rows


def level_figures(rated: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how often the level is the label's, and their table: a row a level of the label, a column one said."""
    true_N, said_N = (
        np.array([LEVELS.index(level) for level in levels])
        for levels in ([level_of(mos) for mos in labels(rated).tolist()], [one.rating.level for one in rated])
    )
    confusion = np.zeros((len(LEVELS), len(LEVELS)), int)
    np.add.at(confusion, (true_N, said_N), 1)
    shares = means(right=true_N == said_N, within_one=np.abs(true_N - said_N) <= 1)
    return bootstrap.estimate(shares, contents(rated)) | {"confusion": confusion.tolist()}


def calibration_figures(rated: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how far the stated uncertainty says how wrong the score is.

    Coverage is the share of labels within so many stated standard deviations of the score; `by_std` holds the videos
    in equal parts by stated standard deviation, with the error that they really have.
    """
    std_N = np.array([one.rating.score_std for one in rated])
    error_N = scores(rated) - labels(rated)
    content = contents(rated)

    def association(counts_N: np.ndarray) -> dict[str, float]:
        std, error = np.repeat(std_N, counts_N), np.repeat(np.abs(error_N), counts_N)
        return {"srcc_std_error": pearson(rankdata(std), rankdata(error)), "plcc_std_error": pearson(std, error)}

    coverage = bootstrap.estimate(means(**{f"{k:g}": np.abs(error_N) <= k * std_N for k in COVERAGE_STDS}), content)
    by_std = []
    for part in np.array_split(np.argsort(std_N, kind="stable"), min(STD_BINS, len(std_N))):
        square = error_N[part] ** 2
        rmse = bootstrap.estimate(
            lambda counts, square=square: {"rmse": np.sqrt(share(counts @ square, counts.sum()))},
            [content[index] for index in part],
        )
        by_std.append({"videos": len(part), "mean_std": float(std_N[part].mean()), **rmse})
    within = {f"within_{k}_std": coverage[k] for k in ("1", "2")}
    return {**within, "coverage": coverage, **bootstrap.estimate(association, content), "by_std": by_std}


def ladder_figures(answers: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how well scores follow rate ladders, the rungs that could be scored in the order of their rate.

    `smallest_step` is the lower edge of the smallest bin of label gaps from which on, in every bin of FEWEST_PAIRS
    or more pairs of rungs of one ladder, TOLD_APART of them are in order; NaN if there is none. All answers are rated,
    or none is.
    """
    ladders = rate_ladders(answers)
    if not ladders:
        return {}
    steps = [step for rungs in ladders for step in pairwise(rungs)]
    pairs = [pair for rungs in ladders for pair in combinations(rungs, 2)]
    monotone_L = np.array([all(a.rating.score > b.rating.score for a, b in pairwise(rungs)) for rungs in ladders])
    codec_L = np.array([codec_of(rungs[0].video) for rungs in ladders])
    content_L = contents([rungs[0] for rungs in ladders])

    by_codec = {}
    for codec in sorted(set(codec_L)):
        chosen = [
            step for rungs, name in zip(ladders, codec_L, strict=True) if name == codec for step in pairwise(rungs)
        ]
        right = bootstrap.estimate(means(steps_right=pairs_in_order(chosen)), contents([a for a, _ in chosen]))
        here = codec_L == codec
        whole = bootstrap.estimate(means(monotone=monotone_L[here]), list(np.array(content_L)[here]))
        by_codec[str(codec)] = {"ladders": int(here.sum()), "steps": len(chosen)} | whole | right

    gap_P = np.maximum(labels([a for a, _ in pairs]) - labels([b for _, b in pairs]), 0.0)
    by_gap = binned(pairs_in_order(pairs), gap_P, GAP_EDGES, bootstrap, contents([a for a, _ in pairs]))
    return {
        "ladders": len(ladders),
        "steps": len(steps),
        **bootstrap.estimate(means(monotone=monotone_L), content_L),
        **bootstrap.estimate(means(steps_right=pairs_in_order(steps)), contents([a for a, _ in steps])),
        "by_codec": by_codec,
        "by_label_gap": by_gap,
        "smallest_step": _told_apart_from(by_gap),
    }


def rate_ladders(answers: Sequence[Answer]) -> list[list[Answer]]:
    """Give the rungs of each content's ladders, the best first, where there are two or more."""
    ladders: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for one in answers:
        if one.video.ladder is not None and one.video.ladder_rung is not None and order_label(one.video) is not None:
            ladders[one.video.content_id, one.video.ladder].append(one)
    ordered = [sorted(rungs, key=lambda one: one.video.ladder_rung or 0) for rungs in ladders.values()]
    return [rungs for rungs in ordered if len(rungs) > 1]


def codec_of(video: LabelledVideo) -> str:
    """Give the encoder of a rung: the last step of its recipe, or else the ladder's name."""
    steps = video.recipe_steps()
    return str(steps[-1]["kind"]) if steps else str(video.ladder)


def _parts_of(video: LabelledVideo) -> list[str]:
    kind = video.content_id.partition("-")[0]
    subset = [] if video.subset is None else [f"subset {video.subset}"]
    return subset + ([f"source {kind}"] if "-" in video.content_id and kind in SOURCE_KINDS else [])


def _share_in_order(score_N: np.ndarray, mos_N: np.ndarray, tau_b: float) -> float:
    """Give the share of pairs of different MOS that scores put in order, a tie counting half, from Kendall's tau-b.

    tau-b is (right - wrong) / sqrt((pairs - ties of scores) (pairs - ties of MOS)) (Kendall 1945).
    """
    untied = []
    for value_N in (score_N, mos_N):
        times = np.unique(value_N, return_counts=True)[1]
        untied.append((len(value_N) * (len(value_N) - 1) - float(times @ (times - 1))) / 2)
    if not untied[0]:
        return 0.5 if untied[1] else np.nan
    return float(1 + tau_b * np.sqrt(share(untied[0], untied[1]))) / 2


def _told_apart_from(by_gap: Sequence[dict[str, Any]]) -> float:
    smallest = np.nan
    for part in reversed([part for part in by_gap if part["pairs"] >= FEWEST_PAIRS]):
        if part["right"].value < TOLD_APART:
            break
        smallest = part["from"]
    return smallest
