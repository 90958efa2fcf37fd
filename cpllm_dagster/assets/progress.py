"""How far a run is: a line every half minute, and failed videos by name.

In: finished videos, one at a time. Out: lines for the run's log. Knows nothing of what is done with a video.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from cpllm_dagster.report.tables import plain

INTERVAL_S = 30.0
#: Each line of a run's log is a row in Dagster's database: beyond this number, failed videos are only counted.
MOST_NAMED = 100


class Progress:
    """Counts finished videos and says how far they are.

    Args:
        library: the library's true name.
        total: videos to score.
        tell: takes a line.
        warn: takes a line on a failed video.
        clock: gives seconds.
    """

    def __init__(
        self,
        library: str,
        total: int,
        tell: Callable[[str], object],
        warn: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._library, self._total = library, total
        self._tell, self._warn, self._clock = tell, warn, clock
        self._started = self._told_at = clock()
        self._done = 0
        self._failures: Counter[str] = Counter()

    def add(self, uri: str, error_type: str | None, cause: str | None = None) -> None:
        """Count a finished video, name it if it has failed, and tell how far the run is when that is due."""
        self._done += 1
        if error_type is not None:
            self._failures[error_type] += 1
            failed = self._failures.total()
            if failed <= MOST_NAMED:
                self._warn(f"{self._library!r}: {plain(uri)} failed: {error_type}: {plain(cause)}")
            if failed == MOST_NAMED:
                self._warn(f"{self._library!r}: further failed videos are not named here; the table scores has them")
        if self._clock() - self._told_at >= INTERVAL_S:
            self._told_at = self._clock()
            self._tell(self.line())

    def line(self) -> str:
        """Say what is done of how much, how fast, what has failed and how long the rest will take."""
        elapsed_s = self._clock() - self._started
        per_s = self._done / elapsed_s if elapsed_s > 0 else 0.0
        left = f"about {duration((self._total - self._done) / per_s)} left" if per_s else "time left unknown"
        counted = ", ".join(f"{count} {name}" for name, count in self._failures.most_common())
        failed = f"{self._failures.total()} failed ({counted})" if counted else "none failed"
        return f"{self._library!r}: {self._done} of {self._total} videos, {per_s:.2g} a second, {failed}, {left}"


def duration(seconds: float) -> str:
    """Give a time in words, to two units: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
