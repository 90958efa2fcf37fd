"""Tables that may be larger than memory: they lie on the local disk, mapped, and rows are taken from them in groups.

In: Arrow tables piece by piece. Out: one table whose columns are mapped from a file without a name, which is gone when
the table is. Visual tokens need it: 12 kB a video from a tiny model, hundreds from a large one. The files lie in
TMPDIR, or else in /var/tmp, since /tmp is memory on many machines. Knows nothing of what a table holds.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from cpllm_dagster.lake.storage import translated
from cpllm_model.errors import LakeError

#: Rows that are in memory at once.
ROWS_AT_ONCE = 256


def is_large(schema: pa.Schema) -> bool:
    """Tell whether tables with these columns are to be kept on disk: one is of large binary values."""
    return any(pa.types.is_large_binary(field.type) for field in schema)


class Spool:
    """Tables put one after the other on the local disk; a context manager.

    Args:
        schema: columns of all.

    Raises:
        LakeError: here or in any method: the disk is full, or there is no folder to write to.
    """

    def __init__(self, schema: pa.Schema) -> None:
        fallback = "/var/tmp" if Path("/var/tmp").is_dir() else tempfile.gettempdir()  # noqa: S108
        self._folder = os.environ.get("TMPDIR") or fallback
        if not Path(self._folder).is_dir():
            raise LakeError(f"{self._folder}: there is no such folder for temporary files; TMPDIR may name another")
        with translated(self._folder):
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._sink = pa.ipc.new_file(self._file, schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with translated(self._folder):  # what could not be written before is tried again
            self._file.close()

    def add(self, table: pa.Table) -> None:
        """Put a table behind those that are there."""
        with translated(self._folder):
            self._sink.write_table(table)

    def table(self) -> pa.Table:
        """End the spool; give all as one table, mapped from the disk, which lasts as long as the table does."""
        with translated(self._folder):
            self._sink.close()
            self._file.flush()
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()


def spooled(schema: pa.Schema, pieces: Iterable[pa.Table]) -> pa.Table:
    """Put tables with these columns, taken one at a time, on the local disk, and give them as one table."""
    with Spool(schema) as spool:
        for piece in pieces:
            spool.add(piece)
        return spool.table()


def taken(table: pa.Table, rows_N: np.ndarray) -> pa.Table:
    """Give rows by their numbers, in that order; of a large table on disk."""
    if not is_large(table.schema):
        return table.take(pa.array(rows_N))
    return spooled(table.schema, _gathered(table, rows_N))


def _gathered(table: pa.Table, rows_N: np.ndarray) -> Iterator[pa.Table]:
    batches = table.to_batches()
    start_B = np.cumsum([0, *map(len, batches)])
    for first in range(0, len(rows_N), ROWS_AT_ONCE):
        rows = rows_N[first : first + ROWS_AT_ONCE]
        batch = np.searchsorted(start_B, rows, side="right") - 1
        # Neighbours come in one slice.
        ends = np.flatnonzero((np.diff(rows) != 1) | (np.diff(batch) != 0)) + 1
        runs = pairwise([0, *ends.tolist(), len(rows)])
        slices = [batches[batch[a]].slice(rows[a] - start_B[batch[a]], b - a) for a, b in runs]
        yield pa.Table.from_batches(slices).combine_chunks()
