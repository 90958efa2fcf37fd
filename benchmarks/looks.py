"""Print what more or fewer looks at a video cost, and how many bad stretches they find.

Cost: seconds of the processor to decode a ten-minute 1080p H.264 video and to answer about it. Worth: bad stretches
(compression, blur, noise) in minutes of real pictures, as in the tests in time of `cpllm evaluate`; in brackets, how
often the same would be found in the clean video.
Run: python benchmarks/looks.py PHOTOS [--videos 2] [--cache DIR]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from clips import clip

from cpllm_model.decoding import video
from cpllm_model.errors import VideoError
from cpllm_model.metrics import Bootstrap
from cpllm_model.predictor import QualityPredictor
from cpllm_model.training.evaluation.stress import said_of
from cpllm_model.training.evaluation.stress_sources import find_sources
from cpllm_model.training.evaluation.timed import BAD, SECONDS, TimedAnswer, timed_figures
from cpllm_model.training.evaluation.timed_clips import CHANGES, CLEAN, SHOTS, make_clips

LOOKS = (4, 8, 16)
LENGTHS_S = (2.0, 5.0, 10.0)
REPEATS = 3


def main() -> None:
    """Measure every number of looks and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of clean photographs or clips")
    parser.add_argument("--videos", type=int, default=2, help="minutes of film, of nine bad stretches each")
    parser.add_argument("--cache", type=Path, default=Path("work/benchmark_clips"), help="folder of the made clips")
    arguments = parser.parse_args()
    predictor = QualityPredictor.from_pretrained("tiny", device="cpu")
    usual, found = predictor.sampling, defaultdict(list)
    print("| looks | decode, s | in all, s |\n|--:|--:|--:|")
    for looks in LOOKS:
        predictor.sampling = replace(usual, most_looks=looks)
        decode_s, answer_s = costs(predictor, clip(arguments.cache.resolve(), "h264", 1080, 600))
        print(f"| {looks} | {decode_s:.2f} | {decode_s + answer_s:.2f} |", flush=True)
    sources = find_sources([], [arguments.photos], "test", arguments.videos * SHOTS)["moving"]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.videos):
            shots = sources[number * SHOTS : (number + 1) * SHOTS]
            # Places in a video do not depend on what else is made of it.
            kinds = [kind for kind in CHANGES if kind in BAD]
            for what, path in make_clips(shots, SECONDS, LENGTHS_S, kinds, number, Path(folder)):
                if what.kind not in (CLEAN, *BAD):
                    break  # what comes after the stretches
                for looks in LOOKS:
                    predictor.sampling = replace(usual, most_looks=looks)
                    (seen,) = predictor.look([path])
                    said = seen if isinstance(seen, VideoError) else said_of(predictor, what.kind, seen)
                    found[looks].append(TimedAnswer(f"video-{number + 1}", what, said))
                path.unlink()
    print("\n| looks | " + " | ".join(f"found of {length:g} s" for length in LENGTHS_S) + " |")
    print("|--:|" + "--:|" * len(LENGTHS_S))
    for looks in LOOKS:
        rows = {row["length_s"]: row for row in timed_figures(found[looks], Bootstrap())["stretches"]
                if row["kind"] == "all bad"}  # fmt: skip
        shown = [f"{rows[length]['found']:.2f} ({rows[length]['found_on_clean']:.2f})" for length in LENGTHS_S]
        print(f"| {looks} | {' | '.join(shown)} |", flush=True)


def costs(predictor: QualityPredictor, path: Path) -> tuple[float, float]:
    """Give seconds of the processor to decode a video, and to score and describe it."""

    def decoded() -> Any:
        with path.open("rb") as file:
            return video.decode(file, "clip", predictor.sampling)

    samples = decoded()

    def answered() -> None:
        viewed = predictor.encode([samples])
        predictor.rate(viewed)
        predictor.describe_viewed(viewed)

    return processor_s(decoded), processor_s(answered)


def processor_s(work: Callable[[], Any]) -> float:
    """Give the mean seconds of the processor that this process takes."""
    work()
    started = time.process_time()
    for _ in range(REPEATS):
        work()
    return (time.process_time() - started) / REPEATS


if __name__ == "__main__":
    main()
