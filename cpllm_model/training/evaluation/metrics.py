"""How good a model's answers are: the figures of an evaluation, from labelled videos and what a model said of them.

In: answers and compared pairs. Out: nested dicts of counts and `Estimate`s with intervals over contents. A figure
whose labels a data set lacks is left out, never guessed. Knows nothing of files, plots or networks.

Shape legend: N videos, F distortion families, L rate ladders, P pairs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from cpllm_model.metrics import Bootstrap, auc, correlations, fitted_agreement, pearson, share
from cpllm_model.scale import DISTORTIONS, LEVELS, level_of
from cpllm_model.training.data.descriptions import NAMED_FROM, mentions
from cpllm_model.training.evaluation.answers import LEAST_GAP, Answer, ComparedPair

if TYPE_CHECKING:
    from cpllm_model.predictor import Description, Distortion
    from cpllm_model.training.data.manifests import LabelledVideo

#: Bins of label gaps, half-open, MOS units; the first also holds rungs whose labels are equal or reversed.
GAP_EDGES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0, 4.01)
CONFIDENCE_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.01)
#: Multiples of the stated uncertainty within which the label should lie.
COVERAGE_STDS = (0.5, 1.0, 1.5, 2.0, 3.0)
STD_BINS = 5
#: Resamples at most of figures after the logistic, whose fit is slow where scores say little.
FITTED_RESAMPLES = 200
#: Share of rungs in order from which a rate step counts as told apart.
TOLD_APART = 0.9
#: A bin of fewer pairs decides nothing about the smallest rate step.
FEWEST_PAIRS = 10
LEVEL_WORD = re.compile(rf"\b({'|'.join(LEVELS)})\b", re.IGNORECASE)


def figures_of(answers: Sequence[Answer], pairs: Sequence[ComparedPair], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give every figure that the labels allow, by section.

    Args:
        answers: of the videos that could be scored.
        pairs: compared ones, with labels more than LEAST_GAP apart.
        bootstrap: makes the intervals.
    """
    rated = [one for one in answers if one.video.mos is not None]
    known = [one for one in answers if one.video.severities is not None]
    sections: dict[str, Any] = {"text": text_figures(answers, bootstrap)}
    if len(rated) > 1:
        sections["score"] = score_figures(rated, bootstrap)
        sections["same_content_pairs"] = same_content_figures(rated, bootstrap)
        sections["levels"] = level_figures(rated, bootstrap)
        sections["calibration"] = calibration_figures(rated, bootstrap)
    sections["comparisons"] = {
        name: comparison_figures(chosen, bootstrap)
        for name, same in (("same_content", True), ("other_content", False))
        if (chosen := [pair for pair in pairs if pair.same_content is same])
    }
    sections["ladders"] = ladder_figures(rated, bootstrap)
    sections["distortions"] = distortion_figures(known, bootstrap)
    return {name: section for name, section in sections.items() if section}


