"""Make the distortion corpus: pristine pictures and clips in, labelled degraded clips and a manifest out.

Each source (a photograph filmed by a moving camera, a pristine clip, a rendered scene) is one content. It is
degraded by recipes of real distortions, and each clip is measured by VMAF against the pristine one. Contents, not
clips, are divided between the splits.

Everything about a content follows from its source, its take and the corpus seed; a content is written whole or not
at all, so a stopped run goes on where it was. The label is a proxy: VMAF, and where VMAF does not apply an assumed
loss for each severity (`distortions.py`). No human rated anything.

Shape legend: T frames, J = H * 3 / 2 rows of a planar yuv420p frame, W width.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import ffmpeg
import numpy as np
from PIL import Image

from cpllm_model.errors import DataSetError
from cpllm_model.training.data import encode
from cpllm_model.training.data.degradation import degrade, split
from cpllm_model.training.data.descriptions import SceneFacts, describe
from cpllm_model.training.data.distortions import KINDS, Recipe, draw_recipes, mos_of, visible_severities
from cpllm_model.training.data.manifests import (
    MANIFEST_NAME,
    LabelledVideo,
    content_split,
    read_manifest,
    write_manifest,
)
from cpllm_model.training.data.scenes import CameraPath, animate, render_scene

DATASET = "distortions"
PHOTO_SUFFIXES = (".webp", ".png", ".jpg", ".jpeg", ".bmp")
CLIP_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".y4m", ".264")
FRAMES = 16
#: On average: nine, or twelve where there is a rate ladder.
RECIPES_PER_CONTENT = 10
#: Moments of a clip that are taken, each a content, before any source is taken again.
TAKES_A_ROUND = 3
SIZES_PX = ((320, 180), (320, 240), (426, 240), (480, 270), (480, 360), (640, 360), (640, 480), (854, 480))
#: Only for pictures that have the detail, and rarely: a clip costs in proportion to its pixels.
LARGE_SIZES_PX = ((960, 540), (1280, 720), (1920, 1080))
LARGE_SHARE = 0.6
#: Small ones, which every third round of takes has: old uploads, previews, what comes over a poor line.
SMALL_SIZES_PX = ((160, 120), (176, 144), (224, 126), (208, 120), (240, 180), (256, 144))
PORTRAIT_SHARE = 0.15
FRAME_RATES = (24.0, 25.0, 30.0, 50.0, 60.0)
MAX_WIDTH_PX = 960
#: Mean luma change a frame below which repeated frames do not show, codes.
STILL_CODES = 0.6
#: Mean distance of chroma from neutral below which a picture counts as grey, codes.
GREY_CODES = 3.0


@dataclass(frozen=True)
class CorpusSettings:
    """How large a corpus is made.

    Args:
        clips: about how many; RECIPES_PER_CONTENT a content. Sources are taken again with another camera, crop, size
            and other recipes when there are too few, and not all are taken when there are more.
        scenes: procedurally rendered scenes beside the sources.
        seed: decides every random choice.
        processes: contents at once; None is one a core.
    """

    clips: int = 6000
    scenes: int = 40
    seed: int = 0
    processes: int | None = None


@dataclass(frozen=True)
class Content:
    """A pristine source.

    Args:
        kind: "photo", "clip" or "scene".
        source: file name, or the seed of a rendered scene.
        take: number of the take of the same source; all takes share a split.
    """

    kind: str
    source: str
    take: int = 0

    @property
    def content_id(self) -> str:
        """Name the take; versions of it show the same pixels."""
        return f"{self._source_id}.{self.take}"

    @property
    def split(self) -> str:
        """Give the split: a property of the source's name alone, so all takes share it."""
        return content_split(self._source_id)

    @property
    def _source_id(self) -> str:
        return f"{self.kind}-{hashlib.sha256(Path(self.source).name.encode()).hexdigest()[:12]}"


