"""Properties of the division of time among looks."""

import itertools

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpllm_model.decoding.segments import Segment, Stretch, divide, segment_bounds

properties = hypothesis.settings(deadline=None, max_examples=100)
BURST = 8


def fits(first, end):
    return end - first >= BURST


def stretch(start, end, strength=1.0):
    return Stretch(Segment(start, end, start + 2, (start + end) // 2), strength)


@st.composite
def divisions(draw):
    length = draw(st.integers(BURST, 5000))
    edges = sorted(draw(st.sets(st.integers(0, length), max_size=12)))
    pairs = list(zip(edges[::2], edges[1::2], strict=False))
    stretches = [stretch(a, b, draw(st.floats(0, 10))) for a, b in pairs]
    cuts = sorted(draw(st.sets(st.integers(1, max(1, length - 1)), max_size=12)))
    most = draw(st.integers(1, 8))
    looks = draw(st.integers(1, min(most, length // BURST)))
    return length, looks, most, stretches, cuts, draw(st.integers(1, 500))


@properties
@given(division=divisions(), start=st.integers(-1000, 1000))
def test_segments_cover_the_video_in_order_whatever_is_suspicious(division, start):
    length, looks, most, stretches, cuts, least = division
    moved = [stretch(s.segment.start + start, s.segment.end + start, s.strength) for s in stretches]
    found = divide((start, start + length), looks, most, fits, moved, [cut + start for cut in cuts], least)
    assert found[0].start == start and found[-1].end == start + length
    assert all(a.end == b.start for a, b in itertools.pairwise(found))
    assert 1 <= len(found) <= most
    assert all(one.start <= one.first and one.start <= one.look < one.end for one in found)
    assert all(fits(one.first, one.end) for one in found)


@pytest.mark.parametrize("looks", range(1, 9))
def test_without_suspicion_all_are_equal(looks):
    assert [(s.start, s.end) for s in divide((5, 905), looks, 8, fits)] == segment_bounds(5, 905, looks)


def test_the_strongest_stretches_have_looks_of_their_own_and_at_most_half():
    stretches = [stretch(100 * n + 20, 100 * n + 60, strength=n % 5) for n in range(1, 10)]
    found = divide((0, 1000), 8, 8, fits, stretches)
    own = {(s.segment.start, s.segment.end): s.strength for s in stretches}
    chosen = [own[one.start, one.end] for one in found if (one.start, one.end) in own]
    assert len(found) == 8 and sorted(chosen) == [3, 4, 4]


def test_mirrored_stretches_give_mirrored_segments():
    first = divide((0, 1000), 4, 8, fits, [stretch(0, 500)])
    last = divide((0, 1000), 4, 8, fits, [stretch(500, 1000)])
    assert [(1000 - s.end, 1000 - s.start) for s in reversed(last)] == [(s.start, s.end) for s in first]


def test_what_is_left_beside_a_long_stretch_is_not_cut_up():
    found = divide((0, 500), 8, 8, fits, [stretch(50, 500)], least=31)
    assert [(s.start, s.end) for s in found] == [(0, 50), (50, 500)]


def test_boundaries_move_to_cuts_and_looks_to_long_shots():
    found = divide((0, 400), 2, 8, fits, cuts=[30, 210, 250])
    assert [(s.start, s.end, s.look) for s in found] == [(0, 210, 120), (210, 400, 325)]
    assert [s.end for s in divide((0, 400), 2, 8, fits, cuts=[90])] == [200, 400]
