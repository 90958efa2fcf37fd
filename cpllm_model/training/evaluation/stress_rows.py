"""The rows of the stress tests, as data: how versions are made, what is measured of them, and the bound.

In: a source. Out: its versions, the clean one first. The bounds are what answers should hold to be of use; none follows
from a publication.

Shape legend: H W rows and columns of one plane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from cpllm_model.training.data import encode
from cpllm_model.training.data.degradation import EFFECTS, apply, join
from cpllm_model.training.data.degradation import split as planes_of
from cpllm_model.training.data.distortions import Step
from cpllm_model.training.evaluation.stress import FPS, Check, Row, Said, Version
from cpllm_model.training.evaluation.stress_sources import FRAMES, LARGE_PX, PAN_PX, SIZE_PX, SLOW_STRIDE, Source, pan

#: Scores from which a level is at least "fair", and at least "good" (scale.level_of).
FAIR, GOOD = 2.5, 3.5
#: Frames of large versions, as few as a burst has.
FEW_FRAMES = 8


# What is measured of a source.


def steps_in_order(said: Sequence[Said]) -> float:
    """Give the share of adjacent steps of a ladder, the best first, that lower the score."""
    return float(np.mean([a.score > b.score for a, b in pairwise(said)]))


def shift(said: Sequence[Said]) -> float:
    """Give how far scores are from the first version's, mean absolute."""
    return float(np.mean([abs(one.score - said[0].score) for one in said[1:]]))


def largest_shift(said: Sequence[Said]) -> float:
    """Give how far scores are from the first version's at most."""
    return max(abs(one.score - said[0].score) for one in said[1:])


def spread(said: Sequence[Said]) -> float:
    """Give the highest score less the lowest."""
    return max(one.score for one in said) - min(one.score for one in said)


def falls(said: Sequence[Said]) -> float:
    """Give the share of later versions that score lower than the first."""
    return float(np.mean([one.score < said[0].score for one in said[1:]]))


def first_at_least(least: float, said: Sequence[Said]) -> float:
    """Tell whether the first version scores at least so much, as 1 or 0."""
    return float(said[0].score >= least)


def first_not_below_last(said: Sequence[Said]) -> float:
    """Tell whether the first version scores no lower than the last, as 1 or 0."""
    return float(said[0].score >= said[-1].score)


def naming(family: str, said: Sequence[Said]) -> float:
    """Give the share of later versions of which a distortion is named."""
    return float(np.mean([family in one.named for one in said[1:]]))


def naming_last(family: str, said: Sequence[Said]) -> float:
    """Tell whether a distortion is named of the last version, as 1 or 0."""
    return float(family in said[-1].named)


# How versions are made.


def effect_ladder(kind: str, strengths: Sequence[float]) -> Callable[[Source, Path], list[Version]]:
    """Make the ladder of an effect of degradation.EFFECTS; a strength of 0 is the clean version."""

    def make(source: Source, folder: Path) -> list[Version]:
        clean = source.film()
        return [Version(f"{x:g}", EFFECTS[kind](clean, x, np.random.default_rng(0)) if x else clean) for x in strengths]

    return make


def severity_ladder(kind: str, severities: Sequence[float]) -> Callable[[Source, Path], list[Version]]:
    """Make the clean version and severities of a kind of the catalogue, all with the same lot."""

    def make(source: Source, folder: Path) -> list[Version]:
        clean = source.film()
        steps = [Step(kind, severity, 1) for severity in severities]
        degraded = [Version(f"severity {step.severity:g}", apply(clean, step, FPS, folder)) for step in steps]
        return [Version("clean", clean), *degraded]

    return make


def rate_ladder(codec: str, qualities: Sequence[float]) -> Callable[[Source, Path], list[Version]]:
    """Make the rate ladder of an encoder, the highest rate first."""

    def make(source: Source, folder: Path) -> list[Version]:
        clean = source.film()
        return [Version(f"{codec} {quality:g}", clean, codec, quality) for quality in qualities]

    return make


def five_a_second(source: Source, folder: Path) -> list[Version]:
    """Film the same movement with five frames a second."""
    slow = source.film(stride=SLOW_STRIDE)
    return [Version("25 frames a second", source.film()), Version("5 frames a second", slow, fps=FPS / SLOW_STRIDE)]


