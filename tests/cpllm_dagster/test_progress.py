"""A run says how far it is every half minute, and names what fails."""

from __future__ import annotations

import pytest

from cpllm_dagster.assets.progress import MOST_NAMED, Progress, duration


def run(total: int, seconds_each: float, failing: dict[int, str]) -> tuple[list[str], list[str]]:
    """What a run of so many videos tells, and what it warns of."""
    now = [0.0]
    told: list[str] = []
    warned: list[str] = []
    progress = Progress("fil\nms", total, told.append, warned.append, lambda: now[0])
    for number in range(total):
        now[0] += seconds_each
        progress.add(f"s3://b/{number}.mp4", failing.get(number), "cut\x1b off")
    return told, warned


def test_a_line_every_half_minute() -> None:
    told, warned = run(100, 2.0, {3: "corrupt_video", 4: "too_short", 5: "corrupt_video"})
    assert len(told) == 6
    assert told[0] == (
        r"'fil\nms': 15 of 100 videos, 0.5 a second, 3 failed (2 corrupt_video, 1 too_short), about 2 min 50 s left"
    )
    assert told[-1].startswith(r"'fil\nms': 90 of 100") and told[-1].endswith("about 20 s left")
    assert warned[0] == r"'fil\nms': s3://b/3.mp4 failed: corrupt_video: cut\x1b off" and len(warned) == 3


def test_a_quick_run_tells_nothing_and_a_good_one_says_so() -> None:
    assert run(10, 0.1, {}) == ([], [])
    assert "none failed" in run(2, 40.0, {})[0][0]


def test_not_every_one_of_many_failed_videos_is_a_line() -> None:
    _, warned = run(3 * MOST_NAMED, 0.01, dict.fromkeys(range(3 * MOST_NAMED), "too_short"))
    assert len(warned) == MOST_NAMED + 1 and "further failed videos" in warned[-1]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
