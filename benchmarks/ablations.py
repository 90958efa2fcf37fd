"""Print what each part of the design is worth: small trainings that differ from a run in one thing.

The encoders are those of a trained model and stay frozen, so that a variant costs minutes; each has equally many steps
and one seed. Figures are of the validation contents of the run's data sets.
Run: python benchmarks/ablations.py configs/tiny.yaml --model work/tiny/model --work work/ablations [--steps 300]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpllm_model.training.recipe.config import Tasks, TrainConfig
from cpllm_model.training.recipe.loop import train

#: Name -> fields of the configuration that differ, and the weights of the tasks; None is the run's.
VARIANTS: dict[str, tuple[dict[str, Any], Tasks | None]] = {
    "both encoders, all tasks": ({}, None),
    "without context": ({"context_tokens": 0}, None),
    "without pixels": ({"pixel_tokens": 0}, None),
    "score alone": ({}, Tasks(distortions=0.0, scene=0.0, description=0.0, comparison=0.0)),
    "without comparison": ({}, Tasks(distortions=1.0, comparison=0.0)),
}


def main() -> None:
    """Train every variant and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="a trained model, whose encoders are taken")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--contents", type=int, help="train on so many contents of each data set only")
    arguments = parser.parse_args()
    run = TrainConfig.from_yaml(arguments.config)
    stage = replace(run.stages[-1], steps=arguments.steps, warmup_steps=arguments.steps // 10, validate_every=None)
    for name, (overrides, tasks) in VARIANTS.items():
        folder = arguments.work / "".join(mark if mark.isalnum() else "-" for mark in name)
        variant = replace(
            run, out=folder, stages=(stage,), vision_weights=str(arguments.model), tasks=tasks or run.tasks,
            model_overrides=run.model_overrides | overrides, max_contents=arguments.contents,
        )  # fmt: skip
        started = time.monotonic()
        train(variant, report=lambda line: None)
        lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
        found = [line["validation"] for line in lines if "validation" in line][-1]
        shown = ", ".join(f"{figure} {value:.3f}" for figure, value in found.items())
        print(f"{name}: {shown}; {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
