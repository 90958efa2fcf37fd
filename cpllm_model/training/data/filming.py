"""Film a content: from a picture, a clip or a seed to pristine frames at any moments.

In: a content and a seed, which choose size, camera and look. Out: planar frames. Looks are no distortions: black and
white, black bars, subtitles, shallow focus, fast pans with an open shutter. A rated picture is shown as people rated
it: at its own scale, whole or nearly so, moved by whole pixels. Knows nothing of distortions or labels.

Shape legend: T moments, J = H * 3 / 2 rows of a planar yuv420p frame, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import ffmpeg
import numpy as np
from PIL import Image

from cpllm_model.training.data import encode
from cpllm_model.training.data.contents import TAKES_A_ROUND, Content
from cpllm_model.training.data.scenes import (
    CameraPath,
    animate,
    render_nature,
    render_scene,
    shallow_focus,
    there_and_back,
)
from cpllm_model.training.data.screens import add_subtitle, render_screen

FRAMES = 16
SIZES_PX = ((320, 180), (320, 240), (426, 240), (480, 270), (480, 360), (640, 360), (640, 480), (854, 480))
#: Only for pictures that have the detail, and rarely: a clip costs in proportion to its pixels.
LARGE_SIZES_PX = ((960, 540), (1280, 720), (1920, 1080))
LARGE_SHARE = 0.6
#: Small ones, which every third round of takes has: old uploads, previews, what comes over a poor line.
SMALL_SIZES_PX = ((160, 120), (176, 144), (224, 126), (208, 120), (240, 180), (256, 144))
PORTRAIT_SHARE = 0.15
MAX_WIDTH_PX = 960
#: Length of a camera's path, frames; a longer take goes it back. It is longer than a clip, for low frame rates.
PATH_FRAMES = 32
#: Share of contents that have a look. What people rated is shown without, but for bars.
BARS_SHARE, MONOCHROME_SHARE, SUBTITLE_SHARE, SHALLOW_SHARE, FAST_PAN_SHARE = 0.12, 0.05, 0.06, 0.15, 0.08
#: Moments of an open shutter that are added up, and the share of the frame's time that it is open.
SHUTTER_MOMENTS, SHUTTER_SHARE = 8, 0.5
#: Each side of a rated picture is shown at least to this share.
RATED_LEAST = 2 / 3


@dataclass(frozen=True)
class Film:
    """Pristine frames.

    Args:
        planes_TJW: uint8 yuv420p of limited range.
        window_px: (left, top, width, height) of the picture within black bars; None if there are none.
    """

    planes_TJW: np.ndarray
    window_px: tuple[int, int, int, int] | None = None


def film(content: Content, seed: int, times_T: np.ndarray) -> Film:
    """Film a content.

    Args:
        content: what.
        seed: chooses size, camera and look; the same at other moments.
        times_T: moments, in frames, whole numbers; a clip is 0 to FRAMES - 1.

    Raises:
        ValueError: a clip has no such moments.
        EncodeError, OSError: the source cannot be read.
    """
    rng = np.random.default_rng(seed)
    has_bars, monochrome, subtitled = rng.random(3) < (BARS_SHARE, MONOCHROME_SHARE, SUBTITLE_SHARE)
    if content.kind == "clip":
        planes_TJW = _film_clip(content, rng, times_T)
    elif content.mos is not None:
        planes_TJW = encode.rgb_to_planes(_film_rated(content, rng, times_T))
    else:
        frames_THW3 = _film_picture(content, rng, times_T)
        if subtitled and content.kind != "screen":
            frames_THW3 = add_subtitle(frames_THW3, rng)
        planes_TJW = encode.rgb_to_planes(frames_THW3)
    if monochrome and content.mos is None and content.kind != "screen":
        planes_TJW = planes_TJW.copy()
        planes_TJW[:, planes_TJW.shape[1] * 2 // 3 :] = 128
    return _barred(planes_TJW, rng) if has_bars else Film(planes_TJW)


def _film_picture(content: Content, rng: np.random.Generator, times_T: np.ndarray) -> np.ndarray:
    """Film a photograph or what is rendered; RGB."""
    if content.kind == "screen":
        return render_screen(int(content.source), *_frame_size(rng, 1280, content.take), times_T)
    if content.kind in ("scene", "nature"):
        size = _frame_size(rng, 1280, content.take)
        render = render_nature if content.kind == "nature" else render_scene
        return render(int(content.source), *size, PATH_FRAMES, times_T)
    with Image.open(content.source) as opened:
        picture = opened.convert("RGB")
    width, height = size = _frame_size(rng, max(picture.size), content.take)
    camera, path = CameraPath.draw(rng), PATH_FRAMES
    if pans_fast := rng.random() < FAST_PAN_SHARE:
        camera, path = CameraPath("pan", float(rng.uniform(0.015, 0.05)) * width, float(rng.uniform(0, 6.3))), FRAMES
    reach = camera.speed_px * path / 2 + 6
    picture = _mirrored(picture, int(width * 1.2 + 2 * reach), int(height * 1.2 + 2 * reach))
    if rng.random() < SHALLOW_SHARE:
        picture = shallow_focus(picture, rng)
    if not pans_fast:
        return animate(picture, camera, path, size, rng, times_T)
    moments = times_T[:, None] + np.arange(SHUTTER_MOMENTS) * SHUTTER_SHARE / SHUTTER_MOMENTS
    shown = animate(picture, camera, path, size, rng, moments.ravel())
    return np.rint(shown.reshape(*moments.shape, *shown.shape[1:]).mean(1, dtype=np.float32)).astype(np.uint8)


def _film_rated(content: Content, rng: np.random.Generator, times_T: np.ndarray) -> np.ndarray:
    """Show a rated picture at its own scale, still or with a window that moves over it by whole pixels; RGB."""
    with Image.open(content.source) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    height, width = pixels.shape[:2]
    share = 1.0 if rng.random() < 0.3 else float(rng.uniform(RATED_LEAST, 1))
    shown = [max(2, -(-int(np.ceil(side * share)) // 2) * 2) for side in (width, height)]
    shown = [size if size <= side else side // 2 * 2 for size, side in zip(shown, (width, height), strict=True)]
    room = np.array([width - shown[0], height - shown[1]])
    speed = rng.integers(-4, 5, 2) * (rng.random() < 0.7)
    start = np.floor(rng.uniform(0, 1, 2) * (room + 1))
    frames = []
    for time in times_T:
        left, top = (int(there_and_back(*way)) for way in zip(start + speed * int(time), room, strict=True))
        frames.append(pixels[top : top + shown[1], left : left + shown[0]])
    return np.stack(frames)


def _barred(planes_TJW: np.ndarray, rng: np.random.Generator) -> Film:
    """Put bars of flat black above and below, at the sides, or all around."""
    frames, rows, width = planes_TJW.shape
    height = rows * 2 // 3
    wide, high = ((0, 1), (1, 0), (1, 1))[int(rng.integers(3))]
    side, above = (round(size * rng.uniform(0.05, 0.2)) * 2 * on for size, on in ((width, wide), (height, high)))
    black = int(rng.choice([16, 16, 16, 18, 24, 32]))
    outer = np.full((frames, height + 2 * above, width + 2 * side), black, np.uint8)
    outer[:, above : above + height, side : side + width] = planes_TJW[:, :height]
    chroma = np.full((frames, 2, height // 2 + above, width // 2 + side), 128, np.uint8)
    inner = planes_TJW[:, height:].reshape(frames, 2, height // 2, width // 2)
    chroma[:, :, above // 2 : (above + height) // 2, side // 2 : (side + width) // 2] = inner
    planes = np.concatenate([outer, chroma.reshape(frames, -1, width + 2 * side)], 1)
    return Film(planes, (side, above, width, height))


def _frame_size(rng: np.random.Generator, source_px: int, take: int) -> tuple[int, int]:
    """Draw (width, height) for a take of a source of so many pixels on its longer side."""
    large = source_px >= 1200 and rng.random() < LARGE_SHARE
    sizes = [size for size in LARGE_SIZES_PX if size[0] <= 1.4 * source_px] if large else SIZES_PX
    if take % (3 * TAKES_A_ROUND) >= 2 * TAKES_A_ROUND:
        sizes = SMALL_SIZES_PX
    width, height = sizes[rng.integers(len(sizes))]
    return (height, width) if rng.random() < PORTRAIT_SHARE else (width, height)


def _film_clip(content: Content, rng: np.random.Generator, times_T: np.ndarray) -> np.ndarray:
    width, height, frame_count = encode.probe_own(content.source)
    # A lossy clip is no reference at its own size: it is halved, unless it is too small and near lossless anyway.
    scale = 2 if not content.source.endswith(".y4m") and min(width, height) >= 400 else 1
    while width // scale > MAX_WIDTH_PX:
        scale *= 2
    width, height = width // scale // 2 * 2, height // scale // 2 * 2
    start = int(rng.integers(0, max(1, frame_count - FRAMES)))
    first, last = int(start + times_T.min()), int(start + times_T.max())
    if first < 0 or (frame_count and last >= frame_count):
        raise ValueError(f"{content.source}: frames {first} to {last} are needed, it has {frame_count}")
    source = ffmpeg.input(content.source).filter("trim", start_frame=first).filter("setpts", "PTS-STARTPTS")
    source = source.filter("scale", width, height, flags="area", out_range="tv").filter("format", "yuv420p")
    planes_TJW = encode.read_planes(source, width, height, last - first + 1)
    if len(planes_TJW) < last - first + 1:
        raise ValueError(f"{content.source}: {len(planes_TJW)} frames from {first}, {last - first + 1} are needed")
    return planes_TJW[(times_T - times_T.min()).astype(int)]


def _mirrored(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Extend a picture by its mirror images to cover a size, so that no detail is invented by upscaling."""
    pixels = np.asarray(picture)
    pad = [(0, max(0, height - pixels.shape[0])), (0, max(0, width - pixels.shape[1])), (0, 0)]
    return Image.fromarray(np.pad(pixels, pad, mode="symmetric"))
