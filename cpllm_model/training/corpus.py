"""Make the distortion corpus: pristine clips in, labelled degraded clips out.

Each source (a photograph filmed by a moving camera, a pristine clip, a rendered scene) is one content. Its
recipes are encoded with real encoders, decoded, measured by VMAF against the pristine clip, and kept as raw
planes that the trainer cuts fragments from. Contents, not clips, are divided between the splits.

Everything about a content follows from its id and the corpus seed; a content is written whole or not at all,
so a stopped run goes on where it was. The label is a proxy: mos = 1 + VMAF / 25, no human opinion.

Shape legend: T frames, J = H * 3 / 2 rows of a planar yuv420p frame, W width, N segments, B frames of a burst,
M context frames, S context size.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cpllm_model.training import encode
from cpllm_model.training.descriptions import SceneFacts, describe
from cpllm_model.training.distortions import Recipe, draw_recipes
from cpllm_model.training.scenes import CameraPath, animate, render_scene

PHOTO_SUFFIXES = (".webp", ".png", ".jpg", ".jpeg", ".bmp")
CLIP_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".y4m", ".264")
FRAMES = 16
#: First frames of the two bursts kept of each clip: at the key frame, and well inside the group of pictures.
BURST_STARTS, BURST_FRAMES = (0, 10), 4
CONTEXT_FRAMES = (0, 6, 10, 15)
CONTEXT_SIZE_PX = 112
SIZES_PX = (
    (320, 180),
    (320, 240),
    (426, 240),
    (480, 270),
    (480, 360),
    (480, 360),
    (640, 360),
    (640, 360),
    (854, 480),
    (960, 540),
)
MAX_WIDTH_PX = 960
VALIDATION_SHARE = 0.12
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("content_id", pa.string()),
        ("split", pa.string()),
        ("recipe", pa.string()),
        ("ladder", pa.bool_()),
        ("severities", pa.map_(pa.string(), pa.float64())),
        ("vmaf_mean", pa.float64()),
        ("vmaf_p5", pa.float64()),
        ("mos", pa.float64()),
        ("description", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("bytes", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Content:
    """A pristine source.

    Args:
        kind: "photo", "clip" or "scene".
        source: file name, or the seed of a rendered scene.
        take: number of the take of the same source; all takes share a split.
        halve: downscale a clip by two first, since it is visibly compressed itself.
    """

    kind: str
    source: str
    take: int = 0
    halve: bool = False

    @property
    def content_id(self) -> str:
        """Name the source, whatever the take."""
        return f"{self.kind}-{hashlib.sha256(Path(self.source).name.encode()).hexdigest()[:12]}"

    @property
    def split(self) -> str:
        """Give "train" or "validation": a property of the source's name alone."""
        share = int(hashlib.sha256(self.content_id.encode()).hexdigest()[:8], 16) / 2**32
        return "validation" if share < VALIDATION_SHARE else "train"


def find_contents(sources: Iterable[Path], scenes: int) -> Iterator[Content]:
    """List the contents of folders (photographs, clips) and the rendered scenes."""
    for seed in range(scenes):
        yield Content("scene", str(seed))
    for path in sorted(path for folder in sources for path in folder.rglob("*")):
        if path.suffix.lower() in PHOTO_SUFFIXES:
            yield Content("photo", str(path))
        elif path.suffix.lower() in CLIP_SUFFIXES:
            # A clip under 0.15 bits a pixel is no reference at its own size.
            for take in range(3):
                yield Content("clip", str(path), take, halve=path.suffix != ".y4m")


