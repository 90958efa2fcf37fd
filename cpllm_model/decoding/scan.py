"""All packets of a video stream, and the timelines that they give: by their times, their numbers, or by counting.

In: an open container, read through once; decodes nothing. Out: routes, each exact, for files whose index does
not serve; and what of the declared video the file does not hold.
"""

from __future__ import annotations

import itertools
from array import array
from dataclasses import dataclass, field

import av.error
import numpy as np

from cpllm_model.decoding.container import FATAL, SLACK_S, OpenVideo, VideoSource, nearest
from cpllm_model.decoding.packets import MOST_PACKETS, Packets, in_order
from cpllm_model.decoding.sampling import SamplingSettings, Timeline
from cpllm_model.decoding.segments import Segment, segment_bounds
from cpllm_model.decoding.timeline import Route, Unreachable, divided, falls_short, pts_of, usual_fps
from cpllm_model.errors import CorruptVideoError, LimitExceededError, TooShortError

#: A frame more or less than declared is rounding.
_SLACK_FRAMES = 1
#: Key frames before the one asked for from which a stream has recovered that is refreshed bit by bit.
_REFRESHES = 2


@dataclass
class Scan:
    """All frames of the video stream, in the order of the file; a second field is part of the frame before.

    Args:
        longest_s: a longer span is a jump of the clock.
        time_base_s: seconds a tick.
        fps: the container's frame rate if believable, else 25.
        numbers: of the packet that each frame begins with, among those the demuxer gives.
        pts: presentation time in ticks.
        keys: whether it is a key frame.
        shown: whether it is shown; frames before the start of an edit list are only decoded.
        size_bytes: of the packet, or of both fields.
        damaged: whether the container marks the packet as not whole.
        frame_px: pixels of a frame, as declared.
        span_s: from the first to the last moment of any stream of the file.
        end_pts: where the frame shown last ends, in ticks; None if its packet does not say.
        packets: of the stream.
        declared_s, declared_frames: what the container says; 0 if nothing.
        is_gradual: some key frame refers to frames before it; decoding recovers in the course of some frames.
        first: of the frames in the order of the file, that from which on the stream decodes.
    """

    longest_s: float
    time_base_s: float
    fps: float
    numbers: list[int] = field(default_factory=list)
    pts: list[int | None] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    size_bytes: array[int] = field(default_factory=lambda: array("q"))
    damaged: array[int] = field(default_factory=lambda: array("b"))
    frame_px: int = 0
    span_s: float = 0.0
    end_pts: int | None = None
    packets: int = 0
    declared_s: float = 0.0
    declared_frames: int = 0
    is_gradual: bool = False
    first: int = 0

    def duration_s(self) -> float:
        """Of the video stream: measured by its timestamps, or by counting."""
        ticks = self._ticks(whole=True)
        if ticks is None or len(ticks) < 2:
            return max(1, len(self.numbers)) / self.fps
        if self.end_pts is not None:
            return float(self.end_pts - ticks[0]) * self.time_base_s
        return float((ticks[-1] - ticks[0]) * len(ticks) / (len(ticks) - 1) * self.time_base_s)

    def check(self, source: VideoSource) -> None:
        """Count what the file declares and does not hold.

        Raises:
            CorruptVideoError: that is too much.
        """
        missing_s = self.declared_s - self.span_s
        if self.span_s and falls_short(self.span_s, self.declared_s, SLACK_S):
            cause = f"cut off: holds {self.span_s:.2f} s of {self.declared_s:.2f} s"
            raise CorruptVideoError(source.name, cause)
        if falls_short(self.packets, self.declared_frames, _SLACK_FRAMES):
            raise CorruptVideoError(source.name, f"cut off: holds {self.packets} of {self.declared_frames} frames")
        by_time = round(missing_s * self.fps) if self.span_s and missing_s > SLACK_S else 0
        by_number = (self.declared_frames - self.packets) * len(self.numbers) // self.packets
        source.missing_frames = max(0, by_time, by_number)

    def _key_pts(self) -> list[int]:
        return [pts for pts, key in zip(self.pts, self.keys, strict=True) if key and pts is not None]

    def _ticks(self, whole: bool = False) -> np.ndarray | None:
        """Sorted timestamps of the frames that decode, or of the whole stream, if they tell one from another."""
        key_pts = self._key_pts()
        if not key_pts or self.span_s > self.longest_s or any(b <= a for a, b in itertools.pairwise(key_pts)):
            return None
        first = 0 if whole else self.first
        pts = [pts for pts, shown in zip(self.pts[first:], self.shown[first:], strict=True) if shown]
        if None in pts or len(set(pts)) < len(pts) or not pts:
            return None
        ticks = np.sort(np.array(pts, np.int64))
        # What a gradual refresh withholds is shown before the first frame that it gives.
        given_from = self.pts[first] if self.is_gradual and not whole else None
        return ticks if given_from is None else ticks[ticks >= given_from]

    def skipped_frames(self) -> int:
        """Frames shown before the first from which on the stream decodes."""
        before, first = self.shown[: self.first], self.pts[self.first]
        if not self.is_gradual or first is None:
            return sum(before)
        return sum(shown and pts is not None and pts < first for pts, shown in zip(self.pts, self.shown, strict=True))

    def time_route(self, name: str, settings: SamplingSettings) -> Route:
        """Make a timeline of the packets' timestamps.

        Segments are equal in time; where one would be left without a whole burst (a slide show, a jump of
        the clock), they are equal in frames, and ticks are the numbers of frames.

        Raises:
            TooShortError: fewer frames than a burst.
            Unreachable: the timestamps do not tell one frame from another.
        """
        ticks, key_pts = self._ticks(), self._key_pts()
        if ticks is None:
            raise Unreachable("no timestamps that tell one frame from another")
        looks = look_count(self.duration_s(), len(ticks), name, settings)
        period = max(1, int(ticks[-1] - ticks[0]) // max(1, len(ticks) - 1))
        timeline = Timeline(int(ticks[0]), int(ticks[-1]) + period, key_pts, period, ticks)
        numbers = [number for number, key in zip(self.numbers, self.keys, strict=True) if key]
        if self.is_gradual:
            numbers = [numbers[max(0, index - _REFRESHES)] for index in range(len(numbers))]
        first, edges = int(ticks[0]), np.append(ticks, timeline.end)
        bounds = segment_bounds(timeline.start, timeline.end, looks)
        by_rank = not all(timeline.nth_frame(a, settings.burst_frames - 1) < b for a, b in bounds)
        if by_rank:
            key_pts = [int(rank) for rank in np.searchsorted(ticks, key_pts)]
            timeline = Timeline(0, len(ticks), key_pts, 1, np.arange(len(ticks)))
        packets = self._packets(ticks, by_rank)
        segments, stills = divided(timeline, looks, settings, packets, self.frame_px)
        return Route(
            timeline,
            segments,
            len(ticks),
            self.duration_s(),
            tick=(lambda frame, begun, index: _rank(ticks, frame.pts)) if by_rank else pts_of,
            seconds=(lambda rank: float((edges[rank] - first) * self.time_base_s))
            if by_rank
            else (lambda tick: (tick - first) * self.time_base_s),
            ticks_are_pts=not by_rank,
            counts_packets=False,
            key_places=dict(zip(key_pts, numbers, strict=True)),
            skipped_frames=self.skipped_frames(),
            is_gradual=self.is_gradual,
            packets=packets,
            stills=stills,
        )

    def _packets(self, ticks: np.ndarray, by_rank: bool) -> Packets | None:
        """The packets of the frames at these sorted timestamps, whose numbers are the ticks of a route by rank."""
        if len(self.pts) > MOST_PACKETS:
            return None
        is_kept = np.array(self.shown) & (np.arange(len(self.pts)) >= self.first)
        pts = np.array([pts for pts, kept in zip(self.pts, is_kept, strict=True) if kept], np.int64)
        is_given = pts >= ticks[0]  # a gradual refresh withholds some
        columns = (np.array(self.size_bytes), np.array(self.keys), np.array(self.damaged) > 0)
        sizes, is_key, is_damaged = (column[is_kept][is_given] for column in columns)
        pts = pts[is_given]
        period = max(1, int(ticks[-1] - ticks[0]) // max(1, len(ticks) - 1))
        end_s = float(ticks[-1] + period - ticks[0]) * self.time_base_s
        shown = np.searchsorted(ticks, pts) if by_rank else pts
        return in_order(shown, (pts - ticks[0]) * self.time_base_s, sizes, is_key, is_damaged, end_s)

    def number_route(self, name: str, settings: SamplingSettings) -> Route:
        """Make a timeline of the packets' numbers, each taken for a frame, for want of sound timestamps.

        Raises:
            TooShortError: fewer packets than a burst has frames.
            Unreachable: no packet is a key frame, or key frames are none to begin at.
        """
        if not any(self.keys) or self.is_gradual:
            raise Unreachable("no key frame")
        keys = [index for index, key in enumerate(self.keys) if key]
        frames = len(self.keys)
        return Route(
            Timeline(keys[0], frames, keys, 1, np.arange(frames)),
            _even(keys[0], frames, look_count((frames - keys[0]) / self.fps, frames - keys[0], name, settings)),
            frames - keys[0],
            frames / self.fps,
            tick=lambda frame, begun, index: begun + index,
            seconds=lambda tick: (tick - keys[0]) / self.fps,
            ticks_are_pts=False,
            counts_packets=True,
            key_places={index: self.numbers[index] for index in keys},
            skipped_frames=self.skipped_frames(),
        )

    def count_route(self, frames: int, source: VideoSource, settings: SamplingSettings) -> Route:
        """Make a timeline of the frames that come out of the decoder from the first packet on.

        Args:
            frames: that came out.
            source: of the video.
            settings: how much is looked at.

        Raises:
            CorruptVideoError, LimitExceededError: far fewer frames than packets.
            TooShortError: fewer frames than a burst.
        """
        due = sum(self.shown) - self.skipped_frames()  # a recording may begin anywhere
        if falls_short(frames, due, _SLACK_FRAMES):
            raise source.undecodable(f"{frames} of {due} frames decode")
        return Route(
            Timeline(0, frames, [0], 1, np.arange(frames)),
            _even(0, frames, look_count(frames / self.fps, frames, source.name, settings)),
            frames,
            self.duration_s(),
            tick=lambda frame, begun, index: index,
            seconds=lambda tick: tick / self.fps,
            ticks_are_pts=False,
            counts_packets=False,
            key_places={0: 0},
            skipped_frames=self.skipped_frames(),
        )


def _even(start: int, end: int, looks: int) -> list[Segment]:
    """Equal segments."""
    return [Segment(a, b, a, (a + b) // 2) for a, b in segment_bounds(start, end, looks)]


def _rank(ticks: np.ndarray, pts: int | None) -> int | None:
    return None if pts is None else int(np.searchsorted(ticks, pts))


def scan_packets(video: OpenVideo) -> Scan:
    """Read every packet of a file and decode none.

    Raises:
        CorruptVideoError: the file holds no video at all.
        LimitExceededError: too many packets, or too long.
    """
    source, limits, headers = video.source, video.source.limits, video.picture_headers()
    scan = Scan(limits.max_duration_s, float(video.time_base), 25.0)
    first_s, last_s, last_pts, number, are_intra = float("inf"), float("-inf"), float("-inf"), -1, True
    try:
        for packet in video.container.demux():
            ours = packet.stream_index == video.stream.index
            number += ours
            if not packet.size:
                continue
            if ours and packet.is_corrupt:
                source.lost_packets.add(packet.pos or 0)
            if packet.pts is not None and not packet.is_discard:
                time_base, duration = float(packet.time_base), packet.duration or 0
                first_s = min(first_s, packet.pts * time_base)
                last_s = max(last_s, (packet.pts + duration) * time_base)
                if ours and packet.pts > last_pts:
                    last_pts, scan.end_pts = packet.pts, packet.pts + duration if duration else None
            if not ours:
                continue
            scan.packets += 1
            if scan.packets > limits.max_frames:
                raise LimitExceededError(source.name, f"more than {limits.max_frames} frames")
            if headers is not None and headers.is_second_field(packet):
                scan.size_bytes[-1] += packet.size
                continue
            scan.numbers.append(number)
            scan.pts.append(packet.pts)
            scan.keys.append(packet.is_keyframe)
            scan.shown.append(not packet.is_discard)
            scan.size_bytes.append(packet.size)
            scan.damaged.append(packet.is_corrupt)
            if headers is not None and packet.is_keyframe:
                are_intra &= headers.is_intra(packet)
    except FATAL:
        raise
    except av.error.FFmpegError:
        pass  # what could be read is judged by `Scan.check`
    scan.frame_px = video.stream.codec_context.width * video.stream.codec_context.height
    if not scan.numbers:
        raise CorruptVideoError(source.name, "its video stream is empty")
    scan.span_s = max(0.0, last_s - first_s)
    scan.is_gradual = not are_intra
    scan.first = scan.keys.index(True) if any(scan.keys) else 0
    if len(scan.numbers) < scan.packets:
        source.paired_fps = usual_fps([pts for pts in scan.pts if pts is not None], scan.time_base_s)
    scan.fps = video.declared_fps() or scan.fps
    durations_s = video.declared_durations_s(first_s if scan.span_s else None)
    scan.declared_s = nearest(durations_s, scan.span_s) if durations_s else 0.0
    scan.declared_frames = video.stream.frames
    return scan


def look_count(duration_s: float, frames: int, name: str, settings: SamplingSettings) -> int:
    """How many looks a video gets.

    Raises:
        TooShortError: fewer frames than a burst.
    """
    if frames < settings.burst_frames:
        raise TooShortError(name, f"has {frames} frames, a burst needs {settings.burst_frames}")
    return settings.looks(duration_s, frames)
