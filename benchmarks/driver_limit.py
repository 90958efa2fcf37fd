"""Print how many videos a second the supervisor of a run can supervise: its workers do nothing at all.

Every call goes to a real actor of a real local Ray and comes back; what is measured is the loop that feeds and
collects. A library whose workers are faster than this is to be spread over several runs.
Run: python benchmarks/driver_limit.py [--videos 5000] [--workers 2 8 32]
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

import ray
import ray.cloudpickle

from cpllm_dagster.batch import supervisor
from cpllm_dagster.batch.supervisor import BatchSettings, VideoItem, score_videos
from cpllm_dagster.batch.workers import DecodeReport, DecodeWorker, ModelWorker, VideoAnswer
from cpllm_dagster.catalog.objects import VideoStore
from cpllm_model.decoding.samples import DecodeLimits


class IdleDecodeWorker(DecodeWorker):
    """Decodes nothing."""

    def prepare(self) -> None:
        """Start nothing."""

    def decode(self, item: VideoItem) -> tuple[DecodeReport, Any]:
        """Answer at once."""
        return DecodeReport(None, "keyframe", 0, 0.0), None


class IdleModelWorker(ModelWorker):
    """Answers nothing."""

    def prepare(self) -> None:
        """Load nothing."""

    def score(self, *samples: Any) -> list[VideoAnswer]:
        """Answer at once."""
        empty: Any = None
        return [VideoAnswer(empty, empty, empty, 0.0) for _ in samples]


def main() -> None:
    """Time runs of idle workers, by their number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=5000)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 8, 32])
    arguments = parser.parse_args()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    supervisor.DecodeWorker, supervisor.ModelWorker = IdleDecodeWorker, IdleModelWorker
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    items = [VideoItem(str(number), f"file:///{number}", "1", 1) for number in range(arguments.videos)]
    store = VideoStore(str(Path.cwd()))
    print("| decode workers | batch | videos/s |\n|--:|--:|--:|")
    for workers in arguments.workers:
        settings = BatchSettings(
            decode_workers=workers, model_workers=2, decode_cpus=0.01, model_cpus=0.01, model_gpus=0.0, batch_size=16
        )
        results = score_videos(items, store=store, model="tiny", settings=settings, limits=DecodeLimits())
        next(results)  # the workers are there
        started = time.monotonic()
        count = sum(1 for _ in results)
        print(f"| {workers} | 16 | {count / (time.monotonic() - started):.0f} |", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
