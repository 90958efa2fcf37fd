"""Print how often CP-LLM orders adjacent rungs of x264 rate ladders of contents that it never saw.

Each held-out content is filmed, encoded at four rates, and scored from the files, as a user's videos are.
Run: python benchmarks/rate_ladders.py --sources DIR [--sources DIR ...] [--model tiny]
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np

from cpllm_model.errors import VideoError
from cpllm_model.predictor import QualityPredictor
from cpllm_model.training import encode
from cpllm_model.training.corpus import film, find_contents

CRFS = (18, 26, 34, 42)


def main() -> None:
    """Score the ladders and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=Path, action="append", required=True, help="pristine pictures and clips")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--contents", type=int, default=60, help="held-out contents at most")
    parser.add_argument("--frames", type=int, default=48)
    arguments = parser.parse_args()
    predictor = QualityPredictor.from_pretrained(arguments.model)
    held_out = [c for c in find_contents(arguments.sources, 0) if c.split == "validation"][: arguments.contents]
    steps: list[list[bool]] = []
    for number, content in enumerate(held_out):
        try:
            planes = film(content, np.random.default_rng(number), arguments.frames)
        except (ValueError, encode.EncodeError) as error:
            print(f"left out: {error}")
            continue
        scores = score_ladder(predictor, planes)
        steps.append([better > worse for better, worse in pairwise(scores)])
        print(f"{content.content_id}.{content.take} {[round(score, 2) for score in scores]}")
    right = np.array(steps)
    spread = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / right.size)
    print(f"{len(right)} contents, {right.size} adjacent rungs: {right.mean():.3f} +- {spread:.3f} in order")
    for (better, worse), share in zip(pairwise(CRFS), right.mean(0), strict=True):
        print(f"  CRF {better} above {worse}: {share:.3f}")
    print(f"  whole ladder in order: {right.all(1).mean():.3f}")


def score_ladder(predictor: QualityPredictor, planes_TJW: np.ndarray) -> list[float]:
    """Encode planes (T, J, W) at each rate with x264's default preset and give the scores."""
    height, width = planes_TJW.shape[1] * 2 // 3, planes_TJW.shape[2]
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "pristine.yuv"
        raw.write_bytes(planes_TJW.tobytes())
        source = encode.raw_input(raw, width, height, 25)
        clips = [encode.encode(source, Path(folder) / f"{crf}.mp4", "x264", crf) for crf in CRFS]
        ratings = predictor.score(clips)
    for rating in ratings:
        if isinstance(rating, VideoError):
            raise rating
    return [rating.score for rating in ratings if not isinstance(rating, VideoError)]


if __name__ == "__main__":
    main()
