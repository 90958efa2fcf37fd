"""The videos of the tests in time: a clean minute of several shots, and the same with one stretch that differs.

In: clean sources and a seed. Out: encoded files one after the other, each with the stretch that differs in it. Frames
are changed in place, so that one video's frames are in memory once. Knows nothing of models.

Shape legend: T frames, J = H * 3 / 2 rows of a planar yuv420p frame, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
import numpy as np

from cpllm_model.pooling import Stretch
from cpllm_model.training.data import encode
from cpllm_model.training.data.degradation import EFFECTS
from cpllm_model.training.data.scenes import there_and_back
from cpllm_model.training.data.screens import LAYOUTS, render_screen
from cpllm_model.training.evaluation.stress import FPS
from cpllm_model.training.evaluation.stress_sources import FIRST_SEED, SIZE_PX, Source

#: Shots of a video, each of a source of its own; cuts lie this share of a shot off an even grid at most.
SHOTS, CUT_JITTER = 5, 0.3
#: Nothing differs so near either end of a video, s.
EDGE_S = 1.0
#: Constant quality of what is clean, and the quantiser of what is compressed.
CLEAN_CRF, COMPRESSED_Q = 16, 45
#: Frames from one key frame to the next at most, as streams have.
KEY_FRAMES = 50
BLUR_PX, NOISE_CODES = 4.0, 20.0
#: Y, U and V of what is flat: black, and the RGB colour (0, 128, 0) in BT.709.
BLACK, GREEN = (16, 128, 128), (95, 85, 77)
#: Frames that an effect is applied to at once.
CHUNK = 50
#: A seed of screens whose layout is the last one, credits.
CREDITS_SEED = FIRST_SEED - FIRST_SEED % len(LAYOUTS) + len(LAYOUTS) - 1
CLEAN, CLEAN_START, FROZEN = "clean", "clean start", "start frozen"
HALF, SWAPPED, SLIDES = "first half blurred", "halves swapped", "slide show"


@dataclass(frozen=True)
class Clip:
    """A video of the tests.

    Args:
        kind: a key of CHANGES, or one of the names above.
        stretch: in which it differs, s; None: nowhere.
        reference: kind of the video of the same shots whose score this one's is set against.
    """

    kind: str
    stretch: Stretch | None = None
    reference: str = CLEAN

    @property
    def length_s(self) -> float | None:
        """Give the length of the stretch, to a tenth."""
        return None if self.stretch is None else round(self.stretch[1] - self.stretch[0], 1)


# What a stretch shows instead: frames (T, J, W) of the stretch, the frame before it, a seed -> frames of the same size.


def effect(kind: str, strength: float) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """Apply an effect of degradation.EFFECTS."""

    def change(planes_TJW: np.ndarray, before_JW: np.ndarray, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        parts = (planes_TJW[first : first + CHUNK] for first in range(0, len(planes_TJW), CHUNK))
        return np.concatenate([EFFECTS[kind](part, strength, rng) for part in parts])

    return change


def same(planes_TJW: np.ndarray, before_JW: np.ndarray, seed: int) -> np.ndarray:
    """Change nothing: what the encoder is told differs."""
    return planes_TJW


def frozen(planes_TJW: np.ndarray, before_JW: np.ndarray, seed: int) -> np.ndarray:
    """Show the frame before the stretch again and again."""
    return np.broadcast_to(before_JW, planes_TJW.shape)


def flat(colour: tuple[int, int, int]) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """Show one colour, given as Y, U and V."""

    def change(planes_TJW: np.ndarray, before_JW: np.ndarray, seed: int) -> np.ndarray:
        frame_JW = np.empty_like(before_JW)
        rows = before_JW.shape[0] * 2 // 3
        for part, code in zip(np.split(frame_JW, [rows, rows + rows // 4]), colour, strict=True):
            part[:] = code
        return np.broadcast_to(frame_JW, planes_TJW.shape)

    return change


def bars(planes_TJW: np.ndarray, before_JW: np.ndarray, seed: int) -> np.ndarray:
    """Show the colour bars of SMPTE."""
    width, height = SIZE_PX
    source = ffmpeg.input(f"smptehdbars=size={width}x{height}", f="lavfi").filter("format", "yuv420p")
    return np.broadcast_to(encode.read_planes(source, width, height, 1)[0], planes_TJW.shape)


def credits_roll(planes_TJW: np.ndarray, before_JW: np.ndarray, seed: int) -> np.ndarray:
    """Show credits, which may scroll."""
    pixels = render_screen(CREDITS_SEED + len(LAYOUTS) * (seed % 1000), *SIZE_PX, np.arange(len(planes_TJW)))
    return encode.rgb_to_planes(pixels)


CHANGES: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "compression": same,
    "blur": effect("gaussian blur", BLUR_PX),
    "noise": effect("white noise", NOISE_CODES),
    "freeze": frozen,
    "black": flat(BLACK),
    "green": flat(GREEN),
    "bars": bars,
    "credits": credits_roll,
}


def make_clips(
    sources: Sequence[Source], seconds: float, lengths_s: Sequence[float], kinds: Sequence[str], seed: int, folder: Path
) -> Iterator[tuple[Clip, Path]]:
    """Make the clips of one video, each when it is asked for.

    Args:
        sources: of its shots.
        seconds: length of the video.
        lengths_s: of the stretches; those that do not fit are left out.
        kinds: of CHANGES.
        seed: decides cuts and places.
        folder: where to.

    Yields:
        each clip and its file, which is the caller's; a clip comes after its reference.

    Raises:
        EncodeError: a source cannot be read, or ffmpeg fails.
    """
    rng = np.random.default_rng([seed, 0])
    planes_TJW, cuts = film(sources, round(seconds * FPS), rng)
    frames, edge = len(planes_TJW), round(EDGE_S * FPS)

    def stored(name: str, shown_TJW: np.ndarray, **options: str) -> Path:
        path = folder / f"{seed}-{name.replace(' ', '-')}.mp4"
        options = {"preset": "veryfast", "g": str(KEY_FRAMES), **options}
        return encode.encode_planes(shown_TJW, path, FPS, "x264", CLEAN_CRF, **options)

    yield Clip(CLEAN), stored(CLEAN, planes_TJW)
    for number, kind in enumerate(kinds):
        for length_s in lengths_s:
            length = round(length_s * FPS)
            if frames < length + 2 * edge:
                continue
            # A place of its own for each, whatever else is made.
            place = np.random.default_rng([seed, 1, number, length])
            first = int(place.integers(edge, frames - edge - length + 1))
            last = first + length
            kept = planes_TJW[first:last].copy()
            planes_TJW[first:last] = CHANGES[kind](kept, planes_TJW[first - 1].copy(), int(place.integers(1 << 30)))
            zones = {"x264-params": f"zones={first},{last - 1},q={COMPRESSED_Q}"} if kind == "compression" else {}
            path = stored(f"{kind} {length_s:g}", planes_TJW, **zones)
            planes_TJW[first:last] = kept
            yield Clip(kind, (first / FPS, last / FPS)), path

    start = planes_TJW[: frames // 3].copy()
    yield Clip(CLEAN_START), stored(CLEAN_START, start)
    start[edge:-edge] = start[edge - 1].copy()
    yield Clip(FROZEN, (edge / FPS, (len(start) - edge) / FPS), CLEAN_START), stored(FROZEN, start)
    yield from _halves(planes_TJW, stored)
    for first, last in zip([0, *cuts], [*cuts, frames], strict=True):
        planes_TJW[first:last] = planes_TJW[first].copy()
    yield Clip(SLIDES), stored(SLIDES, planes_TJW)


def _halves(planes_TJW: np.ndarray, stored: Callable[[str, np.ndarray], Path]) -> Iterator[tuple[Clip, Path]]:
    """Blur the first half; then show the second one before it. The frames are as they were afterwards."""
    half = len(planes_TJW) // 2
    kept = planes_TJW[:half].copy()
    planes_TJW[:half] = CHANGES["blur"](kept, kept[0], 0)
    yield Clip(HALF, (0.0, half / FPS)), stored(HALF, planes_TJW)
    swapped = np.concatenate([planes_TJW[half:], planes_TJW[:half]])
    planes_TJW[:half] = kept
    path = stored(SWAPPED, swapped)
    yield Clip(SWAPPED, ((len(swapped) - half) / FPS, len(swapped) / FPS), HALF), path


def film(sources: Sequence[Source], frames: int, rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """Film a shot of each source.

    Args:
        sources: one or more.
        frames: of all shots together.
        rng: draws where the cuts are.

    Returns:
        uint8 (T, J, W); the first frame of each shot but the first.
    """
    width, height = SIZE_PX
    planes_TJW = np.empty((frames, height * 3 // 2, width), np.uint8)
    places = np.arange(1, len(sources)) + rng.uniform(-CUT_JITTER, CUT_JITTER, len(sources) - 1)
    cuts = [round(place / len(sources) * frames) for place in places]
    for source, first, last in zip(sources, [0, *cuts], [*cuts, frames], strict=True):
        planes_TJW[first:last] = shot(source, last - first)
    return planes_TJW, cuts


def shot(source: Source, frames: int) -> np.ndarray:
    """Film a source for some time, uint8 (T, J, W); a clip that is too short is played forth and back."""
    there = min(frames, encode.probe_own(source.name)[2]) if source.kind == "clip" else frames
    film_TJW = source.film(SIZE_PX, there)
    return film_TJW[[int(there_and_back(index, there - 1)) for index in range(frames)]]
