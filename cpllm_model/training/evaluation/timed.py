"""Tests in time: is a stretch that differs found, is its time right, does the score of the whole move as it should.

In: a predictor and clean sources; `timed_clips.py` makes the videos. Out: figures by kind and length of the stretch,
whether they hold their bounds, and what the model said of every video.

Found is a bad stretch if a segment over it scores lower than the median segment by MARGIN, or if its distortion is
named over it; anything else if an event of its kind is stated over it. Over it: at least half of the shorter of both.
How often the same would be found in the clean video stands beside it: that is what chance and the shots themselves do.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cpllm_model.errors import SourceReadError, VideoError
from cpllm_model.metrics import Bootstrap
from cpllm_model.pooling import Stretch, covered_s, joined
from cpllm_model.predictor import QualityPredictor, Rating
from cpllm_model.training.data import encode
from cpllm_model.training.evaluation.columns import means
from cpllm_model.training.evaluation.stress import Said, said_of, verdict
from cpllm_model.training.evaluation.stress_sources import Source
from cpllm_model.training.evaluation.timed_clips import (
    CHANGES,
    CLEAN,
    FROZEN,
    HALF,
    SHOTS,
    SLIDES,
    SWAPPED,
    Clip,
    make_clips,
)

SECONDS, LENGTHS_S = 60.0, (1.0, 2.0, 5.0, 10.0)
#: By so much lower than the median segment a segment counts as bad, MOS.
MARGIN = 0.3
#: A time is right that is off by no more, s.
WITHIN_S = 0.5
#: Kind of stretch -> the distortion that it has.
DISTORTION_OF = {"compression": "compression", "blur": "blur", "noise": "noise", HALF: "blur", SWAPPED: "blur"}
#: Kind of stretch -> the kind of event that it is.
EVENT_OF = {"freeze": "freeze", "black": "black", "green": "flat", "bars": "bars", "credits": "credits",
            FROZEN: "freeze"}  # fmt: skip
BAD, NO_PICTURE = ("compression", "blur", "noise"), ("black", "green", "bars", "credits")
REPORT_EVERY = 20
TIMED = pa.schema(
    [
        pa.field("video", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        ("length_s", pa.float64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        ("score", pa.float64()),
        ("segment_start_s", pa.list_(pa.float64())),
        ("segment_end_s", pa.list_(pa.float64())),
        ("segment_score", pa.list_(pa.float64())),
        ("named", pa.list_(pa.string())),
        ("events", pa.list_(pa.string())),
        ("found", pa.float64()),
        ("found_on_clean", pa.float64()),
        ("found_newly", pa.float64()),
        ("overlap", pa.float64()),
        ("start_off_s", pa.float64()),
        ("end_off_s", pa.float64()),
        ("in_time", pa.float64()),
        ("shift", pa.float64()),
        ("falls", pa.float64()),
        ("called_distorted", pa.float64()),
        ("error_type", pa.string()),
        ("error_message", pa.string()),
    ]
)


@dataclass(frozen=True)
class TimedAnswer:
    """What a model said of a clip, or why there is no answer."""

    video: str
    clip: Clip
    said: Said | VideoError


@dataclass(frozen=True)
class Bound:
    """A figure and the bound that it should hold: the mean of a column over the clips of some kinds and lengths.

    Args:
        words: what it is.
        column: a key of what `measure` gives.
        bound: at least so much, or at most.
        kinds: of clips.
        lengths_s: of the stretch; None is any.
        at_least: which of both.
        size: whether the column's sign does not count.
    """

    words: str
    column: str
    bound: float
    kinds: tuple[str, ...]
    lengths_s: tuple[float, ...] | None = None
    at_least: bool = True
    size: bool = False

    def takes(self, clip: Clip) -> bool:
        """Tell whether a clip is counted."""
        return clip.kind in self.kinds and (self.lengths_s is None or clip.length_s in self.lengths_s)


# fmt: off
BOUNDS = (
    Bound("bad stretches of 5 s or more found", "found", 0.9, BAD, (5.0, 10.0)),
    Bound("bad stretches of 2 s found", "found", 0.6, BAD, (2.0,)),
    Bound("the same stretches of clean videos taken for bad", "found_on_clean", 0.1, BAD, at_least=False),
    Bound("freezes of 2 s or more found, both ends within 0.5 s", "in_time", 0.95, ("freeze",), (2.0, 5.0, 10.0)),
    Bound("all but a second at both ends frozen: found, both ends within 0.5 s", "in_time", 0.95, (FROZEN,)),
    Bound("all but a second at both ends frozen: score falls", "falls", 0.95, (FROZEN,)),
    Bound("clean videos and slide shows called frozen", "called_frozen", 0.0, (CLEAN, SLIDES), at_least=False),
    Bound("score shift when the halves are swapped (MOS)", "shift", 0.1, (SWAPPED,), at_least=False, size=True),
    Bound("black, green, bars and credits called a distortion", "called_distorted", 0.0, NO_PICTURE, at_least=False),
    Bound("score falls with a bad or frozen stretch of 5 s or more", "falls", 0.9, (*BAD, "freeze"), (5.0, 10.0)),
    Bound("score shift with black, green, bars or credits (MOS)", "shift", 0.25, NO_PICTURE, at_least=False,
          size=True),
)
# fmt: on
#: Columns of the table by kind and length.
FIGURES = (
    "found",
    "found_on_clean",
    "found_newly",
    "overlap",
    "start_off_s",
    "end_off_s",
    "in_time",
    "shift",
    "falls",
    "called_distorted",
)


@dataclass(frozen=True)
class TimedSettings:
    """Which tests in time are made.

    Args:
        videos: clean videos, each of SHOTS sources.
        folders: as those of the stress tests.
        seconds: length of a video.
        lengths_s: of the stretches.
        kinds: of stretches, of timed_clips.CHANGES.
    """

    videos: int = 6
    folders: tuple[Path, ...] = ()
    seconds: float = SECONDS
    lengths_s: tuple[float, ...] = LENGTHS_S
    kinds: tuple[str, ...] = tuple(CHANGES)


# What is measured of one answer.


def meets(found: Stretch, true: Stretch) -> bool:
    """Tell whether two stretches share at least half of the shorter one."""
    shared_s = min(found[1], true[1]) - max(found[0], true[0])
    return shared_s > 0 and shared_s >= min(found[1] - found[0], true[1] - true[0]) / 2


def overlap(found: Sequence[Stretch], true: Stretch) -> float:
    """Give the intersection of found stretches with the true one over their union, 0-1."""
    inside = [(max(start, true[0]), min(end, true[1])) for start, end in found if start < true[1] and end > true[0]]
    return covered_s(inside) / covered_s([*found, true])


def low_segments(rating: Rating) -> list[Stretch]:
    """Give the segments that score lower than the median segment by MARGIN or more; none without a picture counts."""
    timed = zip(rating.segment_start_s, rating.segment_end_s, rating.segment_score, strict=True)
    scored = [(start, end, score) for start, end, score in timed if score is not None]
    median = float(np.median([score for _, _, score in scored])) if scored else 0.0
    return [(start, end) for start, end, score in scored if score <= median - MARGIN]


def found_stretches(said: Said, clip: Clip) -> tuple[Stretch, ...]:
    """Give what was found of a clip's stretch, in order of time."""
    if clip.stretch is None:
        return ()
    if clip.kind in EVENT_OF:
        stated = [(one.start_s, one.end_s) for one in said.description.events if one.kind == EVENT_OF[clip.kind]]
    else:
        stated = low_segments(said.rating) + named_stretches(said).get(DISTORTION_OF[clip.kind], [])
    return joined([one for one in stated if meets(one, clip.stretch)])


