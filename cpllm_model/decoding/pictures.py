"""A still picture as the model sees it: the picture as a video of equal frames, one segment long.

In: the bytes of a JPEG, PNG, WebP or BMP file, hostile until proven otherwise. Out: VideoInfo or VideoSamples, or
one typed VideoError. From RGB on, a picture takes the way of an RGB video's frames. Codes are brought to 8 bit, the
EXIF orientation is applied, alpha and colour profiles are ignored. Animations are refused, not shown in part.
"""

from __future__ import annotations

import io
import warnings
from typing import BinaryIO

import numpy as np
from av.video.frame import VideoFrame

# Pillow loads some of these at the first picture that needs them, when no file may be opened any more.
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    ImageMode,  # noqa: F401
    ImagePalette,  # noqa: F401
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,
)

from cpllm_model.decoding.container import VideoSource
from cpllm_model.decoding.frames import require_fragment
from cpllm_model.decoding.pixels import FrameConverter, Orientation
from cpllm_model.decoding.samples import DecodeLimits, VideoInfo, VideoSamples, picture_codec
from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.errors import CorruptVideoError, LimitExceededError, NotAVideoError, UnsupportedCodecError

#: Nominal: a picture has no time.
FRAME_INTERVAL_S = 0.04
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
}
#: The file is read into memory as a whole; a PNG of 8K with 16 bits has 0.2 GiB where nothing can be compressed.
_MAX_BYTES = 1 << 28
#: EXIF tag 0x0112 (CIPA DC-008, 4.6.5).
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Orientation(columns_flipped=True),
    3: Orientation(rows_flipped=True, columns_flipped=True, rotation_deg=180),
    4: Orientation(rows_flipped=True, rotation_deg=180),
    5: Orientation(transposed=True, rotation_deg=90),
    6: Orientation(transposed=True, columns_flipped=True, rotation_deg=90),
    7: Orientation(transposed=True, rows_flipped=True, columns_flipped=True, rotation_deg=270),
    8: Orientation(transposed=True, rows_flipped=True, rotation_deg=270),
}


def read_picture(file: BinaryIO, name: str, limits: DecodeLimits | None = None) -> np.ndarray:
    """Decode a picture as a whole.

    Args:
        file: seekable, opened for reading bytes.
        name: of the picture, for messages.
        limits: what it may cost; only those of pixels and bytes are kept here.

    Returns:
        uint8 (H, W, 3) RGB, the right way up.

    Raises:
        VideoError: it is no picture, cannot be decoded, or not within the limits.
    """
    source = VideoSource(file, name, limits or DecodeLimits())
    codec = picture_codec(source.head())
    if codec is None:
        raise NotAVideoError(name, "no accepted picture format recognises its bytes")
    return _decode(source, codec)[0]


def probe_picture(source: VideoSource, codec: str) -> VideoInfo:
    """Decode a picture and describe it.

    Args:
        source: its file.
        codec: what `samples.picture_codec` says of it.

    Raises:
        VideoError: it cannot be decoded, or not within the limits.
    """
    rgb_HW3, orientation = _decode(source, codec)
    return _info(rgb_HW3, orientation, codec, FRAME_INTERVAL_S)


def decode_picture(source: VideoSource, codec: str, settings: SamplingSettings) -> VideoSamples:
    """Decode what the model sees of a picture.

    Args:
        source: its file.
        codec: what `samples.picture_codec` says of it.
        settings: how much is looked at.

    Returns:
        one segment of equal frames, with the plan "still".

    Raises:
        VideoError: it cannot be decoded, not within the limits, or is smaller than a fragment.
    """
    rgb_HW3, orientation = _decode(source, codec)
    duration_s = settings.burst_frames * FRAME_INTERVAL_S
    info = _info(rgb_HW3, orientation, codec, duration_s)
    frame = VideoFrame.from_ndarray(rgb_HW3, format="rgb24")
    del rgb_HW3
    require_fragment(frame, source.name, settings.fragment_px)
    converter = FrameConverter(settings)
    mosaic_3MM, context_3SS = converter.mosaic(frame, converter.window([frame])), converter.context(frame)
    return VideoSamples(
        info=info,
        plan="still",
        damaged_frames=0,
        segment_start_s=np.array([0.0]),
        segment_end_s=np.array([duration_s]),
        segment_has_picture=np.array([True]),
        burst_interval_s=np.array([FRAME_INTERVAL_S]),
        context_NMCHW=np.array([[context_3SS] * settings.context_frames]),
        bursts_NTCHW=np.array([[mosaic_3MM] * settings.burst_frames]),
    )


def _info(rgb_HW3: np.ndarray, orientation: Orientation, codec: str, duration_s: float) -> VideoInfo:
    height_px, width_px, _ = rgb_HW3.shape
    return VideoInfo(
        duration_s=duration_s,
        width_px=width_px,
        height_px=height_px,
        fps=1 / FRAME_INTERVAL_S,
        codec=codec,
        pixel_format="rgb24",
        rotation_deg=orientation.rotation_deg,
        bit_rate_bps=None,
        frame_count=1,
    )


def _decode(source: VideoSource, codec: str) -> tuple[np.ndarray, Orientation]:
    """RGB codes (H, W, 3) the right way up, and how they were turned."""
    data = _whole(source)
    if codec == "webp":
        _check_size(source, *_webp_size(data))  # its reader takes memory for the picture before it gives the size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on damage that Pillow reads over
            with _READERS[codec](io.BytesIO(data)) as image:
                _check_size(source, *image.size)
                if getattr(image, "is_animated", False):
                    raise UnsupportedCodecError(source.name, f"an animation of several frames in {codec}")
                image.load()
                orientation = _orientation(image)
                rgb_HW3 = _rgb(image)
    except (MemoryError, LimitExceededError, UnsupportedCodecError):
        raise
    except Exception as error:  # whatever the bytes provoke, they are no sound picture
        raise CorruptVideoError(source.name, f"its {codec} picture does not decode: {error}"[:300]) from error
    turned_3HW = orientation.apply(rgb_HW3.transpose(2, 0, 1))
    return np.ascontiguousarray(turned_3HW.transpose(1, 2, 0)), orientation


def _whole(source: VideoSource) -> bytes:
    if source.size_bytes > _MAX_BYTES:
        raise LimitExceededError(source.name, f"a picture of {source.size_bytes} bytes, over {_MAX_BYTES}")
    source.seek(0)
    parts = []
    while part := source.read(source.size_bytes):
        parts.append(part)
    return b"".join(parts)


def _check_size(source: VideoSource, width_px: int, height_px: int) -> None:
    if width_px * height_px > source.limits.max_frame_px:
        raise LimitExceededError(source.name, f"a picture of {width_px}x{height_px} px")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height by the first chunk (RFC 9649, 2.5-2.7); zeros where it is another."""
    kind, body = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return 0, 0


def _orientation(image: Image.Image) -> Orientation:
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a viewer shows a picture with broken EXIF data as it is coded
        return Orientation()
    return _ORIENTATIONS.get(value, Orientation()) if isinstance(value, int) else Orientation()


def _rgb(image: Image.Image) -> np.ndarray:
    """RGB codes (H, W, 3) of 8 bits."""
    if image.mode.startswith("I"):  # grey of 16 bits, which `convert` would clip
        grey_HW = (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey_HW[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))
