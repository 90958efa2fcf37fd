"""From a decoded frame to arrays: the right way up, 8 bit, one range, one matrix.

Black bars are cropped. A mosaic has YUV codes at native resolution: nothing is resized, only bit depth and range are
brought to 8 bit limited, and codes of BT.601 to BT.709. A context frame is RGB, resized by libswscale with its matrix
and range named and its bit-exact paths, so that it does not depend on the machine. Not done: tone mapping (PQ
and HLG codes are taken as they are) and deinterlacing (combing is an artefact that people see).

Shapes: H, W rows and columns of luma; h, w of chroma; M side of a mosaic; S side of a context frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from cpllm_model.decoding.sampling import (
    SamplingSettings,
    Window,
    cut_mosaic,
    fragment_origins,
    highest_in_bars,
    picture_window,
)

#: Decoder formats whose planes are cut as they are: 4:2:0, little-endian.
_DIRECT_FORMATS = {
    **dict.fromkeys(("yuv420p", "yuvj420p", "yuva420p"), 8),
    **dict.fromkeys(("yuv420p10le", "yuva420p10le"), 10),
    "yuv420p12le": 12,
}
_FORMAT_OF_BITS = {8: "yuv420p", 10: "yuv420p10le", 12: "yuv420p12le"}
#: Highest code that black bars have, and what noise may add to their level, in limited range at 8 bit.
_NEAR_BLACK, _BAR_NOISE = 24, 4
#: AVColorSpace (libavutil/pixfmt.h) -> libswscale's matrix; the rest is guessed from the size.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT


def _unnamed(cls: type[SideDataType], value: int) -> SideDataType:
    member: Any = object.__new__(cls)
    member._name_, member._value_ = f"UNNAMED_{value}", value
    return member


# libav puts more beside a frame than PyAV has names for (EXIF, views of MV-HEVC, LCEVC), and PyAV gives none of it
# where it cannot name all. Only the display matrix is of interest here.
SideDataType._missing_ = classmethod(_unnamed)  # type: ignore[assignment]


@dataclass(frozen=True)
class Orientation:
    """How a coded picture becomes the displayed one: transposed first, then flipped.

    Args:
        transposed: rows become columns.
        rows_flipped, columns_flipped: of the displayed picture.
        rotation_deg: clockwise turn this amounts to, or turn before a mirroring from left to right.
    """

    transposed: bool = False
    rows_flipped: bool = False
    columns_flipped: bool = False
    rotation_deg: int = 0

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Turn the last two axes of an array; a view, not a copy."""
        if self.transposed:
            array = array.swapaxes(-1, -2)
        if self.rows_flipped:
            array = array[..., ::-1, :]
        if self.columns_flipped:
            array = array[..., ::-1]
        return array


def orientation(frame: VideoFrame) -> Orientation:
    """Read a frame's display matrix, rounded to right angles.

    The matrix (ISO/IEC 14496-12, 8.2.2; libavutil/display.h) maps coded x, y to displayed a x + c y,
    b x + d y.

    Returns:
        The orientation; the identity where there is no matrix or it is degenerate.
    """
    matrix: Any = cast(Any, frame.side_data).get("DISPLAYMATRIX")
    if matrix is None or matrix.buffer_size < 36:
        return Orientation()
    a, b, _, c, d = (int(value) for value in np.frombuffer(matrix, np.int32, 5))
    if not any((a, b, c, d)):
        return Orientation()
    is_mirrored = a * d < b * c
    rotation_deg = round(math.degrees(math.atan2(b, -a if is_mirrored else a)) / 90) * 90 % 360
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, b < 0, c < 0, rotation_deg)
    return Orientation(False, d < 0, a < 0, rotation_deg)


def displayed_size(frame: VideoFrame) -> tuple[int, int]:
    """Height and width in pixels of the frame the right way up."""
    transposed = orientation(frame).transposed
    return (frame.width, frame.height) if transposed else (frame.height, frame.width)