def named_stretches(said: Said) -> dict[str, list[Stretch]]:
    """Give when each named distortion is there."""
    return {one.name: list(one.stretches) for one in said.description.distortions if one.named}


def names_over(said: Said, stretch: Stretch) -> set[str]:
    """Give the distortions that are named over a stretch."""
    return {name for name, there in named_stretches(said).items() if any(meets(one, stretch) for one in there)}


def measure(clip: Clip, said: Said, clean: Said, reference: Said) -> dict[str, float]:
    """Measure one answer; yes is 1, no is 0, and what does not apply is not there.

    Args:
        clip: what was asked about.
        said: of it.
        clean: of the clean video.
        reference: of the clip's reference.
    """
    shift = said.score - reference.score
    columns = {
        "shift": shift,
        "falls": float(shift < 0),
        "called_frozen": float(any(event.kind == "freeze" for event in said.description.events)),
    }
    if clip.stretch is None:
        return columns
    found = found_stretches(said, clip)
    columns |= {"found": float(bool(found)), "in_time": 0.0}
    if clip.kind in CHANGES:
        columns["found_on_clean"] = float(bool(found_stretches(clean, clip)))
        if not columns["found_on_clean"]:
            columns["found_newly"] = columns["found"]
    if clip.kind in NO_PICTURE:
        # What is named of the clean picture is no fault of what stands in its place.
        columns["called_distorted"] = float(bool(names_over(said, clip.stretch) - names_over(clean, clip.stretch)))
    if found:
        start_off, end_off = abs(found[0][0] - clip.stretch[0]), abs(found[-1][1] - clip.stretch[1])
        columns |= {
            "overlap": overlap(found, clip.stretch),
            "start_off_s": start_off,
            "end_off_s": end_off,
            "in_time": float(max(start_off, end_off) <= WITHIN_S),
        }
    return columns


