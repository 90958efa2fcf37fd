"""Sentences about when something is visible in a video.

In: named distortions with their stretches of time, and events. Out: plain sentences, or none where a distortion is
there all the time. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cpllm_model.pooling import Stretch, covered_s

if TYPE_CHECKING:
    from cpllm_model.predictor import Distortion, SegmentTimes

#: Families of distortions that a sentence gives another name.
NOUNS = {
    "compression": "compression artefacts",
    "exposure": "wrong exposure",
    "contrast": "lack of contrast",
    "colour": "wrong colours",
    "interlacing": "interlaced lines",
    "packet loss": "damage from packet loss",
}
#: Kind of event -> what happens, for a sentence that goes on with when.
PHRASES = {
    "freeze": "The picture freezes",
    "black": "The picture is black",
    "flat": "The picture is one flat colour",
    "bars": "Colour bars are shown",
    "credits": "Writing on a flat ground is shown",
    "fade": "The picture fades",
    "combing": "Lines of two fields are combed",
    "flicker": "The brightness flickers",
    "gap": "Frames are missing",
    "repeat": "Frames are repeated",
    "damage": "The stream is damaged",
}
#: A distortion that is visible for more than this share of the time is called constant.
_ALL_THE_TIME = 0.8
#: Stretches that a sentence lists; the tables have all.
_MOST_LISTED = 3


def sentences(distortions: Iterable[Distortion], times: SegmentTimes) -> list[str]:
    """Give a sentence for the named distortions that come and go at one time, and for each kind of event.

    Args:
        distortions: of the video.
        times: of its segments, with events.
    """
    together: dict[tuple[Stretch, ...], list[str]] = {}
    rated_s = float(times.length_s[times.has_picture].sum())
    for one in distortions:
        if one.named and covered_s(one.stretches) < _ALL_THE_TIME * rated_s:
            together.setdefault(one.stretches, []).append(NOUNS.get(one.name, one.name))
    found = []
    for stretches, names in together.items():
        when = listed(stretches)
        found.append(f"{when[0].upper()}{when[1:]} it shows {enumerated(names)}.")
    for kind, phrase in PHRASES.items():
        if stretches := [(event.start_s, event.end_s) for event in times.events if event.kind == kind]:
            found.append(f"{phrase} {listed(stretches)}.")
    return found


def listed(stretches: Iterable[Stretch]) -> str:
    """List stretches of time: from 0:05 to 0:07 and from 1:02 to 1:03.5."""
    ordered = sorted(stretches)
    parts = [f"from {clock(start)} to {clock(end)}" for start, end in ordered[:_MOST_LISTED]]
    if more := len(ordered) - len(parts):
        parts.append(f"{more} more time{'s' * (more > 1)}")
    return enumerated(parts)


def enumerated(parts: list[str]) -> str:
    """Write a list in words: a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def clock(time_s: float) -> str:
    """Write a time as h:mm:ss or m:ss, with a tenth where it is not a whole second."""
    tenths = round(max(0.0, time_s) * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{hours}:{minutes:02d}:{seconds}" if hours else f"{minutes}:{seconds}"
