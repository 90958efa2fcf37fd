"""Print a model's figures on the held-out contents of a corpus: score, comparisons, words and distortions.

Run: python benchmarks/held_out.py --corpus DIR [--model tiny]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cpllm_model import metrics
from cpllm_model.predictor import Description, QualityPredictor, VisualTokens
from cpllm_model.samples import VideoInfo, VideoSamples
from cpllm_model.scale import DISTORTIONS, level_of
from cpllm_model.training.clips import Clip, ClipStore
from cpllm_model.training.descriptions import NAMED_FROM
from cpllm_model.training.loop import figures, same_content


def main() -> None:
    """Score every held-out clip and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    arguments = parser.parse_args()
    predictor = QualityPredictor.from_pretrained(arguments.model)
    store = ClipStore(arguments.corpus, "validation")
    tokens = [look(predictor, store, clip) for clip in store.clips]
    scores = np.array([rating.score for rating in predictor.rate(tokens)])
    mos = np.array([clip.mos for clip in store.clips])
    print(
        f"{len(store.clips)} clips of {len({clip.content_id for clip in store.clips})} contents; {predictor.model_id}"
    )
    print(figures(store.clips, scores))
    print(metrics.agreement(scores, mos))
    print_comparisons(predictor, store.clips, tokens, mos)
    print_words(predictor.describe_tokens(tokens), store.clips, scores)


def look(predictor: QualityPredictor, store: ClipStore, clip: Clip) -> VisualTokens:
    """Encode both stored bursts of a clip."""
    settings = predictor.sampling
    sample = store.sample(clip, settings.fragment_grid, settings.fragment_px, None)
    starts = np.array([0.0, 0.3])
    info = VideoInfo(0.6, 96, 96, 25.0, "raw", "yuv420p", 0, None, None)
    samples = VideoSamples(info, "stored", 0, starts, starts + 0.3, sample.context_NMCHW, sample.bursts_NTCHW)
    return predictor.encode([samples])[0]


def print_comparisons(
    predictor: QualityPredictor, clips: list[Clip], tokens: list[VisualTokens], mos: np.ndarray
) -> None:
    """Print how often the better of two clips is named, within and across contents, by the gap of their labels."""
    rng = np.random.default_rng(0)
    same = same_content(clips).numpy()
    for name, allowed in (("same content", same), ("other content", ~same)):
        a, b = np.nonzero(np.triu(allowed & (np.abs(mos[:, None] - mos[None]) > 0.25), 1))
        chosen = rng.permutation(len(a))[:400]
        a, b = a[chosen], b[chosen]
        answers = predictor.compare_tokens([tokens[i] for i in a], [tokens[i] for i in b])
        ahead = np.array([answer.probability_a_better for answer in answers])
        right = (ahead > 0.5) == (mos[a] > mos[b])
        gap = np.mean([answer.order_gap for answer in answers])
        print(f"comparisons, {name}: {right.mean():.3f} right of {len(a)} pairs over 0.25 apart, order gap {gap:.3f}")


def print_words(descriptions: list[Description], clips: list[Clip], scores: np.ndarray) -> None:
    """Print how often the description's level is the score's, and how well distortions are named."""
    agrees = [level_of(score) in one.text for one, score in zip(descriptions, scores, strict=True)]
    print(f"descriptions that name the score's own level: {np.mean(agrees):.3f}")
    for name in DISTORTIONS:
        there = np.array([clip.severities[name] >= NAMED_FROM for clip in clips])
        probability = np.array([next(d.probability for d in one.distortions if d.name == name) for one in descriptions])
        above = (probability[there][:, None] > probability[~there][None]).mean()
        print(f"{name}: AUC {above:.3f} ({there.sum()} of {len(there)} clips have it)")


if __name__ == "__main__":
    main()