def ask_timed(
    predictor: QualityPredictor, sources: Sequence[Source], settings: TimedSettings, report: Callable[[str], None]
) -> list[TimedAnswer]:
    """Make every clip of every video, and ask a model about it.

    Args:
        predictor: the model.
        sources: SHOTS for each video.
        settings: what is made.
        report: takes a line of progress.
    """
    found: list[TimedAnswer] = []
    with tempfile.TemporaryDirectory() as name:
        made: list[tuple[str, Clip, Path]] = []
        for number, seen in enumerate(predictor.look(_files(sources, settings, Path(name), made, found))):
            video, clip, path = made[number]
            path.unlink()
            said = seen if isinstance(seen, VideoError) else said_of(predictor, clip.kind, seen)
            found.append(TimedAnswer(video, clip, said))
            if (number + 1) % REPORT_EVERY == 0:
                report(f"tests in time: {number + 1} clips, video {video}")
    return found


def _files(
    sources: Sequence[Source], settings: TimedSettings, folder: Path, made: list, failed: list[TimedAnswer]
) -> Iterator[Path]:
    """Make clips one after the other as they are asked for, and note in `made` what each file is."""
    for number in range(settings.videos):
        shots = sources[number * SHOTS : (number + 1) * SHOTS]
        video = f"video-{number + 1}"
        try:
            clips = make_clips(shots, settings.seconds, settings.lengths_s, settings.kinds, number, folder)
            for clip, path in clips:
                made.append((video, clip, path))
                yield path
        except (encode.EncodeError, OSError, ValueError) as error:
            # One source that cannot be read costs nothing of what is known of the other videos.
            names = ", ".join(shot.name for shot in shots)
            reason = SourceReadError(names, f"the clips cannot be made: {error}")
            failed.append(TimedAnswer(video, Clip("clips"), reason))