class FrameConverter:
    """Turns the frames of one video into what the model sees; keeps libswscale's tables between frames."""

    def __init__(self, settings: SamplingSettings) -> None:
        self._settings = settings
        self._scaler = VideoReformatter()
        self._unpacker = VideoReformatter()
        #: The frame that was brought to planes last, and what came of it.
        self._planar: tuple[VideoFrame, VideoFrame] | None = None

    def may_have_bars(self, frame: VideoFrame) -> bool:
        """Tell whether an outermost row or column of a frame can belong to a black bar."""
        planar = self._planar_420(frame)
        return highest_in_bars(_plane(planar, 0), *_near_black(planar)) is not None

    def window(self, frames: Sequence[VideoFrame]) -> Window:
        """Find the picture within black bars that all these frames have, before they are turned."""
        planar = [self._planar_420(frame) for frame in frames]
        if len({_depth_and_range(frame) for frame in planar}) > 1:
            return Window(0, 0, frames[0].height, frames[0].width)
        return picture_window(
            [_plane(frame, 0) for frame in planar], *_near_black(planar[0]), self._settings.fragment_px
        )

    def context(self, frame: VideoFrame) -> np.ndarray:
        """Resize the picture of a frame, without its black bars, to a square, ignoring its aspect ratio.

        Returns:
            uint8 (3, S, S) RGB, full range, the right way up.
        """
        size, window = self._settings.context_size_px, self.window([frame])
        whole = (window.height, window.width) == (frame.height, frame.width)
        picture = frame if whole else _cropped(self._planar_420(frame), window)
        rgb = self._scaler.reformat(
            picture,
            width=size,
            height=size,
            format="rgb24",
            src_colorspace=_matrix(frame) if whole or not frame.format.is_rgb else Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=_range(picture),
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.AREA | _EXACT,
            threads=1,
        )
        rows = np.frombuffer(memoryview(rgb.planes[0]), np.uint8).reshape(size, rgb.planes[0].line_size)
        rgb_3SS = rows[:, : 3 * size].reshape(size, size, 3).transpose(2, 0, 1)
        return np.ascontiguousarray(orientation(frame).apply(rgb_3SS))

    def mosaic(self, frame: VideoFrame, window: Window | None = None) -> np.ndarray:
        """Cut the fragments of a frame at native resolution.

        Args:
            frame: as decoded.
            window: what of it to look at, before it is turned; None is the whole.

        Returns:
            uint8 (3, M, M): Y, U, V codes of BT.709, limited range, the right way up. Codes of other matrices than
            BT.601 and BT.709 (BT.2020, SMPTE 240M, FCC) are as they are in the stream.

        Raises:
            ValueError: the frame is smaller than a fragment.
        """
        is_601 = not frame.format.is_rgb and _matrix(frame) == Colorspace.ITU601
        frame = self._planar_420(frame)
        turn = orientation(frame)
        window = window or Window(0, 0, frame.height, frame.width)
        y_HW, u_hw, v_hw = (turn.apply(plane) for plane in _planes(frame, window))
        grid, fragment_px = self._settings.fragment_grid, self._settings.fragment_px
        origins = fragment_origins(y_HW.shape[0], y_HW.shape[1], grid, fragment_px)
        mosaic_3MM = cut_mosaic(y_HW, u_hw, v_hw, origins, fragment_px)
        bits, full_range = _depth_and_range(frame)
        if bits > 8 or full_range:
            luma, chroma = _to_limited_8_bit(bits, full_range)
            mosaic_3MM = np.stack([luma[mosaic_3MM[0]], chroma[mosaic_3MM[1]], chroma[mosaic_3MM[2]]])
        return _to_709(mosaic_3MM) if is_601 else mosaic_3MM

    def codes(self, frame: VideoFrame, plane: int, row_step: int, column_step: int) -> np.ndarray:
        """Some codes of a frame, before it is turned, without cropping.

        Args:
            frame: as decoded.
            plane: 0 of luma, 1 and 2 of chroma.
            row_step, column_step: every so many rows and columns are given.

        Returns:
            uint8, limited range.
        """
        planar = self._planar_420(frame)
        bits, full_range = _depth_and_range(planar)
        found = _plane(planar, plane)[::row_step, ::column_step]
        if bits == 8 and not full_range:
            return np.ascontiguousarray(found)
        return _to_limited_8_bit(bits, full_range)[min(plane, 1)][found]

    def _planar_420(self, frame: VideoFrame) -> VideoFrame:
        """Bring other layouts (4:2:2, 4:4:4, grey, RGB, packed) to 4:2:0 planes of the same range."""
        if frame.format.name in _DIRECT_FORMATS and frame.planes[0].line_size > 0:
            return frame
        if self._planar is None or self._planar[0] is not frame:
            self._planar = frame, self._brought_to_planar(frame)
        return self._planar[1]

    def _brought_to_planar(self, frame: VideoFrame) -> VideoFrame:
        deep = max(component.bits for component in frame.format.components) > 8
        return self._unpacker.reformat(
            frame,
            format="yuv420p10le" if deep else "yuv420p",
            src_colorspace=_matrix(frame),
            dst_colorspace=Colorspace.ITU709 if frame.format.is_rgb else _matrix(frame),
            src_color_range=_range(frame),
            dst_color_range=ColorRange.MPEG if frame.format.is_rgb else _range(frame),
            interpolation=Interpolation.AREA | _EXACT,
            threads=1,
        )


