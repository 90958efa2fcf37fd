"""Make the distortion corpus: pristine contents in, labelled degraded clips and a manifest out.

Each content (`contents.py`) is filmed (`filming.py`), degraded by recipes of real distortions (`degradation.py`), and
each clip is measured by VMAF against the pristine one. Everything about a content follows from its source, its take
and the corpus seed; a content is written whole or not at all, so a stopped run goes on where it was.

The label is the rating of the source, if people rated it, times what the degradation leaves of its quality. Without a
rating only the latter is known, which orders the versions of one content and says nothing of others.

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

import numpy as np

from cpllm_model.errors import DataSetError
from cpllm_model.training.data import encode
from cpllm_model.training.data.contents import Content, find_contents
from cpllm_model.training.data.degradation import degrade, lead_of, split, stride_of
from cpllm_model.training.data.descriptions import SceneFacts, describe
from cpllm_model.training.data.distortions import KINDS, Recipe, Step, draw_recipes, draw_still_recipes, mos_of
from cpllm_model.training.data.filming import FRAMES, Film, film
from cpllm_model.training.data.manifests import MANIFEST_NAME, LabelledVideo, read_manifest, write_manifest

DATASET = "distortions"
#: Data set of the versions that are still pictures.
STILLS = "distorted-stills"
#: On average: nine, or twelve where there is a rate ladder.
RECIPES_PER_CONTENT = 10
FRAME_RATES = (24.0, 25.0, 30.0, 50.0, 60.0)
#: Mean luma change a frame below which repeated frames do not show, codes.
STILL_CODES = 0.6
#: The same for fields of two moments, and for few frames a second.
MOVING_CODES = 1.2
#: Mean distance of chroma from neutral below which a picture counts as grey, codes.
GREY_CODES = 3.0
#: Families that depend on time alone: a still picture has none of them, whatever its rating.
TIMED = ("stutter", "interlacing", "flicker", "packet loss")
#: Rating from which a source counts as free of distortions; of a worse one nobody said which it has.
CLEAN_MOS = 3.8


@dataclass(frozen=True)
class CorpusSettings:
    """How large a corpus is made.

    Args:
        clips: about how many; RECIPES_PER_CONTENT a content. Sources are taken again with another camera, crop, size
            and other recipes when there are too few, and not all are taken when there are more.
        scenes: procedurally rendered scenes beside the sources.
        seed: decides every random choice.
        processes: contents at once; None is one a core.
        screens: rendered screens, cartoons and games.
        rated_contents: rated pictures among the contents, at most.
        stills: rated pictures of which still versions are made, too; four each.
    """

    clips: int = 6000
    scenes: int = 40
    seed: int = 0
    processes: int | None = None
    screens: int = 60
    rated_contents: int = 200
    stills: int = 0


def make_corpus(
    sources: Sequence[Path],
    out: Path,
    settings: CorpusSettings = CorpusSettings(),
    report: Callable[[str], None] = print,
    rated: Sequence[Path] = (),
) -> Path:
    """Degrade, measure and describe every content not done yet, and write the manifest.

    Args:
        sources: folders of pristine photographs and clips; rendered scenes and screens are added.
        out: folder of the corpus; holds `clips/`, `contents/` and at the end the manifest.
        settings: how large.
        report: takes a line a content done or failed, and a file left out.
        rated: manifests of pictures that people rated.

    Returns:
        the manifest's path.

    Raises:
        DataSetError: there is no source, a rated content is in two splits, or not one content could be made.
    """
    for folder in ("clips", "contents"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    contents = find_contents(
        sources,
        settings.clips,
        settings.scenes,
        settings.screens,
        rated,
        settings.rated_contents,
        RECIPES_PER_CONTENT,
        report,
        settings.stills,
    )
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
    source = _Source(content, int.from_bytes(digest[8:16], "big"), float(rng.choice(FRAME_RATES)))
    pristine = source.film()
    draw = draw_still_recipes if content.is_still else draw_recipes
    made = [
        _make_clip(source, pristine, f"{content.content_id}.{index}", recipe, out)
        for index, recipe in enumerate(draw(rng, _usable_kinds(pristine.planes_TJW)))
    ]
    videos = [_described(video, rng) for video in _never_better_when_worse([video for video in made if video])]
    write_manifest(videos, part)
    return len(videos)


@dataclass(frozen=True)
class _Source:
    """A content with the choices that all its versions share."""

    content: Content
    seed: int
    fps: float

    @property
    def frames(self) -> int:
        """Number of frames of each version."""
        return 1 if self.content.is_still else FRAMES

    def film(self, stride: int = 1, lead: int = 0) -> Film:
        """Film the clip, its frames so many apart, after so many frames that come before it."""
        return film(self.content, self.seed, np.arange(-lead, self.frames) * stride)


def _usable_kinds(planes_TJW: np.ndarray) -> list[str]:
    """Give the kinds of distortion that show: no stutter of what stands still, no saturation of grey."""
    luma_THW, *chroma = split(planes_TJW)
    is_still = len(luma_THW) == 1
    motion = 0.0 if is_still else np.abs(np.diff(luma_THW.astype(np.int16), axis=0)).mean()
    distance = max(np.abs(plane.astype(np.int16) - 128).mean() for plane in chroma)
    unseen = {"oversaturation", "desaturation"} if distance < GREY_CODES else set()
    # What is black and white has no colour that could be wrong.
    unseen |= {"colour cast"} if distance == 0 else set()
    unseen |= {"low frame rate", "combing"} if motion < MOVING_CODES else set()
    return [
        name for name, kind in KINDS.items()
        if name not in unseen
        and (motion >= STILL_CODES or kind.family != "stutter")
        and not (is_still and kind.family in TIMED)
    ]  # fmt: skip


def _make_clip(source: _Source, pristine: Film, video_id: str, recipe: Recipe, out: Path) -> LabelledVideo | None:
    """Make one clip; give None if the content shows nothing of its recipe, so that it would be one more original."""
    asked, content = recipe.steps, source.content
    stride, lead = stride_of(recipe, source.fps), lead_of(recipe)
    if stride > 1 or lead:
        try:
            pristine = source.film(stride, lead)
        except ValueError:
            # The clip is too short for that.
            stride, lead, recipe = 1, 0, recipe.without_low_frame_rate()
    fps = source.fps / stride
    if asked and not recipe.steps:
        return None
    with tempfile.TemporaryDirectory() as folder:
        target = out / "clips" / video_id
        clip, reference_TJW, recipe = degrade(pristine.planes_TJW, recipe, fps, target, Path(folder), lead)
        if asked and not recipe.steps:
            clip.unlink()
            return None
        vmaf = encode.vmaf(clip, reference_TJW, fps, pristine.window_px)
        shown_TJW = encode.read_planes(
            encode.own_input(clip), reference_TJW.shape[2], reference_TJW.shape[1] * 2 // 3, source.frames
        )
    if len(vmaf) != source.frames:
        raise encode.EncodeError(f"{clip.name} has {len(vmaf)} frames of {source.frames}")
    quality_left = recipe.quality_left(vmaf.mean())
    mos = None if content.mos is None else mos_of(content.mos, quality_left)
    severities = _known(recipe.visible_severities(vmaf.mean()), content.mos)
    scene = SceneFacts.measure(split(shown_TJW)[0]).words()
    scene |= {} if content.shows is None else {"kind": content.shows}
    if content.is_still:
        # Training shows it standing and panned.
        del scene["motion"]
    return LabelledVideo(
        video_id=video_id,
        content_id=content.content_id,
        dataset=STILLS if content.is_still else DATASET,
        split=content.split,
        # Relative to the part's folder here; `gather` makes it relative to the corpus.
        file=f"../clips/{clip.name}",
        mos=mos,
        quality_left=quality_left,
        severities=severities,
        scene=scene,
        recipe=recipe.to_json(),
        ladder=recipe.ladder,
        ladder_rung=recipe.rung,
        vmaf_mean=float(vmaf.mean()),
        vmaf_p5=float(np.percentile(vmaf, 5)),
    )


def _described(video: LabelledVideo, rng: np.random.Generator) -> LabelledVideo:
    """Write the description, when all that it says is settled."""
    kinds = Recipe(tuple(Step(**step) for step in video.recipe_steps())).kinds()
    return replace(video, description=describe(video.mos, video.severities or {}, video.scene or {}, rng, kinds))


def _known(severities: dict[str, float], source_mos: float | None) -> dict[str, float]:
    """Put NaN where a source that people rated low may have a distortion of its own."""
    if source_mos is None or source_mos >= CLEAN_MOS:
        return severities
    return {name: value if value > 0 or name in TIMED else float("nan") for name, value in severities.items()}


def _never_better_when_worse(videos: list[LabelledVideo]) -> list[LabelledVideo]:
    """Lower the quality of a severity to that of the milder one of the same kind and content.

    Their encodes differ a little in VMAF, which says nothing of the distortion.
    """
    steps = {video.video_id: video.recipe_steps() for video in videos}
    single = [video for video in videos if len(steps[video.video_id]) == 1]
    single.sort(key=lambda video: (steps[video.video_id][0]["severity"], steps[video.video_id][0]["beyond"]))
    least: dict[str, tuple[float, float]] = defaultdict(lambda: (np.inf, np.inf))
    lowered = {}
    for video in single:
        kind, left, mos = steps[video.video_id][0]["kind"], video.quality_left, video.mos
        now = (np.inf if left is None else left, np.inf if mos is None else mos)
        least[kind] = (min(least[kind][0], now[0]), min(least[kind][1], now[1]))
        lowered[video.video_id] = replace(
            video,
            quality_left=None if left is None else least[kind][0],
            mos=None if mos is None else least[kind][1],
        )
    return [lowered.get(video.video_id, video) for video in videos]
