"""Labelled videos as training samples: decoded once, cut afresh each time.

Every video is decoded in the sandbox, as at inference, into a cache of model inputs (uint8), its fragments a margin
larger than the model's, so that each epoch cuts them elsewhere. A still picture is kept as one frame; some of its
views pan over it in whole pixels, so that standing still comes to mean neither good nor bad. In: manifests. Out:
batches of arrays with labels.
Which clips a batch has, and how each is cut, follows from the seed and the number of the batch alone: a resumed run
sees what an uninterrupted one would.

Shape legend: X clips of a batch, N segments, M context frames, T frames of a burst, S context size, G fragments a
side, C = G * G kept fragments, P fragment side, R = P + margin, V views, St statistics.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from cpllm_model.decoding.samples import VideoSamples
from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.decoding.sandbox import DecodeSandbox
from cpllm_model.errors import DataSetError, VideoError
from cpllm_model.network.statistics import burst_statistics
from cpllm_model.training.data.descriptions import SceneFacts
from cpllm_model.training.data.manifests import LabelledVideo

_VIDEOS_PER_TASK = 16
_FORMAT = "3"
#: Seconds between looks, so few that the number of frames alone limits the looks at a clip.
_ANY_LENGTH_S = 1e-3
#: Steps a frame of the views that pan over a still picture; even, since chroma has half the size.
PAN_PX = (-2, 0, 2)


@dataclass(frozen=True)
class CacheSettings:
    """What is kept of a video.

    Args:
        sampling: the model's.
        segments: time segments at most.
        margin_px: fragments are kept that much larger, even.
        views: places of the fragments for which statistics are computed; the first is the one of inference.
    """

    sampling: SamplingSettings
    segments: int
    margin_px: int
    views: int

    @property
    def kept_px(self) -> int:
        """Side of a kept fragment (R)."""
        return self.sampling.fragment_px + self.margin_px

    @property
    def decoding(self) -> SamplingSettings:
        """The sampling that videos are decoded with: `segments` looks, or as many as there are bursts of frames."""
        dense = {"look_every_s": _ANY_LENGTH_S, "most_looks": self.segments}
        return replace(self.sampling, **dense, fragment_px=self.kept_px)

    @property
    def video_bytes(self) -> int:
        """Most bytes of a cached video."""
        s = self.sampling
        context = s.context_frames * 3 * s.context_size_px**2
        burst = s.burst_frames * (s.fragment_grid * self.kept_px) ** 2 * 3 // 2
        return self.segments * (context + burst)


@dataclass(frozen=True, eq=False)
class Clip:
    """A labelled video that is in the cache.

    Args:
        video: its labels.
        path: its cached inputs.
    """

    video: LabelledVideo
    path: Path


def cached(
    videos: Sequence[LabelledVideo],
    folder: Path,
    settings: CacheSettings,
    max_gib: float,
    report: Callable[[str], None] = print,
    processes: int | None = None,
) -> list[Clip]:
    """Decode what is not in the cache yet.

    Args:
        videos: labelled videos.
        folder: of the cache.
        settings: what is kept.
        max_gib: size that the cache of these videos may have.
        report: takes a line on what is done, and one on each video that is left out.
        processes: videos at once; default one a core.

    Returns:
        the clips, in order; videos that cannot be read are reported, counted and left out.

    Raises:
        DataSetError: the cache would be too large, or not one video can be read.
    """
    need_gib = len(videos) * settings.video_bytes / 2**30
    if need_gib > max_gib:
        raise DataSetError(
            f"{len(videos)} videos need up to {need_gib:.1f} GiB of cache in {folder}, {max_gib:.1f} are allowed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    clips, failures = [], {}
    for video in videos:
        try:
            clips.append(Clip(video, folder / f"{_key(video, settings)}.safetensors"))
        except OSError as error:
            failures[video.file] = f"{video.file}: {error.strerror}"
    missing = [clip for clip in clips if not clip.path.exists()]
    if missing:
        report(f"decoding {len(missing)} of {len(videos)} videos into {folder}, at most {need_gib:.1f} GiB in all")
        tasks = [missing[i : i + _VIDEOS_PER_TASK] for i in range(0, len(missing), _VIDEOS_PER_TASK)]
        with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
            done = 0
            for task, found in zip(tasks, pool.map(partial(_fill, settings=settings), tasks), strict=True):
                done += len(task)
                failures |= found
                if done // 1000 > (done - len(task)) // 1000:
                    report(f"decoded {done} of {len(missing)}")
    for failure in failures.values():
        report(f"left out: {failure}")
    if failures:
        report(f"{len(failures)} of {len(videos)} videos are left out, since they cannot be read")
    readable = [clip for clip in clips if clip.video.file not in failures]
    if not readable:
        raise DataSetError(f"none of {len(videos)} videos can be read, the first is {next(iter(failures.values()))}")
    return readable


def _key(video: LabelledVideo, settings: CacheSettings) -> str:
    stat = Path(video.file).stat()
    facts = (_FORMAT, video.file, stat.st_size, stat.st_mtime_ns, settings)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _fill(clips: Sequence[Clip], settings: CacheSettings) -> dict[str, str]:
    """Decode clips into the cache; give the failures by file."""
    torch.set_num_threads(1)
    failures = {}
    with DecodeSandbox() as sandbox:
        for clip in clips:
            try:
                with Path(clip.video.file).open("rb") as file:
                    samples = sandbox.decode(file, clip.video.file, settings.decoding)
            except (VideoError, OSError) as error:
                failures[clip.video.file] = str(error)
                continue
            unfinished = clip.path.with_suffix(f".{os.getpid()}")
            save_file(_inputs(samples, settings, clip.path.stem), unfinished)
            unfinished.replace(clip.path)
    return failures


def _inputs(samples: VideoSamples, settings: CacheSettings, key: str) -> dict[str, np.ndarray]:
    """Give the arrays that are kept of a video."""
    grid, side, px = settings.sampling.fragment_grid, settings.kept_px, settings.sampling.fragment_px
    mosaics = samples.bursts_NTCHW
    is_still = bool((mosaics == mosaics[:, :1]).all())
    n, frames = mosaics.shape[:2]
    cells = mosaics.reshape(n, frames, 3, grid, side, grid, side).transpose(0, 3, 5, 1, 2, 4, 6)
    cells_NCT3RR = cells.reshape(n, grid * grid, frames, 3, side, side)[:, :, : 1 if is_still else frames]
    rng = np.random.default_rng(int(key[:16], 16))
    pans_V2 = np.zeros((settings.views, 2), np.int8)
    if is_still and settings.margin_px >= max(PAN_PX) * (frames - 1):
        pans_V2[1::2] = rng.choice(PAN_PX, (len(pans_V2[1::2]), 2))
    offsets_VC2 = np.stack([_offsets(rng, settings, pan) for pan in pans_V2])
    offsets_VC2[0] = settings.margin_px // 4 * 2
    interval_s = torch.from_numpy(samples.burst_interval_s)
    views = []
    for offsets, pan in zip(offsets_VC2, pans_V2, strict=True):
        cut = [
            _panned(cells_NCT3RR[:, index], origin, pan, px, frames) for index, origin in enumerate(offsets.astype(int))
        ]
        planes = torch.from_numpy(np.stack(cut, 1)).flatten(0, 1)
        views.append(burst_statistics(planes, grid * grid, interval_s).numpy())
    # Limited-range luma of the whole frames (ITU-R BT.709-6), as scenes are measured.
    context_luma = 16 + samples.context_NMCHW.reshape(-1, 3, *samples.context_NMCHW.shape[3:]).transpose(0, 2, 3, 1) @ (
        np.array([0.2126, 0.7152, 0.0722]) * 219 / 255
    )
    facts = SceneFacts.measure(context_luma[:1])
    return {
        "context": samples.context_NMCHW,
        "luma": np.ascontiguousarray(cells_NCT3RR[:, :, :, 0]),
        # Chroma was repeated to the size of luma when it was decoded.
        "chroma": np.ascontiguousarray(cells_NCT3RR[:, :, :, 1:, ::2, ::2]),
        "offsets": offsets_VC2.astype(np.uint8),
        "pans": pans_V2,
        "statistics": np.stack(views, 1).astype(np.float32),
        "interval_s": samples.burst_interval_s.astype(np.float32),
        "brightness_detail": np.array([facts.brightness, facts.detail], np.float32),
    }


def _offsets(rng: np.random.Generator, settings: CacheSettings, pan: np.ndarray) -> np.ndarray:
    """Draw where each kept fragment is cut in the first frame, even, so that a pan stays inside; (C, 2)."""
    way = pan.astype(int) * (settings.sampling.burst_frames - 1)
    lowest, highest = np.maximum(0, -way), settings.margin_px - np.maximum(0, way)
    count = settings.sampling.fragment_grid**2
    return 2 * rng.integers(lowest // 2, highest // 2 + 1, size=(count, 2))


def _panned(planes_XTRR: np.ndarray, origin: np.ndarray, pan: np.ndarray, px: int, frames: int) -> np.ndarray:
    """Cut a fragment (..., T, ..., P, P) of each frame, `pan` further on in each; one kept frame serves all.

    Args:
        planes_XTRR: (N, T, 3, R, R) or, of one segment, (T, R, R) or (T, 2, R, R).
        origin, pan: (row, column).
        px: side of the cut.
        frames: of the burst (T).
    """
    axis = 1 if planes_XTRR.ndim == 5 else 0
    kept = planes_XTRR.shape[axis]
    if not pan.any() and kept == frames:
        y, x = origin
        return planes_XTRR[..., y : y + px, x : x + px]
    cuts = []
    for frame in range(frames):
        y, x = origin + pan.astype(int) * frame
        cuts.append(planes_XTRR.take(min(frame, kept - 1), axis)[..., y : y + px, x : x + px])
    return np.stack(cuts, axis)


@dataclass(frozen=True)
class Draw:
    """What of a clip a batch shows.

    Args:
        clip: its index.
        segments: which segments, in the order shown; one may appear again.
        views: the view of each, for statistics and frozen encoders.
        seed: of where fragments are cut; None cuts each view where its statistics were computed.
        fragments: fragments a side.
        mirrored: whether key frames and bursts are laid from right to left.
    """

    clip: int
    segments: tuple[int, ...]
    views: tuple[int, ...]
    seed: int | None
    fragments: int
    mirrored: bool = False


def read(
    clip: Clip, draw: Draw, settings: CacheSettings, *, context: bool = True, pixels: bool = True
) -> dict[str, np.ndarray]:
    """Give the inputs of a drawn clip.

    Returns:
        `statistics` float32 (N, St), `interval_s` float32 (N,), `brightness_detail` float32 (2,); with `context`
        `context` uint8 (N, M, 3, S, S); with `pixels` `bursts` uint8 (N, T, 3, G * P, G * P).
    """
    segments = list(draw.segments)
    with safe_open(clip.path, "numpy") as file:
        found = {
            "statistics": file.get_tensor("statistics")[segments, list(draw.views)],
            "interval_s": file.get_tensor("interval_s")[segments],
            "brightness_detail": file.get_tensor("brightness_detail"),
        }
        if context:
            frames = file.get_tensor("context")[segments]
            found["context"] = np.ascontiguousarray(frames[..., ::-1]) if draw.mirrored else frames
        if pixels:
            offsets, pans = file.get_tensor("offsets").astype(int), file.get_tensor("pans")
            rng = None if draw.seed is None else np.random.default_rng(draw.seed)
            planes = file.get_slice("luma"), file.get_slice("chroma")
            found["bursts"] = np.stack(
                [
                    _mosaic(planes, segment, offsets[view], pans[view], draw, settings, rng)
                    for segment, view in zip(draw.segments, draw.views, strict=True)
                ]
            )
    return found


def segment_count(clip: Clip) -> int:
    """Count the segments of a cached clip."""
    with safe_open(clip.path, "numpy") as file:
        return file.get_slice("statistics").get_shape()[0]


def _mosaic(
    planes: tuple,
    segment: int,
    offsets_C2: np.ndarray,
    pan: np.ndarray,
    draw: Draw,
    settings: CacheSettings,
    rng: np.random.Generator | None,
) -> np.ndarray:
    """Put fragments of one burst together; uint8 (T, 3, g * P, g * P)."""
    px, side, count = settings.sampling.fragment_px, draw.fragments, draw.fragments**2
    frames, cells = settings.sampling.burst_frames, np.arange(len(offsets_C2))
    if rng is not None:
        cells = np.sort(rng.choice(cells, count, replace=count > len(cells)))
        offsets_C2 = _offsets(rng, settings, pan)
    luma, chroma = planes
    mosaic = np.empty((frames, 3, side, px, side, px), np.uint8)
    for place, cell in enumerate(cells[:count]):
        i, j = divmod(place, side)
        origin = offsets_C2[cell]
        mosaic[:, 0, i, :, j] = _panned(luma[segment, int(cell)], origin, pan, px, frames)
        small = _panned(chroma[segment, int(cell)], origin // 2, pan // 2, px // 2, frames)
        mosaic[:, 1:, i, :, j] = small.repeat(2, -1).repeat(2, -2)
    mosaic = mosaic.reshape(frames, 3, side * px, side * px)
    return np.ascontiguousarray(mosaic[..., ::-1]) if draw.mirrored else mosaic


class ClipDataset(torch.utils.data.Dataset):
    """Clips by their draws; see `read`."""

    def __init__(self, clips: Sequence[Clip], settings: CacheSettings, *, context: bool, pixels: bool) -> None:
        self.clips, self.settings, self.context, self.pixels = clips, settings, context, pixels

    def __getitem__(self, draw: Draw) -> tuple[Draw, dict[str, np.ndarray]]:
        """Read a draw."""
        return draw, read(self.clips[draw.clip], draw, self.settings, context=self.context, pixels=self.pixels)

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.clips)


class ContentBatches:
    """Batches of several contents with several versions of each, every one a function of the seed and its number.

    Args:
        clips: to draw from.
        weights: data set -> how often a content is drawn from it; those that are not there are left out.
        contents, versions: a batch has contents * versions clips: so many versions of each content at most, and
            more contents where they have fewer.
        segments: numbers of segments a batch may show, one for all its clips.
        fragments: fragments a side.
        views: of the cache.
        count: number of batches.
        seed: decides all.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        weights: dict[str, float],
        *,
        contents: int,
        versions: int,
        segments: Sequence[int],
        fragments: int,
        views: int,
        count: int,
        seed: int,
    ) -> None:
        self.contents: dict[str, list[list[int]]] = defaultdict(list)
        by_content: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index, clip in enumerate(clips):
            if weights.get(clip.video.dataset):
                by_content[clip.video.dataset, clip.video.content_id].append(index)
        for (dataset, _), members in by_content.items():
            self.contents[dataset].append(members)
        self.lengths = [segment_count(clip) for clip in clips]
        self.weights = np.array([weights[name] for name in self.contents])
        self.size, self.versions, self.segments = contents * versions, versions, list(segments)
        self.fragments, self.views, self.count, self.seed = fragments, views, count, seed

    def __len__(self) -> int:
        """Count the batches."""
        return self.count

    def __iter__(self) -> Iterator[list[Draw]]:
        """Give every batch."""
        return map(self.batch, range(self.count))

    def batch(self, number: int) -> list[Draw]:
        """Give one batch."""
        rng = np.random.default_rng([self.seed, number])
        datasets = list(self.contents.values())
        chosen: list[int] = []
        taken = set()
        while len(chosen) < self.size:
            which = int(rng.choice(len(datasets), p=self.weights / self.weights.sum()))
            place = int(rng.integers(len(datasets[which])))
            if (which, place) in taken and len(taken) < sum(map(len, datasets)):
                continue
            taken.add((which, place))
            members = datasets[which][place]
            chosen += rng.permutation(members)[: self.versions].tolist()
        shown = int(rng.choice(self.segments))
        # Half of the batches show what inference does, where versions of one content are cut at the same places.
        views = 1 if rng.random() < 0.5 else self.views
        return [self._draw(clip, shown, views, rng) for clip in chosen[: self.size]]

    def _draw(self, clip: int, shown: int, views: int, rng: np.random.Generator) -> Draw:
        # In order of time; where a clip has fewer segments than are shown, one appears again through another view.
        segments = np.sort(
            rng.permutation(np.resize(np.arange(self.lengths[clip]), max(shown, self.lengths[clip])))[:shown]
        )
        seen = rng.integers(views, size=shown)
        seed, mirrored = int(rng.integers(2**31)), bool(rng.integers(2))
        return Draw(clip, tuple(segments.tolist()), tuple(seen.tolist()), seed, self.fragments, mirrored)
