"""Which frames of a video are looked at, and which crops of a frame: pure arithmetic.

Each segment of a video shows a few context frames and one burst of consecutive frames, all from within the
segment, all reached from key frames. Crops ("fragments", after FAST-VQA, arXiv:2207.02595)
lie on a grid over the native-resolution frame and are put together as one mosaic. Knows nothing of files.

Shapes: H, W rows and columns of luma; h, w of 4:2:0 chroma; P fragment side; M mosaic side = grid * P.
Ticks: integer times in any unit that grows with the video (time-base units, or frame numbers).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cpllm_model.decoding.segments import Segment

#: Share of a line in a bar that writing and noise may take up, and of a line of the picture that is not dark.
_WRITING, _PICTURE = 0.02, 0.25
#: Lines over which a picture begins.
_EDGE_LINES = 8
#: Looks at the shortest video, if it has the frames: two tell more than one, and cost little there.
LEAST_LOOKS = 2
#: Cropped is to at least one part of so many of a side.
_LEAST_SHARE = 3


@dataclass(frozen=True)
class SamplingSettings:
    """How much of a video is looked at; part of a model, since its scores depend on it.

    Args:
        look_every_s: seconds of video to a look; each look stands for one segment of time.
        most_looks: looks at most, however long the video is.
        context_frames: whole frames a segment, each resized to a square.
        context_size_px: side of that square.
        burst_frames: consecutive frames a segment, seen through fragments.
        fragment_grid: fragments a side of the mosaic.
        fragment_px: side of one fragment, even.
    """

    look_every_s: float
    most_looks: int
    context_frames: int
    context_size_px: int
    burst_frames: int
    fragment_grid: int
    fragment_px: int

    def __post_init__(self) -> None:
        if not (isinstance(self.look_every_s, (int, float)) and 0 < self.look_every_s < math.inf):
            raise ValueError(f"look_every_s must be a positive number of seconds, got {self.look_every_s!r}")
        for name, value in vars(self).items():
            if name != "look_every_s" and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.fragment_px % 2:
            raise ValueError(f"fragment_px must be even, got {self.fragment_px}")

    @property
    def mosaic_px(self) -> int:
        """Side of the mosaic of fragments."""
        return self.fragment_grid * self.fragment_px

    def looks(self, duration_s: float, frames: int) -> int:
        """How many looks a video gets: by its length, up to the budget, each with frames of its own for a burst.

        Args:
            duration_s: of the video.
            frames: of the video.

        Returns:
            LEAST_LOOKS to `most_looks`, fewer where there are too few frames; 0 if there are fewer than a burst has.
        """
        by_length = round(min(duration_s / self.look_every_s, self.most_looks))
        return min(max(LEAST_LOOKS, by_length), self.most_looks, frames // self.burst_frames)


def fragment_origins(
    height_px: int, width_px: int, grid: int, fragment_px: int, rng: np.random.Generator | None = None
) -> list[tuple[int, int]]:
    """Lay a grid of square fragments over a frame.

    A frame with room for all gives each fragment a cell of its own; over a smaller one they overlap, spread
    evenly. Origins are even, so that luma and 4:2:0 chroma stay aligned.

    Args:
        height_px, width_px: the frame, at least one fragment either way.
        grid: fragments a side.
        fragment_px: side of a fragment, even.
        rng: places each fragment at random in its cell (training); None centres it (inference).

    Returns:
        `grid * grid` pairs (row, column) of top left corners, row-major.

    Raises:
        ValueError: the frame is smaller than a fragment, or `fragment_px` is odd.
    """
    if fragment_px % 2:
        raise ValueError(f"fragment_px must be even, got {fragment_px}")
    if min(height_px, width_px) < fragment_px:
        raise ValueError(f"a {width_px}x{height_px} frame is smaller than a fragment of {fragment_px} px")
    cells = [(row, column) for row in range(grid) for column in range(grid)]
    return [
        (_place(height_px, row, grid, fragment_px, rng), _place(width_px, column, grid, fragment_px, rng))
        for row, column in cells
    ]


def _place(side_px: int, cell: int, grid: int, fragment_px: int, rng: np.random.Generator | None) -> int:
    """Origin along one axis; counted in pairs of pixels, so that it is even."""
    side, fragment = side_px // 2, fragment_px // 2
    if side < grid * fragment:
        return cell * (side - fragment) // (grid - 1) * 2
    first = cell * side // grid
    last = (cell + 1) * side // grid - fragment
    return 2 * ((first + last) // 2 if rng is None else int(rng.integers(first, last + 1)))


@dataclass(frozen=True)
class Window:
    """A part of a frame, in pixels; `top` and `left` are even."""

    top: int
    left: int
    height: int
    width: int


def highest_in_bars(luma_HW: np.ndarray, black: int, tolerance: int) -> int | None:
    """Highest code that bars of a frame have, or None if no outermost line of it can belong to a bar.

    Args:
        luma_HW: luma codes.
        black, tolerance: as for `picture_window`.
    """
    outermost = (luma_HW[0], luma_HW[-1], luma_HW[:, 0], luma_HW[:, -1])
    highest = min(black, int(min(np.median(line) for line in outermost)) + tolerance)
    return highest if any((line > highest).mean() <= _WRITING for line in outermost) else None


def picture_window(lumas: Sequence[np.ndarray], black: int, tolerance: int, least_px: int) -> Window:
    """Find the picture between black bars: above and below it, left and right of it, or on all sides.

    A line (row or column) belongs to a bar if it is near black and flat: all but a fiftieth of its codes lie no more
    than `tolerance` above the bar's level, and that lies below `black`. Behind a bar the picture begins sharply: over
    eight lines, a quarter of the codes or more are brighter. Credits on black and a bright thing in front of a dark
    ground do not begin so, and are not cropped; writing in a bar is cropped with it. Where the picture is too dark
    at one edge to tell, the bar is taken to be as wide as that on the other side, if it is black there. An axis of
    which less than a third or less than `least_px` would be left is not cropped.

    Args:
        lumas: luma codes (H, W) of frames of one size; a bar is one in all of them.
        black: highest code that is near black.
        tolerance: codes that noise may add to a bar's level.
        least_px: side that the picture has at least.

    Returns:
        the picture, its sides even where something was cropped; the whole frame where it has no bars or is all black.
    """
    height, width = lumas[0].shape
    if any(luma.shape != (height, width) for luma in lumas):
        return Window(0, 0, height, width)
    highest = highest_in_bars(lumas[0], black, tolerance)
    if highest is None:
        return Window(0, 0, height, width)
    bright_HW = lumas[0] > highest
    for luma in lumas[1:]:
        bright_HW |= luma > highest
    (top, bottom), (left, right) = (0, height), (0, width)
    for _ in range(2):  # the share of a line that is bright is measured best within the other bars
        columns = slice(left, right)
        top, bottom = _between_bars(bright_HW[:, columns].mean(1), [luma[:, columns] for luma in lumas], least_px)
        rows = slice(top, bottom)
        left, right = _between_bars(bright_HW[rows].mean(0), [luma[rows].T for luma in lumas], least_px)
    return Window(top, left, bottom - top, right - left)


def _between_bars(bright_L: np.ndarray, lumas_LX: list[np.ndarray], least_px: int) -> tuple[int, int]:
    """Half-open interval of the lines between two bars, from the bright share and the codes of each line."""
    lines = len(bright_L)
    before, after = _bar(bright_L, lumas_LX), _bar(bright_L[::-1], [luma[::-1] for luma in lumas_LX])
    is_black = bright_L <= _WRITING
    if before and not after and is_black[lines - before :].all():
        after = before
    elif after and not before and is_black[:after].all():
        before = after
    if not before and not after:
        return 0, lines
    first = before + before % 2
    last = first + (lines - after - first) // 2 * 2
    return (first, last) if last - first >= max(least_px, lines / _LEAST_SHARE) else (0, lines)


def _bar(bright_L: np.ndarray, lumas_LX: list[np.ndarray]) -> int:
    """Lines of the bar at the beginning; 0 if there is none.

    An encoder smears the picture into the bar: it begins where lines become brighter most.
    """
    is_black = bright_L <= _WRITING
    sums = np.concatenate([[0.0], np.cumsum(bright_L)])
    edges = np.flatnonzero(is_black[:-_EDGE_LINES] & ~is_black[1 : 1 - _EDGE_LINES]) + 1
    if not is_black[0]:
        return 0
    for edge in edges:
        if (sums[edge + _EDGE_LINES] - sums[edge]) / _EDGE_LINES >= _PICTURE:
            mean_E = sum(luma[edge - 1 : edge + _EDGE_LINES].mean(1) for luma in lumas_LX)
            return int(edge + np.argmax(np.diff(mean_E)))
        if bright_L[:edge].max() >= _PICTURE:
            break
    return 0


def cut_mosaic(
    y_HW: np.ndarray, u_hw: np.ndarray, v_hw: np.ndarray, origins: list[tuple[int, int]], fragment_px: int
) -> np.ndarray:
    """Cut fragments from the planes of one 4:2:0 frame; nothing else of the frame is copied.

    Args:
        y_HW: luma codes, any integer dtype, any strides.
        u_hw, v_hw: chroma codes of the same dtype, half the size, rounded up.
        origins: what `fragment_origins` gave for this frame.
        fragment_px: side of a fragment, even.

    Returns:
        (3, M, M) of the same dtype: Y, U, V, chroma repeated to the size of luma.
    """
    grid = math.isqrt(len(origins))
    half = fragment_px // 2
    mosaic_3MM = np.empty((3, grid * fragment_px, grid * fragment_px), y_HW.dtype)
    luma = mosaic_3MM[0].reshape(grid, fragment_px, grid, fragment_px)
    chroma = mosaic_3MM[1:].reshape(2, grid, half, 2, grid, half, 2)
    for index, (row, column) in enumerate(origins):
        i, j = divmod(index, grid)
        luma[i, :, j] = y_HW[row : row + fragment_px, column : column + fragment_px]
        rows, columns = slice(row // 2, row // 2 + half), slice(column // 2, column // 2 + half)
        chroma[0, i, :, :, j] = u_hw[rows, columns][:, None, :, None]
        chroma[1, i, :, :, j] = v_hw[rows, columns][:, None, :, None]
    return mosaic_3MM


@dataclass(frozen=True, eq=False)
class Timeline:
    """When a video has frames, and where decoding may begin.

    Args:
        start, end: half-open interval of ticks.
        key_ticks: sorted ticks of key frames; all of them, or those near the times that are asked for.
        frame_period: ticks from frame to frame on average.
        frame_ticks: sorted ticks of every frame, or None where only `frame_period` is known.
    """

    start: int
    end: int
    key_ticks: list[int]
    frame_period: int
    frame_ticks: np.ndarray | None = None

    def nth_frame(self, tick: int, n: int) -> int:
        """Tick of the n-th frame at or after `tick` (0 is the first), exact or estimated; `end` if none."""
        if self.frame_ticks is None:
            return tick + n * self.frame_period
        index = int(np.searchsorted(self.frame_ticks, tick)) + n
        return int(self.frame_ticks[index]) if index < len(self.frame_ticks) else self.end


@dataclass(frozen=True)
class Want:
    """Consecutive frames that a segment shows: the first `frames` at or after `tick`.

    Args:
        segment: index of the segment.
        tick: where they begin.
        frames: how many; a burst, or 1 for a context frame.
        is_burst: whether they are the segment's burst.
        context_picks: which of them are context frames.
    """

    segment: int
    tick: int
    frames: int
    is_burst: bool
    context_picks: tuple[int, ...]


@dataclass(frozen=True)
class SamplingPlan:
    """What to decode.

    Args:
        segments: which part of the video each look stands for.
        runs: key frame to begin at -> what to collect on the way, both in order.
        decodes_on: some burst does not begin on a key frame of its segment.
    """

    segments: list[Segment]
    runs: dict[int, list[Want]]
    decodes_on: bool


def context_ticks(segment: Segment, context_frames: int) -> list[int]:
    """The times a segment's context frames should lie near: centres of equal parts; a single one is at the look."""
    if context_frames == 1:
        return [segment.look]
    a, b = segment.start, segment.end
    return [a + (b - a) * (2 * index + 1) // (2 * context_frames) for index in range(context_frames)]


def plan_sampling(timeline: Timeline, segments: list[Segment], settings: SamplingSettings) -> SamplingPlan:
    """Choose which frames of each segment are looked at, and the key frames they are reached from.

    A burst begins on the key frame nearest the look of its segment that has room for it there; without
    one, on the first frame that the segment allows, reached by decoding on from the key frame before. Context
    frames are the key frames nearest the grid of times; where these are too few, frames that decoding passes
    anyway, and last, frames of the burst.

    Args:
        timeline: of the video.
        segments: that cover it, each with room for a burst.
        settings: how much a segment shows.

    Returns:
        the plan; each segment has one burst and, over all its wants, `context_frames` context picks.
    """
    keys = timeline.key_ticks
    bursts = [_anchor_burst(timeline, segment, settings.burst_frames) for segment in segments]
    reach: dict[int, int] = defaultdict(int)
    for key, tick in bursts:
        reach[key] = max(reach[key], timeline.nth_frame(tick, settings.burst_frames - 1))
    starts = sorted(reach)

    runs: dict[int, list[Want]] = defaultdict(list)
    for number, (segment, (burst_key, burst_tick)) in enumerate(zip(segments, bursts, strict=True)):
        inside = keys[bisect_left(keys, segment.start) : bisect_left(keys, segment.end)]
        chosen, left = _nearest_keys(inside, context_ticks(segment, settings.context_frames))
        for tick in left[:]:
            passing = bisect_right(starts, tick) - 1
            if passing >= 0 and tick <= reach[starts[passing]] and timeline.nth_frame(tick, 0) < segment.end:
                runs[starts[passing]].append(Want(number, tick, 1, False, (0,)))
                left.remove(tick)
        on_burst = burst_tick in chosen
        for key in chosen:
            if key != burst_tick:
                runs[key].append(Want(number, key, 1, False, (0,)))
        picks = _spread(len(left), settings.burst_frames, on_burst)
        runs[burst_key].append(Want(number, burst_tick, settings.burst_frames, True, picks))
    ordered = {key: sorted(runs[key], key=lambda want: (want.tick, want.segment)) for key in sorted(runs)}
    return SamplingPlan(segments, ordered, any(key != tick for key, tick in bursts))


def _anchor_burst(timeline: Timeline, segment: Segment, burst_frames: int) -> tuple[int, int]:
    """The key frame to decode a segment's burst from, and where the burst begins."""
    keys, first, end = timeline.key_ticks, segment.first, segment.end
    inside = keys[bisect_left(keys, first) : bisect_left(keys, end)]
    for key in sorted(inside, key=lambda key: (abs(key - segment.look), key)):
        if timeline.nth_frame(key, burst_frames - 1) < end:
            return key, key
    return keys[max(0, bisect_right(keys, first) - 1)], first


def _nearest_keys(keys: list[int], ticks: list[int]) -> tuple[list[int], list[int]]:
    """Pair each tick with a key frame of its own, nearest pairs first; give these keys and the ticks left."""
    pairs = sorted(
        (abs(key - tick), tick, key)
        for tick in ticks
        for key in sorted(keys, key=lambda key: abs(key - tick))[: len(ticks)]
    )
    chosen: dict[int, int] = {}
    for _, tick, key in pairs:
        if tick not in chosen and key not in chosen.values():
            chosen[tick] = key
    return sorted(chosen.values()), [tick for tick in ticks if tick not in chosen]


def _spread(count: int, frames: int, with_first: bool) -> tuple[int, ...]:
    """Indices of `count` frames spread over a burst, and of its first one too if asked."""
    if with_first:
        return (0, *((index + 1) * (frames - 1) // count for index in range(count)))
    return tuple(index * (frames - 1) // max(count - 1, 1) for index in range(count))