def scaling_ladder(source: Source, folder: Path) -> list[Version]:
    """Shrink and enlarge again."""
    clean = source.film()
    width, height = SIZE_PX
    versions = []
    for factor in (1, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05):
        small = resized(clean, round(width * factor / 2) * 2, round(height * factor / 2) * 2, "area")
        versions.append(Version(f"{factor:g}", clean if factor == 1 else resized(small, width, height, "bicubic")))
    return versions


def jpeg_ladder(source: Source, folder: Path) -> list[Version]:
    """Store each plane of each frame as a JPEG picture of falling quality."""
    clean = source.film()

    def stored(plane_HW: np.ndarray, quality: int) -> np.ndarray:
        file = BytesIO()
        Image.fromarray(plane_HW).save(file, "jpeg", quality=quality)
        return np.asarray(Image.open(file))

    return [
        Version(
            f"quality {quality}",
            join(*(np.stack([stored(plane, quality) for plane in planes]) for planes in planes_of(clean))),
        )
        for quality in (95, 60, 30, 15, 8, 4, 1)
    ]


def black_bars(source: Source, folder: Path) -> list[Version]:
    """Put bars above and below, at the sides, and all around."""
    clean = source.film()
    bars = {"letterbox": (60, 0), "pillarbox": (0, 80), "windowbox": (60, 80)}
    framed = []
    for name, (rows, columns) in bars.items():
        luma, *chroma = planes_of(clean)
        wide = np.pad(luma, ((0, 0), (rows, rows), (columns, columns)), constant_values=16)
        half = ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2))
        framed.append(Version(name, join(wide, *(np.pad(plane, half, constant_values=128) for plane in chroma))))
    return [Version("no bars", clean), *framed]