def find_contents(sources: Sequence[Path], settings: CorpusSettings) -> list[Content]:
    """List as many contents as the settings need, in an order that makes every beginning a fair sample.

    Raises:
        DataSetError: there is not one source.
    """
    first = [Content("scene", str(seed)) for seed in range(settings.scenes)]
    for path in sorted(path for folder in sources for path in folder.rglob("*")):
        if path.suffix.lower() in PHOTO_SUFFIXES:
            first.append(Content("photo", str(path)))
        elif path.suffix.lower() in CLIP_SUFFIXES:
            # A clip has many moments; a photograph filmed again is still the same photograph.
            first += [Content("clip", str(path), take) for take in range(TAKES_A_ROUND)]
    if not first:
        raise DataSetError(
            f"no photograph or clip in {', '.join(map(str, sources)) or 'no folder'}, and no scene asked"
        )
    first.sort(key=lambda content: hashlib.sha256(content.content_id.encode()).digest())
    count = max(1, -(-settings.clips // RECIPES_PER_CONTENT))
    rounds = -(-count // len(first))
    again = [replace(one, take=one.take + TAKES_A_ROUND * number) for number in range(rounds) for one in first]
    return again[:count]


def make_corpus(
    sources: Sequence[Path],
    out: Path,
    settings: CorpusSettings = CorpusSettings(),
    report: Callable[[str], None] = print,
) -> Path:
    """Degrade, measure and describe every content not done yet, and write the manifest.

    Args:
        sources: folders of pristine photographs and clips; rendered scenes are added.
        out: folder of the corpus; holds `clips/`, `contents/` and at the end the manifest.
        settings: how large.
        report: takes a line a content done or failed.

    Returns:
        the manifest's path.

    Raises:
        DataSetError: not one content could be made.
    """
    for folder in ("clips", "contents"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    contents = find_contents(sources, settings)
    with ProcessPoolExecutor(settings.processes or os.cpu_count()) as pool:
        jobs = {pool.submit(make_content, content, out, settings.seed): content for content in contents}
        for done, job in enumerate(as_completed(jobs), 1):
            content = jobs[job]
            try:
                report(f"{done}/{len(contents)} {content.content_id}: {job.result()} clips")
            except (encode.EncodeError, OSError, ValueError) as error:
                report(f"{done}/{len(contents)} {content.source}: left out, {error}")
    return gather(out)


def gather(out: Path) -> Path:
    """Write the manifest of all contents that are done; a corpus under way can be used.

    Raises:
        DataSetError: there is not one.
    """
    parts = sorted((out / "contents").glob("*.parquet"))
    if not parts:
        raise DataSetError(f"no content could be made in {out}")
    root = out.resolve()
    videos = [video for part in parts for video in read_manifest(part)]
    relative = [replace(video, file=str(Path(video.file).resolve().relative_to(root))) for video in videos]
    return write_manifest(relative, out / MANIFEST_NAME)


def make_content(content: Content, out: Path, seed: int) -> int:
    """Make all clips of one content, unless they are there; give their number."""
    part = out / "contents" / f"{content.content_id}.parquet"
    if part.exists():
        return len(read_manifest(part))
    digest = hashlib.sha256(f"{seed}/{content.content_id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    planes_TJW = film(content, rng)
    fps = float(rng.choice(FRAME_RATES))
    made = [
        _make_clip(content, f"{content.content_id}.{index}", recipe, planes_TJW, fps, out, rng)
        for index, recipe in enumerate(draw_recipes(rng, _usable_kinds(planes_TJW)))
    ]
    videos = _never_better_when_worse([video for video in made if video])
    write_manifest(videos, part)
    return len(videos)


def _usable_kinds(planes_TJW: np.ndarray) -> list[str]:
    """Give the kinds of distortion that show: no stutter of what stands still, no desaturation of grey."""
    luma_THW, *chroma = split(planes_TJW)
    moves = np.abs(np.diff(luma_THW.astype(np.float32), axis=0)).mean() >= STILL_CODES
    coloured = max(np.abs(plane.astype(np.float32) - 128).mean() for plane in chroma) >= GREY_CODES
    unseen = {"oversaturation", "desaturation"} if not coloured else set()
    return [name for name, kind in KINDS.items() if name not in unseen and (moves or kind.family != "stutter")]


def _make_clip(
    content: Content,
    video_id: str,
    recipe: Recipe,
    planes_TJW: np.ndarray,
    fps: float,
    out: Path,
    rng: np.random.Generator,
) -> LabelledVideo | None:
    """Make one clip; give None if the content shows nothing of its recipe, so that it would be one more original."""
    asked = recipe.steps
    with tempfile.TemporaryDirectory() as folder:
        clip, reference_TJW, recipe = degrade(planes_TJW, recipe, fps, out / "clips" / video_id, Path(folder))
        if asked and not recipe.steps:
            clip.unlink()
            return None
        vmaf = encode.vmaf(clip, reference_TJW, fps)
    if len(vmaf) != len(planes_TJW):
        raise encode.EncodeError(f"{clip.name} has {len(vmaf)} frames of {len(planes_TJW)}")
    mos = mos_of(vmaf.mean(), recipe.quality_left())
    severities = visible_severities(recipe.severities(), mos_of(vmaf.mean()))
    height = planes_TJW.shape[1] * 2 // 3
    facts = SceneFacts.measure(planes_TJW[:, :height], reference_TJW[:, :height], rendered=content.kind == "scene")
    return LabelledVideo(
        video_id=video_id,
        content_id=content.content_id,
        dataset=DATASET,
        split=content.split,
        # Relative to the part's folder here; `gather` makes it relative to the corpus.
        file=f"../clips/{clip.name}",
        mos=mos,
        severities=severities,
        description=describe(mos, severities, facts, rng, recipe.kinds()),
        recipe=recipe.to_json(),
        ladder=recipe.ladder,
        ladder_rung=recipe.rung,
        vmaf_mean=float(vmaf.mean()),
        vmaf_p5=float(np.percentile(vmaf, 5)),
    )


def _never_better_when_worse(videos: list[LabelledVideo]) -> list[LabelledVideo]:
    """Lower the mos of a severity that VMAF does not measure to that of the milder one of the same content.

    Their encodes differ a little in VMAF, which says nothing of the distortion.
    """
    milder: dict[str, float] = defaultdict(lambda: np.inf)
    result = []
    for video in videos:
        steps = video.recipe_steps()
        if len(steps) == 1 and KINDS[kind := steps[0]["kind"]].quality is not None and video.mos is not None:
            milder[kind] = min(milder[kind], video.mos)
            video = replace(video, mos=milder[kind])
        result.append(video)
    return result


def film(content: Content, rng: np.random.Generator, frames: int = FRAMES) -> np.ndarray:
    """Give the first `frames` pristine frames of a content, uint8 (T, J, W); `rng` chooses size and camera."""
    if content.kind == "clip":
        return _film_clip(content, rng, frames)
    if content.kind == "scene":
        width, height = _frame_size(rng, 1280, content.take)
        frames_THW3 = render_scene(int(content.source), width, height, frames)
    else:
        with Image.open(content.source) as opened:
            picture = opened.convert("RGB")
        width, height = _frame_size(rng, max(picture.size), content.take)
        picture = _mirrored(picture, int(width * 1.3), int(height * 1.3))
        frames_THW3 = animate(picture, CameraPath.draw(rng), frames, (width, height), rng)
    return encode.rgb_to_planes(frames_THW3)


def _frame_size(rng: np.random.Generator, source_px: int, take: int) -> tuple[int, int]:
    """Draw (width, height) for a take of a source of so many pixels on its longer side."""
    large = source_px >= 1200 and rng.random() < LARGE_SHARE
    sizes = [size for size in LARGE_SIZES_PX if size[0] <= 1.4 * source_px] if large else SIZES_PX
    if take % (3 * TAKES_A_ROUND) >= 2 * TAKES_A_ROUND:
        sizes = SMALL_SIZES_PX
    width, height = sizes[rng.integers(len(sizes))]
    return (height, width) if rng.random() < PORTRAIT_SHARE else (width, height)


def _film_clip(content: Content, rng: np.random.Generator, frames: int) -> np.ndarray:
    width, height, frame_count = encode.probe_own(content.source)
    # A lossy clip is no reference at its own size: it is halved, unless it is too small and near lossless anyway.
    scale = 2 if not content.source.endswith(".y4m") and min(width, height) >= 400 else 1
    while width // scale > MAX_WIDTH_PX:
        scale *= 2
    width, height = width // scale // 2 * 2, height // scale // 2 * 2
    start = int(rng.integers(0, max(1, frame_count - frames)))
    source = ffmpeg.input(content.source).filter("trim", start_frame=start).filter("setpts", "PTS-STARTPTS")
    source = source.filter("scale", width, height, flags="area", out_range="tv").filter("format", "yuv420p")
    planes_TJW = encode.read_planes(source, width, height, frames)
    if len(planes_TJW) < frames:
        raise ValueError(f"{content.source}: {len(planes_TJW)} frames, {frames} are needed")
    return planes_TJW


def _mirrored(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Extend a picture by its mirror images to cover a size, so that no detail is invented by upscaling."""
    pixels = np.asarray(picture)
    pad = [(0, max(0, height - pixels.shape[0])), (0, max(0, width - pixels.shape[1])), (0, 0)]
    return Image.fromarray(np.pad(pixels, pad, mode="symmetric"))
