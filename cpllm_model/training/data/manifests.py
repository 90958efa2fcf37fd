"""The manifest: the one form in which labelled videos reach training and evaluation, a row a video.

The distortion corpus writes it, and so does every rated data set and instruction set. What a source does not
know is null. Paths are relative to the manifest's folder, so that a data set can be moved as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cpllm_model.errors import DataSetError

MANIFEST_NAME = "manifest.parquet"
SPLITS = ("train", "validation", "test")
#: Labels that differ by no more are not asked to be told apart, MOS units.
LEAST_GAP = 0.05
#: Shares of contents that are held out: for choosing (thresholds, promotion) and for reporting.
VALIDATION_SHARE, TEST_SHARE = 0.06, 0.12

SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("content_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        ("mos", pa.float64()),
        ("quality_left", pa.float64()),
        ("severities", pa.map_(pa.string(), pa.float64())),
        ("scene", pa.map_(pa.string(), pa.string())),
        ("description", pa.string()),
        ("recipe", pa.string()),
        ("ladder", pa.string()),
        ("ladder_rung", pa.int32()),
        ("vmaf_mean", pa.float64()),
        ("vmaf_p5", pa.float64()),
        ("subset", pa.string()),
        ("dialogue", pa.list_(pa.struct([("question", pa.string()), ("answer", pa.string())]))),
    ]
)


@dataclass(frozen=True)
class LabelledVideo:
    """One labelled video.

    Args:
        video_id: unique in its data set.
        content_id: shared by all versions of one content; the video_id where nothing is known of versions.
        dataset: name of the data set.
        split: one of SPLITS.
        file: path of the video, relative to the manifest's folder or absolute.
        mos: quality 1-5 on the scale of people's ratings; None where nobody rated it or what it was made of.
        quality_left: share of its source's quality that the degradation leaves, 0-1; None where there is no source.
        severities: distortion family -> 0-5, every family; None if unknown.
        scene: question of scale.SCENE_FACTS -> its answer; what is not known is missing.
        description: quality in words.
        recipe: how it was degraded, as JSON.
        ladder: name of the rate ladder it is a rung of.
        ladder_rung: its place there, 0 the best.
        vmaf_mean, vmaf_p5: VMAF over its frames, mean and 5th percentile, 0-100.
        subset: part of the data set that reports show by itself, as its authors name it (BIQ2021: ss01, ss02, ss03);
            None if it has no parts.
        dialogue: questions about it and their answers (instruction sets).
    """

    video_id: str
    content_id: str
    dataset: str
    split: str
    file: str
    mos: float | None = None
    quality_left: float | None = None
    severities: dict[str, float] | None = None
    scene: dict[str, str] | None = None
    description: str | None = None
    recipe: str | None = None
    ladder: str | None = None
    ladder_rung: int | None = None
    vmaf_mean: float | None = None
    vmaf_p5: float | None = None
    subset: str | None = None
    dialogue: tuple[tuple[str, str], ...] = field(default=())

    def recipe_steps(self) -> list[dict[str, Any]]:
        """Give the recipe's steps, each with `kind`, `severity` and `seed`; none where no recipe is known."""
        return json.loads(self.recipe or "[]")


def content_split(content_id: str) -> str:
    """Divide contents between the splits by a hash of their name alone: no content is ever in two."""
    share = int(hashlib.sha256(content_id.encode()).hexdigest()[:8], 16) / 2**32
    if share < TEST_SHARE:
        return "test"
    return "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"


def some_contents(videos: Sequence[LabelledVideo], count: int) -> list[LabelledVideo]:
    """Give the videos of so many contents, a fair sample: by a hash of their names, more hold all of fewer."""
    names = {video.content_id for video in videos}
    kept = set(sorted(names, key=lambda name: hashlib.sha256(f"sample/{name}".encode()).digest())[:count])
    return [video for video in videos if video.content_id in kept]


def write_manifest(videos: Iterable[LabelledVideo], path: Path) -> Path:
    """Write a manifest whole: a reader sees the old file or the new one."""
    rows = []
    for video in videos:
        row = asdict(video)
        for name in ("severities", "scene"):
            row[name] = None if row[name] is None else list(row[name].items())
        row["dialogue"] = [{"question": question, "answer": answer} for question, answer in video.dialogue]
        rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), unfinished, compression="zstd")
    unfinished.replace(path)
    return path


def read_manifest(data: Path, splits: Sequence[str] = SPLITS) -> list[LabelledVideo]:
    """Read a data set.

    Args:
        data: a manifest, or the folder that holds one under MANIFEST_NAME.
        splits: which splits to give.

    Returns:
        the videos in the manifest's order, their files as absolute paths.

    Raises:
        DataSetError: the manifest is missing or unreadable, or it has no video of these splits.
    """
    path = data / MANIFEST_NAME if data.is_dir() else data
    try:
        table = pq.read_table(path)
        # A column that may be null may be missing: manifests outlive additions to the schema.
        known = [column.name for column in SCHEMA if not column.nullable or column.name in table.column_names]
        rows = table.select(known).to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataSetError(f"{path} is not a manifest: {error}") from error
    videos = [
        LabelledVideo(
            **row
            | {
                "file": str(path.parent.resolve() / row["file"]),
                "severities": None if row.get("severities") is None else dict(row["severities"]),
                "scene": None if row.get("scene") is None else dict(row["scene"]),
                "dialogue": tuple((turn["question"], turn["answer"]) for turn in row.get("dialogue") or ()),
            }
        )
        for row in rows
        if row["split"] in splits
    ]
    if not videos:
        raise DataSetError(f"{path} has no video of split {' or '.join(splits)}")
    return videos
