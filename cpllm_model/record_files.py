"""Answers in a file, as they come: CSV, JSON lines, or Parquet.

In: one record a video, plain values. Out: a file that is complete at the end, also where the work was interrupted: what
is written stays. Knows nothing of models.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpllm_model.errors import ConfigurationError

Record = dict[str, Any]


@contextmanager
def record_file(path: Path) -> Iterator[Callable[[Record], None]]:
    """Open a file for records; its ending decides the format.

    Args:
        path: ends in .csv, .jsonl or .parquet; a file that is there is replaced.

    Yields:
        what takes the next record.

    Raises:
        ConfigurationError: another ending, a folder that is not there, or a package that is not installed.
    """
    writer = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}.get(path.suffix.lower())
    if writer is None:
        raise ConfigurationError(f"{path}: the name must end in .csv, .jsonl or .parquet")
    if not path.parent.is_dir():
        raise ConfigurationError(f"{path}: there is no folder {path.parent}")
    with writer(path) as put:
        yield put


@contextmanager
def _csv(path: Path) -> Iterator[Callable[[Record], None]]:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        rows: list[csv.DictWriter] = []

        def put(record: Record) -> None:
            if not rows:
                rows.append(csv.DictWriter(file, list(record), extrasaction="ignore"))
                rows[0].writeheader()
            flat = {name: json.dumps(v) if isinstance(v, list | tuple | dict) else v for name, v in record.items()}
            rows[0].writerow(flat)
            file.flush()

        yield put


@contextmanager
def _json_lines(path: Path) -> Iterator[Callable[[Record], None]]:
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:

        def put(record: Record) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        yield put


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[Record], None]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigurationError(f"{path}: Parquet needs pyarrow: pip install 'cpllm[platform]'") from None
    records: list[Record] = []
    try:
        yield records.append
    finally:
        # Columns of a Parquet file have types, which follow from all records together.
        pq.write_table(pa.Table.from_pylist(records), path, compression="zstd")
