"""The corpus as training samples: clips of a manifest, their planes on disk, fragments cut afresh each time.

In: a corpus folder. Out: uint8 arrays as `video.py` gives them at inference, with labels.

Shape legend: N segments, M context frames, B frames of a burst, S context size, G fragments a side, P fragment
side, J W packed yuv420p frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cpllm_model.sampling import cut_mosaic, fragment_origins
from cpllm_model.training.corpus import split_planes


@dataclass(frozen=True)
class Clip:
    """A labelled clip of the corpus.

    Args:
        clip_id, content_id: names.
        mos: 1-5.
        severities: distortion -> 0-4.
        description: what the decoder learns to write.
        ladder: whether it is a rung of its content's x264 ladder.
        recipe: how it was made, JSON.
    """

    clip_id: str
    content_id: str
    mos: float
    severities: dict[str, float]
    description: str
    ladder: bool
    recipe: str


@dataclass(frozen=True, eq=False)
class ClipSample:
    """Model inputs of a clip: uint8 (N, M, 3, S, S) RGB and uint8 (N, B, 3, G * P, G * P) YUV."""

    context_NMCHW: np.ndarray
    bursts_NTCHW: np.ndarray


class ClipStore:
    """The clips of one split.

    Args:
        corpus: folder with `contents/` (or `manifest.parquet`) and `planes/`.
        split: "train" or "validation".
    """

    def __init__(self, corpus: Path, split: str) -> None:
        self.planes = corpus / "planes"
        manifest = corpus / "manifest.parquet"
        table = pq.read_table(manifest if manifest.exists() else sorted((corpus / "contents").glob("*.parquet")))
        columns = ("clip_id", "content_id", "mos", "description", "ladder", "recipe")
        self.clips = [
            Clip(severities=dict(row["severities"]), **{name: row[name] for name in columns})
            for row in table.to_pylist()
            if row["split"] == split
        ]
        by_take: dict[str, list[Clip]] = defaultdict(list)
        for clip in self.clips:
            by_take[clip.clip_id.rsplit(".", 1)[0]].append(clip)
        #: Clips that show the same pixels, differently degraded.
        self.groups = list(by_take.values())

    def sample(
        self, clip: Clip, grid: int, fragment_px: int, rng: np.random.Generator | None, segments: int = 2
    ) -> ClipSample:
        """Cut a clip's fragments.

        Args:
            clip: of the corpus, of any split.
            grid: fragments a side.
            fragment_px: side of a fragment.
            rng: draws segments, places and mirroring; None gives the segments in order, fragments centred.
            segments: how many; a clip has two, so more show the same frames through other fragments.
        """
        chosen = np.arange(segments) % 2 if rng is None else rng.integers(2, size=segments)
        context = np.load(self.planes / f"{clip.clip_id}.context.npy")[chosen]
        stored = np.load(self.planes / f"{clip.clip_id}.bursts.npy", mmap_mode="r")
        height, width = stored.shape[2] * 2 // 3, stored.shape[3]
        bursts = []
        for burst_BJW in (stored[index] for index in chosen):
            origins = fragment_origins(height, width, grid, fragment_px, rng)
            bursts.append([cut_mosaic(*split_planes(frame), origins, fragment_px) for frame in burst_BJW])
        mosaics = np.array(bursts)
        if rng is not None and rng.random() < 0.5:
            context, mosaics = context[..., ::-1], mosaics[..., ::-1]
        return ClipSample(np.ascontiguousarray(context), np.ascontiguousarray(mosaics))

    def batches(self, groups: int, clips: int, rng: np.random.Generator) -> Iterator[list[Clip]]:
        """Give batches of `groups` contents with `clips` versions of each, for ever."""
        while True:
            for start in range(0, len(order := rng.permutation(len(self.groups))) - groups + 1, groups):
                chosen = [self.groups[index] for index in order[start : start + groups]]
                yield [
                    group[index]
                    for group in chosen
                    for index in rng.choice(len(group), clips, replace=clips > len(group))
                ]
