"""Print what it costs to see a video by the sampling plan in use, against other ways to as many frames.

Each figure is of a process of its own with one decoding thread: median seconds a video; mean seconds of the processor,
which other load on the machine hardly moves, and which the ratios are of; bytes read (of S3: of bodies); peak resident
memory of the process that decodes, Python and libraries included. The ways by PyAV cut and resize frames as the plan
does; OpenCV and decord hand theirs over as they are, which favours them. These two are no dependencies of the project:
where one cannot be imported, a line says so.
Run: python benchmarks/decode_speed.py [--quick | --full] [--cache DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import boto3
import psutil
from clips import CODECS, FPS, clip
from decode_ways import IN_USE, LIMITS, SETTINGS, WAYS, Way

from cpllm_dagster.catalog.objects import VideoStore
from cpllm_dagster.demo.embedded_s3 import embedded_s3

#: Repeats of a measurement: until there are so many, or so many seconds are spent.
REPEATS, SPENT_S = 5, 5.0
GOAL = 1.5
BUCKET = "cpllm-benchmark"
#: Codec, rows, seconds.
Key = tuple[str, int, int]


def main() -> None:
    """Measure every way on every clip and print a table and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("work/benchmark_clips"), help="folder of the made clips")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="360p and 1080p of two codecs, up to a minute")
    size.add_argument("--full", action="store_true", help="4K in every codec, ten minutes of 1080p and of 4K")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "PLACE"), help=argparse.SUPPRESS)  # in a child
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    short = [(codec, height, 10) for height in (360, 720, 1080) for codec in CODECS] + [("h264", 2160, 10)]
    long = [(codec, 720, seconds) for codec in CODECS for seconds in (60, 600)]
    if arguments.quick:
        short, long = [(c, h, 10) for h in (360, 1080) for c in ("h264", "av1")], [("h264", 1080, 60)]
    elif arguments.full:
        short += [(codec, 2160, 10) for codec in CODECS if codec != "h264"]
        long = [(codec, 1080, seconds) for codec in CODECS for seconds in (60, 600)] + [("h264", 2160, 600)]
    for name, way in WAYS.items():
        if not way.is_installed:
            print(f"Left out, for {way.library} is not installed: {name}")
    print("| clip | from | way | s | processor, s | to the best other | read, MB | of the clip | peak, MB |")
    print("|---|---|---|--:|--:|--:|--:|--:|--:|")
    costs = {key: compare(key, arguments.cache) for key in short + long}
    with embedded_s3() as server:
        os.environ.update(server.environment, NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
        boto3.client("s3", endpoint_url=server.endpoint_url).create_bucket(Bucket=BUCKET)
        first = long[0][:2]
        for key in [(*first, 10), *(key for key in long if key[:2] == first)]:
            compare(key, arguments.cache, server.endpoint_url)
    ratios = [ratio for _, ratio in costs.values()]
    print(f"\nTo the best other way: median x{median(ratios):.2f}, worst x{max(ratios):.2f}; goal x{GOAL}.")
    for stream in dict.fromkeys(key[:2] for key in long):
        at = [(key[2], costs[key][0]) for key in sorted(costs) if key[:2] == stream]
        looks = [SETTINGS.looks(length, length * FPS) for length, _ in at]
        shown = ", ".join(
            f"{length} s with {count} looks in {seconds:.3f} s"
            for (length, seconds), count in zip(at, looks, strict=True)
        )
        print(f"{stream[0]} {stream[1]}p: {shown}; the longest to the one before x{at[-1][1] / at[-2][1]:.2f}.")


def compare(key: Key, cache: Path, endpoint_url: str | None = None) -> tuple[float, float]:
    """Print the rows of one clip, from a file or from S3; give processor seconds of the plan in use, and its ratio."""
    path = clip(cache.resolve(), *key)
    place = str(path)
    if endpoint_url:
        boto3.client("s3", endpoint_url=endpoint_url).upload_file(str(path), BUCKET, f"clips/{path.name}")
        place = f"{endpoint_url} {path.name}"
    ways = {
        name: way
        for name, way in WAYS.items()
        if way.is_installed and (way.takes_file if endpoint_url else way.whole or not way.is_plan)
    }
    found = {name: in_child(name, place) for name in ways}
    best = min(cost["processor_s"] for name, cost in found.items() if not ways[name].is_plan and "seconds" in cost)
    for name, cost in found.items():
        row = f"| {key[0]} {key[1]}p {key[2]} s | {'S3' if endpoint_url else 'file'} | {name} |"
        if "failed" in cost:
            print(f"{row} fails: {cost['failed']} | | | | | |", flush=True)
            continue
        read, share, peak = cost["bytes"] / 1e6, cost["bytes"] / path.stat().st_size, cost["peak_bytes"] / 1e6
        times = f"{cost['seconds']:.3f} | {cost['processor_s']:.3f} | x{cost['processor_s'] / best:.2f}"
        print(f"{row} {times} | {read:.1f} | {share:.0%} | {peak:.0f} |", flush=True)
    return found[IN_USE]["processor_s"], found[IN_USE]["processor_s"] / best


def in_child(name: str, place: str) -> dict[str, Any]:
    """Measure one way in a fresh process."""
    command = [sys.executable, __file__, "--measure", name, place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it died"])[-1]
        return {"failed": last[:60].replace("|", "/")}
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, place: str) -> dict[str, float]:
    """Give median seconds, mean processor seconds and bytes read of a video, and peak memory."""
    way, times, of_one = WAYS[name], [], 0
    with way.prepared() as see:
        opened, bytes_read = source(place, way)
        with opened() as video:
            see(video)
        processes = [psutil.Process(), *psutil.Process().children()]
        spent = processor_s(processes)
        while not times or (len(times) < REPEATS and sum(times) < SPENT_S):
            before, started = bytes_read(), time.perf_counter()
            with opened() as video:
                see(video)
            times.append(time.perf_counter() - started)
            of_one = bytes_read() - before
        spent = (processor_s(processes) - spent) / len(times)
    # The sandbox's process has ended with the block, and was the largest child.
    who = resource.RUSAGE_CHILDREN if "sandboxed" in name else resource.RUSAGE_SELF
    peak_bytes = resource.getrusage(who).ru_maxrss * 1024
    return {"seconds": median(times), "processor_s": spent, "bytes": of_one, "peak_bytes": peak_bytes}


def processor_s(processes: list[psutil.Process]) -> float:
    """Give the seconds of the processor that these have taken."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def source(place: str, way: Way) -> tuple[Callable[[], Any], Callable[[], int]]:
    """Give what opens a video in a `with`, and what tells the bytes that were read so far."""
    if not place.startswith("http"):
        rchar = "/proc/self/io"  # its first line counts what was read from files, not from sockets
        opened = partial(Path(place).open, "rb") if way.takes_file else partial(nullcontext, place)
        return opened, lambda: int(Path(rchar).read_text().split()[1])
    endpoint_url, _, name = place.partition(" ")
    store = VideoStore(f"s3://{BUCKET}", endpoint_url)
    (found,) = [one for one in store.objects("clips") if one.uri.endswith(f"/{name}")]
    bodies: list[int] = []
    client: Any = store._place.client  # pyright: ignore[reportAttributeAccessIssue] (the platform's own client)
    client.meta.events.register("after-call.s3.GetObject", lambda parsed, **_: bodies.append(parsed["ContentLength"]))
    return (
        lambda: store.open(found.uri, found.etag, found.size_bytes, LIMITS, whole=way.whole),
        lambda: sum(bodies),
    )


if __name__ == "__main__":
    main()
