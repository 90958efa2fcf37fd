"""When a video has frames and key frames, by its container's index; how long it is, by a look at some places.

In: an open container. Out: a Timeline, estimated but cheap; `scan.py` makes exact ones of all packets. Decodes
nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import av.error
import numpy as np
from av.video.frame import VideoFrame

from cpllm_model.decoding.container import FATAL, SLACK_S, OpenVideo, nearest
from cpllm_model.decoding.packets import READ_THROUGH_BYTES, Packets, Still, in_order, index_rows, read_rows
from cpllm_model.decoding.sampling import SamplingSettings, Timeline, context_ticks
from cpllm_model.decoding.segments import Segment, divide
from cpllm_model.errors import CorruptVideoError, LimitExceededError

#: Containers whose index of the whole file is at hand once they are opened.
_INDEXED = {"mov", "matroska", "avi"}
#: What of the declared seconds or frames a file has to hold.
_HELD_SHARE = 0.9
#: Frames of fewer bursts than this many times those asked for are counted rather than estimated.
_SURE_BURSTS = 4
#: Frames that an edit list may hide at the start; a key frame lies before.
_MOST_HIDDEN = 4096
#: Frames by which the order of decoding and that of presentation differ, as a rule at most.
_REORDERED = 3
#: Times beyond cannot be reckoned with.
_LATEST_TICK = 1 << 61
#: Packets that are read to see whether they are fields.
_FIELD_PACKETS = 64
#: Pixels that may be decoded on the way to suspicious stretches without a key frame: about 290 frames of 1080p.
_MOST_ON_THE_WAY_PX = 600_000_000
#: Byte places at which the clock of a stream without an index is looked up.
_PLACES = 8


class Unreachable(Exception):  # noqa: N818 (no error: the signal to read the file in another way)
    """The frames asked for cannot be reached in this way."""


@dataclass(frozen=True)
class Route:
    """A timeline, and what its ticks mean.

    Args:
        timeline: of the video.
        segments: that it is cut into.
        frames: that can be decoded, as far as its index or packets tell.
        duration_s: of the video, by the same.
        tick: gives the tick of a decoded frame, from the frame, the tick that decoding began at, and how
            many frames came before it since.
        seconds: gives the time of a tick since the first frame.
        ticks_are_pts: ticks are presentation timestamps, of packets too.
        counts_packets: ticks tell how many packets came before; true as long as each gives a frame.
        key_places: tick of a key frame -> the tick to seek to for it, or the number of the packet to begin at.
        skipped_frames: before the first that decodes.
        is_gradual: the stream has no whole key frames to begin at; decoding recovers in the course of some frames.
        packets: all of the stream, where they are known.
        stills: stretches in which these tell that the picture stands still.
    """

    timeline: Timeline
    segments: list[Segment]
    frames: int
    duration_s: float
    tick: Callable[[VideoFrame, int, int], int | None]
    seconds: Callable[[int], float]
    ticks_are_pts: bool
    counts_packets: bool
    key_places: dict[int, int]
    skipped_frames: int = 0
    is_gradual: bool = False
    packets: Packets | None = None
    stills: list[Still] = field(default_factory=list)


def divided(
    timeline: Timeline,
    looks: int,
    settings: SamplingSettings,
    packets: Packets | None,
    frame_px: int,
    spare_frames: int = 0,
) -> tuple[list[Segment], list[Still]]:
    """Divide a video among its looks, by what its packets tell where they are known.

    Args:
        timeline: of the video; its key frames are not needed.
        looks: by its length.
        settings: how much is looked at.
        packets: of the video, in ticks of the timeline.
        frame_px: pixels of a frame.
        spare_frames: that a segment has beside a burst, since the timeline is not exact.

    Returns:
        the segments, and where the picture stands still.
    """

    def fits(first: int, end: int) -> bool:
        return timeline.nth_frame(first, settings.burst_frames + spare_frames - 1) < end

    bounds = timeline.start, timeline.end
    if packets is None:
        return divide(bounds, looks, settings.most_looks, fits), []
    least = max(1, round((bounds[1] - bounds[0]) * settings.look_every_s / packets.end_s / 2))
    stills = packets.stills(frame_px)
    stretches = packets.stretches(stills, timeline.end, _MOST_ON_THE_WAY_PX // max(1, frame_px))
    unsure = spare_frames * timeline.frame_period
    return divide(bounds, looks, settings.most_looks, fits, stretches, packets.cuts(), least, unsure), stills


def corrected(route: Route, moved: dict[int, int]) -> Route:
    """The same route with key frames at other ticks than assumed, as `IndexedReader.moved` found them."""
    places = {moved.get(key, key): place for key, place in route.key_places.items()}
    timeline = replace(route.timeline, key_ticks=sorted(places))
    return replace(route, timeline=timeline, key_places=places)


def pts_of(frame: VideoFrame, begun: int, index: int) -> int | None:
    """The tick of a frame where ticks are presentation times."""
    return frame.pts


def index_route(video: OpenVideo, settings: SamplingSettings) -> Route:
    """Read the index around the times that sampling asks for; its cost does not grow with the video.

    Raises:
        Unreachable: there is no index, or not of the whole video.
        CorruptVideoError: the index reaches beyond the end of the file.
    """
    begins_whole, fields_share = look_at_packets(video)
    if not begins_whole:
        raise Unreachable("it begins in the midst of a group of pictures")
    if fields_share not in (0.0, 0.5):
        raise Unreachable("some packets are frames and some fields")
    start, end, period, offset = _index_span(video, 2 if fields_share else 1)
    last_at, size_bytes = video.stream.index_entries[-1].pos, video.source.size_bytes
    if video.format_name != "matroska" and last_at >= size_bytes:
        cause = f"cut off: its last frame lies at byte {last_at} of {size_bytes}"
        raise CorruptVideoError(video.source.name, cause)
    count = (end - start) // period
    looks = settings.looks(float((end - start) * video.time_base), count)
    if not looks or (video.format_name == "matroska" and count < _SURE_BURSTS * looks * settings.burst_frames):
        raise Unreachable("too few frames to rely on the index")
    entries, time_base = video.stream.index_entries, float(video.time_base)
    packets = _index_packets(video, start, end, offset)
    if packets is not None and video.format_name != "matroska":
        video.source.missing_frames = int(packets.is_damaged.sum())
    context = video.stream.codec_context
    frame_ticks = None if packets is None or fields_share else packets.ticks
    unkeyed = Timeline(start, end, [], period, frame_ticks)
    frame_px = context.width * context.height
    # A short video has no frames to spare.
    is_short = count < _SURE_BURSTS * looks * settings.burst_frames
    spare_frames = 0 if packets is None or is_short else _REORDERED
    segments, stills = divided(unkeyed, looks, settings, packets, frame_px, spare_frames)
    ticks = {start}
    for segment in segments:
        ticks |= {segment.first, segment.look, *context_ticks(segment, settings.context_frames)}
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
    # AVI numbers frames in the order of decoding; presentation times made from that are not to be trusted.
    counts = video.format_name == "avi"
    return Route(
        Timeline(start, end, keys, period),
        segments,
        count,
        (end - start) * time_base,
        tick=(lambda frame, begun, index: begun + index * period) if counts else pts_of,
        seconds=lambda tick: (tick - start) * time_base,
        ticks_are_pts=not counts,
        counts_packets=counts,
        key_places=places,
        packets=packets,
        stills=stills,
    )


def _index_packets(video: OpenVideo, start: int, end: int, offset: int) -> Packets | None:
    """All packets by the index, or of small Matroska files by reading them; None where neither can be trusted."""
    is_read = video.format_name == "matroska"
    if is_read and video.source.size_bytes > READ_THROUGH_BYTES:
        return None
    rows = read_rows(video) if is_read else index_rows(video)
    if rows is None or not len(rows):
        return None
    places, times, sizes, flags = rows[(rows[:, 3] & 2) == 0].T
    if np.abs(times).max(initial=0) > _LATEST_TICK or abs(offset) > _LATEST_TICK:
        return None
    ticks = times if is_read else times + offset
    time_s = (ticks - start) * float(video.time_base)
    is_beyond = places + sizes > video.source.size_bytes
    return in_order(ticks, time_s, sizes, flags & 1 > 0, is_beyond, (end - start) * float(video.time_base))


def look_at_packets(video: OpenVideo) -> tuple[bool, float]:
    """Read a few packets on from where the file is read, most often one.

    Returns:
        Whether decoding can begin at the first of them, and the share of second fields among them; where there
        are such, `VideoSource.paired_fps` is set.
    """
    headers = video.picture_headers()
    count = _FIELD_PACKETS if headers is not None and headers.may_have_fields else 1
    try:
        read = itertools.islice((packet for packet in video.container.demux(video.stream) if packet.size), count)
        packets = list(read)
    except FATAL:
        raise
    except av.error.FFmpegError:
        return True, 0.0  # what follows meets it, too
    if not packets or headers is None:
        return not packets or packets[0].is_keyframe, 0.0
    are_second = [headers.is_second_field(packet) for packet in packets]
    if any(are_second):
        frames = (packet.pts for packet, is_second in zip(packets, are_second, strict=True) if not is_second)
        video.source.paired_fps = usual_fps([pts for pts in frames if pts is not None], float(video.time_base))
    seconds = sum(are_second)
    is_half = seconds and abs(2 * seconds - len(packets)) <= 1
    share = 0.5 if is_half else seconds / len(packets)
    return packets[0].is_keyframe and headers.is_intra(packets[0]), share


def usual_fps(pts: list[int], time_base_s: float) -> float | None:
    """The frame rate that most steps from frame to frame have."""
    steps = sorted(b - a for a, b in itertools.pairwise(sorted(set(pts))))
    return 1 / (steps[len(steps) // 2] * time_base_s) if steps else None


def measure(video: OpenVideo) -> tuple[float, int | None]:
    """Duration in seconds of the video stream, and its number of frames where known, without reading it through.

    Raises:
        Unreachable: neither an index nor the clock tells; what libav found at the end need not be true.
    """
    fields_share = look_at_packets(video)[1]
    durations_s = video.likely_durations_s()
    if video.format_name in _INDEXED:
        try:
            start, end, period, _ = _index_span(video, 2 if fields_share == 0.5 else 1)
        except Unreachable:
            if video.format_name == "matroska" or len(durations_s) != 1:
                raise
            return durations_s[0], None
        is_counted = video.format_name != "matroska" and fields_share in (0.0, 0.5)
        return (end - start) * float(video.time_base), (end - start) // period if is_counted else None
    if not durations_s:
        raise Unreachable("no duration")
    if video.format_name == "mxf":
        return durations_s[0], video.stream.duration  # its ticks are frames
    return _clock_span_s(video, durations_s), None


def _clock_span_s(video: OpenVideo, durations_s: list[float]) -> float:
    """That of several durations which the clock agrees with, by what it says at some places of the file.

    Raises:
        Unreachable: it runs back, leaps, or agrees with none.
    """
    times_s = []
    try:
        for place in range(_PLACES):
            offset = video.source.size_bytes * place // _PLACES
            video.container.seek(offset, unsupported_byte_offset=True)
            packets = video.container.demux(video.stream)
            pts = next((packet.pts for packet in packets if packet.size and packet.pts is not None), None)
            if pts is None:
                raise Unreachable("the video stream does not go on to the end of the file")
            times_s.append(float(pts * video.time_base))
    except FATAL:
        raise
    except (av.error.FFmpegError, IndexError) as error:
        raise Unreachable(f"the file cannot be read at some places: {error}") from error
    steps_s = np.diff(times_s)
    held_s = times_s[-1] - times_s[0]
    duration_s = nearest(durations_s, held_s * _PLACES / (_PLACES - 1))
    if (steps_s <= 0).any() or (steps_s > duration_s / 2).any() or not duration_s / 2 < held_s <= duration_s + SLACK_S:
        raise Unreachable("the clock contradicts the duration")
    return duration_s


def _index_span(video: OpenVideo, packets_a_frame: int) -> tuple[int, int, int, int]:
    """Start, end and mean frame period in ticks, and what to add to the index's times to get these."""
    stream, source = video.stream, video.source
    if video.format_name not in _INDEXED:
        raise Unreachable("no index")
    if video.format_name == "matroska":
        try:
            video.container.seek(stream.start_time or 0, stream=stream)  # loads the cues
        except FATAL:
            raise
        except (av.error.FFmpegError, OverflowError) as error:
            raise Unreachable(f"no index that could be sought in: {error}") from error
    entries = stream.index_entries
    if len(entries) > source.limits.max_frames:
        raise LimitExceededError(source.name, f"an index of {len(entries)} frames")
    # Frames before the start of an edit list are only decoded, not shown.
    hidden = next((n for n in range(min(len(entries), _MOST_HIDDEN)) if not entries[n].is_discard), 0)
    if len(entries) - hidden < 2:
        raise Unreachable("no index")
    first, last = entries[hidden].timestamp, entries[-1].timestamp
    start = first if stream.start_time is None else stream.start_time
    durations_s = video.declared_durations_s()
    if video.format_name == "matroska":
        fps = video.declared_fps()
        if not durations_s or fps is None:
            raise Unreachable("no duration or frame rate")
        period = max(1, round(1 / (fps * video.time_base)))
        return start, _end_by_packets(video, start, period, durations_s), period, start - first
    period = max(1, (last - first) // (len(entries) - hidden - 1))
    held_s = float((last - first + period) * video.time_base)
    if durations_s and falls_short(held_s, nearest(durations_s, held_s), SLACK_S):
        raise Unreachable("the index covers a part only")
    return start, start + last - first + period, period * packets_a_frame, start - first


def _end_by_packets(video: OpenVideo, start: int, period: int, durations_s: list[float]) -> int:
    """The tick at which the video stream ends: as declared, unless the packets at the end contradict.

    Raises:
        Unreachable: the file is cut off, which an index does not tell, or its end cannot be read.
    """
    held_s, last = float("-inf"), None
    try:
        video.container.seek(start + round(max(durations_s) / video.time_base), stream=video.stream)
        for packet in video.container.demux():
            if packet.size and packet.pts is not None:
                held_s = max(held_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream_index == video.stream.index:
                    last = max(packet.pts + (packet.duration or period), last or packet.pts)
    except FATAL:
        raise
    except (av.error.FFmpegError, OverflowError) as error:
        raise Unreachable(f"its end cannot be read: {error}") from error
    held_s -= float(start * video.time_base)
    duration_s = nearest(durations_s, held_s)
    if last is None or held_s < duration_s - SLACK_S:
        raise Unreachable("it is cut off")
    is_agreed = abs(float((last - start) * video.time_base) - duration_s) <= SLACK_S
    return start + max(1, round(duration_s / video.time_base)) if is_agreed else last


def falls_short(held: float, declared: float | None, slack: float) -> bool:
    """Tell whether too little is held of what is declared, in one unit; less than a slack is rounding."""
    return declared is not None and held < min(declared * _HELD_SHARE, declared - slack)
