"""When a video has frames and key frames: from its container's index, or from all of its packets.

In: an open container. Out: a Timeline, exact where packets were read, estimated but cheap where an index is
at hand. Decodes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import av.error
import numpy as np
from av.video.frame import VideoFrame

from cpllm_model.decoding.container import FATAL, OpenVideo, VideoSource
from cpllm_model.decoding.sampling import SamplingSettings, Timeline, context_ticks, segment_bounds
from cpllm_model.errors import CorruptVideoError, LimitExceededError, TooShortError

#: Containers whose index of the whole file is at hand once they are opened.
_INDEXED = {"mov", "matroska", "avi"}
#: What of the declared seconds or frames a file has to hold. Less than a slack is rounding; between, it is counted.
_HELD_SHARE = 0.9
_SLACK_S, _SLACK_FRAMES = 0.5, 1
#: Frames of fewer bursts than this many times those asked for are counted rather than estimated.
_SURE_BURSTS = 4
#: Frames that an edit list may hide at the start; a key frame lies before.
_MOST_HIDDEN = 4096


class Unreachable(Exception):  # noqa: N818 (no error: the signal to read the file in another way)
    """The frames asked for cannot be reached in this way."""


@dataclass(frozen=True)
class Route:
    """A timeline, and what its ticks mean.

    Args:
        timeline: of the video.
        segments: how many to cut it into.
        frames, duration_s: of the video, as far as its index or packets tell.
        tick: gives the tick of a decoded frame, from the frame, the tick that decoding began at, and how
            many frames came before it since.
        seconds: gives the time of a tick since the first frame.
        ticks_are_pts: ticks are presentation timestamps, of packets too.
        counts_packets: ticks tell how many packets came before; true as long as each gives a frame.
        key_places: tick of a key frame -> the tick to seek to for it, or its number among the packets.
    """

    timeline: Timeline
    segments: int
    frames: int
    duration_s: float
    tick: Callable[[VideoFrame, int, int], int | None]
    seconds: Callable[[int], float]
    ticks_are_pts: bool
    counts_packets: bool
    key_places: dict[int, int]


def corrected(route: Route, moved: dict[int, int]) -> Route:
    """The same route with key frames at other ticks than assumed, as `IndexedReader.moved` found them."""
    places = {moved.get(key, key): place for key, place in route.key_places.items()}
    timeline = replace(route.timeline, key_ticks=sorted(places))
    return replace(route, timeline=timeline, key_places=places)


def _pts(frame: VideoFrame, begun: int, index: int) -> int | None:
    return frame.pts


def index_route(video: OpenVideo, settings: SamplingSettings) -> Route:
    """Read the index around the times that sampling asks for; its cost does not grow with the video.

    Raises:
        Unreachable: there is no index, or not of the whole video.
        CorruptVideoError: the index reaches beyond the end of the file.
    """
    start, end, period, offset = _index_span(video)
    count = (end - start) // period
    segments = min(settings.segments, count // settings.burst_frames)
    estimated = video.format_name == "matroska"
    if not segments or (estimated and count < _SURE_BURSTS * settings.segments * settings.burst_frames):
        raise Unreachable("too few frames to rely on the index")
    if estimated:
        _read_end(video, end)
    entries = video.stream.index_entries
    ticks = {start}
    for bounds in segment_bounds(start, end, segments):
        ticks |= {bounds[0], sum(bounds) // 2, *context_ticks(bounds, settings.context_frames)}
    found = {
        entries.search_timestamp(tick - offset, backward=backward)
        for tick, backward in itertools.product(ticks, (True, False))
    }
    keys = sorted({entries[number].timestamp + offset for number in found if number >= 0})
    if not keys:
        raise Unreachable("the index has no key frame")
    places = {key: key for key in keys}
    if video.format_name == "mov":
        # Its demuxer passes over a key frame that is shown later than the time that is sought, and takes that
        # for a decoding time in fragmented files: sought is the latest time that both ways lead to the key.
        for key in keys:
            following = entries.search_timestamp(key - offset + 1, backward=False)
            latest = entries[following].timestamp + offset - 1 if following >= 0 else end
            places[key] = max(key, latest - max(offset, 0))
    time_base = float(video.time_base)
    # AVI numbers frames in the order of decoding; presentation times made from that are not to be trusted.
    counts = video.format_name == "avi"
    return Route(
        Timeline(start, end, keys, period),
        segments,
        count,
        (end - start) * time_base,
        tick=(lambda frame, begun, index: begun + index * period) if counts else _pts,
        seconds=lambda tick: (tick - start) * time_base,
        ticks_are_pts=not counts,
        counts_packets=counts,
        key_places=places,
    )


def _read_end(video: OpenVideo, end: int) -> None:
    """Raise Unreachable unless packets go on to the declared end: an index does not tell where a file is cut off."""
    declared_s, held_s = float(end * video.time_base), float("-inf")
    try:
        video.container.seek(end, stream=video.stream)
        for packet in video.container.demux():
            if packet.size and packet.pts is not None:
                held_s = max(held_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    except FATAL:
        raise
    except av.error.FFmpegError as error:
        raise Unreachable(f"its end cannot be read: {error.strerror}") from error
    if held_s < declared_s - _SLACK_S:
        raise Unreachable("it is cut off")


def measure(video: OpenVideo) -> tuple[float, int] | None:
    """Duration in seconds and number of frames by an index of every frame; None where there is none."""
    if video.format_name not in _INDEXED - {"matroska"}:
        return None
    try:
        start, end, period, _ = _index_span(video)
    except Unreachable:
        return None
    return (end - start) * float(video.time_base), (end - start) // period


def _index_span(video: OpenVideo) -> tuple[int, int, int, int]:
    """Start, end and mean frame period in ticks, and what to add to the index's times to get these."""
    stream, source = video.stream, video.source
    if video.format_name not in _INDEXED:
        raise Unreachable("no index")
    if video.format_name == "matroska":
        video.container.seek(stream.start_time or 0, stream=stream)  # loads the cues
    entries = stream.index_entries
    if len(entries) > source.limits.max_frames:
        raise LimitExceededError(source.name, f"an index of {len(entries)} frames")
    # Frames before the start of an edit list are only decoded, not shown.
    hidden = next((n for n in range(min(len(entries), _MOST_HIDDEN)) if not entries[n].is_discard), 0)
    if len(entries) - hidden < 2:
        raise Unreachable("no index")
    first, last = entries[hidden].timestamp, entries[-1].timestamp
    start = first if stream.start_time is None else stream.start_time
    duration_s, fps = video.declared_duration_s(), video.declared_fps()
    if video.format_name == "matroska":
        if duration_s is None or fps is None:
            raise Unreachable("no duration or frame rate")
        period = max(1, round(1 / (fps * video.time_base)))
        return start, start + max(1, round(duration_s / video.time_base)), period, start - first
    if entries[-1].pos >= source.size_bytes:
        at, size = entries[-1].pos, source.size_bytes
        raise CorruptVideoError(source.name, f"cut off: its last frame lies at byte {at} of {size}")
    period = max(1, (last - first) // (len(entries) - hidden - 1))
    if _falls_short(float((last - first + period) * video.time_base), duration_s, _SLACK_S):
        raise Unreachable("the index covers a part only")
    return start, start + last - first + period, period, start - first


def _falls_short(held: float, declared: float | None, slack: float) -> bool:
    return declared is not None and held < min(declared * _HELD_SHARE, declared - slack)


@dataclass
class Scan:
    """All packets of the video stream, in the order of the file.

    Args:
        numbers: of each packet among those the demuxer gives.
        pts: presentation time in ticks.
        keys: whether it is a key frame.
        shown: whether it is shown; frames before the start of an edit list are only decoded.
        span_s: from the first to the last moment of any stream of the file.
        longest_s: a longer span is a jump of the clock.
        time_base_s: seconds a tick.
        declared_fps: the container's frame rate if believable, else 25.
    """

    numbers: list[int]
    pts: list[int | None]
    keys: list[bool]
    shown: list[bool]
    span_s: float
    longest_s: float
    time_base_s: float
    declared_fps: float

    def duration_s(self) -> float:
        """Of the video stream: measured by its timestamps, or by counting."""
        ticks = self._ticks()
        if ticks is None or len(ticks) < 2:
            return max(1, len(self.numbers)) / self.declared_fps
        return float((ticks[-1] - ticks[0]) * len(ticks) / (len(ticks) - 1) * self.time_base_s)

    def _ticks(self) -> np.ndarray | None:
        """Sorted timestamps from the first key frame on, if they tell one frame from another."""
        if not any(self.keys) or self.span_s > self.longest_s:
            return None
        first = self.keys.index(True)
        pts = [pts for pts, shown in zip(self.pts[first:], self.shown[first:], strict=True) if shown]
        if None in pts or len(set(pts)) < len(pts) or not pts:
            return None
        return np.sort(np.array(pts, np.int64))

    def time_route(self, name: str, settings: SamplingSettings) -> Route:
        """Make a timeline of the packets' timestamps.

        Segments are equal in time; where one would be left without a whole burst (a slide show, a jump of
        the clock), they are equal in frames, and ticks are the numbers of frames.

        Raises:
            TooShortError: fewer frames than a burst.
            Unreachable: the timestamps do not tell one frame from another.
        """
        ticks = self._ticks()
        key_pts = [pts for pts, key in zip(self.pts, self.keys, strict=True) if key and pts is not None]
        if ticks is None or any(b <= a for a, b in itertools.pairwise(key_pts)):
            raise Unreachable("no timestamps that tell one frame from another")
        segments = segment_count(len(ticks), name, settings)
        period = max(1, int(ticks[-1] - ticks[0]) // max(1, len(ticks) - 1))
        timeline = Timeline(int(ticks[0]), int(ticks[-1]) + period, key_pts, period, ticks)
        numbers = [number for number, key in zip(self.numbers, self.keys, strict=True) if key]
        first, time_base_s = int(ticks[0]), self.time_base_s
        bounds = segment_bounds(timeline.start, timeline.end, segments)
        if all(timeline.nth_frame(a, settings.burst_frames - 1) < b for a, b in bounds):
            return Route(
                timeline,
                segments,
                len(ticks),
                self.duration_s(),
                tick=_pts,
                seconds=lambda tick: (tick - first) * time_base_s,
                ticks_are_pts=True,
                counts_packets=False,
                key_places=dict(zip(key_pts, numbers, strict=True)),
            )
        key_ranks = [int(rank) for rank in np.searchsorted(ticks, key_pts)]
        edges = np.append(ticks, timeline.end)
        return Route(
            Timeline(0, len(ticks), key_ranks, 1, np.arange(len(ticks))),
            segments,
            len(ticks),
            self.duration_s(),
            tick=lambda frame, begun, index: _rank(ticks, frame.pts),
            seconds=lambda rank: float((edges[rank] - first) * time_base_s),
            ticks_are_pts=False,
            counts_packets=False,
            key_places=dict(zip(key_ranks, numbers, strict=True)),
        )

    def number_route(self, name: str, settings: SamplingSettings) -> Route:
        """Make a timeline of the packets' numbers, each taken for a frame, for want of sound timestamps.

        Raises:
            TooShortError: fewer packets than a burst has frames.
            Unreachable: no packet is a key frame.
        """
        if not any(self.keys):
            raise Unreachable("no key frame")
        keys = [index for index, key in enumerate(self.keys) if key]
        frames = len(self.keys)
        return Route(
            Timeline(keys[0], frames, keys, 1, np.arange(frames)),
            segment_count(frames - keys[0], name, settings),
            frames,
            frames / self.declared_fps,
            tick=lambda frame, begun, index: begun + index,
            seconds=lambda tick: (tick - keys[0]) / self.declared_fps,
            ticks_are_pts=False,
            counts_packets=True,
            key_places={index: self.numbers[index] for index in keys},
        )

    def count_route(self, frames: int, source: VideoSource, settings: SamplingSettings) -> Route:
        """Make a timeline of the frames that come out of the decoder from the first packet on.

        Raises:
            CorruptVideoError, LimitExceededError: far fewer frames than packets, where those are not single fields.
            TooShortError: fewer frames than a burst.
        """
        packets = sum(self.shown)
        are_fields = not source.lost_packets and abs(packets - 2 * frames) <= 0.02 * packets
        if _falls_short(frames, packets, _SLACK_FRAMES) and not are_fields:
            raise source.undecodable(f"{frames} of {packets} frames decode")
        return Route(
            Timeline(0, frames, [0], 1, np.arange(frames)),
            segment_count(frames, source.name, settings),
            frames,
            frames / self.declared_fps,
            tick=lambda frame, begun, index: index,
            seconds=lambda tick: tick / self.declared_fps,
            ticks_are_pts=False,
            counts_packets=False,
            key_places={0: 0},
        )


def _rank(ticks: np.ndarray, pts: int | None) -> int | None:
    return None if pts is None else int(np.searchsorted(ticks, pts))


def scan_packets(video: OpenVideo) -> Scan:
    """Read every packet of a file and decode none.

    Raises:
        CorruptVideoError: the file holds less than it declares, or no video at all.
        LimitExceededError: too many packets.
    """
    source, limits = video.source, video.source.limits
    fps, declared_frames = video.declared_fps() or 25.0, video.stream.frames
    scan = Scan([], [], [], [], 0.0, limits.max_duration_s, float(video.time_base), fps)
    first_s, last_s, number = float("inf"), float("-inf"), -1
    try:
        for packet in video.container.demux():
            ours = packet.stream_index == video.stream.index
            number += ours
            if not packet.size:
                continue
            if ours and packet.is_corrupt:
                source.lost_packets.add(packet.pos or 0)
            if packet.pts is not None and not packet.is_discard:
                time_base = float(packet.time_base)
                first_s = min(first_s, packet.pts * time_base)
                last_s = max(last_s, (packet.pts + (packet.duration or 0)) * time_base)
            if ours:
                scan.numbers.append(number)
                scan.pts.append(packet.pts)
                scan.keys.append(packet.is_keyframe)
                scan.shown.append(not packet.is_discard)
                if len(scan.numbers) > limits.max_frames:
                    raise LimitExceededError(source.name, f"more than {limits.max_frames} frames")
    except FATAL:
        raise
    except av.error.FFmpegError:
        pass  # what could be read is judged below
    if not scan.numbers:
        raise CorruptVideoError(source.name, "its video stream is empty")
    scan.span_s = max(0.0, last_s - first_s)
    declared_s = video.declared_duration_s()
    held, missing_s = len(scan.numbers), (declared_s or 0.0) - scan.span_s
    if scan.span_s and _falls_short(scan.span_s, declared_s, _SLACK_S):
        raise CorruptVideoError(source.name, f"cut off: holds {scan.span_s:.2f} s of {declared_s:.2f} s")
    if _falls_short(held, declared_frames, _SLACK_FRAMES):
        raise CorruptVideoError(source.name, f"cut off: holds {held} of {declared_frames} frames")
    by_time = round(missing_s * fps) if scan.span_s and missing_s > _SLACK_S else 0
    source.missing_frames = max(0, by_time, declared_frames - held)
    return scan


def segment_count(frames: int, name: str, settings: SamplingSettings) -> int:
    """How many segments a video of so many frames is cut into.

    Raises:
        TooShortError: fewer frames than a burst.
    """
    if frames < settings.burst_frames:
        raise TooShortError(name, f"has {frames} frames, a burst needs {settings.burst_frames}")
    return min(settings.segments, frames // settings.burst_frames)
