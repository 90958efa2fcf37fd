"""What the packets of a video tell without being decoded: where it stands still, where its rate leaps, gaps, cuts.

In: size, time and kind of every packet, from the index of the container, or read through. Out: stretches that
deserve a look, by stated thresholds. Arithmetic on arrays; sizes and times may lie, and then nothing follows.
"""

from __future__ import annotations

import itertools
import operator
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import av.error
import numpy as np
from av.stream import Discard

from cpllm_model.decoding.container import FATAL, SLACK_S, OpenVideo
from cpllm_model.decoding.segments import Segment, Stretch

#: Packets of nine hours at 60 frames a second; of more, nothing is said, and looks are spread evenly.
MOST_PACKETS = 2_000_000
#: A Matroska file up to this size is read through: its index tells of key frames alone. Storage gives small files
#: whole at any rate.
READ_THROUGH_BYTES = 1 << 25

#: Of how many packets in succession so many are small where the picture stands still: the rest refine it.
_WINDOW, _SMALL = 9, 6
#: Bytes of a packet that repeats the picture before: a header, and a little for each block that is left out; or this
#: share of what packets have where most happens, in this share of the time.
_HEADER_BYTES, _PX_A_BYTE, _SMALL_SHARE, _LOUD = 40, 1000, 0.03, 0.9
#: Packets so small only have a frame shown that was coded before (AV1, VP9); where this share is larger, they tell of
#: nothing.
_SHOWN_AGAIN_BYTES, _PICTURED = 8, 0.3
#: Where a video moves in packets as small, a half of that, a quarter and so on are tried: so many limits in all.
_LIMITS = 5
#: Sizes of equal pictures that are coded by themselves differ by no more than this share.
_SAME_SIZE = 0.001
#: A stretch that stands out lasts that long.
STILL_S = _LEAST_S = 1.0
#: Packets before or after a stand-still are that many times larger where the video moves, for so many seconds. Of the
#: stand-still the mean is taken over this share, without the largest, which refine the picture.
_MOVES, _BESIDE_S, _OWN_SHARE = 4.0, 1.0, 0.9
#: A stand-still ends where logarithms of sizes, beyond a header and with so many bytes more, rise by more than this
#: over those of its quietest second, and by more than this share of what they rise to where most happens; the rise is
#: one once it sums up to so much (Page's test). Ends are looked for so many seconds beyond the run of small packets.
#: Fitted to freezes coded by x264, x265, VP9, AV1, MPEG-4 and MPEG-2.
_FEW_BYTES, _RISE, _RISE_SHARE, _RISEN, _BEYOND_S = 10.0, 0.8, 0.4, 8.0, 2.0
#: Relative change of size that is none, of pictures that are coded by themselves; differences that rounding makes.
_LEAST_ACTIVITY, _ROUNDING = 1e-5, 1e-9
#: A packet so many times larger than the largest of so many before it begins another shot. Bounds are exact to a few
#: packets: decoding and presentation have another order. For so many seconds after a cut a still picture is refined.
_CUT, _BEFORE, _NEXT, _REFINED_S, _REFINED_MOST_S = 5.0, 50, 3, 0.5, 1.5
#: Rates are means over so many seconds, and compared with the median of so many bins around them.
_BIN_S, _MOST_BINS, _AROUND_BINS = 0.5, 8192, 61
#: Shares of the rate around from which on a rate is suspicious.
_DIP, _SPIKE = 0.4, 3.0
#: Stand-stills come before dips and spikes.
_STILL_STRENGTH = 100.0
#: A gap has no frames for so many seconds and usual steps; where more than this share of steps is unusual, the frame
#: rate varies by intent.
_GAP_S, _GAP_STEPS, _UNUSUAL_SHARE = 0.4, 5, 0.02
#: A look into a stretch begins that long after it does, and that share of it: its bounds are exact to a few frames.
_SETTLE_S, _SETTLE_SHARE, _SETTLE_MOST_S = 0.2, 0.2, 1.0
#: Share of the distances between key frames that are alike in a regular grid; a key frame nearer to the one before
#: than this share of the longest distance is off the grid.
_GRID_SHARE, _GRID_SLACK = 0.8, 0.95
#: Damage closer together is one stretch.
_APART_S = 1.0


@dataclass(frozen=True)
class Still:
    """A run of packets so small that the picture hardly changes, or not at all.

    Args:
        first, last: half-open interval of packets.
        start_s, end_s: of presentation time.
        moves: whether the video moves right before or after.
        is_apart: another shot begins with it, or after it if the video does.
        contrast: how many times larger packets beside it are, on the side where they are smaller.
        limit: of size, that it was found by.
    """

    first: int
    last: int
    start_s: float
    end_s: float
    moves: bool
    is_apart: bool
    contrast: float
    limit: float


