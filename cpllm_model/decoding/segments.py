"""How the time of a video is divided into segments, each with one look: pure arithmetic on ticks.

In: when the video begins and ends, how many looks there are, stretches that are suspicious, and cuts between shots
where they are known. Out: segments that cover the video in order and without a gap. Knows nothing of packets.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

#: A boundary moves to a cut that is no further than this share of a segment.
_NEAR_CUT = 0.35


@dataclass(frozen=True)
class Segment:
    """A half-open interval of ticks.

    Args:
        start, end: of the segment.
        first: its burst begins there or later.
        look: tick near which its burst should begin.
    """

    start: int
    end: int
    first: int
    look: int


@dataclass(frozen=True)
class Stretch:
    """A part of a video that is to have a look of its own.

    Args:
        segment: where it lies, and where to look.
        strength: how much it stands out; the strongest are looked at.
    """

    segment: Segment
    strength: float


def segment_bounds(start: int, end: int, segments: int) -> list[tuple[int, int]]:
    """Cut `start <= tick < end` into equal half-open intervals."""
    cuts = [start + (end - start) * index // segments for index in range(segments + 1)]
    return list(itertools.pairwise(cuts))


def divide(
    bounds: tuple[int, int],
    looks: int,
    most_looks: int,
    fits: Callable[[int, int], bool],
    stretches: Sequence[Stretch] = (),
    cuts: Sequence[int] = (),
    least: int = 1,
    unsure: int = 0,
) -> list[Segment]:
    """Divide a video among its looks.

    The strongest stretches become segments of their own, at most half as many as there are looks; a video that has
    fewer looks than it may have gets one more for each. The time between is divided evenly among the other looks;
    boundaries move to cuts nearby, and a look lies in the longest shot of its segment.

    Args:
        bounds: start and end of the video.
        looks: by the length of the video, 1 or more.
        most_looks: that there may be.
        fits: tells whether a burst that begins at or after a first tick ends before another.
        stretches: that do not overlap.
        cuts: sorted ticks at which a shot begins.
        least: ticks that a segment between stretches has, where there is a choice: what is left beside a long stretch
            is not cut up into as many looks as the video would have without it.
        unsure: ticks by which the ends of stretches may be off: a burst after a stretch begins so much later, that it
            shows none of it.

    Returns:
        the segments in order; at most `most_looks`.
    """
    chosen = _chosen(bounds, looks, most_looks, fits, stretches)
    gaps = _gaps(bounds, chosen)
    looks = max(min(looks + len(chosen), most_looks) - len(chosen), len(gaps))
    found = list(chosen)
    for (a, b), share in zip(gaps, _shares([b - a for a, b in gaps], looks), strict=True):
        if chosen:
            share = min(share, max(1, (b - a) // least))
        pieces = _even(a, b, share, fits) if chosen else segment_bounds(a, b, share)
        pieces = _moved_to_cuts(pieces, fits, cuts)
        for a, b in pieces:
            follows = any(segment.end == a for segment in chosen) and fits(a + unsure, b)
            found.append(Segment(a, b, a + unsure * follows, _longest_shot(a, b, cuts)))
    return sorted(found, key=lambda segment: segment.start)


def _chosen(
    bounds: tuple[int, int],
    looks: int,
    most_looks: int,
    fits: Callable[[int, int], bool],
    stretches: Sequence[Stretch],
) -> list[Segment]:
    """Segments of the strongest stretches that leave a look for all the time between them."""
    chosen: list[Segment] = []
    for stretch in sorted(stretches, key=lambda stretch: (-stretch.strength, stretch.segment.start)):
        segment = stretch.segment
        if not fits(bounds[0], segment.start):
            segment = replace(segment, start=bounds[0])
        if not fits(segment.end, bounds[1]):
            segment = replace(segment, end=bounds[1])
        trial = sorted([*chosen, segment], key=lambda segment: segment.start)
        gaps = _gaps(bounds, trial)
        is_within = len(trial) <= max(1, min(looks + len(trial), most_looks) // 2)
        has_looks = len(trial) + len(gaps) <= most_looks
        if gaps and is_within and has_looks and fits(segment.first, segment.end) and all(fits(*gap) for gap in gaps):
            chosen = trial
    return chosen


def _gaps(bounds: tuple[int, int], segments: Sequence[Segment]) -> list[tuple[int, int]]:
    """What of the video lies in none of the segments, which are in order."""
    edges = [bounds[0], *itertools.chain.from_iterable((s.start, s.end) for s in segments), bounds[1]]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def _even(a: int, b: int, pieces: int, fits: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """Equal parts, fewer than asked for where one would have no burst."""
    while pieces > 1 and not all(fits(*piece) for piece in segment_bounds(a, b, pieces)):
        pieces -= 1
    return segment_bounds(a, b, pieces)


def _shares(lengths: Sequence[int], looks: int) -> list[int]:
    """Divide looks by length, at least one each: one after the other to where a look stands for most time."""
    shares = [1] * len(lengths)
    for _ in range(looks - len(lengths)):
        longest = max(range(len(lengths)), key=lambda index: (lengths[index] / shares[index], -index))
        shares[longest] += 1
    return shares


def _moved_to_cuts(
    pieces: list[tuple[int, int]], fits: Callable[[int, int], bool], cuts: Sequence[int]
) -> list[tuple[int, int]]:
    edges = [pieces[0][0], *(b for _, b in pieces)]
    for index in range(1, len(pieces)):
        at, reach = edges[index], _NEAR_CUT * (pieces[0][1] - pieces[0][0])
        near = min(cuts, key=lambda cut: (abs(cut - at), cut), default=at)
        if abs(near - at) <= reach and fits(edges[index - 1], near) and fits(near, edges[index + 1]):
            edges[index] = near
    return list(itertools.pairwise(edges))


def _longest_shot(a: int, b: int, cuts: Sequence[int]) -> int:
    """The middle of the longest shot within an interval."""
    edges = [a, *(cut for cut in cuts if a < cut < b), b]
    first, last = max(itertools.pairwise(edges), key=lambda shot: (shot[1] - shot[0], -shot[0]))
    return (first + last) // 2
