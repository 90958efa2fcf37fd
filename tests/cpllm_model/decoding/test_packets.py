"""What is read from sizes and times of packets, and how little follows where they lie."""

import numpy as np
import pytest

from cpllm_model.decoding.packets import Packets, in_order, is_sound

FPS, PX = 25, 320 * 180


def packets(sizes, keys=(0,), times_s=None, damaged=()):
    count = len(sizes)
    times_s = np.arange(count) / FPS if times_s is None else np.asarray(times_s, float)
    is_key, is_damaged = np.zeros(count, bool), np.zeros(count, bool)
    is_key[list(keys)] = True
    is_damaged[list(damaged)] = True
    ticks = np.round(times_s * 1000).astype(np.int64)
    return Packets(ticks, times_s, np.asarray(sizes, np.int64), is_key, is_damaged, float(times_s[-1]) + 1 / FPS)


def sizes_of(*parts, seed=0):
    """Sizes around a mean for so many frames each; a frame in four is larger."""
    rng = np.random.default_rng(seed)
    means = np.concatenate([np.full(frames, mean, float) for mean, frames in parts])
    means[::4] *= 2.5
    return (means * rng.uniform(0.8, 1.2, len(means))).astype(int)


def spans(found):
    return [(round(still.start_s, 2), round(still.end_s, 2)) for still in found]


def test_a_stand_still_is_a_run_of_small_packets_to_the_frame():
    sizes = sizes_of((1000, 200), (15, 75), (1000, 200))
    (still,) = packets(sizes, keys=(0, 250, 400)).stills(PX)
    assert still.start_s == pytest.approx(8.0, abs=0.1) and still.end_s == pytest.approx(11.0, abs=0.1)
    assert still.moves and not still.is_apart


def test_packets_that_refine_the_picture_belong_to_it():
    sizes = sizes_of((1000, 200), (15, 75), (1000, 200))
    sizes[[201, 220, 240]] = (6000, 500, 700)
    (still,) = packets(sizes, keys=(0, 250)).stills(PX)
    assert still.end_s - still.start_s == pytest.approx(3.0, abs=0.2)


def test_a_shot_that_stands_still_from_a_cut_on_is_apart():
    sizes = sizes_of((1000, 200), (15, 75), (1000, 225))
    (still,) = packets(sizes, keys=(0, 100, 200, 300, 400, 437)).stills(PX)
    assert not still.is_apart
    (still,) = packets(sizes, keys=(0, 170, 200, 275, 400)).stills(PX)
    assert still.is_apart
    sizes[200] = 20_000
    (still,) = packets(sizes).stills(PX)
    assert still.is_apart


def test_a_video_of_small_packets_alone_never_moves():
    found = packets(sizes_of((15, 500))).stills(PX)
    assert spans(found) == [(0, 20)] and not found[0].moves


def test_pictures_that_are_coded_by_themselves_stand_still_at_equal_sizes():
    sizes = sizes_of((9000, 300))
    sizes[100:160] = sizes[100]
    (still,) = packets(sizes, keys=range(300)).stills(PX)
    assert (still.start_s, still.end_s) == (pytest.approx(4.0, abs=0.1), pytest.approx(6.4, abs=0.1))


@pytest.mark.parametrize("factor", [0.1, 8.0])
def test_a_rate_that_leaps_is_found_where_it_does(factor):
    sizes = sizes_of((1000, 500), (1000 * factor, 75), (1000, 500))
    ((first, last, off),) = packets(sizes).leaps()
    assert abs(first - 500) <= 4 and abs(last - 575) <= 4 and off == pytest.approx(max(factor, 1 / factor), rel=0.3)


def test_key_frames_are_no_leap_and_cuts_only_off_the_grid():
    sizes = sizes_of((1000, 1000))
    sizes[::50] = 30_000
    regular = packets(sizes, keys=range(0, 1000, 50))
    assert regular.leaps() == [] and regular.cuts() == []
    assert packets(sizes, keys=(0, 250, 310, 560, 600)).cuts() == [310 * 40, 600 * 40]


def test_gaps_are_stated_unless_the_frame_rate_varies():
    times_s = np.arange(200) / FPS + (np.arange(200) >= 100) * 3.0
    assert packets(np.full(200, 500), times_s=times_s).gaps() == [(pytest.approx(4.0), pytest.approx(7.0))]
    uneven_s = np.cumsum(np.random.default_rng(0).exponential(0.2, 200))
    assert packets(np.full(200, 500), times_s=uneven_s).gaps() == []


def test_damage_close_together_is_one_stretch():
    found = packets(np.full(300, 500), damaged=(50, 51, 60, 250)).damage()
    assert found == [(pytest.approx(2.0), pytest.approx(2.44)), (pytest.approx(10.0), pytest.approx(10.04))]


def test_stretches_without_a_key_frame_are_reached_within_a_bound():
    sizes = sizes_of((1000, 200), (15, 75), (1000, 200))
    found = packets(sizes, keys=(0,))
    stills = found.stills(PX)
    (one,) = found.stretches(stills, 19_000, most_on_the_way=300)
    assert one.segment.first > one.segment.start
    assert found.stretches(stills, 19_000, most_on_the_way=100) == []
    assert len(packets(sizes, keys=(0, 240)).stretches(stills, 19_000, most_on_the_way=0)) == 1


@pytest.mark.parametrize("seed", range(20))
def test_any_sizes_and_times_give_ordered_stretches(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(9, 400))
    times_s = np.sort(rng.uniform(0, 1e5 ** rng.uniform(0, 1), count).round(3))
    found = packets(rng.integers(0, 2**30, count) ** rng.integers(0, 2), rng.integers(0, count, 20), times_s)
    for one in found.stretches(found.stills(PX), int(times_s[-1] * 1000) + 40, 1000):
        assert one.segment.start <= one.segment.first < one.segment.end
    assert all(a < b for a, b in found.gaps()) and found.cuts() == sorted(found.cuts())


def test_two_hours_are_judged():
    found = packets(sizes_of(*[(1000, 5000), (15, 100)] * 85), keys=range(0, 433_500, 125))
    stretches = found.stretches(found.stills(1920 * 1080), 17_340_000, 290)
    assert len(stretches) > 50


def test_times_outside_the_video_are_not_believed():
    columns = (np.full(20, 100), np.ones(20, bool), np.zeros(20, bool))
    times_s = np.arange(20.0)
    assert in_order(np.arange(20), times_s, *columns, end_s=20.0) is not None
    assert in_order(np.arange(20), times_s - 5, *columns, end_s=20.0) is None
    assert in_order(np.arange(20), times_s * 5, *columns, end_s=20.0) is None
    assert in_order(np.arange(5), times_s[:5], *(column[:5] for column in columns), end_s=20.0) is None


@pytest.mark.parametrize(("place", "size"), [(-1, 10), (5, 10), (0, -3), (0, 2**29), (2**63 - 1, 10)], ids=str)
def test_an_index_whose_places_or_sizes_lie_is_not_believed(place, size):
    rows = np.array([(10 * n, n, 10, 1) for n in range(5)], np.int64)
    assert is_sound(rows)
    rows[0, [0, 2]] = place, size
    assert is_sound(rows) == (place == 2**63 - 1)  # beyond the file, which is another matter