def make_corpus(
    contents: Iterable[Content],
    out: Path,
    seed: int = 0,
    processes: int | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Degrade, measure and describe every content not done yet, and write the manifest.

    Args:
        contents: what to degrade.
        out: folder of the corpus; holds `planes/`, `contents/` and at the end `manifest.parquet`.
        seed: the corpus seed.
        processes: how many contents at once; default one a core.
        report: takes a line a content done or failed.

    Returns:
        the manifest's path.

    Raises:
        ValueError: there is not one content.
    """
    for folder in ("planes", "contents"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    # In an order of names' hashes, a corpus that was stopped early is a fair sample of the whole.
    todo = sorted(contents, key=lambda content: (hashlib.sha256(content.content_id.encode()).digest(), content.take))
    with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
        jobs = {pool.submit(make_content, content, out, seed): content for content in todo}
        for done, job in enumerate(as_completed(jobs), 1):
            content = jobs[job]
            try:
                report(f"{done}/{len(todo)} {content.content_id}.{content.take}: {job.result()} clips")
            except (encode.EncodeError, OSError, ValueError) as error:
                report(f"{done}/{len(todo)} {content.source}: left out, {error}")
    manifest = out / "manifest.parquet"
    parts = sorted((out / "contents").glob("*.parquet"))
    if not parts:
        raise ValueError(f"no content could be made in {out}")
    pq.write_table(pa.concat_tables([pq.read_table(part, schema=SCHEMA) for part in parts]), manifest)
    return manifest


def make_content(content: Content, out: Path, seed: int) -> int:
    """Make all clips of one content, unless they are there; give their number."""
    name = f"{content.content_id}.{content.take}"
    part = out / "contents" / f"{name}.parquet"
    if part.exists():
        return pq.read_metadata(part).num_rows
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference.yuv"
        planes_TJW = film(content, rng)
        reference.write_bytes(planes_TJW.tobytes())
        facts = SceneFacts.measure(planes_TJW[:, : planes_TJW.shape[1] * 2 // 3])
        fps = float(rng.choice([24, 25, 30, 50, 60]))
        rows = []
        for index, recipe in enumerate(draw_recipes(rng)):
            row, clip_planes_TJW = _make_clip(recipe, reference, planes_TJW.shape, fps, Path(folder), rng)
            clip_id = f"{name}.{index}"
            save_planes(out / "planes", clip_id, clip_planes_TJW)
            described = describe(row["mos"], dict(row["severities"]), facts, rng)
            rows.append(
                row
                | {
                    "clip_id": clip_id,
                    "content_id": content.content_id,
                    "split": content.split,
                    "description": described,
                }
            )
    unfinished = part.with_suffix(".unfinished")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), unfinished)
    unfinished.replace(part)
    return len(rows)


def _make_clip(
    recipe: Recipe,
    reference: Path,
    shape_TJW: tuple[int, ...],
    fps: float,
    folder: Path,
    rng: np.random.Generator,
) -> tuple[dict, np.ndarray]:
    frames, rows_J, width = shape_TJW
    height = rows_J * 2 // 3
    pristine = encode.raw_input(reference, width, height, fps)
    degraded = recipe.filters(pristine, width, height, seed=int(rng.integers(2**31)))
    clip = folder / "clip.mp4"
    encode.encode(degraded, clip, recipe.codec, recipe.crf, **recipe.encoder_options())
    # A clip whose clock is rewritten compares frame by frame, whatever the container did to its timestamps.
    planes_TJW = encode.read_planes(ffmpeg.input(str(clip)), width, height)
    if len(planes_TJW) != frames:
        raise ValueError(f"{recipe.codec} gave {len(planes_TJW)} frames of {frames}")
    vmaf = encode.vmaf(ffmpeg.input(str(clip)), encode.raw_input(reference, width, height, fps))
    mos = 1 + float(vmaf.mean()) / 25
    # A severity is what a viewer notices: content that hides a distortion keeps its mos, and is named milder.
    visible = 0.5 + 1.4 * (5 - mos)
    severities = {name: min(severity, visible) for name, severity in recipe.all_severities().items()}
    return {
        "recipe": json.dumps(asdict(recipe)),
        "ladder": recipe.ladder,
        "severities": list(severities.items()),
        "vmaf_mean": float(vmaf.mean()),
        "vmaf_p5": float(np.percentile(vmaf, 5)),
        "mos": mos,
        "width_px": width,
        "height_px": height,
        "bytes": clip.stat().st_size,
    }, planes_TJW


def film(content: Content, rng: np.random.Generator, frames: int = FRAMES) -> np.ndarray:
    """Give the first `frames` pristine frames of a content, uint8 (T, J, W); `rng` chooses size and camera."""
    width, height = SIZES_PX[rng.integers(len(SIZES_PX))]
    if content.kind == "clip":
        return _film_clip(content, rng, frames)
    if content.kind == "scene":
        frames_THW3 = render_scene(int(content.source), width, height, frames)
    else:
        with Image.open(content.source) as opened:
            picture = opened.convert("RGB")
        picture = _mirrored(picture, int(width * 1.3), int(height * 1.3))
        frames_THW3 = animate(picture, CameraPath.draw(rng), frames, (width, height), rng)
    return encode.rgb_to_planes(frames_THW3)


def _film_clip(content: Content, rng: np.random.Generator, frames: int) -> np.ndarray:
    width, height, frame_count = encode.probe_own(content.source)
    scale = 2 if content.halve and min(width, height) >= 400 else 1
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


def save_planes(folder: Path, clip_id: str, planes_TJW: np.ndarray) -> None:
    """Keep a clip's bursts (uint8 (N, B, J, W)) and context frames (uint8 (N, M, 3, S, S) RGB)."""
    bursts_NBJW = np.stack([planes_TJW[start : start + BURST_FRAMES] for start in BURST_STARTS])
    frames = np.stack([context_frame(planes_TJW[index]) for index in CONTEXT_FRAMES])
    np.save(folder / f"{clip_id}.bursts.npy", bursts_NBJW)
    np.save(folder / f"{clip_id}.context.npy", frames.reshape(len(BURST_STARTS), -1, *frames.shape[1:]))


def context_frame(planes_JW: np.ndarray, size_px: int = CONTEXT_SIZE_PX) -> np.ndarray:
    """Resize a limited-range BT.709 yuv420p frame to RGB, uint8 (3, S, S), ignoring its aspect."""
    height, width = planes_JW.shape[0] * 2 // 3, planes_JW.shape[1]
    y, u, v = split_planes(planes_JW)
    small = [
        np.asarray(Image.fromarray(plane).resize((size_px, size_px), Image.Resampling.BOX), np.float32)
        for plane in (y, u, v)
    ]
    assert y.shape == (height, width)
    luma, blue, red = (small[0] - 16) * (255 / 219), small[1] - 128, small[2] - 128
    # ITU-R BT.709-6, limited range.
    rgb = np.stack([luma + 1.7927 * red, luma - 0.2132 * blue - 0.5329 * red, luma + 2.1124 * blue])
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def split_planes(planes_JW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give views of the Y (H, W), U and V (H / 2, W / 2) planes of a packed yuv420p frame."""
    height, width = planes_JW.shape[0] * 2 // 3, planes_JW.shape[1]
    chroma = planes_JW[height:].reshape(2, height // 2, width // 2)
    return planes_JW[:height], chroma[0], chroma[1]
