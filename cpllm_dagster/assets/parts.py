"""Finished rows on their way to a table: kept in parts, so that a broken run loses at most what was in flight."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from cpllm_dagster.lake.tables import Lake

#: Rows by table name.
Rows = dict[str, list[dict[str, Any]]]


class PartKeeper:
    """Gathers rows and keeps them in the lake every so many items or seconds, and at the end of its `with` block.

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

    def add(self, rows: Rows) -> bool:
        """Take the rows of one more item, and tell whether a part was kept now."""
        self._waiting.append(rows)
        due = len(self._waiting) >= self._items or time.monotonic() - self._kept_at >= self._interval_s
        if due:
            self.keep()
        return due

    def keep(self) -> None:
        """Keep what waits in one part."""
        waiting, self._waiting = self._waiting, []
        self._kept_at = time.monotonic()
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
        self.keep()