@dataclass(frozen=True, eq=False)
class Packets:
    """The packets of a video stream in order of time.

    Args:
        ticks: int64 (P,), sorted; of the same timeline as the sampling plan.
        time_s: float64 (P,), sorted, since the first frame.
        size_bytes: int64 (P,).
        is_key: bool (P,).
        is_damaged: bool (P,), known not to be whole.
        end_s: where the video ends.
    """

    ticks: np.ndarray
    time_s: np.ndarray
    size_bytes: np.ndarray
    is_key: np.ndarray
    is_damaged: np.ndarray
    end_s: float

    @cached_property
    def _plain(self) -> np.ndarray:
        """Numbers of the packets by which sizes are compared: those that refer to others, or all where few do."""
        plain = np.flatnonzero(~self.is_key)
        if len(plain) <= len(self.ticks) // 2:
            return np.arange(len(self.ticks))
        has_picture = self.size_bytes[plain] > _SHOWN_AGAIN_BYTES
        return plain[has_picture] if has_picture.mean() > _PICTURED else plain

    def after(self, number: int) -> float:
        """Time at which a packet begins, or the end of the video after the last."""
        return float(self.time_s[number]) if number < len(self.time_s) else self.end_s

    @cached_property
    def _off_grid(self) -> np.ndarray:
        """Numbers of the key frames that lie off the encoder's regular grid."""
        keys = np.flatnonzero(self.is_key)
        steps = np.diff(keys)
        if len(steps) < 2 or (np.abs(steps - np.median(steps)) <= 1).mean() >= _GRID_SHARE:
            return keys[:0]
        return keys[1:][steps < _GRID_SLACK * steps.max()]

    def cuts(self) -> list[int]:
        """Ticks of key frames that an encoder put where a shot begins, and not at its regular distance."""
        return self.ticks[self._off_grid].tolist()

    def cut_between(self, first_s: float, last_s: float) -> float | None:
        """Time of the one such key frame within an interval; None if there is none, or are several."""
        times_s = self.time_s[self._off_grid]
        within = times_s[(first_s <= times_s) & (times_s <= last_s)]
        return float(within[0]) if len(within) == 1 else None

    def stills(self, frame_px: int) -> list[Still]:
        """Find where the picture stands still for a second or more, as far as sizes tell.

        Args:
            frame_px: pixels of a frame.
        """
        plain = self._plain
        if len(plain) < _WINDOW:
            return []
        sizes = self.size_bytes[plain].astype(np.float64)
        if self.is_key[plain].any():
            activity, few = np.abs(np.diff(sizes, prepend=0.0)) / np.maximum(sizes, 1), _LEAST_ACTIVITY
            level, limits = _ranked(activity), [_SAME_SIZE]
        else:
            header_bytes = min(float(sizes.min()), _HEADER_BYTES)
            activity, few = sizes - header_bytes, _FEW_BYTES
            level = _ranked(activity)
            most = _HEADER_BYTES - header_bytes + frame_px / _PX_A_BYTE
            most = max(most, _SMALL_SHARE * float(np.quantile(level, _LOUD)))
            limits = [most / 2**step for step in range(_LIMITS)]
        # Those that stand out most come first; stand-stills of a video that never moves last.
        found = [still for limit in limits for still in self._stills_below(limit, level, activity, few)]
        found = [still for still in found if still.moves or still.limit == limits[0]]
        found.sort(key=lambda still: (not still.moves, -still.contrast, still.first))
        apart: list[Still] = []
        for still in found:
            # Those kept so far are in order and apart, so that neighbours alone can overlap: there may be thousands.
            at = bisect_left(apart, still.first, key=lambda other: other.first)
            if not any(
                still.first < other.last and other.first < still.last for other in apart[max(0, at - 1) : at + 1]
            ):
                apart.insert(at, still)
        return apart

    def _bridged(self, runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Join runs of plain packets between which a key frame codes the picture anew, and some packets refine it."""
        plain, keys, found = self._plain, np.flatnonzero(self.is_key), []
        for a, b in sorted(runs):
            if found and a > found[-1][1]:
                first, last = int(plain[found[-1][1] - 1]), int(plain[a])
                has_key = np.searchsorted(keys, first) < np.searchsorted(keys, last)
                if has_key and self.time_s[last] - self.time_s[first] <= _REFINED_S:
                    found[-1] = (found[-1][0], b)
                    continue
            found.append((a, b))
        return found

    def _sharpened(self, a: int, b: int, log: np.ndarray, loud: float) -> tuple[int, int]:
        """Move the ends of a run of plain packets to where sizes rise, seen from its quietest second.

        A run by a limit takes in what moves little, and leaves out what refines a picture that just stopped.
        """
        times = self.time_s[self._plain]
        width = min(b - a, max(1, int(np.searchsorted(times, times[a] + STILL_S)) - a))
        sums = np.concatenate([[0.0], np.cumsum(log[a:b])])
        means = (sums[width:] - sums[:-width]) / width
        quiet = means.min()
        quietest = np.flatnonzero(means <= quiet + _ROUNDING)
        core = a + int(quietest[len(quietest) // 2])
        first, last = np.searchsorted(times, (times[a] - _BEYOND_S, times[b - 1] + _BEYOND_S))
        least = quiet + max(_RISE, _RISE_SHARE * (loud - quiet))
        begin = core - _rise(log[first:core][::-1] - least, core - a)
        core += width
        return begin, core + _rise(log[core:last] - least, b - core)

    def _stills_below(self, limit: float, level: np.ndarray, activity: np.ndarray, few: float) -> Iterator[Still]:
        """Runs of a second or more of plain packets whose level is within a limit; so much activity more is as none."""
        plain, times = self._plain, self.time_s[self._plain]
        ends_s = np.append(self.time_s, self.end_s)[plain + 1]
        log, loud = np.log(activity + few), float(np.log(np.quantile(level, _LOUD) + few))
        runs = [(a, b) for a, b in _runs(level <= limit) if ends_s[b - 1] - times[a] >= STILL_S]
        for a, b in self._bridged(self._sharpened(a, b, log, loud) for a, b in runs):
            if ends_s[b - 1] - times[a] < STILL_S:
                continue
            own = np.sort(activity[a:b])[: max(1, int((b - a) * _OWN_SHARE))].mean()
            beside = []
            for side in (-1, 1):
                edge_s = times[a] if side < 0 else ends_s[b - 1]
                edges = np.searchsorted(times, np.sort(edge_s + side * _BESIDE_S * np.array([0, 0.5, 1])))
                halves = [activity[i:j] for i, j in itertools.pairwise(np.clip(edges, 0, a) if side < 0 else edges)]
                # A shot that stands still is refined for a while after its cut: both halves have to move.
                if all(len(half) > 1 for half in halves) and 0 <= edge_s + side * _BESIDE_S <= self.end_s:
                    beside.append(min(half.mean() for half in halves) / (own + few))
            first, last = int(plain[a]), int(plain[b - 1]) + 1
            first -= bool(first and self.is_key[first - 1])
            is_apart = self._begins_shot(first, by_size=True) if a else self._begins_shot(last, by_size=False)
            yield Still(
                first,
                last,
                self.after(first),
                float(ends_s[b - 1]),
                moves=bool(max(beside, default=0.0) > _MOVES),
                is_apart=is_apart,
                contrast=float(min(beside, default=0.0)),
                limit=limit,
            )

    def _begins_shot(self, number: int, by_size: bool) -> bool:
        """Tell whether another shot begins with a packet, or shortly before: a still picture is refined after its cut.

        A cut is a key frame off the grid or, if asked, a packet far larger than those before. From one further back on,
        sizes have to decline.
        """
        plain = self._plain
        since_s = self.after(number) - np.array([_REFINED_MOST_S, _REFINED_S])
        earliest, near = (min(int(at), number - _NEXT) for at in np.searchsorted(self.time_s, since_s))
        last = min(len(self.ticks), number + _NEXT + 1)
        cuts = [int(key) for key in self._off_grid if max(0, earliest) <= key < last]
        if by_size:
            a, b = np.searchsorted(plain, (max(0, earliest), last))
            for at in range(max(a, _NEXT + 1), b):
                before_bytes = self.size_bytes[plain[max(0, at - _BEFORE) : at]]
                if self.size_bytes[plain[at]] > _CUT * before_bytes.max():
                    cuts.append(int(plain[at]))
        if not cuts or max(cuts) >= near:
            return bool(cuts)
        since = self.size_bytes[plain[np.searchsorted(plain, max(cuts) + 1) : np.searchsorted(plain, number)]]
        third = len(since) // 3
        return third > 0 and bool(since[:third].mean() >= 2 * since[-third:].mean())

    def leaps(self) -> list[tuple[int, int, float]]:
        """Find where the rate is far below or above that around, key frames apart.

        Returns:
            half-open intervals of packets of a second or more, and the factor, above 1, by which the rate is off.
        """
        bin_s = max(_BIN_S, self.end_s / _MOST_BINS)
        plain = self._plain
        bins = np.minimum(self.time_s[plain] / bin_s, _MOST_BINS).astype(np.int64)
        counts = np.bincount(bins)
        if len(counts) < 6:
            return []
        sums = np.bincount(bins, self.size_bytes[plain])
        has_some = counts > 0
        rate = np.log(np.maximum(sums, 1) / np.maximum(counts, 1))
        rate[~has_some] = np.median(rate[has_some])
        sides = np.pad(rate, 1, mode="edge")
        rate = np.median(np.stack([sides[:-2], rate, sides[2:]]), axis=0)
        width = min(_AROUND_BINS, len(rate))
        around = np.median(np.lib.stride_tricks.sliding_window_view(rate, width), axis=1)
        place = np.clip(np.arange(len(rate)) - width // 2, 0, len(around) - 1)
        off = rate - around[place]
        found = []
        for is_off in (off <= np.log(_DIP), off >= np.log(_SPIKE)):
            for a, b in _runs(is_off):
                if (b - a) * bin_s >= _LEAST_S and b - a < len(rate):
                    first, last = (self._leap_near(edge * bin_s, bin_s) for edge in (a, b))
                    found.append((first, last, float(np.exp(np.abs(off[a:b]).mean()))))
        return [leap for leap in found if leap[0] < leap[1]]

    def _leap_near(self, at_s: float, within_s: float) -> int:
        """The number of the packet from which on sizes differ most from those before, close to a time."""
        plain, times = self._plain, self.time_s[self._plain]
        a, middle, b = np.searchsorted(times, (at_s - within_s, at_s, at_s + within_s))
        if not 0 < middle < len(plain):
            return 0 if middle == 0 else len(self.ticks)
        sums = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(self.size_bytes[plain[a:b]], 1)))])
        places = np.arange(1, b - a)
        before, after = sums[places] / places, (sums[-1] - sums[places]) / (b - a - places)
        # Splits next to the ends are of few packets; weighted as in a test of two means.
        sharp = np.abs(before - after) * np.sqrt(places * (b - a - places))
        return int(plain[a + 1 + np.argmax(sharp)]) if len(sharp) else int(plain[middle])

    def stretches(self, stills: Sequence[Still], end: int, most_on_the_way: int) -> list[Stretch]:
        """Give what deserves a look of its own.

        Args:
            stills: what `stills` gave.
            end: tick at which the video ends.
            most_on_the_way: packets that may be decoded, over all stretches, on the way from a key frame to one that
                has none of its own; beyond, the weakest are left out.

        Returns:
            stretches that do not overlap.
        """
        candidates = [(s.first, s.last, _STILL_STRENGTH * (1 + s.moves) + s.end_s - s.start_s) for s in stills]
        candidates += self.leaps()
        candidates.sort(key=lambda found: (-found[2], found[0]))
        taken: list[Stretch] = []
        keys = np.flatnonzero(self.is_key)
        for first, last, strength in candidates:
            start_s, end_s = self.after(first), self.after(last)
            settle_s = min(max(_SETTLE_S, _SETTLE_SHARE * (end_s - start_s)), _SETTLE_MOST_S)
            settled = int(np.searchsorted(self.time_s, start_s + settle_s))
            if not first < settled < last:
                continue
            a, b = int(self.ticks[first]), int(self.ticks[last]) if last < len(self.ticks) else end
            if any(a < other.segment.end and other.segment.start < b for other in taken):
                continue
            before = int(np.searchsorted(keys, settled, "right"))
            has_key = before < len(keys) and keys[before] < last - _WINDOW
            way = 0 if has_key else settled - int(keys[before - 1]) if before else settled
            if way <= most_on_the_way:
                most_on_the_way -= way
                middle = int(self.ticks[np.searchsorted(self.time_s, (start_s + end_s) / 2)])
                taken.append(Stretch(Segment(a, b, int(self.ticks[settled]), middle), strength))
        return taken

    def gaps(self) -> list[tuple[float, float]]:
        """Times without frames, in a video whose frames come at one rate otherwise."""
        steps = np.diff(self.time_s, append=self.end_s)
        if len(steps) < _WINDOW:
            return []
        usual = float(np.median(steps))
        if usual <= 0 or (np.abs(steps[:-1] - usual) > 0.5 * usual).mean() > _UNUSUAL_SHARE:
            return []
        found = np.flatnonzero((steps >= _GAP_S) & (steps >= _GAP_STEPS * usual))
        return [(float(self.time_s[at]) + usual, self.after(int(at) + 1)) for at in found]

    def damage(self) -> list[tuple[float, float]]:
        """Times at which packets are known not to be whole."""
        numbers = np.flatnonzero(self.is_damaged)
        if not len(numbers):
            return []
        starts, ends = self.time_s[numbers], np.append(self.time_s, self.end_s)[numbers + 1]
        splits = np.flatnonzero(starts[1:] - ends[:-1] > _APART_S) + 1
        parts = np.split(np.arange(len(numbers)), splits)
        return [(float(starts[part[0]]), float(ends[part[-1]])) for part in parts]


def index_rows(video: OpenVideo) -> np.ndarray | None:
    """Read the index: int64 (P, 4) of place, time, size and flags; None if it is too long or lies.

    An index lies whose packets overlap or have no place. What lies beyond the end of the file is no lie: it is cut off.
    """
    entries = video.stream.index_entries
    if len(entries) > MOST_PACKETS:
        return None
    row = operator.attrgetter("pos", "timestamp", "size", "flags")
    rows = np.fromiter(map(row, entries), np.dtype((np.int64, 4)), len(entries))
    return rows if is_sound(rows) else None


def is_sound(rows: np.ndarray) -> bool:
    """Tell whether the packets of an index can be where it says: each has a place, and none overlaps the next."""
    places, sizes = rows[np.argsort(rows[:, 0], kind="stable")][:, [0, 2]].T
    return len(rows) > 0 and bool(
        places[0] >= 0 and (sizes >= 0).all() and (sizes[:-1] <= np.diff(places.astype(np.float64))).all()
    )


def read_rows(video: OpenVideo) -> np.ndarray | None:
    """Read a small file through: the same rows as of an index; None if a packet has no time."""
    for other in video.container.streams:
        other.discard = Discard.default if other.index == video.stream.index else Discard.all
    try:
        video.container.seek(video.stream.start_time or 0, stream=video.stream)
        rows = np.fromiter(_packet_rows(video), np.dtype((np.int64, 4)))
    except FATAL:
        raise
    except (av.error.FFmpegError, OverflowError, _TimelessError):
        return None
    finally:
        for other in video.container.streams:
            other.discard = Discard.default
    return rows


class _TimelessError(Exception):
    """A packet has no time."""


def _packet_rows(video: OpenVideo) -> Iterator[tuple[int, int, int, int]]:
    for number, packet in enumerate(video.container.demux(video.stream)):
        if not packet.size:
            continue
        if packet.pts is None or number > MOST_PACKETS:
            raise _TimelessError
        yield packet.pos or 0, packet.pts, packet.size, packet.is_keyframe + 2 * packet.is_discard


def _ranked(values: np.ndarray) -> np.ndarray:
    """Of each window of packets the value that `_SMALL` of them do not exceed."""
    half = _WINDOW // 2
    padded = np.pad(values, half, mode="edge")
    found = np.empty(len(values))
    for a in range(0, len(values), 1 << 16):  # in parts, to bound the memory
        part = np.lib.stride_tricks.sliding_window_view(padded[a : a + (1 << 16) + 2 * half], _WINDOW)
        found[a : a + len(part)] = np.partition(part, _SMALL - 1, axis=1)[:, _SMALL - 1]
    return found


def _rise(values: np.ndarray, otherwise: int) -> int:
    """The number from which on values stay above 0 (Page, 1954), or another where they do not."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    risen = np.flatnonzero(sums - np.minimum.accumulate(sums) > _RISEN)
    return int(np.argmin(sums[: risen[0]])) if len(risen) else otherwise


def _runs(holds: np.ndarray) -> list[tuple[int, int]]:
    """Half-open intervals in which something holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], holds.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def in_order(
    ticks: np.ndarray, time_s: np.ndarray, sizes: np.ndarray, is_key: np.ndarray, is_damaged: np.ndarray, end_s: float
) -> Packets | None:
    """Put packets in the order of time; None if there are few, or times lie outside the video."""
    order = np.argsort(ticks, kind="stable")
    found = Packets(ticks[order], time_s[order], sizes[order], is_key[order], is_damaged[order], end_s)
    if len(order) < _WINDOW or found.time_s[0] < -SLACK_S or found.time_s[-1] > end_s + SLACK_S:
        return None
    return found
