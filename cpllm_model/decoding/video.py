"""Probe and decode a video or a still picture, in this process; `sandbox.py` does it behind a wall.

In: a seekable binary file, whose bytes are hostile until proven otherwise. Out: VideoInfo or VideoSamples, or
one typed VideoError. Ways to reach the frames are tried from the cheapest on: by the container's index, by
the timestamps of all packets, by counting every frame. Each gives just the frames that its plan names.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import av.error
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame

from cpllm_model.decoding.container import FATAL, OpenVideo, VideoSource
from cpllm_model.decoding.events import Seen, events_of, have_picture
from cpllm_model.decoding.frames import IndexedReader, Sampler, SequentialReader, Sight
from cpllm_model.decoding.pictures import decode_picture, probe_picture
from cpllm_model.decoding.pixels import displayed_size, orientation
from cpllm_model.decoding.samples import DecodeLimits, VideoInfo, VideoSamples, picture_codec
from cpllm_model.decoding.sampling import SamplingPlan, SamplingSettings, cut_mosaic, fragment_origins, plan_sampling
from cpllm_model.decoding.scan import Scan, scan_packets
from cpllm_model.decoding.timeline import Route, Unreachable, corrected, index_route, measure
from cpllm_model.errors import CorruptVideoError, DecodeTimeoutError, LimitExceededError, NoPictureError, VideoError

__all__ = [
    "DecodeLimits",
    "SamplingSettings",
    "VideoInfo",
    "VideoSamples",
    "cut_mosaic",
    "decode",
    "fragment_origins",
    "probe",
]
#: Packets after which a stream that gave no frame is given up, and those that are passed over for a key frame.
_PROBE_PACKETS = 512
_MOST_LEADING = 8192
#: Times that a plan is made anew with key frames where they were found rather than where the index has them.
_CORRECTIONS = 6


def probe(file: BinaryIO, name: str, limits: DecodeLimits | None = None) -> VideoInfo:
    """Read what a container says and decode one frame.

    All packets are read only where the container gives no duration or no believable frame rate, or neither an
    index nor the clock at some places of the file bears out the duration.

    Args:
        file: seekable, opened for reading bytes.
        name: of the video, for messages.
        limits: what it may cost.

    Raises:
        VideoError: it cannot be opened, or not within the limits.
    """
    with _source(file, name, limits) as source:
        if codec := picture_codec(source.head()):
            return probe_picture(source, codec)
        with source.opened() as video:
            frame = _first_frame(video)
            try:
                duration_s, frames = measure(video)
            except Unreachable:
                pass
            else:
                if frames is not None or video.declared_fps() is not None:
                    return _info(video, frame, duration_s, frames)
        with source.opened() as video:
            scan = scan_packets(video)
            return _info(video, frame, scan.duration_s(), len(scan.numbers))


def decode(file: BinaryIO, name: str, settings: SamplingSettings, limits: DecodeLimits | None = None) -> VideoSamples:
    """Decode what the model sees of a video, or of a picture; which of them a file is, its first bytes tell.

    Args:
        file: seekable, opened for reading bytes.
        name: of the video, for messages.
        settings: how much is looked at.
        limits: what it may cost.

    Raises:
        VideoError: it cannot be opened, not within the limits, or not all of the plan can be seen.
    """
    with _source(file, name, limits) as source:
        if codec := picture_codec(source.head()):
            return decode_picture(source, codec, settings)
        try:
            return _by_index(source, settings)
        except Unreachable as reason:
            reasons = [str(reason)]
        with source.opened() as video:
            scan = scan_packets(video)
        scan.check(source)
        if scan.is_gradual:
            scan.first = _first_decoded(source, scan)
        for route in (
            lambda: scan.time_route(name, settings),
            lambda: scan.number_route(name, settings),
            lambda: scan.count_route(_count_frames(source), source, settings),
        ):
            try:
                return _read_through(source, settings, route())
            except Unreachable as reason:
                reasons.append(str(reason))
        raise CorruptVideoError(name, "; then ".join(reasons))


def _by_index(source: VideoSource, settings: SamplingSettings) -> VideoSamples:
    with source.opened() as video:
        route = index_route(video, settings)
        for _ in range(_CORRECTIONS):
            plan = plan_sampling(route.timeline, route.segments, settings)
            reader = IndexedReader(video, route)
            moved = reader.moved(plan.runs)
            if not moved:
                break
            route = corrected(route, moved)
        else:
            raise Unreachable("the index does not tell where key frames lie")
        sight = Sampler(video, reader, route, plan, settings).collect()
        return _samples(video, sight, route, plan, "keyframe+decode" if plan.decodes_on else "keyframe")


def _first_decoded(source: VideoSource, scan: Scan) -> int:
    """Decode from the first key frame on until a frame comes out; which it is of those in the order of the file."""
    with source.opened() as video:
        video.stream.codec_context.copy_opaque = True
        number: Any = _first_frame(video).opaque
    return bisect_left(scan.numbers, number)


def _count_frames(source: VideoSource) -> int:
    with source.opened() as video:
        return sum(1 for _ in _frames(video, video.container.demux(video.stream)))


def _read_through(source: VideoSource, settings: SamplingSettings, route: Route) -> VideoSamples:
    plan = plan_sampling(route.timeline, route.segments, settings)
    with source.opened() as video:
        sight = Sampler(video, SequentialReader(video, route), route, plan, settings).collect()
        return _samples(video, sight, route, plan, "sequential")


def _samples(video: OpenVideo, sight: Sight, route: Route, plan: SamplingPlan, plan_name: str) -> VideoSamples:
    assert sight.first_frame is not None
    info = _info(video, sight.first_frame, route.duration_s, route.frames + route.skipped_frames)
    interval_s = [_interval_s(ticks, route, info.fps) for ticks in sight.burst_ticks]
    looks = [meter.look() for meter in sight.meters]
    pictured = have_picture(looks)
    if pictured is None:
        raise NoPictureError(
            video.source.name, f"no picture to rate: {' and '.join(sorted({str(look.blank) for look in looks}))} alone"
        )
    starts_s = [route.seconds(segment.start) for segment in plan.segments]
    ends_s = [route.seconds(segment.end) for segment in plan.segments]
    seen = [
        Seen(look, start_s, end_s, route.seconds(ticks[0]), route.seconds(ticks[-1]) + step_s)
        for look, start_s, end_s, ticks, step_s in zip(
            looks, starts_s, ends_s, sight.burst_ticks, interval_s, strict=True
        )
    ]
    damage_s = [(at_s, at_s + 1 / info.fps) for at_s in map(route.seconds, sorted(sight.damaged_ticks))]
    return VideoSamples(
        info=info,
        plan=plan_name,
        damaged_frames=len(sight.damaged_ticks)
        + len(video.source.lost_packets)
        + video.source.missing_frames
        + route.skipped_frames,
        segment_start_s=np.array(starts_s),
        segment_end_s=np.array(ends_s),
        segment_has_picture=np.array(pictured),
        burst_interval_s=np.array(interval_s),
        context_NMCHW=sight.context_NMCHW(),
        bursts_NTCHW=np.array(sight.bursts),
        events=events_of(seen, route.packets, route.stills, damage_s),
    )


def _interval_s(ticks: list[int], route: Route, fps: float) -> float:
    """Mean time from frame to frame of a burst; by the frame rate where its times tell nothing."""
    if len(ticks) > 1:
        interval_s = (route.seconds(ticks[-1]) - route.seconds(ticks[0])) / (len(ticks) - 1)
        if math.isfinite(interval_s) and interval_s > 0:
            return interval_s
    return 1 / fps


def _info(video: OpenVideo, frame: VideoFrame, measured_s: float, frames: int | None) -> VideoInfo:
    """Describe a video by its container and a frame, and where it is silent or wrong, by what was measured."""
    height_px, width_px = displayed_size(frame)
    context = video.stream.codec_context
    duration_s, fps, is_paired = video.duration_s(measured_s), video.declared_fps(), video.source.paired_fps is not None
    return VideoInfo(
        duration_s=duration_s,
        width_px=width_px,
        height_px=height_px,
        fps=fps or (frames or 1) / duration_s,
        codec=context.codec.canonical_name,
        pixel_format=frame.format.name,
        rotation_deg=orientation(frame).rotation_deg,
        bit_rate_bps=context.bit_rate or int(video.source.size_bytes * 8 / duration_s),
        frame_count=frames if is_paired else video.stream.frames or frames,
    )


def _first_frame(video: OpenVideo) -> VideoFrame:
    """The first frame of a container that was just opened."""
    for frame in _frames(video, _promising(video.container.demux(video.stream))):
        return frame
    if not video.stream.codec_context.width:
        most_px = video.source.limits.max_frame_px
        raise CorruptVideoError(video.source.name, f"its picture has no size, or one of over {most_px} px")
    raise video.source.undecodable("no frame of it decodes")


def _promising(packets: Iterator[Packet]) -> Iterator[Packet]:
    """Number the packets, and give those from the first key frame on; the first of all only if that is far or none.

    What precedes the first key frame costs much to decode and gives nothing.
    """
    numbered = _numbered(packets)
    leading: list[Packet] = []
    is_found = False
    while not is_found and len(leading) < _PROBE_PACKETS and (packet := next(numbered, None)) is not None:
        is_found = packet.is_keyframe
        if is_found:
            leading.clear()
        leading.append(packet)
    yield from leading
    unread = itertools.islice(numbered, _MOST_LEADING)
    following = unread if is_found else itertools.dropwhile(lambda packet: not packet.is_keyframe, unread)
    yield from itertools.islice(following, _PROBE_PACKETS)


def _numbered(packets: Iterator[Packet]) -> Iterator[Packet]:
    for number, packet in enumerate(packets):
        packet.opaque = number
        yield packet


def _frames(video: OpenVideo, packets: Iterator[Packet]) -> Iterator[VideoFrame]:
    """Frames of packets, over what does not decode."""
    try:
        for packet in packets:
            try:
                frames = video.stream.codec_context.decode(packet if packet.size else None)
            except FATAL:
                raise
            except av.error.FFmpegError as error:
                video.source.lose(packet, error)
                continue
            yield from frames
    except FATAL:
        raise
    except av.error.FFmpegError:
        return


@contextmanager
def _source(file: BinaryIO, name: str, limits: DecodeLimits | None) -> Iterator[VideoSource]:
    """Give a file to libav, and its failures a type."""
    source = VideoSource(file, name, limits or DecodeLimits())
    try:
        yield source
    except Exception as error:
        if source.read_error is not None:
            raise source.read_error from error
        raise _typed(error, source) from error
    if source.read_error is not None:
        raise source.read_error


def _typed(error: Exception, source: VideoSource) -> Exception:
    if isinstance(error, VideoError):
        return error
    if isinstance(error, av.error.ExitError):
        return DecodeTimeoutError(source.name, f"reading took longer than {source.limits.wall_s} s")
    if isinstance(error, MemoryError):
        return LimitExceededError(source.name, "needs more memory or streams than are allowed")
    if isinstance(error, av.error.FFmpegError):
        return CorruptVideoError(source.name, error.strerror or type(error).__name__)
    if isinstance(error, ArithmeticError):
        return CorruptVideoError(source.name, f"its timestamps cannot be reckoned with ({error})")
    return error
