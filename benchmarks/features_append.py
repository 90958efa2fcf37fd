"""Print what one new video costs in a library's table of visual tokens: seconds, and bytes that are written and read.

The library is made up; its tokens do not compress. `--delta` does the same with Delta Lake (pip install deltalake).
Run: python benchmarks/features_append.py [--videos 10000 100000 1000000] [--token-bytes 1500] [--delta]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from made_up_library import catalog_rows, score_rows, token_rows

from cpllm_dagster.lake.append_only import VERSION
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.spool import spooled
from cpllm_dagster.lake.tables import Lake

MODEL, LIBRARY = "tiny-000000000000", "films"


class Meter:
    """Prints a row a step: seconds on the clock and of the processor, megabytes written in a folder and read at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        print("| step | clock, s | CPU, s | written, MB | read, MB | files |\n|---|--:|--:|--:|--:|--:|")

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        before, read = self._files(), _read_bytes()
        started, cpu = time.perf_counter(), time.process_time()
        yield
        clock_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        after = self._files()
        written = sum(size for file, size in after.items() if file not in before)
        cells = f"{clock_s:.2f} | {cpu_s:.2f} | {written / 1e6:.2f} | {(_read_bytes() - read) / 1e6:.1f} | {len(after)}"
        print(f"| {step} | {cells} |", flush=True)

    def _files(self) -> dict[tuple[str, int, int], int]:
        stats = [(path, path.stat()) for path in self._folder.rglob("*") if path.is_file()]
        return {(str(path), stat.st_ino, stat.st_mtime_ns): stat.st_size for path, stat in stats}


def _read_bytes() -> int:
    """Give the bytes that this process has read by system calls, of the disk or of its cache."""
    fields = Path("/proc/self/io").read_text().split()
    return int(fields[fields.index("rchar:") + 1])


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--token-bytes", type=int, default=1500)
    parser.add_argument("--delta", action="store_true")
    arguments = parser.parse_args()
    for count in arguments.videos:
        catalog = catalog_rows(count + 2).sort_by("video_id")
        rows = spooled(
            SCHEMAS["features"], token_rows(score_rows(catalog, np.zeros(count + 2), MODEL), arguments.token_bytes)
        )
        folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
        print(f"\n{count:,} videos of {arguments.token_bytes} bytes", file=sys.stderr)
        try:
            (measure_delta if arguments.delta else measure)(folder, rows)
        finally:
            shutil.rmtree(folder)


def measure(folder: Path, rows: pa.Table) -> None:
    """Publish all but two, add one, let one go, read the tokens of twenty."""
    lake, meter, count = Lake(str(folder)), Meter(folder), len(rows) - 2

    def update(fresh: pa.Table, holding: pa.Table) -> None:
        lake.update("features", LIBRARY, fresh, holding.select(VERSION), run_id="r", model_id=MODEL)

    with meter("publish all"):
        update(rows.slice(0, count), rows.slice(0, count))
    for number in (1, 2):
        with meter("which versions there are"):
            view = lake.view("features", LIBRARY)
            assert view is not None and len(view.versions) == count + number - 1
        with meter("add a video"):
            update(rows.slice(count + number - 1, 1), rows.slice(0, count + number))
    with meter("let a video go"):
        update(rows.slice(0, 0), rows.slice(1))
    view = lake.view("features", LIBRARY)
    assert view is not None
    with meter("read the tokens of 20"):
        assert len(view.rows(np.linspace(0, count - 1, 20, dtype=np.int64))) == 20


def measure_delta(folder: Path, rows: pa.Table) -> None:
    """Do the same by Delta Lake, but for reading single rows, for which it has no way without an engine."""
    from deltalake import DeltaTable, write_deltalake  # pyright: ignore[reportMissingImports]

    meter, count = Meter(folder), len(rows) - 2
    with meter("publish all"):
        write_deltalake(folder, rows.slice(0, count))
    for number in (1, 2):
        with meter("which versions there are"):
            found = DeltaTable(folder).to_pyarrow_dataset().to_table(VERSION)
            assert len(found) == count + number - 1
        with meter("add a video"):
            write_deltalake(folder, rows.slice(count + number - 1, 1), mode="append")
    with meter("let a video go"):
        DeltaTable(folder).delete(f"video_id = '{rows['video_id'][0]}'")


if __name__ == "__main__":
    main()
