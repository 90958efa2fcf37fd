"""Print how many videos a model answers for in a second, where the time goes, and how near that is to the machine.

The videos are samples of random codes, in number and size those of a 10 s 1080p video. Operations are counted by torch
in matrix products, convolutions and attention (two a multiply-add); the limit is what one large float32 matrix product
reaches here. What a part computes besides (statistics of the pixels, say) counts no operation, but takes time.
Run: python benchmarks/model_speed.py [--model tiny] [--threads 1] [--device cpu] [--repeats 10]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from cpllm_model.decoding.samples import VideoInfo, VideoSamples
from cpllm_model.predictor import QualityPredictor

BATCHES = (1, 4, 8)
MATRIX = 2048


def main() -> None:
    """Time each part on its own, the parts together by batch, and the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    predictor = QualityPredictor.from_pretrained(arguments.model, arguments.device)
    samples = [video(predictor, seed) for seed in range(max(BATCHES))]
    with torch.inference_mode():
        limit = limit_flops(predictor.model.device, arguments.repeats)
        print(f"{predictor.model_id} on {predictor.model.device}, {arguments.threads} thread(s), ", end="")
        print(f"median of {arguments.repeats}; a matrix product of {MATRIX} reaches {limit / 1e9:.0f} GFLOP/s\n")
        print("| part, of one video | ms | share of the time | GFLOP | of the limit |\n|---|--:|--:|--:|--:|")
        parts = split(predictor, samples[0])
        times = {name: seconds(call, arguments.repeats) for name, call in parts.items()}
        whole_s = times[WHOLE]
        for name, call in parts.items():
            flops = operations(call)
            shares = f"{times[name] / whole_s:.0%} | {flops / 1e9:.2f} | {flops / times[name] / limit:.0%}"
            print(f"| {name} | {times[name] * 1000:.1f} | {shares} |")
        print("\n| videos at once | videos/s |\n|--:|--:|")
        for batch in BATCHES:
            taken = seconds(lambda batch=batch: answer(predictor, samples[:batch]), arguments.repeats)
            print(f"| {batch} | {batch / taken:.1f} |")
        read, written = tokens_a_second(predictor, samples[0], arguments.repeats)
        print(f"\nThe decoder reads {read:.0f} tokens/s and writes {written:.0f} tokens/s, of one video at a time.")


WHOLE = "score and description, all of it"


def split(predictor: QualityPredictor, samples: VideoSamples) -> dict[str, Callable[[], Any]]:
    """Give a call for each part; the last two are asked of tokens that are kept."""
    model, processor = predictor.model, predictor.processor
    viewed = predictor.encode([samples])
    tokens, seen, times = (
        [one.tokens for one in viewed],
        [one.tokens_NLD for one in viewed],
        [one.times for one in viewed],
    )
    made = processor(samples.context_NMCHW, samples.bursts_NTCHW, samples.burst_interval_s)
    inputs = {key: value.to(model.device) for key, value in made.items()}
    bursts = inputs["pixel_values"], inputs["interval_s"]
    hidden = model.see_context(inputs["context_values"].flatten(0, 1)), model.see_pixels(*bursts)
    return {
        "samples to tensors": lambda: processor(samples.context_NMCHW, samples.bursts_NTCHW, samples.burst_interval_s),
        "context encoder": lambda: model.see_context(inputs["context_values"].flatten(0, 1)),
        "pixel encoder": lambda: model.see_pixels(*bursts),
        "projectors": lambda: model.project(*hidden),
        "decoder: levels, severities and scene of segments": lambda: predictor.view(seen, times),
        "decoder: description": lambda: predictor.describe_viewed(viewed),
        WHOLE: lambda: answer(predictor, [samples]),
        "decoder: comparison of a pair": lambda: predictor.compare_tokens(tokens, tokens),
    }


def answer(predictor: QualityPredictor, samples: list[VideoSamples]) -> None:
    """Score and describe."""
    viewed = predictor.encode(samples)
    predictor.rate(viewed)
    predictor.describe_viewed(viewed)


def tokens_a_second(predictor: QualityPredictor, samples: VideoSamples, repeats: int) -> tuple[float, float]:
    """Give how fast the decoder takes in a question with its visual tokens, and how fast it writes."""
    model, processor = predictor.model, predictor.processor
    visual_NLD = predictor.encode([samples])[0].tokens.tokens_NLD
    visual = torch.from_numpy(visual_NLD).flatten(0, 1).to(model.device)
    question = processor.describe_ids(len(visual_NLD), "fair", {}, {})
    ids = torch.tensor([question], device=model.device)
    decoder = model.language_model.get_decoder()
    read_s = seconds(lambda: decoder(inputs_embeds=model.embed(ids, visual)), repeats)
    never = -1  # no token ends the text, so that its length is the configured one
    written = len(model.write([question], visual, never, [[]])[0])
    write_s = seconds(lambda: model.write([question], visual, never, [[]]), repeats)
    return len(question) / read_s, written / (write_s - read_s)


def limit_flops(device: torch.device, repeats: int) -> float:
    """Give the operations a second of a large matrix product."""
    matrix = torch.randn(MATRIX, MATRIX, device=device)
    return 2 * MATRIX**3 / seconds(lambda: matrix @ matrix, repeats)


def operations(call: Callable[[], Any]) -> int:
    """Count the operations of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def video(predictor: QualityPredictor, seed: int) -> VideoSamples:
    """Give samples of random codes."""
    rng, settings = np.random.default_rng(seed), predictor.sampling
    n, side, mosaic = settings.most_looks, settings.context_size_px, settings.mosaic_px
    info = VideoInfo(10.0, 1920, 1080, 30.0, "h264", "yuv420p", 0, None, 300)
    context = rng.integers(0, 256, (n, settings.context_frames, 3, side, side), np.uint8)
    bursts = rng.integers(16, 236, (n, settings.burst_frames, 3, mosaic, mosaic), np.uint8)
    edges_s = np.linspace(0.0, 10.0, n + 1)
    times = (edges_s[:-1], edges_s[1:], np.ones(n, bool), np.full(n, 1 / 30))
    return VideoSamples(info, "keyframe", 0, *times, context, bursts)


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Give the median time of a call, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return median(times)


if __name__ == "__main__":
    main()
