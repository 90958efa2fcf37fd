"""Properties of the sampling arithmetic."""

import itertools
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cpllm_model.decoding.sampling import (
    SamplingSettings,
    Timeline,
    Window,
    context_ticks,
    cut_mosaic,
    fragment_origins,
    picture_window,
    plan_sampling,
)
from cpllm_model.decoding.segments import Segment, segment_bounds

#: No deadline: machines that share their cores would fail at random.
properties = hypothesis.settings(deadline=None, max_examples=50)
sides = st.integers(32, 3000)
grids = st.integers(1, 9)
seeds = st.one_of(st.none(), st.integers(0, 2**32))


def settings(**changed: Any) -> SamplingSettings:
    values: dict[str, Any] = {
        "look_every_s": 1.0,
        "most_looks": 4,
        "context_frames": 3,
        "context_size_px": 48,
        "burst_frames": 6,
        "fragment_grid": 2,
        "fragment_px": 32,
    }
    return SamplingSettings(**(values | changed))


@properties
@given(height=sides, width=sides, grid=grids, seed=seeds)
def test_fragments_lie_inside_the_frame_on_even_pixels_in_order(height, width, grid, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    origins = fragment_origins(height, width, grid, 32, rng)
    assert len(origins) == grid * grid
    for row, column in origins:
        assert row % 2 == column % 2 == 0
        assert 0 <= row <= height - 32 and 0 <= column <= width - 32
    rows = np.array(origins).reshape(grid, grid, 2)
    assert (np.diff(rows[:, :, 0], axis=0) >= 0).all() and (np.diff(rows[:, :, 1], axis=1) >= 0).all()


@properties
@given(height=sides, width=sides, grid=grids, seed=seeds)
def test_fragments_do_not_overlap_where_there_is_room(height, width, grid, seed):
    assume(min(height, width) // 2 >= grid * 16)
    rng = None if seed is None else np.random.default_rng(seed)
    covered = np.zeros((height, width), int)
    for row, column in fragment_origins(height, width, grid, 32, rng):
        covered[row : row + 32, column : column + 32] += 1
    assert covered.max() == 1


def test_fragments_are_centred_without_a_generator_and_spread_to_the_edges_of_a_small_frame():
    assert fragment_origins(96, 160, 1, 32) == [(32, 64)]
    assert fragment_origins(40, 64, 2, 32) == [(0, 0), (0, 32), (8, 0), (8, 32)]
    with pytest.raises(ValueError, match="31"):
        fragment_origins(31, 500, 2, 32)


@properties
@given(height=st.integers(32, 90), width=st.integers(32, 90), grid=st.integers(1, 3), seed=seeds)
def test_mosaic_holds_the_fragments_with_chroma_aligned(height, width, grid, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 1 << 10, (height, width), dtype=np.uint16)
    u, v = rng.integers(0, 1 << 10, (2, (height + 1) // 2, (width + 1) // 2), dtype=np.uint16)
    origins = fragment_origins(height, width, grid, 32, rng)
    mosaic = cut_mosaic(y, u, v, origins, 32)
    assert mosaic.dtype == np.uint16 and mosaic.shape == (3, grid * 32, grid * 32)
    for index, (row, column) in enumerate(origins):
        i, j = divmod(index, grid)
        fragment = mosaic[:, i * 32 : i * 32 + 32, j * 32 : j * 32 + 32]
        full = [plane.repeat(2, 0).repeat(2, 1)[row : row + 32, column : column + 32] for plane in (u, v)]
        np.testing.assert_array_equal(fragment, [y[row : row + 32, column : column + 32], *full])


@properties
@given(start=st.integers(-1000, 1000), length=st.integers(1, 10**9), segments=st.integers(1, 20))
def test_segments_are_half_open_and_equal_within_a_tick(start, length, segments):
    bounds = segment_bounds(start, start + length, segments)
    assert bounds[0][0] == start and bounds[-1][1] == start + length
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    lengths = [b - a for a, b in bounds]
    assert max(lengths) - min(lengths) <= 1
    for a, b in bounds:
        assert b - a < 20 or all(a <= tick < b for tick in context_ticks(segment(a, b), 3))


def segment(a, b):
    return Segment(a, b, a, (a + b) // 2)


def even(timeline, segments):
    return [segment(a, b) for a, b in segment_bounds(timeline.start, timeline.end, segments)]


@st.composite
def timelines(draw) -> Timeline:
    """Frames at uneven times, some of them key frames, the first among them."""
    gaps = draw(st.lists(st.integers(1, 50), min_size=6, max_size=200))
    frames = np.cumsum([0, *gaps]) + draw(st.integers(-100, 100))
    keys = {int(frames[0])} | {int(tick) for tick in draw(st.lists(st.sampled_from(list(frames)), max_size=20))}
    period = max(1, int(frames[-1] - frames[0]) // (len(frames) - 1))
    return Timeline(int(frames[0]), int(frames[-1]) + period, sorted(keys), period, frames)


@properties
@given(timeline=timelines(), segments=st.integers(1, 5), context_frames=st.integers(1, 4))
def test_every_segment_shows_its_own_frames_and_all_it_should(timeline, segments, context_frames):
    chosen = settings(most_looks=segments, context_frames=context_frames)
    bounds = even(timeline, segments)
    assume(all(timeline.nth_frame(one.first, chosen.burst_frames - 1) < one.end for one in bounds))
    plan = plan_sampling(timeline, bounds, chosen)
    assert plan.segments == bounds
    assert list(plan.runs) == sorted(plan.runs) and set(plan.runs) <= set(timeline.key_ticks)

    bursts, contexts = [0] * segments, [0] * segments
    for key, wants in plan.runs.items():
        for want in wants:
            a, b = bounds[want.segment].start, bounds[want.segment].end
            last = timeline.nth_frame(want.tick, want.frames - 1)
            assert key <= want.tick and a <= want.tick and last < b
            bursts[want.segment] += want.is_burst
            contexts[want.segment] += len(want.context_picks)
            assert want.frames == (chosen.burst_frames if want.is_burst else 1)
            assert all(0 <= pick < want.frames for pick in want.context_picks)
    assert bursts == [1] * segments and contexts == [context_frames] * segments


def test_enough_key_frames_are_used_as_they_are():
    frames = np.arange(0, 400)
    timeline = Timeline(0, 400, list(range(0, 400, 10)), 1, frames)
    plan = plan_sampling(timeline, even(timeline, 4), settings())
    assert not plan.decodes_on
    assert all(want.tick == key for key, wants in plan.runs.items() for want in wants)
    middle = [want.tick for wants in plan.runs.values() for want in wants if want.is_burst]
    assert middle == [50, 150, 250, 350]


def test_decoding_on_passes_context_frames_for_nothing():
    timeline = Timeline(0, 400, [0], 1)
    plan = plan_sampling(timeline, even(timeline, 4), settings())
    assert plan.decodes_on and list(plan.runs) == [0]
    assert [want.tick for want in plan.runs[0] if want.is_burst] == [0, 100, 200, 300]
    passed = [want.tick for want in plan.runs[0] if not want.is_burst]
    assert passed == [50, 83, 116, 150, 183, 216, 250, 283]
    last = next(want for want in plan.runs[0] if want.is_burst and want.segment == 3)
    assert len(last.context_picks) == 3


@pytest.mark.parametrize(
    "changed", [{"most_looks": 0}, {"look_every_s": 0.0}, {"fragment_px": 31}, {"burst_frames": -1}]
)
def test_settings_refuse_nonsense(changed):
    with pytest.raises(ValueError, match=next(iter(changed))):
        settings(**changed)


def test_mosaic_side_follows_from_the_settings():
    assert settings(fragment_grid=7).mosaic_px == 224


def barred(picture_hw, top, bottom, left, right, seed, level=16, noise=1):
    """A picture between black bars that have a little noise."""
    height, width = picture_hw.shape
    frame = np.full((top + height + bottom, left + width + right), level, np.uint8)
    frame += np.random.default_rng(seed).integers(0, noise + 1, frame.shape, np.uint8)
    frame[top : top + height, left : left + width] = picture_hw
    return frame


def noisy(height, width, seed=0):
    return np.random.default_rng(seed).integers(16, 236, (height, width), np.uint8)


@properties
@given(data=st.data(), height=st.integers(32, 200), width=st.integers(32, 200), seed=st.integers(0, 2**32))
def test_the_picture_between_bars_is_found(data, height, width, seed):
    top, bottom, left, right = (data.draw(st.integers(0, side // 2)) for side in (height, height, width, width))
    frames = [barred(noisy(height, width, seed + i), top, bottom, left, right, seed + i) for i in range(2)]
    found = picture_window(frames, 24, 4, 30)
    for start, side, bar, other, length in (
        (found.top, found.height, top, bottom, height),
        (found.left, found.width, left, right, width),
    ):
        if not bar and not other:
            assert (start, side) == (0, length)
            continue
        first = bar + bar % 2
        assert start == first and side == (bar + length - first) // 2 * 2


@pytest.mark.parametrize("level", [16, 20])
def test_what_is_no_bar_is_not_cropped(level):
    black = np.full((270, 480), level, np.uint8)
    card, performer, grey = black.copy(), black.copy(), np.full((270, 480), 40, np.uint8)
    for row in range(60, 220, 30):  # five lines of credits
        card[row : row + 12, 150:330:4] = 200
    rows, columns = np.ogrid[:270, :480]
    performer[(rows - 150) ** 2 / 110**2 + (columns - 240) ** 2 / 60**2 < 1] = 150
    sliver = barred(noisy(60, 480), 105, 105, 0, 0, 0)  # less than a third
    for frame in (black, card, performer, grey, sliver):
        assert picture_window([frame], 24, 4, 32) == Window(0, 0, 270, 480)


def test_a_bar_is_one_in_all_frames():
    letterboxed, dark_above = barred(noisy(200, 480), 36, 36, 0, 0, 0), noisy(272, 480)
    dark_above[:36] = 16
    assert picture_window([letterboxed, noisy(272, 480)], 24, 4, 32) == Window(0, 0, 272, 480)
    assert picture_window([letterboxed, dark_above], 24, 4, 32) == Window(36, 0, 236, 480)
    black = np.full((272, 480), 16, np.uint8)
    assert picture_window([black, letterboxed], 24, 4, 32) == Window(36, 0, 200, 480)
    assert picture_window([letterboxed, noisy(270, 480)], 24, 4, 32) == Window(0, 0, 272, 480)


def test_writing_in_a_bar_goes_with_it_and_a_dark_edge_is_found_by_the_other_bar():
    frame = barred(noisy(180, 480), 46, 46, 0, 0, 0)
    frame[240:256, 200:280:3] = 220
    assert picture_window([frame], 24, 4, 32) == Window(46, 0, 180, 480)
    dusk = np.random.default_rng(1).random((100, 480)) > np.linspace(0, 1, 100)[:, None]
    frame[46:146][dusk] = 17
    assert picture_window([frame], 24, 4, 32) == Window(46, 0, 180, 480)
