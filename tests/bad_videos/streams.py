"""What the bad videos are made of, and what is said of one; each stream is coded once."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import av

from tests.bad_videos.files import (
    FAST,
    FRAMES,
    HEIGHT_PX,
    WIDTH_PX,
    Coded,
    encoded,
    field_h264,
    h264,
    jpeg,
    motion_jpeg,
    picture,
    pictures,
)

UPRIGHT = (0, 1, 2, 3)


@dataclass(frozen=True)
class Input:
    """A bad video.

    Args:
        make: gives its bytes.
        error: error_type of its row; None if it is scored.
        damaged: whether the row of a scored one counts damaged or missing frames.
        quadrants: which of the picture's quadrants stand at the top left, top right, bottom left, bottom right as it
            has to be seen; None if it is scored and shows something else.
        size_px: width and height as it has to be seen.
        rotation_deg: what its row of the catalogue says.
        grey: has lost its colours.
        tolerance: of an RGB code.
        advances: frames have to be seen in the order in which they were made.
        duration_s: what its row of the catalogue says, and what decoding finds; None if that is not looked at.
        fps: the same for the frame rate.
    """

    make: Callable[[], bytes]
    error: str | None = None
    damaged: bool = False
    quadrants: tuple[int, ...] | None = UPRIGHT
    size_px: tuple[int, int] = (WIDTH_PX, HEIGHT_PX)
    rotation_deg: int = 0
    grey: bool = False
    tolerance: int = 14
    advances: bool = False
    duration_s: float | None = None
    fps: float | None = None


@functools.cache
def clip() -> bytes:
    """H.264 in MP4, as libav writes it."""
    return encoded("libx264", "yuv420p", "mp4", options=FAST)


@functools.cache
def avc() -> Coded:
    """The same stream."""
    return h264(clip())


@functools.cache
def stills(frames: int = FRAMES, width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX) -> Coded:
    """The frames as JPEG images."""
    return motion_jpeg((jpeg(pixels) for pixels in pictures(frames, width_px, height_px)), width_px, height_px)


def still(width_px: int, height_px: int) -> Coded:
    """Ten times the first frame."""
    return motion_jpeg([jpeg(picture(0, width_px, height_px))] * 10, width_px, height_px)


@functools.cache
def transport_stream() -> bytes:
    """The clip as an MPEG transport stream."""
    return encoded("libx264", "yuv420p", "mpegts", options=FAST)


def cut_stream(data: bytes, share: float) -> bytes:
    """A transport stream recorded from the middle on."""
    return data[int(len(data) / 188 * share) * 188 :]


@functools.cache
def refreshed() -> bytes:
    """The clip as a transport stream whose only key frame is its first: columns of the picture are renewed in turn."""
    options = {**FAST, "g": "12", "x264-params": "intra-refresh=1"}
    return encoded("libx264", "yuv420p", "mpegts", options=options)


@functools.cache
def vp8() -> Coded:
    """The frames as VP8, of which no container says which are key frames."""
    options = {"deadline": "realtime", "cpu-used": "8", "g": "12", "crf": "4", "b": "4M"}
    with av.open(io.BytesIO(encoded("libvpx", "yuv420p", "webm", options=options)), "r") as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    return Coded(packets, [False] * len(packets), b"vp08", codec_id="V_VP8")


@functools.cache
def fields() -> Coded:
    """The frames as fields in packets of their own."""
    return field_h264()


def pairs() -> Coded:
    """The same with both fields of a frame in a packet."""
    one, other = fields().packets[::2], fields().packets[1::2]
    return replace(fields(), packets=[a + b for a, b in zip(one, other, strict=True)], keys=fields().keys[::2])
