"""How well a model names what it sees: distortions, scene facts, and a description's words beside the other answers.

In: answers. Out: dicts of counts and `Estimate`s with intervals over contents.

Shape legend: N videos, F distortion families.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cpllm_model.metrics import Bootstrap, auc, share
from cpllm_model.scale import DISTORTIONS, LEVELS, SCENE_FACTS
from cpllm_model.training.data.descriptions import NAMED_FROM, mentions, scene_mentions
from cpllm_model.training.evaluation.answers import Answer
from cpllm_model.training.evaluation.columns import contents, means

if TYPE_CHECKING:
    from cpllm_model.predictor import Description, Distortion

LEVEL_WORD = re.compile(rf"\b({'|'.join(LEVELS)})\b", re.IGNORECASE)


def distortion_figures(known: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how well distortions are named; one is there from severity NAMED_FROM.

    Micro figures pool all namings, macro figures are means over the families that occur; `exact` is the share of
    videos whose named set is exactly right. A severity that is not known, NaN, is left out of its family's figures, and
    its video of `exact`.
    """
    if not known:
        return {}
    severity_NF = np.array([[(one.video.severities or {}).get(f, 0.0) for f in DISTORTIONS] for one in known])
    there_NF, known_NF = severity_NF >= NAMED_FROM, np.isfinite(severity_NF)
    named_NF, probability_NF = (
        np.array([[getattr(said, field) for said in _in_family_order(one.description)] for one in known])
        for field in ("named", "probability")
    )
    content = contents(known)
    occurs_F = there_NF.any(0)

    def family_figures(index: int, counts_N: np.ndarray) -> dict[str, float]:
        there, named = there_NF[:, index], named_NF[:, index]
        counts = counts_N * known_NF[:, index]
        return _naming(counts, there, named) | {"auc": auc(probability_NF[:, index], there, counts)}

    def overall(counts_N: np.ndarray) -> dict[str, float]:
        families = [family_figures(index, counts_N) for index in np.flatnonzero(occurs_F).tolist()]
        macro = {
            f"macro_{name}": _mean_known([one[name] for one in families]) for name in ("precision", "recall", "f1")
        }
        pooled = _naming((counts_N[:, None] * known_NF).ravel(), there_NF.ravel(), named_NF.ravel())
        whole = counts_N * known_NF.all(1)
        return {
            **{f"micro_{name}": value for name, value in pooled.items()},
            **macro,
            "mean_auc": _mean_known([one["auc"] for one in families]),
            "exact": share(whole @ (there_NF == named_NF).all(1), whole.sum()),
        }

    by_family = {
        family: {"videos": int(there_NF[:, index].sum())}
        | bootstrap.estimate(lambda counts, index=index: family_figures(index, counts), content)
        for index, family in enumerate(DISTORTIONS)
    }
    return {"videos": len(known), **bootstrap.estimate(overall, content), "by_family": by_family}


def text_figures(answers: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how often a description's words agree with the other answers: level, named distortions and scene."""
    if not answers:
        return {}
    levels = [{word.lower() for word in LEVEL_WORD.findall(one.description.text)} for one in answers]
    named = [{said.name for said in one.description.distortions if said.named} for one in answers]
    mentioned = [mentions(one.description.text) for one in answers]
    other_level = np.array([bool(words - {one.rating.level}) for words, one in zip(levels, answers, strict=True)])
    unnamed = np.array([bool(words - names) for words, names in zip(mentioned, named, strict=True)])
    omitted = np.array([bool(names - words) for words, names in zip(mentioned, named, strict=True)])
    other_scene = np.array([_says_other_scene(one) for one in answers])
    shares = means(
        says_level=np.array([one.rating.level in words for words, one in zip(levels, answers, strict=True)]),
        says_other_level=other_level,
        mentions_unnamed=unnamed,
        omits_named=omitted,
        says_other_scene=other_scene,
        contradicts=other_level | unnamed | omitted | other_scene,
    )
    return {"videos": len(answers)} | bootstrap.estimate(shares, contents(answers))


def scene_figures(answers: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give how often the word for each question of the scene is right, where it is known and was answered.

    `most_frequent` is the share of the commonest known word: what saying always the same would reach.
    """
    found = {}
    for question in SCENE_FACTS:
        known = [one for one in answers if question in (one.video.scene or {}) and question in one.rating.scene]
        if known:
            true = [(one.video.scene or {})[question] for one in known]
            right = np.array([one.rating.scene[question] == word for one, word in zip(known, true, strict=True)])
            most_frequent = Counter(true).most_common(1)[0][1] / len(known)
            found[question] = {
                "videos": len(known),
                **bootstrap.estimate(means(right=right), contents(known)),
                "most_frequent": most_frequent,
            }
    return found


def _says_other_scene(one: Answer) -> bool:
    stated = scene_mentions(one.description.text)
    return any(stated.get(question, word) != word for question, word in one.rating.scene.items())


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