def still_and_moved(source: Source, folder: Path) -> list[Version]:
    """Show one window standing, moving by whole pixels over the same picture, and standing but encoded."""
    picture_JW = source.film()[0]
    width = (picture_JW.shape[1] - PAN_PX * FRAMES) // 2 * 2
    standing = np.stack([pan(picture_JW, PAN_PX * FRAMES // 2 // 2 * 2, width)] * FRAMES)
    moving = np.stack([pan(picture_JW, PAN_PX * index, width) for index in range(FRAMES)])
    return [Version("still", standing, quality=0), Version("moving", moving, quality=0),
            Version("encoded", standing, quality=18)]  # fmt: skip


def tints(source: Source, folder: Path) -> list[Version]:
    """Take the colour away, as black and white film has none, and make the light a little warmer."""
    clean = source.film()
    luma, blue, red = planes_of(clean)
    grey = np.full_like(blue, 128)
    warm = join(luma, blue.astype(np.int16) - 2, red.astype(np.int16) + 2)
    return [Version("clean", clean), Version("monochrome", join(luma, grey, grey)), Version("warm", warm)]


def screen_and_encode(source: Source, folder: Path) -> list[Version]:
    """Show a screen, clean and hardly encoded."""
    clean = np.stack([encode.rgb_to_planes(source.still(*SIZE_PX)[None])[0]] * FRAMES)
    return [Version("clean", clean), Version("x264 45", clean, quality=45)]


def shallow_focus(source: Source, folder: Path) -> list[Version]:
    """Keep a disc in the middle sharp and put the rest out of focus, as an open aperture does; then the sharp one."""
    clean = source.film()
    background = EFFECTS["gaussian blur"](clean, 7.0, np.random.default_rng(0))
    mixed = []
    for sharp, soft in zip(planes_of(clean), planes_of(background), strict=True):
        rows, columns = (np.linspace(-1, 1, side) for side in sharp.shape[1:])
        away = np.hypot(rows[:, None], columns[None] * SIZE_PX[0] / SIZE_PX[1])
        share = np.clip((0.75 - away) / 0.2, 0, 1)
        mixed.append(sharp * share + soft * (1 - share))
    return [Version("shallow focus", join(*mixed)), Version("all sharp", clean)]


def clean_alone(source: Source, folder: Path) -> list[Version]:
    """Show the source as it is."""
    return [Version("clean", source.film())]


def sizes(source: Source, folder: Path) -> list[Version]:
    """Show one picture at the sizes that services deliver, each made from 1080p, none enlarged."""
    large = source.film(LARGE_PX, FEW_FRAMES)
    widths = {240: 426, 360: 640, 480: 854, 720: 1280}
    smaller = [Version(f"{height}p", resized(large, width, height, "area")) for height, width in widths.items()]
    return [*smaller, Version("1080p", large)]


def enlargements(source: Source, folder: Path) -> list[Version]:
    """Enlarge 1080p to 2160p, and 480p to 1080p."""
    large = source.film(LARGE_PX, FEW_FRAMES)
    small = resized(large, 854, 480, "area")
    return [Version("2160p of 1080p", resized(large, 3840, 2160, "bicubic")),
            Version("1080p of 480p", resized(small, 1920, 1080, "bicubic"))]  # fmt: skip


def resized(planes_TJW: np.ndarray, width: int, height: int, scaler: str) -> np.ndarray:
    """Scale frames by one of ffmpeg's scalers."""
    source = encode.pipe_input(planes_TJW.shape[2], planes_TJW.shape[1] * 2 // 3, FPS)
    return encode.read_planes(source.filter("scale", width, height, flags=scaler), width, height, frames=planes_TJW)


def _in_order(bound: float) -> tuple[Check, ...]:
    return (Check("adjacent steps in order", steps_in_order, bound),)


def _falls_and_named(family: str, fallen: float, named: float) -> tuple[Check, ...]:
    return (
        Check("versions below the clean one", falls, fallen),
        Check(f"{family} named", partial(naming, family), named),
    )


# fmt: off
ROWS: tuple[Row, ...] = (
    Row("blur ladder", effect_ladder("gaussian blur", (0, 1, 2, 4, 8, 12, 20)), _in_order(0.95)),
    Row("scaling ladder", scaling_ladder, _in_order(0.95)),
    Row("noise ladder", effect_ladder("white noise", (0, 3, 6, 12, 25, 50)), _in_order(0.95)),
    Row("JPEG ladder", jpeg_ladder, _in_order(0.95)),
    Row("x264 ladder", rate_ladder("x264", (12, 20, 26, 32, 38, 44, 51)), _in_order(0.95)),
    Row("AV1 ladder", rate_ladder("av1", (22, 35, 46, 53, 58, 63)), _in_order(0.90)),
    Row("black bars", black_bars, (Check("score shift (MOS)", shift, 0.25, at_least=False),)),
    Row("still, moving, encoded", still_and_moved, (
        Check("score shift (MOS)", shift, 0.2, at_least=False),
        Check("largest score shift (MOS)", largest_shift, 0.5, at_least=False, worst=True),
    )),
    Row("monochrome and warm light", tints, (
        Check("score shift (MOS)", shift, 0.3, at_least=False),
        Check("colour named", partial(naming, "colour"), 0.1, at_least=False),
    )),
    Row("colour casts", severity_ladder("colour cast", (1, 3, 5)), (
        *_in_order(0.85), Check("colour named of the strongest", partial(naming_last, "colour"), 0.8),
    )),
    Row("screens", screen_and_encode, (
        Check("clean one at least good", partial(first_at_least, GOOD), 0.9),
        Check("clean one above x264 CRF 45", falls, 0.95),
    ), sources="screen"),
    Row("shallow focus", shallow_focus, (
        Check("at least fair", partial(first_at_least, FAIR), 0.9),
        Check("score shift to the sharp one (MOS)", shift, 0.5, at_least=False),
    )),
    Row("soft by nature", clean_alone, (Check("at least fair", partial(first_at_least, FAIR), 0.9),), sources="soft"),
    Row("packet loss", severity_ladder("packet loss", (2, 3.5, 5)), _falls_and_named("packet loss", 0.95, 0.6),
        sources="moving"),
    Row("combing", severity_ladder("combing", (3, 4, 5)), _falls_and_named("interlacing", 0.95, 0.8),
        sources="moving"),
    Row("flicker", severity_ladder("flicker", (2, 3, 4, 5)), _falls_and_named("flicker", 0.95, 0.8)),
    Row("five frames a second", five_a_second, _falls_and_named("stutter", 0.9, 0.7), sources="moving"),
    Row("duplicated frames", severity_ladder("frame drops", (3, 4, 5)), _falls_and_named("stutter", 0.95, 0.8),
        sources="moving"),
    Row("resolution", sizes, (Check("highest less lowest score (MOS)", spread, 0.6, at_least=False),),
        sources="large"),
    Row("enlargement", enlargements, (Check("2160p of 1080p not below 1080p of 480p", first_not_below_last, 0.9),),
        sources="large"),
)
# fmt: on
