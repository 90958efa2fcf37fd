"""Print how many videos the platform scores in a second, against one bare loop over the same videos.

Every figure is of a process of its own, from its start to its end, over clips in an embedded S3 server: a bare loop
(fetch, decode, score and describe, one video after the other), the same work over Ray with 1, 2 and 4 workers of each
kind, and that within a Dagster run (which probes the videos, too, and publishes tables). Start-up is what passes until
the first result is there; it is counted, and shown apart. Seconds of the processor are of all processes but the S3
server, and other load on the machine hardly moves them; a Dagster run's are not known, for its Ray has ended by then.
One worker of each kind is also measured on one core alone, as two on two cores would be twice that.
Run: python benchmarks/platform_speed.py [--videos 200] [--cache DIR] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import psutil
from clips import clip

from cpllm_dagster.batch.supervisor import BatchSettings, VideoItem, score_videos
from cpllm_dagster.catalog.objects import VideoStore
from cpllm_dagster.demo.embedded_s3 import embedded_s3
from cpllm_model.decoding.samples import DecodeLimits

BUCKET, LIBRARY = "cpllm-benchmark", "clips"
#: The library repeats these: codec, rows, scene; each of ten seconds.
CLIPS = [(codec, height, scene) for scene in (0, 1) for codec in ("h264", "hevc") for height in (720, 1080)]
BARE, ONE_CORE = "bare loop", "Ray, 1 worker, on one core"
GOAL_WORKERS, GOAL_BARE = 1.8, 1.15


def main() -> None:
    """Run every variant on the same library and print a table and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("work/benchmark_clips"), help="folder of the made clips")
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--measure", nargs=3, metavar=("VARIANT", "ENDPOINT", "STARTED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, endpoint_url, started = arguments.measure
        print(json.dumps(measure(name, endpoint_url, float(started))))
        return
    paths = [clip(arguments.cache.resolve(), codec, height, 10, scene) for codec, height, scene in CLIPS]
    found = {}
    with embedded_s3() as server:
        os.environ.update(server.environment, NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
        client = boto3.client("s3", endpoint_url=server.endpoint_url)
        client.create_bucket(Bucket=BUCKET)
        for number in range(arguments.videos):
            path = paths[number % len(paths)]
            client.upload_file(str(path), BUCKET, f"{LIBRARY}/{number:05d}{path.suffix}")
        print(f"{arguments.videos} videos of 10 s, {os.cpu_count()} cores")
        print("| variant | in all, s | to the bare loop | start-up, s | videos/s after it | processor, s |")
        print("|---|--:|--:|--:|--:|--:|")
        for name in arguments.only:
            command = [sys.executable, __file__, "--measure", name, server.endpoint_url, str(time.time())]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[name] = one = json.loads(done.stdout.splitlines()[-1])
            ratio = one["total_s"] / found[BARE]["total_s"] if BARE in found else float("nan")
            times = f"{one['total_s']:.1f} | x{ratio:.2f} | {one['start_s']:.1f} | {one['videos_per_s']:.2f}"
            print(f"| {name} | {times} | {one['processor_s']:.1f} |", flush=True)
    print()
    rate = {name: one["videos_per_s"] for name, one in found.items()}
    for one, two in ((ONE_CORE, "Ray, 2 workers"), ("Ray, 1 worker", "Ray, 2 workers")):
        if one in rate and two in rate:
            print(f"{two} to {one}: x{rate[two] / rate[one]:.2f} (goal on two cores, both busy: x{GOAL_WORKERS})")
    usual = "Dagster and Ray, 2 workers"
    if usual in found and BARE in found:
        ratio = found[usual]["total_s"] / found[BARE]["total_s"]
        print(f"{usual}, to the bare loop: x{ratio:.2f} (goal over 200 videos: x{GOAL_BARE})")


def measure(name: str, endpoint_url: str, started: float) -> dict[str, float]:
    """Run one variant in this process; `started` is when it was launched."""
    store = VideoStore(f"s3://{BUCKET}", endpoint_url)
    ends = sorted(VARIANTS[name](store))
    first, last, now = ends[0], ends[-1], time.time()
    at_once = sum(end - first < 1e-3 for end in ends)  # a batch's results come together
    return {
        "total_s": now - started,
        "start_s": first - started,
        "videos_per_s": (len(ends) - at_once) / max(last - first, 1e-9),
        "processor_s": math.nan if name.startswith("Dagster") else processor_s(),
    }


def bare(store: VideoStore) -> Iterator[float]:
    """Score videos one after the other, as a short script would; give the time at which each was done."""
    from cpllm_model.decoding import video
    from cpllm_model.predictor import QualityPredictor

    predictor = QualityPredictor.from_pretrained("tiny")
    for item in items(store):
        with store.open(item.uri, item.etag, item.size_bytes, DecodeLimits()) as file:
            tokens = predictor.encode([video.decode(file, item.uri, predictor.sampling)])
        predictor.rate(tokens)
        predictor.describe_viewed(tokens)
        yield time.time()


def on_ray(workers: int, cores: int | None = None) -> Callable[[VideoStore], Iterator[float]]:
    """Make a variant: so many workers of each kind, on so many cores."""

    def run(store: VideoStore) -> Iterator[float]:
        from cpllm_dagster.resources import BatchRay

        if cores:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        BatchRay(address="local").connect(None)
        for result in score_videos(
            items(store), store=store, model="tiny", settings=settings(workers), limits=DecodeLimits()
        ):
            if result.error:
                raise result.error
            yield time.time()

    return run


def in_dagster(workers: int) -> Callable[[VideoStore], list[float]]:
    """Make a variant: catalogue and scores materialized by a run of Dagster."""

    def run(store: VideoStore) -> list[float]:
        import dagster as dg

        from cpllm_dagster.automation import PARTITION_SET, score_library
        from cpllm_dagster.definitions import Settings, build_definitions
        from cpllm_dagster.demo.commands import dagster_home
        from cpllm_dagster.lake.tables import Lake

        with tempfile.TemporaryDirectory() as work:
            lake = str(Path(work) / "lake")
            definitions = build_definitions(Settings(store.uri, lake, "tiny", store.endpoint_url, "local"))
            knobs = {name: getattr(settings(workers), name) for name in ("decode_workers", "model_workers")}
            knobs |= {name: getattr(settings(workers), name) for name in ("decode_cpus", "model_cpus")}
            config = {
                "ops": {"quality": {"config": knobs}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            }
            with dg.DagsterInstance.from_config(str(dagster_home(Path(work)))) as instance:
                instance.add_dynamic_partitions(PARTITION_SET, [LIBRARY])
                definitions.resolve_job_def(score_library.name).execute_in_process(
                    partition_key=LIBRARY,
                    instance=instance,
                    run_config=config,
                    asset_selection=[dg.AssetKey(name) for name in ("video_catalog", *SCORING)],
                )
            table = Lake(lake).read("scores", LIBRARY)
        rows = table.to_pylist() if table else []
        if not rows or any(row["status"] != "ok" for row in rows):
            raise ValueError("a video failed")
        return [row["scored_at"].timestamp() for row in rows]

    return run


SCORING = ("visual_features", "quality_descriptions", "quality_scores", "score_history", "nights")


def processor_s() -> float:
    """Give the seconds of the processor that this process and its descendants have taken, ended ones included."""
    this, spent = psutil.Process(), 0.0
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            spent += sum(process.cpu_times()[:4])  # user and system, its own and of children that have ended
    return spent


def items(store: VideoStore) -> list[VideoItem]:
    """List the library."""
    return [VideoItem(one.uri, one.uri, one.etag, one.size_bytes) for one in store.objects(LIBRARY)]


def settings(workers: int) -> BatchSettings:
    """Give so many workers of each kind room on this machine, however many cores it has."""
    share = 0.9 * (os.cpu_count() or 1) / (2 * workers)
    share = min(share, 0.9)  # a model worker runs as many threads as whole cores that it reserves
    return BatchSettings(decode_workers=workers, model_workers=workers, decode_cpus=share, model_cpus=share)


VARIANTS: dict[str, Callable[[VideoStore], Any]] = {
    BARE: bare,
    ONE_CORE: on_ray(1, cores=1),
    "Ray, 1 worker": on_ray(1),
    "Ray, 2 workers": on_ray(2),
    "Ray, 4 workers": on_ray(4),
    "Dagster and Ray, 1 worker": in_dagster(1),
    "Dagster and Ray, 2 workers": in_dagster(2),
    "Dagster and Ray, 4 workers": in_dagster(4),
}

if __name__ == "__main__":
    main()
