"""Every ffmpeg command of the project, written by ffmpeg-python for the static binary of imageio-ffmpeg.

Runs on the project's own files only: videos from outside are opened by `video.py` alone. In: frames or a
path; out: an encoded file, raw planes, or VMAF. Every run has a time limit and its process is killed past it.

Shape legend: T frames, H height, W width, 3 RGB, J = H * 3 / 2 rows of a planar yuv420p frame.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np
from PIL import Image

#: Codec name -> encoder options; rates are the encoder's own constant-quality scale.
CODECS: dict[str, dict[str, Any]] = {
    "x264": {"vcodec": "libx264", "preset": "medium"},
    "x265": {"vcodec": "libx265", "preset": "fast", "x265-params": "log-level=none"},
    "vp9": {"vcodec": "libvpx-vp9", "deadline": "realtime", "cpu-used": 6, "b:v": 0},
    "av1": {"vcodec": "libsvtav1", "preset": 10},
    "mpeg4": {"vcodec": "mpeg4"},
    "mpeg2": {"vcodec": "mpeg2video"},
    "ffv1": {"vcodec": "ffv1"},
}
#: Codec name -> the container its clips come in.
SUFFIXES = {"x264": ".mp4", "x265": ".mp4", "vp9": ".webm", "av1": ".mp4", "mpeg4": ".mp4", "mpeg2": ".ts"}
#: ffmpeg's option ends here; SVT-AV1 itself goes on to 70.
SVT_CRF_MAX = 63
RUN_LIMIT_S = 300.0
#: Without full_chroma_int swscale gives RGB that is up to three codes too dark.
_RGB_FLAGS = "bicubic+accurate_rnd+full_chroma_int"
#: glibc gives frames back to the system and fetches them again for each one unless told not to: twice the time.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 31)}
# Undocumented colours would be guessed from the size by every player in its own way.
COLOUR = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}


class EncodeError(RuntimeError):
    """ffmpeg failed or ran past its limit; the message holds the end of its log."""


def write_video(
    frames_THW3: np.ndarray, path: Path, fps: float = 25.0, codec: str = "x264", crf: int = 23, **options: Any
) -> Path:
    """Encode RGB frames.

    Args:
        frames_THW3: uint8 RGB.
        path: where to; the suffix chooses the container.
        fps: frames a second.
        codec: a key of CODECS.
        crf: constant quality on the encoder's own scale (x264/x265 0-51, VP9 0-63, AV1 0-70; MPEG-4: qscale 1-31).
        options: further output options of ffmpeg, such as `g=48` or `pix_fmt="yuv420p10le"`.

    Raises:
        EncodeError: ffmpeg failed.
    """
    _, height, width, _ = frames_THW3.shape
    source = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=fps)
    source = _as_bt709(source)
    _run(source.output(str(path), **(encoder_options(codec, crf) | COLOUR | options)), frames_THW3)
    return path


def encoder_options(codec: str, crf: float) -> dict[str, Any]:
    """Give ffmpeg's output options for a codec at a constant quality."""
    whole = codec in ("vp9", "av1")
    quality: dict[str, Any] = {"qscale:v": crf} if codec.startswith("mpeg") else {"crf": round(crf) if whole else crf}
    if codec == "av1" and crf > SVT_CRF_MAX:
        quality = {"crf": SVT_CRF_MAX, "svtav1-params": f"crf={round(crf)}"}
    if codec == "ffv1":
        quality = {}
    return {"pix_fmt": "yuv420p", "threads": 1, **CODECS[codec], **quality}


def pipe_input(width_px: int, height_px: int, fps: float) -> Any:
    """Give the ffmpeg input of raw yuv420p frames that are fed through its standard input.

    Its colours are stated: ffmpeg would take raw frames for another matrix than the output's, and convert them.
    """
    size = f"{width_px}x{height_px}"
    return ffmpeg.input("pipe:", format="rawvideo", pix_fmt="yuv420p", s=size, r=fps, **COLOUR)