def score_figures(rated: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give the correlations of score and label, and the errors before and after the logistic, in MOS units."""
    score_N, mos_N = scores(rated), labels(rated)

    def figures(counts_N: np.ndarray) -> dict[str, float]:
        score, mos = np.repeat(score_N, counts_N), np.repeat(mos_N, counts_N)
        return {
            **correlations(score, mos),
            "rmse": float(np.sqrt(np.mean((score - mos) ** 2))),
            "mae": float(np.mean(np.abs(score - mos))),
            "bias": float(np.mean(score - mos)),
        }

    def fitted(counts_N: np.ndarray) -> dict[str, float]:
        return fitted_agreement(np.repeat(score_N, counts_N), np.repeat(mos_N, counts_N))

    fewer = replace(bootstrap, resamples=min(bootstrap.resamples, FITTED_RESAMPLES))
    content = contents(rated)
    return {"videos": len(rated), **bootstrap.estimate(figures, content), **fewer.estimate(fitted, content)}


def same_content_figures(rated: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give the share of pairs of one content, labels more than LEAST_GAP apart, that the scores put in order."""
    better, worse = [], []
    for versions in _by_content(rated).values():
        ordered = sorted(versions, key=lambda one: -_mos(one))
        for a, b in combinations(ordered, 2):
            if _mos(a) - _mos(b) > LEAST_GAP:
                better.append(a)
                worse.append(b)
    if not better:
        return {}
    right_P = _in_order(scores(better), scores(worse))
    return {"pairs": len(better)} | bootstrap.estimate(_means(right=right_P), contents(better))


def level_figures(rated: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how often the level is the label's, and their table: a row a level of the label, a column one said."""
    true_N, said_N = (
        np.array([LEVELS.index(level) for level in levels])
        for levels in ([level_of(_mos(one)) for one in rated], [one.rating.level for one in rated])
    )
    confusion = np.zeros((len(LEVELS), len(LEVELS)), int)
    np.add.at(confusion, (true_N, said_N), 1)
    means = _means(right=true_N == said_N, within_one=np.abs(true_N - said_N) <= 1)
    return bootstrap.estimate(means, contents(rated)) | {"confusion": confusion.tolist()}


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

    coverage = bootstrap.estimate(_means(**{f"{k:g}": np.abs(error_N) <= k * std_N for k in COVERAGE_STDS}), content)
    by_std = []
    for part in np.array_split(np.argsort(std_N, kind="stable"), min(STD_BINS, len(std_N))):
        square = error_N[part] ** 2
        rmse = bootstrap.estimate(
            lambda counts, square=square: {"rmse": np.sqrt(share(counts @ square, counts.sum()))},
            [content[index] for index in part],
        )
        by_std.append({"videos": len(part), "mean_std": float(std_N[part].mean()), **rmse})
    return {"coverage": coverage, **bootstrap.estimate(association, content), "by_std": by_std}


def comparison_figures(pairs: Sequence[ComparedPair], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how often comparisons name the better one, by label gap and by confidence, and how they lean on order.

    `first_bias` is the probability given to the first video of the prompt, averaged over both orders, less a half:
    0 when order plays no part. `right_by_score` is how often the scores order the same pairs.
    """
    probability_P = np.array([pair.comparison.probability_a_better for pair in pairs])
    gap_P = labels([pair.a for pair in pairs]) - labels([pair.b for pair in pairs])
    right_P = np.where(probability_P == 0.5, 0.5, (probability_P > 0.5) == (gap_P > 0))
    by_score_P = _in_order(np.sign(gap_P) * scores([pair.a for pair in pairs]),
                           np.sign(gap_P) * scores([pair.b for pair in pairs]))  # fmt: skip
    confidence_P = np.maximum(probability_P, 1 - probability_P)
    means = _means(
        right=right_P,
        right_by_score=by_score_P,
        confidence=confidence_P,
        order_gap=np.array([pair.comparison.order_gap for pair in pairs]),
        first_bias=np.array([pair.comparison.first_bias for pair in pairs]),
    )
    groups = (contents([pair.a for pair in pairs]), contents([pair.b for pair in pairs]))
    return {
        "pairs": len(pairs),
        **bootstrap.estimate(means, *groups),
        "by_label_gap": _binned(right_P, np.abs(gap_P), GAP_EDGES, bootstrap, *groups),
        "by_confidence": _binned(right_P, confidence_P, CONFIDENCE_EDGES, bootstrap, *groups),
    }


def ladder_figures(rated: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how well scores follow rate ladders, the rungs that could be scored in the order of their rate.

    `smallest_step` is the lower edge of the smallest bin of label gaps from which on, in every bin of FEWEST_PAIRS
    or more pairs of rungs of one ladder, TOLD_APART of them are in order; NaN if there is none.
    """
    ladders = rate_ladders(rated)
    if not ladders:
        return {}
    steps = [step for rungs in ladders for step in pairwise(rungs)]
    pairs = [pair for rungs in ladders for pair in combinations(rungs, 2)]
    monotone_L = np.array([all(_score(a) > _score(b) for a, b in pairwise(rungs)) for rungs in ladders])
    codec_L = np.array([codec_of(rungs[0].video) for rungs in ladders])
    content_L = contents([rungs[0] for rungs in ladders])

    by_codec = {}
    for codec in sorted(set(codec_L)):
        chosen = [
            step for rungs, name in zip(ladders, codec_L, strict=True) if name == codec for step in pairwise(rungs)
        ]
        right = bootstrap.estimate(_means(steps_right=_pairs_right(chosen)), contents([a for a, _ in chosen]))
        here = codec_L == codec
        whole = bootstrap.estimate(_means(monotone=monotone_L[here]), list(np.array(content_L)[here]))
        by_codec[str(codec)] = {"ladders": int(here.sum()), "steps": len(chosen)} | whole | right

    gap_P = np.array([max(_mos(a) - _mos(b), 0.0) for a, b in pairs])
    by_gap = _binned(_pairs_right(pairs), gap_P, GAP_EDGES, bootstrap, contents([a for a, _ in pairs]))
    return {
        "ladders": len(ladders),
        "steps": len(steps),
        **bootstrap.estimate(_means(monotone=monotone_L), content_L),
        **bootstrap.estimate(_means(steps_right=_pairs_right(steps)), contents([a for a, _ in steps])),
        "by_codec": by_codec,
        "by_label_gap": by_gap,
        "smallest_step": _told_apart_from(by_gap),
    }


def distortion_figures(known: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how well distortions are named; one is there from severity NAMED_FROM.

    Micro figures pool all namings, macro figures are means over the families that occur; `exact` is the share of
    videos whose named set is exactly right.
    """
    if not known:
        return {}
    there_NF = np.array(
        [[(one.video.severities or {}).get(f, 0.0) >= NAMED_FROM for f in DISTORTIONS] for one in known]
    )
    named_NF, probability_NF = (
        np.array([[getattr(said, field) for said in _in_family_order(one.description)] for one in known])
        for field in ("named", "probability")
    )
    content = contents(known)
    occurs_F = there_NF.any(0)

    def family_figures(index: int, counts_N: np.ndarray) -> dict[str, float]:
        there, named = there_NF[:, index], named_NF[:, index]
        return _naming(counts_N, there, named) | {"auc": auc(probability_NF[:, index], there, counts_N)}

    def overall(counts_N: np.ndarray) -> dict[str, float]:
        families = [family_figures(index, counts_N) for index in np.flatnonzero(occurs_F).tolist()]
        macro = {
            f"macro_{name}": _mean_known([one[name] for one in families]) for name in ("precision", "recall", "f1")
        }
        pooled = _naming(np.repeat(counts_N, len(DISTORTIONS)), there_NF.ravel(), named_NF.ravel())
        return {
            **{f"micro_{name}": value for name, value in pooled.items()},
            **macro,
            "mean_auc": _mean_known([one["auc"] for one in families]),
            "exact": share(counts_N @ (there_NF == named_NF).all(1), counts_N.sum()),
        }

    by_family = {
        family: {"videos": int(there_NF[:, index].sum())}
        | bootstrap.estimate(lambda counts, index=index: family_figures(index, counts), content)
        for index, family in enumerate(DISTORTIONS)
    }
    return {"videos": len(known), **bootstrap.estimate(overall, content), "by_family": by_family}


def text_figures(answers: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how often a description's words agree with the other answers: the level and the named distortions."""
    if not answers:
        return {}
    levels = [{word.lower() for word in LEVEL_WORD.findall(one.description.text)} for one in answers]
    named = [{said.name for said in one.description.distortions if said.named} for one in answers]
    mentioned = [mentions(one.description.text) for one in answers]
    other_level = np.array([bool(words - {one.rating.level}) for words, one in zip(levels, answers, strict=True)])
    unnamed = np.array([bool(words - names) for words, names in zip(mentioned, named, strict=True)])
    omitted = np.array([bool(names - words) for words, names in zip(mentioned, named, strict=True)])
    means = _means(
        says_level=np.array([one.rating.level in words for words, one in zip(levels, answers, strict=True)]),
        says_other_level=other_level,
        mentions_unnamed=unnamed,
        omits_named=omitted,
        contradicts=other_level | unnamed | omitted,
    )
    return {"videos": len(answers)} | bootstrap.estimate(means, contents(answers))


def rate_ladders(rated: Sequence[Answer]) -> list[list[Answer]]:
    """Give the rungs of each content's ladders, the best first, where there are two or more."""
    ladders: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for one in rated:
        if one.video.ladder is not None and one.video.ladder_rung is not None:
            ladders[one.video.content_id, one.video.ladder].append(one)
    ordered = [sorted(rungs, key=lambda one: one.video.ladder_rung or 0) for rungs in ladders.values()]
    return [rungs for rungs in ordered if len(rungs) > 1]


def codec_of(video: LabelledVideo) -> str:
    """Give the encoder of a rung: the last step of its recipe, or else the ladder's name."""
    steps = video.recipe_steps()
    return str(steps[-1]["kind"]) if steps else str(video.ladder)


def scores(answers: Sequence[Answer]) -> np.ndarray:
    """Give the scores (N,)."""
    return np.array([_score(one) for one in answers])


def labels(rated: Sequence[Answer]) -> np.ndarray:
    """Give the labels (N,)."""
    return np.array([_mos(one) for one in rated])


def contents(answers: Sequence[Answer]) -> list[str]:
    """Give the contents' names."""
    return [one.video.content_id for one in answers]


def _score(one: Answer) -> float:
    return one.rating.score


def _mos(one: Answer) -> float:
    assert one.video.mos is not None
    return one.video.mos


def _by_content(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    groups = defaultdict(list)
    for one in answers:
        groups[one.video.content_id].append(one)
    return groups


def _in_order(better_P: np.ndarray, worse_P: np.ndarray) -> np.ndarray:
    """Give 1 where the better one has the higher score, 0 where the lower, a half for a tie."""
    return (1 + np.sign(better_P - worse_P)) / 2


def _pairs_right(pairs: Sequence[tuple[Answer, Answer]]) -> np.ndarray:
    return _in_order(scores([a for a, _ in pairs]), scores([b for _, b in pairs]))


def _means(**columns_N: np.ndarray) -> Callable[[np.ndarray], dict[str, float]]:
    """Give the function of counts that a bootstrap takes, for the mean of each column."""
    return lambda counts_N: {name: share(counts_N @ column, counts_N.sum()) for name, column in columns_N.items()}


def _binned(
    right_P: np.ndarray,
    value_P: np.ndarray,
    edges: Sequence[float],
    bootstrap: Bootstrap,
    *groups: Sequence[str],
) -> list[dict[str, Any]]:
    """Give the mean of `right_P` in each half-open bin of `value_P` that holds a row."""
    bins = []
    for low, high in pairwise(edges):
        inside = np.flatnonzero((value_P >= low) & (value_P < high)).tolist()
        if inside:
            here = bootstrap.estimate(_means(right=right_P[inside]), *([group[i] for i in inside] for group in groups))
            bins.append({"from": low, "to": high, "pairs": len(inside), "mean": float(value_P[inside].mean()), **here})
    return bins


def _told_apart_from(by_gap: Sequence[dict[str, Any]]) -> float:
    smallest = np.nan
    for part in reversed([part for part in by_gap if part["pairs"] >= FEWEST_PAIRS]):
        if part["right"].value < TOLD_APART:
            break
        smallest = part["from"]
    return smallest


def _naming(counts_N: np.ndarray, there_N: np.ndarray, named_N: np.ndarray) -> dict[str, float]:
    hits = float(counts_N @ (named_N & there_N))
    extra, missed = float(counts_N @ (named_N & ~there_N)), float(counts_N @ (there_N & ~named_N))
    return {
        "precision": share(hits, hits + extra),
        "recall": share(hits, hits + missed),
        "f1": share(2 * hits, 2 * hits + extra + missed),
    }


def _in_family_order(description: Description) -> list[Distortion]:
    found = {one.name: one for one in description.distortions}
    return [found[family] for family in DISTORTIONS]


def _mean_known(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan
