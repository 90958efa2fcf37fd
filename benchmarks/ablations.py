"""Print what each part of the design, and more of it, is worth: small trainings that differ in one thing.

Learning curves over contents and parameters are of the probe of statistics, which takes minutes. Pixel encoders are
compared through the heads of their probe stage; context, pixels and tasks through decoders over one trained, frozen
pixel encoder; each with equally many steps and one seed. Figures are of test contents.
Run: python benchmarks/ablations.py --corpus DIR --model DIR --work DIR --cache DIR [--part curves|pixels|decoders]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ffmpeg

from cpllm_model.training.data import encode
from cpllm_model.training.data.manifests import LabelledVideo, read_manifest, some_contents, write_manifest
from cpllm_model.training.recipe.config import Cache, Data, Stage, Tasks, TrainConfig
from cpllm_model.training.recipe.loop import train

#: Shares of the training contents, and widths of the encoder's token, of the learning curves.
CONTENT_SHARES = (0.125, 0.25, 0.5, 1.0)
TOKEN_WIDTHS = (64, 128, 256, 512)
#: Name -> fields of a new model's configuration that differ.
PIXEL_ENCODERS: dict[str, dict[str, Any]] = {
    "statistics": {},
    "convolutions": {"pixel_config": {"statistics": False, "fragment_tokens": 3}, "pixel_tokens": 3},
    "convolutions and statistics": {"pixel_config": {"fragment_tokens": 3}, "pixel_tokens": 4},
    "video transformer": {
        "pixel_config": {
            "model_type": "videoprism_vision_model", "hidden_size": 128, "intermediate_size": 384,
            "num_attention_heads": 4, "num_spatial_layers": 4, "num_temporal_layers": 2, "num_frames": 8,
        },
        "pixel_tokens": 4,
    },
}  # fmt: skip
ALL_TASKS = Tasks(distortions=1.0, description=0.2, comparison=0.5)
#: Name -> fields of the configuration that differ, and the weights of the tasks.
DECODERS: dict[str, tuple[dict[str, Any], Tasks]] = {
    "both streams, all tasks": ({}, ALL_TASKS),
    "without context": ({"context_tokens": 0}, ALL_TASKS),
    "without pixels": ({"pixel_tokens": 0}, ALL_TASKS),
    "score alone": ({}, Tasks(distortions=0.0, description=0.0, comparison=0.0)),
}
RESIZED_PX = 288


def main() -> None:
    """Train every variant and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a trained model, whose pixel encoder is taken")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--part", choices=("curves", "pixels", "decoders"), help="run this part alone")
    parser.add_argument("--contents", type=int, default=120, help="to train on; curves take all")
    parser.add_argument("--held-out", type=int, default=40, help="test contents to measure")
    parser.add_argument("--pixel-steps", type=int, default=300)
    parser.add_argument("--decoder-steps", type=int, default=250)
    parser.add_argument("--statistics-steps", type=int, default=600)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    cache = Cache(arguments.cache)
    print("SRCC, same-content pairs, mean AUC of distortions, seconds")
    if arguments.part in (None, "curves"):
        curves(arguments, cache)
    videos = some_contents(read_manifest(arguments.corpus, ("train",)), arguments.contents)
    held_out = some_contents(read_manifest(arguments.corpus, ("test",)), arguments.held_out)
    videos += [replace(video, split="validation") for video in held_out]
    corpus = write_manifest(videos, arguments.work / "corpus.parquet")
    pixel = Stage("pixel", arguments.pixel_steps, "probe", ("pixel_encoder",), contents=10, segments=(1,),
                  versions=4, fragments=2, learning_rate=2e-3, warmup_steps=30)  # fmt: skip
    tasks = Stage("decoder", arguments.decoder_steps, learns=("context_encoder", "projectors", "decoder"), contents=6,
                  versions=4, segments=(1, 2), warmup_steps=30)  # fmt: skip
    run = TrainConfig(arguments.work, (Data(corpus),), cache, (pixel,))
    print(f"{len({video.content_id for video in videos if video.split == 'train'})} contents")
    if arguments.part in (None, "pixels"):
        for name, overrides in PIXEL_ENCODERS.items():
            # A transformer's input has one size, so it sees all fragments.
            stage = replace(pixel, fragments=None) if name == "video transformer" else pixel
            measure(f"pixel encoder: {name}", replace(run, stages=(stage,), model_overrides=overrides))
        whole = replace(run, data=(Data(resized(videos, arguments.work)),))
        both = PIXEL_ENCODERS["convolutions and statistics"]
        measure("pixel encoder: both, of whole frames, resized", replace(whole, model_overrides=both))
    if arguments.part in (None, "decoders"):
        for name, (overrides, weights) in DECODERS.items():
            measure(
                f"decoder: {name}",
                replace(run, stages=(tasks,), model_overrides=overrides, tasks=weights, pixel_encoder=arguments.model),
            )


def curves(arguments: argparse.Namespace, cache: Cache) -> None:
    """Train the probe of statistics on shares of the contents, and at several widths."""
    videos = read_manifest(arguments.corpus, ("train",))
    contents = len({video.content_id for video in videos})
    videos += [replace(video, split="validation") for video in read_manifest(arguments.corpus, ("test",))]
    corpus = write_manifest(videos, arguments.work / "whole.parquet")
    stage = Stage("statistics", arguments.statistics_steps, "probe", ("pixel_encoder",), contents=64, versions=4,
                  segments=(1, 2), fragments=0, learning_rate=2e-3, weight_decay=0.05, ema=0.99)  # fmt: skip
    run = TrainConfig(arguments.work, (Data(corpus),), cache, (stage,))
    for share in CONTENT_SHARES:
        count = round(share * contents)
        measure(f"statistics: {count} contents", replace(run, max_contents=count))
    for width in TOKEN_WIDTHS:
        overrides = {"pixel_config": {"hidden_size": width}}
        measure(f"statistics: tokens of {width}", replace(run, model_overrides=overrides))


def measure(name: str, config: TrainConfig) -> None:
    """Train one variant and print a line."""
    config = replace(config, out=config.out / "".join(mark if mark.isalnum() else "-" for mark in name))
    started = time.monotonic()
    train(config, report=lambda line: None)
    seconds = time.monotonic() - started
    lines = [json.loads(line) for line in (config.out / "train_log.jsonl").read_text().splitlines()]
    found = [line["validation"] for line in lines if "validation" in line][-1]
    shown = "  ".join(f"{found[figure]:.3f}" for figure in ("srcc", "same_content_pairs", "distortion_auc"))
    print(f"{name:42s} {shown}  {seconds:5.0f}", flush=True)


def resized(videos: list[LabelledVideo], work: Path) -> Path:
    """Copy clips resized to the mosaic's size, without further loss, so that fragments cover whole frames."""
    folder = work / "resized"
    folder.mkdir(exist_ok=True)
    copies = []
    for video in videos:
        copy = folder / f"{Path(video.file).name}.mkv"
        if not copy.exists():
            source = ffmpeg.input(video.file).filter("scale", RESIZED_PX, RESIZED_PX, flags="bicubic")
            planes = encode.read_planes(source, RESIZED_PX, RESIZED_PX)
            encode.encode_planes(planes, copy, 25, "x264", 0)
        copies.append(replace(video, file=str(Path("resized") / copy.name)))
    return write_manifest(copies, work / "resized.parquet")


if __name__ == "__main__":
    main()
