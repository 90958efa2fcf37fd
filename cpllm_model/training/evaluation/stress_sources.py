"""The clean sources of stress tests: held-out photographs and clips, and scenes and screens rendered for them.

In: manifests, folders of sources, a split. Out: sources that give frames of any size they have the pixels for. None is
ever enlarged, since that is a distortion. Knows nothing of models.

Shape legend: T frames, J = H * 3 / 2 rows of a planar yuv420p frame, H height, W width, 3 RGB.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
import numpy as np
from PIL import Image

from cpllm_model.errors import DataSetError
from cpllm_model.training.data import encode
from cpllm_model.training.data.contents import CLIP_SUFFIXES, digest_of
from cpllm_model.training.data.degradation import split as planes_of
from cpllm_model.training.data.manifests import LabelledVideo, content_split
from cpllm_model.training.data.scenes import SOFT_EVERY, render_nature, render_scene
from cpllm_model.training.data.screens import is_drawn, render_screen
from cpllm_model.training.data.video_files import PICTURE_SUFFIXES

SIZE_PX = (480, 360)
FRAMES = 16
#: Whole pixels that a photograph moves a frame, even so that chroma moves with it: no filter touches a pixel.
PAN_PX = 2
#: A frame in so many is left of a low frame rate.
SLOW_STRIDE = 5
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
        kind: "photo", "clip", "scene", "nature" or "screen".
        name: path of a photograph or clip, or the seed of what is rendered.
    """

    kind: str
    name: str

    @property
    def content_id(self) -> str:
        """Name it in tables."""
        return f"{self.kind}-{hashlib.sha256(self.name.encode()).hexdigest()[:12]}"

    def film(self, size_px: tuple[int, int] = SIZE_PX, frames: int = FRAMES, stride: int = 1) -> np.ndarray:
        """Give frames, uint8 (T, J, W): a clip's first, or a picture that moves by PAN_PX a frame.

        Of so many frames as `stride` says only one is taken.

        Raises:
            EncodeError: a clip cannot be read or is too short.
        """
        return _film(self, size_px, frames, stride)

    def still(self, width: int, height: int) -> np.ndarray:
        """Give a picture, uint8 (H, W, 3) RGB, of any source but a clip; mirrored where it is too narrow."""
        if self.kind == "screen":
            return render_screen(int(self.name), width, height, np.zeros(1))[0]
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
        if suffix in PICTURE_SUFFIXES and video.mos is not None and video.mos >= CLEAN_MOS:
            photos.append(Source("photo", video.file))
        elif suffix in CLIP_SUFFIXES and video.recipe is not None and not video.recipe_steps():
            clips.append(Source("clip", video.file))
    for folder in folders:
        if not folder.is_dir():
            raise DataSetError(f"{folder} is not a folder")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            kinds = {"photo": PICTURE_SUFFIXES, "clip": CLIP_SUFFIXES}
            for kind, there in (("photo", photos), ("clip", clips)):
                held_out = path.suffix.lower() in kinds[kind] and content_split(f"{kind}-{digest_of(path)}") == split
                if held_out:
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
    soft = [Source("scene", str(FIRST_SEED + SOFT_EVERY * index - 1)) for index in range(1, count + 1)]
    nature = [Source("nature", str(FIRST_SEED + 2 * index + 1)) for index in range(count)]
    found["soft"] = [one for pair in zip(nature, soft, strict=True) for one in pair][:count]
    screens = (seed for seed in itertools.count(FIRST_SEED) if not is_drawn(seed))
    found["screen"] = [Source("screen", str(seed)) for seed in itertools.islice(screens, count)]
    return found


def _shuffled(sources: Sequence[Source]) -> list[Source]:
    # By the file's name: the same files elsewhere come in the same order.
    return sorted(dict.fromkeys(sources), key=lambda one: hashlib.sha256(Path(one.name).name.encode()).digest())


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
        needed = FRAMES * SLOW_STRIDE if purpose == "moving" else FRAMES
        if width < SIZE_PX[0] or height < SIZE_PX[1] or frames < needed:
            return False
        luma_THW = planes_of(source.film())[0].astype(np.float32)
    except (encode.EncodeError, OSError, RuntimeError, StopIteration):
        return False
    return purpose != "moving" or bool(np.abs(np.diff(luma_THW, axis=0)).mean() >= MOVES_CODES)


@functools.lru_cache(2)
def _film(source: Source, size_px: tuple[int, int], frames: int, stride: int) -> np.ndarray:
    (width, height), step = size_px, PAN_PX * stride
    if source.kind != "clip":
        wide = encode.rgb_to_planes(source.still(width + step * (frames - 1), height)[None])[0]
        return np.stack([pan(wide, step * index, width) for index in range(frames)])
    stream = ffmpeg.input(source.name).filter("scale", width, height, flags="area", out_range="tv",
                                              force_original_aspect_ratio="increase")  # fmt: skip
    stream = stream.filter("crop", width, height).filter("select", f"not(mod(n,{stride}))").filter("format", "yuv420p")
    planes_TJW = encode.read_planes(stream, width, height, frames)
    if len(planes_TJW) < frames:
        raise encode.EncodeError(f"{source.name}: {len(planes_TJW)} frames, {frames} are needed")
    return planes_TJW


@functools.lru_cache(2)
def _picture(kind: str, name: str) -> Image.Image:
    if kind == "photo":
        with Image.open(name) as opened:
            return opened.convert("RGB")
    if kind == "nature":
        return Image.fromarray(render_nature(int(name), *RENDERED_PX, 1, np.zeros(1))[0])
    return Image.fromarray(render_scene(int(name), *RENDERED_PX, 1)[0])