def measured(found: Sequence[TimedAnswer]) -> list[tuple[TimedAnswer, dict[str, float]]]:
    """Measure every answer; nothing is measured of a clip whose clean video or reference has no answer."""
    said: dict[str, dict[str, Said]] = defaultdict(dict)
    for one in found:
        # References are the clips of their kinds that are alone in their video.
        if isinstance(one.said, Said) and one.clip.kind not in CHANGES:
            said[one.video][one.clip.kind] = one.said
    rows = []
    for one in found:
        known = said[one.video]
        has_references = CLEAN in known and one.clip.reference in known
        figures = (
            measure(one.clip, one.said, known[CLEAN], known[one.clip.reference])
            if isinstance(one.said, Said) and has_references
            else {}
        )
        rows.append((one, figures))
    return rows


def timed_figures(found: Sequence[TimedAnswer], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give the figures by kind and length, all bad stretches together first, and the bounds with intervals over videos.

    A clip without an answer is in no figure; failures are counted.
    """
    rows = measured(found)
    errors = Counter(one.said.error_type for one in found if isinstance(one.said, VideoError))
    grouped: dict[tuple[str, float | None], list[dict[str, float]]] = defaultdict(list)
    for one, figures in rows:
        if one.clip.kind in BAD and figures:
            grouped["all bad", one.clip.length_s].append(figures)
    for one, figures in rows:
        if figures:
            grouped[one.clip.kind, one.clip.length_s].append(figures)
    kept = [(one, figures) for one, figures in rows if figures]
    return {
        "videos": len({one.video for one in found}),
        "clips": len(found),
        "failed": dict(errors.most_common()),
        "stretches": [
            {"kind": kind, "length_s": length_s, "clips": len(group)} | _means(group)
            for (kind, length_s), group in grouped.items()
        ],
        "checks": [check for bound in BOUNDS if (check := _check(bound, kept, bootstrap))],
    }


def _means(group: Sequence[dict[str, float]]) -> dict[str, float]:
    """Give the mean of each column over the clips that have it."""
    values = {name: [figures[name] for figures in group if name in figures] for name in FIGURES}
    return {name: float(np.mean(known)) for name, known in values.items() if known}


def _check(
    bound: Bound, rows: Sequence[tuple[TimedAnswer, dict[str, float]]], bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """Compare a figure with its bound; None without a clip of its kind."""
    taken = [(one.video, figures[bound.column]) for one, figures in rows
             if bound.takes(one.clip) and bound.column in figures]  # fmt: skip
    if not taken:
        return None
    value_N = np.array([abs(value) if bound.size else value for _, value in taken])
    figure = bootstrap.estimate(means(figure=value_N), [video for video, _ in taken])["figure"]
    found = verdict(bound.words, figure, float(value_N.mean()), bound.bound, at_least=bound.at_least)
    return found | {"clips": len(taken)}


def write_timed_table(found: Sequence[TimedAnswer], path: Path) -> None:
    """Write a row a clip: what was said and measured of it, or why there is no answer."""
    rows = []
    for one, figures in measured(found):
        start_s, end_s = one.clip.stretch or (None, None)
        row: dict[str, Any] = {"video": one.video, "kind": one.clip.kind, "length_s": one.clip.length_s,
                               "start_s": start_s, "end_s": end_s}  # fmt: skip
        if isinstance(one.said, Said):
            rating = one.said.rating
            named = [f"{name} {start:.2f}-{end:.2f}" for name, there in named_stretches(one.said).items()
                     for start, end in there]  # fmt: skip
            events = [f"{event.kind} {event.start_s:.2f}-{event.end_s:.2f}" for event in one.said.description.events]
            row |= {"status": "ok", "score": rating.score, "segment_start_s": rating.segment_start_s,
                    "segment_end_s": rating.segment_end_s, "segment_score": rating.segment_score,
                    "named": named, "events": events}  # fmt: skip
            row |= {name: value for name, value in figures.items() if name in TIMED.names}
        else:
            row |= {"status": "failed", "error_type": one.said.error_type, "error_message": one.said.cause}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, TIMED), path, compression="zstd")