def _depth_and_range(frame: VideoFrame) -> tuple[int, bool]:
    """Bits of a code of a 4:2:0 frame, and whether it has full range."""
    return _DIRECT_FORMATS[frame.format.name], _range(frame) == ColorRange.JPEG


def _near_black(frame: VideoFrame) -> tuple[int, int]:
    """Highest code of black bars in a 4:2:0 frame, and what noise may add to their level."""
    bits, full_range = _depth_and_range(frame)
    scale = (1 << (bits - 8)) * (255 / 219 if full_range else 1)
    return int((_NEAR_BLACK - 16 * full_range) * scale), int(_BAR_NOISE * scale)


def _planes(frame: VideoFrame, window: Window) -> Iterator[np.ndarray]:
    """Y, U and V in a window; an odd last row or column would, turned over, part luma from its chroma."""
    top, left, height, width = (side // 2 for side in (window.top, window.left, window.height, window.width))
    for index, scale in enumerate((2, 1, 1)):
        rows, columns = (slice(at * scale, (at + side) * scale) for at, side in ((top, height), (left, width)))
        yield _plane(frame, index)[rows, columns]


def _cropped(frame: VideoFrame, window: Window) -> VideoFrame:
    """Copy a window of a 4:2:0 frame to one of its own, without alpha."""
    found = VideoFrame(window.width // 2 * 2, window.height // 2 * 2, _FORMAT_OF_BITS[_depth_and_range(frame)[0]])
    for index, plane in enumerate(_planes(frame, window)):
        _plane(found, index)[:] = plane
    found.color_range = _range(frame)
    return found


def _plane(frame: VideoFrame, index: int) -> np.ndarray:
    """A decoded plane as it lies in libav's memory, without a copy."""
    plane = frame.planes[index]
    dtype = np.dtype(np.uint8 if _DIRECT_FORMATS[frame.format.name] == 8 else "<u2")
    rows = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, plane.line_size // dtype.itemsize)
    return rows[:, : plane.width]


def _matrix(frame: VideoFrame) -> Colorspace:
    """The stream's YUV matrix; where it is silent BT.601 for standard definition, BT.709 above."""
    guess = Colorspace.ITU709 if max(frame.width, frame.height) > 1024 else Colorspace.ITU601
    return _MATRICES.get(int(frame.colorspace), guess)


def _range(frame: VideoFrame) -> ColorRange:
    if frame.format.is_rgb or frame.format.name.startswith("yuvj"):
        return ColorRange.JPEG
    return ColorRange.JPEG if int(frame.color_range) == ColorRange.JPEG else ColorRange.MPEG


@lru_cache
def _to_limited_8_bit(bits: int, full_range: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tables from codes to 8 bit limited-range codes for luma and for chroma (Rec. ITU-T H.273, 8.3)."""
    codes = np.arange(1 << bits, dtype=np.float64)
    if full_range:
        top, middle = (1 << bits) - 1, 1 << (bits - 1)
        luma, chroma = 16 + codes * 219 / top, 128 + (codes - middle) * 224 / top
    else:
        luma = chroma = codes / (1 << (bits - 8))
    # Halves round up, as integer shifts do.
    luma, chroma = (np.clip(np.floor(table + 0.5), 0, 255).astype(np.uint8) for table in (luma, chroma))
    return luma, chroma


def _to_709(yuv_3HW: np.ndarray) -> np.ndarray:
    """Convert 8 bit limited-range codes of BT.601 to those of the same R'G'B' in BT.709.

    Without a product of matrices, whose rounding is the machine's.
    """
    y_HW, u_HW, v_HW = yuv_3HW.astype(np.float64) - np.array([16, 128, 128])[:, None, None]
    found = [
        a * y_HW + b * u_HW + c * v_HW + offset + 0.5
        for (a, b, c), offset in zip(_601_TO_709.tolist(), (16, 128, 128), strict=True)
    ]
    return np.clip(np.floor(found), 0, 255).astype(np.uint8)


def _codes_of_rgb(red: float, blue: float) -> np.ndarray:
    """Limited-range codes, without offsets, by R'G'B' in 0-1, for a matrix's weights of red and blue in luma."""
    luma = np.array([red, 1 - red - blue, blue])
    u, v = ((np.eye(3)[channel] - luma) / (2 * (1 - luma[channel])) for channel in (2, 0))
    return np.array([219 * luma, 224 * u, 224 * v])


#: Rec. ITU-R BT.601-7, 2.5.1, and BT.709-6, 3.2.
_601_TO_709 = _codes_of_rgb(0.2126, 0.0722) @ np.linalg.inv(_codes_of_rgb(0.299, 0.114))