def encode_planes(planes_TJW: np.ndarray, path: Path, fps: float, codec: str, crf: float, **options: Any) -> Path:
    """Encode uint8 (T, J, W) planar yuv420p frames of limited range; see `write_video`."""
    source = pipe_input(planes_TJW.shape[2], planes_TJW.shape[1] * 2 // 3, fps)
    _run(source.output(str(path), **(encoder_options(codec, crf) | COLOUR | options)), planes_TJW)
    return path


def read_planes(
    source: Any, width_px: int, height_px: int, max_frames: int | None = None, frames: np.ndarray | None = None
) -> np.ndarray:
    """Decode an ffmpeg stream to planar yuv420p.

    Args:
        source: an ffmpeg input with its filters, giving frames of the stated size.
        width_px, height_px: even frame size.
        max_frames: stop after so many.
        frames: what a `pipe_input` is fed with.

    Returns:
        uint8 (T, J, W): each frame's Y rows, then U and V at half size, packed two rows in one.

    Raises:
        EncodeError: ffmpeg failed or gave a broken number of bytes.
    """
    limit = {} if max_frames is None else {"frames:v": max_frames}
    raw = _run(source.output("pipe:", format="rawvideo", pix_fmt="yuv420p", fps_mode="passthrough", **limit), frames)
    frame_bytes = width_px * height_px * 3 // 2
    if not raw or len(raw) % frame_bytes:
        raise EncodeError(f"{len(raw)} bytes are not a whole number of {width_px}x{height_px} frames")
    return np.frombuffer(raw, np.uint8).reshape(-1, height_px * 3 // 2, width_px)


def rgb_to_planes(frames_THW3: np.ndarray) -> np.ndarray:
    """Convert RGB frames of even size to limited-range BT.709 yuv420p, uint8 (T, J, W)."""
    _, height, width, _ = frames_THW3.shape
    source = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=25)
    raw = _run(_as_bt709(source).output("pipe:", format="rawvideo", pix_fmt="yuv420p"), frames_THW3)
    return np.frombuffer(raw, np.uint8).reshape(-1, height * 3 // 2, width)


def planes_to_rgb(planes_TJW: np.ndarray) -> np.ndarray:
    """Convert limited-range BT.709 yuv420p to RGB, uint8 (T, H, W, 3)."""
    height, width = planes_TJW.shape[1] * 2 // 3, planes_TJW.shape[2]
    source = pipe_input(width, height, 25).filter("scale", in_color_matrix="bt709", in_range="tv", flags=_RGB_FLAGS)
    raw = _run(source.output("pipe:", format="rawvideo", pix_fmt="rgb24"), planes_TJW)
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def write_picture(planes_JW: np.ndarray, path: Path) -> Path:
    """Write one limited-range BT.709 yuv420p frame as a picture; the suffix chooses the format."""
    Image.fromarray(planes_to_rgb(planes_JW[None])[0]).save(path)
    return path


def own_input(path: Path) -> Any:
    """Give the ffmpeg input of a clip or picture of the project's own, as limited-range BT.709."""
    source = ffmpeg.input(str(path))
    return _as_bt709(source).filter("format", "yuv420p") if path.suffix == ".png" else source


def vmaf(
    clip: Path, reference_TJW: np.ndarray, fps: float = 25.0, window_px: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Measure VMAF (model vmaf_v0.6.1, Netflix) of a clip, frame by frame, whatever its timestamps.

    Args:
        clip: of the same size as the reference.
        reference_TJW: uint8 planar yuv420p frames.
        fps: of both.
        window_px: (left, top, width, height), even, of what is measured; None is the whole frame.

    Returns:
        float64 (frames of the shorter,): a frame's VMAF, 0-100, higher is better.

    Raises:
        EncodeError: ffmpeg failed.
    """
    reference = pipe_input(reference_TJW.shape[2], reference_TJW.shape[1] * 2 // 3, fps)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "vmaf.json"
        clocks = [stream.filter("settb", "1/1000").filter("setpts", "N") for stream in (own_input(clip), reference)]
        if window_px is not None:
            left, top, width, height = window_px
            clocks = [stream.filter("crop", width, height, left, top) for stream in clocks]
        measured = ffmpeg.filter(clocks, "libvmaf", log_fmt="json", log_path=str(log), n_threads=1)
        _run(measured.output("-", format="null"), reference_TJW)
        frames = json.loads(log.read_text())["frames"]
    return np.array([frame["metrics"]["vmaf"] for frame in frames])


def split_nal_units(stream: bytes) -> list[bytes]:
    """Cut an H.264 byte stream (ITU-T H.264 annex B) into its NAL units, each with its start code."""
    starts = [match.start() for match in re.finditer(b"\x00\x00\x01", stream)]
    return [stream[a:b] for a, b in pairwise([0, *starts[1:], len(stream)])]


def starts_frame(unit: bytes) -> bool | None:
    """Tell whether a NAL unit is the first slice of a frame; None if it is no slice.

    The low five bits after the start code are the type, 1 or 5 for a slice; its header begins with first_mb_in_slice
    in Exp-Golomb code, where a leading 1 bit means 0 (ITU-T H.264, 7.3.1 and 7.3.3).
    """
    header = unit.lstrip(b"\x00")[1:3]
    return bool(header[1] & 0x80) if len(header) == 2 and header[0] & 31 in (1, 5) else None


def probe_own(path: Path | str) -> tuple[int, int, int]:
    """Give (width, height, frames) of one of the project's own or training files, as displayed."""
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    reader.close()
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    return width, height, frames or 0


@functools.cache
def ffmpeg_binary() -> str:
    """Give the path of the static ffmpeg that comes with imageio-ffmpeg."""
    return imageio_ffmpeg.get_ffmpeg_exe()


def _as_bt709(rgb: Any) -> Any:
    """State the RGB -> YUV matrix: swscale's default depends on the build."""
    return rgb.filter("scale", out_color_matrix="bt709", out_range="tv", flags=_RGB_FLAGS)


def _run(stream: Any, frames: np.ndarray | None = None, limit_s: float = RUN_LIMIT_S) -> bytes:
    command = ffmpeg.compile(
        stream.global_args("-hide_banner", "-loglevel", "error", "-filter_threads", "1"),
        cmd=ffmpeg_binary(),
        overwrite_output=True,
    )
    # As plain bytes: fed in small pieces, so that a full output pipe cannot block the input.
    data = None if frames is None else np.ascontiguousarray(frames).data.cast("B")
    try:
        # ffmpeg-python's own run() has no time limit.
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=limit_s, check=False, env=os.environ | KEEP_MEMORY
        )
    except subprocess.TimeoutExpired:
        raise EncodeError(f"ffmpeg ran past {limit_s} s: {' '.join(command)}") from None
    if done.returncode:
        log = done.stderr.decode(errors="replace")[-2000:]
        raise EncodeError(f"ffmpeg failed with {done.returncode} ({' '.join(command)}): {log}")
    return done.stdout
