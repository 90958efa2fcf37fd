"""The clean sources of stress tests: held-out photographs and clips, and scenes and screens rendered for them.

In: manifests, folders of sources, a split. Out: sources that give frames of any size they have the pixels for. None is
ever enlarged, since that is a distortion. Knows nothing of models.

Shape legend: T frames, J = H * 3 / 2 rows of a planar yuv420p frame, H height, W width, 3 RGB.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cpllm_model.errors import DataSetError
from cpllm_model.training.data import encode
from cpllm_model.training.data.corpus import CLIP_SUFFIXES, PHOTO_SUFFIXES, Content
from cpllm_model.training.data.degradation import split as planes_of
from cpllm_model.training.data.manifests import LabelledVideo
from cpllm_model.training.data.scenes import SOFT_EVERY, render_scene

SIZE_PX = (480, 360)
FRAMES = 16
#: Whole pixels that a photograph moves a frame, even so that chroma moves with it: no filter touches a pixel.
PAN_PX = 2
#: Rendered scenes from here on are in no corpus.
FIRST_SEED = 200_000
#: A rated picture from here on counts as clean.
CLEAN_MOS = 4.0
#: One source in so many is rendered, where there are others; of the rest as many photographs as clips.
RENDERED_EVERY = 4
#: Mean luma change a frame from which a source moves, codes.
MOVES_CODES = 0.6
LARGE_PX = (1920, 1080)
#: Size of rendered sources, whose cost grows with it; larger frames are filled by their mirror images.
RENDERED_PX = (640, 400)


@dataclass(frozen=True)
class Source:
    """A clean source.

    Args:
        kind: "photo", "clip", "scene", "soft" or "screen".
        name: path of a photograph or clip, or the seed of what is rendered.
    """

    kind: str
    name: str

    @property
    def content_id(self) -> str:
        """Name it in tables."""
        return f"{self.kind}-{hashlib.sha256(Path(self.name).name.encode()).hexdigest()[:12]}"

    def film(self, size_px: tuple[int, int] = SIZE_PX, frames: int = FRAMES) -> np.ndarray:
        """Give frames, uint8 (T, J, W): a clip's first, or a picture that moves by PAN_PX a frame.

        Raises:
            EncodeError: a clip cannot be read or is too short.
        """
        return _film(self, size_px, frames)

    def still(self, width: int, height: int) -> np.ndarray:
        """Give a picture, uint8 (H, W, 3) RGB, of any source but a clip; mirrored where it is too narrow."""
        picture = _picture(self.kind, self.name)
        scale = max(width / picture.width, height / picture.height)
        if scale < 1:
            shrunk = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
            picture = picture.resize(shrunk, Image.Resampling.LANCZOS)
        pixels_HW3 = np.asarray(picture)
        missing = [(0, max(0, side - have)) for side, have in zip((height, width), pixels_HW3.shape, strict=False)]
        return np.pad(pixels_HW3, [*missing, (0, 0)], mode="symmetric")[:height, :width]


def pan(planes_JW: np.ndarray, left_px: int, width_px: int) -> np.ndarray:
    """Cut a window from one packed yuv420p frame, uint8 (J, W); `left_px` and `width_px` are even."""
    luma, blue, red = (plane[0] for plane in planes_of(planes_JW[None]))
    chroma = [plane[:, left_px // 2 : (left_px + width_px) // 2].reshape(-1, width_px) for plane in (blue, red)]
    return np.concatenate([luma[:, left_px : left_px + width_px], *chroma])


def find_sources(
    videos: Sequence[LabelledVideo], folders: Sequence[Path], split: str, count: int
) -> dict[str, list[Source]]:
    """Choose the sources of stress tests, by what they are good for.

    Args:
        videos: of the split; used are pictures rated CLEAN_MOS or better and clips that nothing was done to.
        folders: photographs and clips that are clean; used are those that a corpus puts into this split.
        split: as in manifests.
        count: so many for each purpose.

    Returns:
        "any", "moving", "large", "soft" and "screen" -> sources.

    Raises:
        DataSetError: a folder is none.
    """
    photos, clips = [], []
    for video in videos:
        suffix = Path(video.file).suffix.lower()
        if suffix in PHOTO_SUFFIXES and video.mos is not None and video.mos >= CLEAN_MOS:
            photos.append(Source("photo", video.file))
        elif suffix in CLIP_SUFFIXES and video.recipe is not None and not video.recipe_steps():
            clips.append(Source("clip", video.file))
    for folder in folders:
        if not folder.is_dir():
            raise DataSetError(f"{folder} is no folder of sources")
        for path in sorted(folder.rglob("*")):
            kinds = {"photo": PHOTO_SUFFIXES, "clip": CLIP_SUFFIXES}
            for kind, there in (("photo", photos), ("clip", clips)):
                if path.suffix.lower() in kinds[kind] and Content(kind, str(path)).split == split:
                    there.append(Source(kind, str(path)))
    real = [source for pair in zip(_shuffled(photos), _shuffled(clips), strict=False) for source in pair]
    paired = set(real)
    real += [source for source in _shuffled(photos + clips) if source not in paired]
    seeds = range(FIRST_SEED, FIRST_SEED + 2 * count + SOFT_EVERY)
    scenes = [Source("scene", str(seed)) for seed in seeds if seed % SOFT_EVERY != SOFT_EVERY - 1]
    found: dict[str, list[Source]] = {"any": [], "moving": [], "large": []}
    for purpose, chosen in found.items():
        rendered = iter(scenes)
        fitting = (source for source in real if _fits(source, purpose))
        while len(chosen) < count:
            is_rendered = len(chosen) % RENDERED_EVERY == RENDERED_EVERY - 1
            chosen.append(next(rendered) if is_rendered else next(fitting, None) or next(rendered))
    soft = [FIRST_SEED + SOFT_EVERY * index + SOFT_EVERY - 1 for index in range(count)]
    found["soft"] = [Source("soft", str(seed)) for seed in soft]
    found["screen"] = [Source("screen", str(FIRST_SEED + index)) for index in range(count)]
    return found


def _shuffled(sources: Sequence[Source]) -> list[Source]:
    return sorted(dict.fromkeys(sources), key=lambda one: hashlib.sha256(one.content_id.encode()).digest())


def _fits(source: Source, purpose: str) -> bool:
    """Tell whether a photograph or clip has the pixels, and a clip the frames and the movement, for a purpose."""
    if source.kind == "photo":
        with Image.open(source.name) as picture:
            width, height = picture.size
        # A photograph is extended by its mirror image to a large size, not beyond twice its own.
        pan_px = PAN_PX * FRAMES
        least = (SIZE_PX[0] + pan_px, SIZE_PX[1]) if purpose != "large" else (LARGE_PX[0] // 2, LARGE_PX[1] // 2)
        return width >= least[0] and height >= least[1]
    if purpose == "large":
        return False
    try:
        width, height, frames = encode.probe_own(source.name)
        if width < SIZE_PX[0] or height < SIZE_PX[1] or frames < FRAMES:
            return False
        luma_THW = planes_of(source.film())[0].astype(np.float32)
    except (encode.EncodeError, OSError, RuntimeError, StopIteration):
        return False
    return purpose != "moving" or bool(np.abs(np.diff(luma_THW, axis=0)).mean() >= MOVES_CODES)


@functools.lru_cache(2)
def _film(source: Source, size_px: tuple[int, int], frames: int) -> np.ndarray:
    width, height = size_px
    if source.kind != "clip":
        wide = encode.rgb_to_planes(source.still((width + PAN_PX * (frames - 1) + 1) // 2 * 2, height)[None])[0]
        return np.stack([pan(wide, PAN_PX * index, width) for index in range(frames)])
    stream = ffmpeg.input(source.name).filter("scale", width, height, flags="area", out_range="tv",
                                              force_original_aspect_ratio="increase")  # fmt: skip
    stream = stream.filter("crop", width, height).filter("format", "yuv420p")
    planes_TJW = encode.read_planes(stream, width, height, frames)
    if len(planes_TJW) < frames:
        raise encode.EncodeError(f"{source.name}: {len(planes_TJW)} frames, {frames} are needed")
    return planes_TJW


@functools.lru_cache(2)
def _picture(kind: str, name: str) -> Image.Image:
    if kind == "photo":
        with Image.open(name) as opened:
            return opened.convert("RGB")
    if kind == "screen":
        return _screen(np.random.default_rng(int(name)))
    return Image.fromarray(render_scene(int(name), *RENDERED_PX, 1)[0])


def _screen(rng: np.random.Generator) -> Image.Image:
    """Draw a window with a title bar, a side bar and lines of text in a few sizes, as programs show them."""
    width, height = RENDERED_PX
    is_dark = rng.random() < 0.4
    paper, ink = ((30, 31, 34), (214, 216, 220)) if is_dark else ((252, 252, 253), (34, 36, 40))
    accents = [tuple(rng.integers(40, 220, 3).tolist()) for _ in range(3)]
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width, 24), fill=accents[0])
    draw.rectangle((0, 25, 110, height), fill=tuple((np.array(paper) * 0.9 + np.array(ink) * 0.1).astype(int).tolist()))
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz0123456789.,():="))
    top = 34
    while top < height - 20:
        size = int(rng.choice([11, 13, 13, 16]))
        words = ["".join(rng.choice(letters, int(rng.integers(2, 10)))) for _ in range(int(rng.integers(2, 12)))]
        left = 122 + 18 * int(rng.integers(0, 3))
        fill = accents[int(rng.integers(1, 3))] if rng.random() < 0.2 else ink
        draw.text((left, top), " ".join(words), fill=fill, font=ImageFont.load_default(size))
        draw.text((8, top), words[0], fill=ink, font=ImageFont.load_default(11))
        top += size + 7
    for _ in range(int(rng.integers(1, 4))):
        x, y = int(rng.integers(380, 560)), int(rng.integers(60, 330))
        draw.rounded_rectangle((x, y, x + 70, y + 22), 4, fill=accents[1], outline=ink)
    return image
