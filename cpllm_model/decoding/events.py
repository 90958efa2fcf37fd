"""What happens in a video beside its quality: stretches that are black, frozen, faded, without frames and the like.

In: what each look showed, and what packets tell of the time around it. Out: events with start and end, as exact as
these allow: to some frames where sizes of packets tell, else to the segment. Decodes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cpllm_model.decoding.looks import Look
from cpllm_model.decoding.packets import Packets, Still
from cpllm_model.decoding.samples import MAX_EVENTS, Event

#: A burst may reach so far out of a stand-still by which it is explained.
_SLACK_S = 0.15
#: From so many stand-stills on that take up such a share of the video, with as a rule no more than so many seconds
#: from one to the next, it is a slide show or a screen.
_SLIDES, _SLIDES_SHARE, _SLIDES_APART_S = 3, 0.3, 3.0
#: Looks show the same still picture if they differ by so many codes in the mean.
_SAME_CODES = 1.0
#: Events of one kind that are no further apart are one.
_APART_S = 0.1


@dataclass(frozen=True)
class Seen:
    """A look, and when it was.

    Args:
        look: what it showed.
        start_s, end_s: of its segment.
        burst_start_s, burst_end_s: of its burst.
    """

    look: Look
    start_s: float
    end_s: float
    burst_start_s: float
    burst_end_s: float


def have_picture(looks: Sequence[Look]) -> list[bool] | None:
    """Tell which looks show a picture; of a video that shows nothing but writing (slides, a terminal), these do.

    Returns:
        one for each look; None if there is no picture to rate in any.
    """
    shown = [look.blank is None for look in looks]
    if not any(shown):
        shown = [look.blank == "credits" for look in looks]
    return shown if any(shown) else None


def events_of(
    seen: Sequence[Seen],
    packets: Packets | None = None,
    stills: Sequence[Still] = (),
    damage_s: Iterable[tuple[float, float]] = (),
) -> tuple[Event, ...]:
    """Give the events of a video.

    Args:
        seen: its looks in order.
        packets: all of the video, where they are known.
        stills: what these tell of stand-stills.
        damage_s: times of frames that were found damaged.

    Returns:
        at most MAX_EVENTS in order of their start; of more, the longest.
    """
    end_s = seen[-1].end_s
    refuted = [_still_around(one, stills) for one in seen if not one.look.is_still]
    is_slides = _are_slides([still for still in stills if still not in refuted], end_s)
    found = [("damage", *interval, 1.0) for interval in damage_s]
    for number, one in enumerate(seen):
        look, segment = one.look, (one.start_s, one.end_s)
        still = _still_around(one, stills) if look.is_still else None
        if look.blank:
            shown = (still.start_s, still.end_s) if still else _between_cuts(seen, number, packets)
            found.append((look.blank, *shown, 1.0))
        elif still and still.moves and not still.is_apart and not is_slides:
            found.append(("freeze", still.start_s, still.end_s, 1.0))
        if look.is_fading:
            found.append(("fade", one.burst_start_s, one.burst_end_s, 1.0))
        if look.is_flickering:
            found.append(("flicker", *segment, 1.0))
        if look.repeats:
            found.append(("repeat", *segment, 1.0))
        if look.combed_share:
            found.append(("combing", *segment, look.combed_share))
    if packets is None:
        found += _freezes_by_looks(seen)
    else:
        found += [("gap", *interval, 1.0) for interval in packets.gaps()]
        found += [("damage", *interval, 1.0) for interval in packets.damage()]
    clipped = [(kind, max(0.0, a), min(b, end_s), share) for kind, a, b, share in found]
    events = _merged(Event(*one) for one in clipped if one[1] < one[2])
    longest = sorted(events, key=lambda event: (event.start_s - event.end_s, event.start_s, event.kind))[:MAX_EVENTS]
    return tuple(sorted(longest, key=lambda event: (event.start_s, event.kind)))


def _are_slides(stills: Sequence[Still], end_s: float) -> bool:
    """Tell whether the video stands still again and again, and moves in between for a short time only."""
    if len(stills) < _SLIDES or sum(still.end_s - still.start_s for still in stills) < _SLIDES_SHARE * end_s:
        return False
    apart_s = [after.start_s - before.end_s for before, after in itertools.pairwise(stills)]
    return sorted(apart_s)[len(apart_s) // 2] <= _SLIDES_APART_S


def _between_cuts(seen: Sequence[Seen], number: int, packets: Packets | None) -> tuple[float, float]:
    """When something blank is shown that moves: the segment; or up to the one cut to where another look shows else."""
    one = seen[number]
    start_s, end_s = one.start_s, one.end_s
    if packets is not None and number and seen[number - 1].look.blank != one.look.blank:
        cut_s = packets.cut_between(seen[number - 1].burst_end_s - _SLACK_S, one.burst_start_s + _SLACK_S)
        start_s = start_s if cut_s is None else cut_s
    if packets is not None and number + 1 < len(seen) and seen[number + 1].look.blank != one.look.blank:
        cut_s = packets.cut_between(one.burst_end_s - _SLACK_S, seen[number + 1].burst_start_s + _SLACK_S)
        end_s = end_s if cut_s is None else cut_s
    return (start_s, end_s) if start_s < end_s else (one.start_s, one.end_s)


def _still_around(one: Seen, stills: Sequence[Still]) -> Still | None:
    """The stand-still that a look lies in."""
    for still in stills:
        if still.start_s - _SLACK_S <= one.burst_start_s and one.burst_end_s <= still.end_s + _SLACK_S:
            return still
    return None


def _freezes_by_looks(seen: Sequence[Seen]) -> list[tuple[str, float, float, float]]:
    """Without packets: looks in succession that show one still picture, beside a look at a moving one."""
    found, first = [], 0
    while first < len(seen):
        last = first
        while last + 1 < len(seen) and _are_one_still(seen[last].look, seen[last + 1].look):
            last += 1
        beside = [seen[number].look for number in (first - 1, last + 1) if 0 <= number < len(seen)]
        if last > first and any(not look.is_still and look.blank is None for look in beside):
            found.append(("freeze", seen[first].burst_start_s, seen[last].burst_end_s, 1.0))
        first = last + 1
    return found


def _are_one_still(one: Look, other: Look) -> bool:
    if not (one.is_still and other.is_still) or one.blank or other.blank or one.luma_HW.shape != other.luma_HW.shape:
        return False
    return bool(np.abs(one.luma_HW.astype(np.int16) - other.luma_HW).mean() <= _SAME_CODES)


def _merged(events: Iterable[Event]) -> list[Event]:
    """Events of one kind that touch as one; its share is the mean over its time."""
    found: list[Event] = []
    for event in sorted(events, key=lambda event: (event.kind, event.start_s, event.end_s)):
        last = found[-1] if found else None
        if last is None or last.kind != event.kind or event.start_s > last.end_s + _APART_S:
            found.append(event)
            continue
        lengths_s = last.end_s - last.start_s, event.end_s - event.start_s
        share = (last.share * lengths_s[0] + event.share * lengths_s[1]) / sum(lengths_s)
        found[-1] = replace(last, end_s=max(last.end_s, event.end_s), share=min(share, 1.0))
    return found
