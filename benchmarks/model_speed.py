"""Print how long a model takes for a decoded video on one core, and where the time goes.

Run: python benchmarks/model_speed.py [--model tiny] [--threads 1] [--repeats 10]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from cpllm_model.predictor import QualityPredictor
from cpllm_model.samples import VideoInfo, VideoSamples


def main() -> None:
    """Time each part on samples of random codes, whose number and sizes are those of a 10 s 1080p video."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    predictor = QualityPredictor.from_pretrained(arguments.model)
    samples = [video(predictor, seed) for seed in range(8)]
    tokens = predictor.encode(samples)
    model, processor = predictor.model, predictor.processor
    inputs = processor(samples[0].context_NMCHW, samples[0].bursts_NTCHW)
    with torch.inference_mode():
        parts: dict[str, Callable[[], Any]] = {
            "context encoder": lambda: model.see_context(inputs["context_values"].flatten(0, 1)),
            "pixel encoder": lambda: model.see_pixels(inputs["pixel_values"]),
            "score": lambda: predictor.rate(tokens[:1]),
            "description and distortions": lambda: predictor.describe_tokens(tokens[:1]),
            "comparison": lambda: predictor.compare_tokens(tokens[:1], tokens[1:2]),
            "score and description, one video": lambda: answers(predictor, samples[:1]),
            "score and description, eight videos, each": lambda: answers(predictor, samples),
        }
        print(f"{predictor.model_id} on {model.device}, {arguments.threads} thread(s), median of {arguments.repeats}")
        for name, call in parts.items():
            count = 8 if "eight" in name else 1
            print(f"{name:42s} {seconds(call, arguments.repeats) / count * 1000:7.1f} ms")


def answers(predictor: QualityPredictor, samples: list[VideoSamples]) -> None:
    """Score and describe."""
    tokens = predictor.encode(samples)
    predictor.rate(tokens)
    predictor.describe_tokens(tokens)


def video(predictor: QualityPredictor, seed: int) -> VideoSamples:
    """Give samples of random codes."""
    rng, settings = np.random.default_rng(seed), predictor.sampling
    n, side, mosaic = settings.segments, settings.context_size_px, settings.mosaic_px
    info = VideoInfo(10.0, 1920, 1080, 30.0, "h264", "yuv420p", 0, None, 300)
    starts = np.arange(n) * 10.0 / n
    context = rng.integers(0, 256, (n, settings.context_frames, 3, side, side), np.uint8)
    bursts = rng.integers(16, 236, (n, settings.burst_frames, 3, mosaic, mosaic), np.uint8)
    return VideoSamples(info, "keyframe", 0, starts, starts + 10.0 / n, context, bursts)


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Give the median time of a call, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return median(times)


if __name__ == "__main__":
    main()
