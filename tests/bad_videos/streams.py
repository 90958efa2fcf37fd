"""What the bad videos are made of, and what is said of one; each stream is coded once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from tests.bad_videos.files import (
    FAST,
    FRAMES,
    HEIGHT_PX,
    WIDTH_PX,
    Coded,
    encoded,
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
