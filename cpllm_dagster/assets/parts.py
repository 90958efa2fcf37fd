"""Finished rows on their way to a table: kept in parts, so that a broken run loses at most what was in flight."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from cpllm_dagster.lake.tables import Lake

#: Rows by table name.
Rows = dict[str, list[dict[str, Any]]]
#: While a part is being written so many times the items of one may gather; then who adds more waits.
MOST_GATHERED = 8


class PartKeeper:
    """Gathers rows and keeps them in the lake every so many items or seconds, and at the end of its `with` block.

    Parts are written beside the work that makes the rows: what comes meanwhile gathers for the next part.

    Args:
        lake: where the parts go.
        library: the library's true name.
        name: what names the parts: the model, or the step of work.
        items: items after which a part is kept.
        interval_s: seconds after which a part is kept.
    """

    def __init__(self, lake: Lake, library: str, name: str, items: int, interval_s: float) -> None:
        self._lake, self._library, self._name = lake, library, name
        self._items, self._interval_s = items, interval_s
        self._waiting: list[Rows] = []
        self._kept_at = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parts")
        self._writing: Future[None] | None = None

    def add(self, rows: Rows) -> None:
        """Take the rows of one more item.

        Raises:
            LakeError: the part before could not be written.
        """
        self._waiting.append(rows)
        due = len(self._waiting) >= self._items or time.monotonic() - self._kept_at >= self._interval_s
        if due and (self._is_idle or len(self._waiting) >= MOST_GATHERED * self._items):
            self._end_writing()
            self._writing = self._thread.submit(self._write, self._taken())

    @property
    def _is_idle(self) -> bool:
        return self._writing is None or self._writing.done()

    def _end_writing(self) -> None:
        """Wait for the part that is being written; raises what that raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _taken(self) -> list[Rows]:
        taken, self._waiting = self._waiting, []
        self._kept_at = time.monotonic()
        return taken

    def _write(self, waiting: list[Rows]) -> None:
        part: Rows = {}
        for rows in waiting:
            for table_name, table_rows in rows.items():
                part.setdefault(table_name, []).extend(table_rows)
        if part:
            self._lake.append_part(self._library, self._name, part)

    def __enter__(self) -> PartKeeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._thread:
            try:
                self._end_writing()
            finally:
                self._write(self._taken())
