"""Rated data sets and instruction sets, as their users have them on disk, become rows of the manifest.

In: a label file (`label_files.py`, `picture_sets.py`), the folder of its videos or pictures, and what is known of the
data set (`DATASETS`). Out: `Collected`: a LabelledVideo for each label whose file is there, and by name every label
that gives none, with the reason. MOS are mapped linearly from the data set's scale to 1-5. Opens no video, and
pictures only to find near-duplicates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from cpllm_model.errors import DataSetError
from cpllm_model.training.data.label_files import CONVERSATION_SUFFIXES, Label, read_conversations, read_ratings
from cpllm_model.training.data.manifests import SPLITS, LabelledVideo, content_split, write_manifest
from cpllm_model.training.data.near_duplicates import near_duplicate_groups
from cpllm_model.training.data.picture_sets import FORMS, read_picture_labels
from cpllm_model.training.data.video_files import VideoFiles, without_extension

#: In label files -1 stands for unknown, unless it is on the data set's scale.
_UNKNOWN_MOS = -1.0
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set apart from its files.

    Args:
        name: the manifest's name for it.
        scale: MOS of the worst and of the best imaginable video, mapped to 1 and 5; None without ratings.
        content: pattern of a file name's beginning that all versions of one content share; the whole name if None.
        id_parts: how many parts at the end of a path tell its videos apart; None: the whole path.
        split: the one split its labels mean; None if they are of several or of none.
        has_test: whether it has a test split of its own, which labels may or may not say.
        near_duplicates: whether it shows some contents several times without saying so.
    """

    name: str
    scale: tuple[float, float] | None = None
    content: str | None = None
    id_parts: int | None = 1
    split: str | None = None
    has_test: bool = False
    near_duplicates: bool = False

    def rescale(self, mos: float) -> float:
        """Map a MOS of this data set linearly to 1-5."""
        low, high = self.scale or (1.0, 5.0)
        return 1.0 + 4.0 * (mos - low) / (high - low)

    def id_of(self, file: str) -> str:
        """Name a video, whichever of its label files names the file."""
        parts = PurePosixPath(file).parts
        return without_extension("/".join(parts[-(self.id_parts or len(parts)) :]))

    def content_of(self, file: str) -> str:
        """Name the content of a video by its file name."""
        name = without_extension(PurePosixPath(file).name)
        match = re.match(self.content, name) if self.content else None
        return match[0] if match else name


DATASETS = {
    one.name: one
    for one in (
        # Five ACR levels (Hosu et al., QoMEX 2017). Some copies name files by the Flickr id alone, some go on after it.
        Dataset("konvid-1k", (1, 5), content=r"\d+"),
        # A slider from 0 to 100 (Ying et al., CVPR 2021). Videos lie in folders of batches; where two batches share a
        # name, they hold versions of one upload with MOS of their own.
        Dataset("lsvq", (0, 100), id_parts=2, has_test=True),
        Dataset("lsvq-test", (0, 100), id_parts=2, split="test"),
        Dataset("lsvq-1080p", (0, 100), id_parts=2, split="test"),
        # A slider from 0 to 100 (Sinno and Bovik, TIP 2019). Some copies have NEW at the end of nine names.
        Dataset("live-vqc", (0, 100), content=r"[A-Z]\d{3}"),
        # 1 to 5 (Yim et al., ICIP 2020). Files go on after the name in the labels: quality, start and length of a cut.
        Dataset("youtube-ugc", (1, 5), content=r"[A-Za-z]+_\d+P-[0-9a-f]{4}"),
        # Rated in six tests and realigned to one scale (Nuutinen et al., TIP 2016), which has no ends of its own and
        # goes below 0: the least and greatest published MOS stand for them. In a test, many cameras film one scene.
        Dataset("cvd2014", (-6.5, 93.38), content=r"Test\d+_.+(?=_D\d+$)"),
        # Five ACR levels by 30 raters each in a laboratory, mapped linearly by the authors so that the worst picture
        # has 0 and the best 1 (Ahmed and Asif, JEI 2022). The ends of the five levels are given back to these two.
        Dataset("biq2021", (0, 1), has_test=True, near_duplicates=True),
        # Five ACR levels by a crowd (Hosu et al., TIP 2020), with splits.
        Dataset("koniq-10k", (1, 5), has_test=True),
        # A slider from 0 to 100 (Fang et al., CVPR 2020).
        Dataset("spaq", (0, 100)),
        # Five levels of impairment, 5 imperceptible (Lin et al., QoMEX 2019).
        Dataset("kadid-10k", (1, 5)),
        # Wins in nine comparisons (Ponomarenko et al., SPIC 2015).
        Dataset("tid2013", (0, 9)),
        # A slider from 0 to 100 (Ghadiyaram and Bovik, TIP 2016).
        Dataset("live-itw", (0, 100)),
    )
}


@dataclass(frozen=True)
class Collected:
    """What a label file and a folder of videos give together.

    Args:
        videos: labelled and there, their files absolute.
        missing: labelled, but no file below the folder.
        unrated: rows without MOS.
        repeated: rows that say again, in the same words, what was said before.
        held_out: videos whose content is a test video's, or in a label file that was held out.
        without_file: conversations about no file or about several.
    """

    videos: list[LabelledVideo] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unrated: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    without_file: list[str] = field(default_factory=list)

    def report(self) -> Iterator[str]:
        """Give a line for each reason why labels give no video: how many, and the first names."""
        for reason in ("missing", "unrated", "repeated", "held_out", "without_file"):
            if names := getattr(self, reason):
                more = ", ..." if len(names) > _NAMES_SHOWN else ""
                yield f"{reason.replace('_', ' ')}: {len(names)} ({', '.join(names[:_NAMES_SHOWN])}{more})"


def find_dataset(name: str, scale: tuple[float, float] | None = None) -> Dataset:
    """Find a known data set, or describe one's own by the scale of its MOS.

    Raises:
        DataSetError: it is not known and has no scale, or the scale is none.
    """
    if scale is None and name not in DATASETS:
        raise DataSetError(
            f"{name!r} is not a known data set ({', '.join(DATASETS)}); for another, give the scale of its MOS"
        )
    if scale is not None and not scale[0] < scale[1]:
        raise DataSetError(f"the worst MOS {scale[0]} is not below the best {scale[1]}")
    known = DATASETS.get(name, Dataset(name, id_parts=None))
    return known if scale is None else replace(known, scale=scale)


def collect(
    labels: Path,
    videos: Path,
    name: str,
    *,
    scale: tuple[float, float] | None = None,
    held_out: Sequence[Path] = (),
    split: str | None = None,
) -> Collected:
    """Bring a label file and its videos together.

    Without `split`, a video is in the split that its data set gives it, a share of the contents that are for training
    being kept for validation; in a data set without splits, contents are divided by `content_split`.

    Args:
        labels: conversations if it ends in .json or .jsonl, else ratings; of a picture set also a folder of it.
        videos: folder below which the videos lie, in any layout.
        name: one of DATASETS; of conversations, or with `scale`, any.
        scale: MOS of the worst and of the best imaginable video.
        held_out: label files of videos that are left out, with all that shares their content.
        split: puts all videos into this one; only for data sets without splits of their own.

    Raises:
        DataSetError: a label cannot be understood, a MOS is off the scale, two labels of one video disagree, a name
            fits several files, nothing is left, or training videos cannot be told from the data set's test videos.
    """
    conversations = _holds_conversations(labels)
    dataset = Dataset(name, id_parts=None) if conversations else find_dataset(name, scale)
    of_pictures = dataset.name in FORMS and not conversations
    read = read_picture_labels(name, labels) if of_pictures else _read(labels)
    _check_splits(labels, read, dataset, split, any_held_out=bool(held_out))

    found = Collected()
    kept = _once(read, dataset, found)
    barred = [label.file for path in held_out for label in _read(path) if label.file]
    try:
        files = VideoFiles(videos, dataset.content_of, dataset.id_parts, pictures=conversations or of_pictures)
        contents = {file: label.content or dataset.content_of(file) for file, label in kept.items()}
        if dataset.near_duplicates:
            contents |= _near_duplicates(files.locate(kept), dataset)
        _hold_out(kept, contents, _barred(barred, contents, dataset), found)
        located = files.locate(kept)
    except DataSetError as error:
        raise DataSetError(f"{labels}: {error}") from error
    found.missing.extend(file for file in kept if file not in located)
    for file, path in located.items():
        label, content = kept[file], contents[file]
        found.videos.append(
            LabelledVideo(
                video_id=dataset.id_of(file),
                content_id=content,
                dataset=name,
                split=split or _split(label, content, dataset),
                file=str(path),
                mos=None if label.mos is None else dataset.rescale(label.mos),
                dialogue=label.dialogue,
                subset=label.subset,
            )
        )
    if not found.videos:
        raise DataSetError(f"{labels} and {videos} have no video in common; {'; '.join(found.report())}")
    return found


def _near_duplicates(located: dict[str, Path], dataset: Dataset) -> dict[str, str]:
    """Give each picture the content that it shares with its near-duplicates: the name of the first of them."""
    files = sorted(located)
    groups = near_duplicate_groups([located[file] for file in files])
    return {file: dataset.id_of(files[group]) for file, group in zip(files, groups, strict=True)}


def _barred(names: list[str], contents: dict[str, str], dataset: Dataset) -> set[str]:
    """Contents of the files that are held out by name."""
    by_id = {dataset.id_of(file): content for file, content in contents.items()}
    return {by_id.get(dataset.id_of(name), dataset.content_of(name)) for name in names}


def _hold_out(kept: dict[str, Label], contents: dict[str, str], barred: set[str], found: Collected) -> None:
    """Leave out what shares its content with a test video, or is barred."""
    tested = {contents[file] for file, label in kept.items() if label.in_test}
    for file, label in list(kept.items()):
        if contents[file] in barred or (contents[file] in tested and not label.in_test):
            found.held_out.append(file)
            del kept[file]


def publish(found: Collected, out: Path, most_missing: float = 1.0) -> Path:
    """Write the manifest; files that lie below its folder are named relative to it.

    Args:
        found: what `collect` gave.
        out: the manifest to write.
        most_missing: share of labelled videos that may be missing, 0-1.

    Raises:
        DataSetError: more are missing.
    """
    labelled, folder = len(found.missing) + len(found.videos), out.parent.resolve()
    if len(found.missing) > most_missing * labelled:
        raise DataSetError(f"{len(found.missing)} of {labelled} labelled videos are missing; {out} was not written")
    rows = []
    for video in found.videos:
        file = Path(video.file)
        inside = file.is_relative_to(folder)
        rows.append(replace(video, file=file.relative_to(folder).as_posix()) if inside else video)
    return write_manifest(rows, out)


def _holds_conversations(path: Path) -> bool:
    return path.suffix.lower() in CONVERSATION_SUFFIXES


def _read(path: Path) -> list[Label]:
    return read_conversations(path) if _holds_conversations(path) else read_ratings(path)


def _check_splits(labels: Path, read: list[Label], dataset: Dataset, split: str | None, any_held_out: bool) -> None:
    """Refuse what would put test videos among training videos, or the reverse."""
    said = {label.in_test for label in read}
    if split is not None and split not in SPLITS:
        raise DataSetError(f"there is no split {split!r}; give one of {', '.join(SPLITS)}")
    if split is not None and (dataset.split or dataset.has_test or said != {None}):
        raise DataSetError(f"{dataset.name} has splits of its own: its videos cannot all be put into {split}")
    if dataset.split and said >= {True, False}:
        raise DataSetError(f"{labels} holds training and test videos, {dataset.name} only {dataset.split} videos")
    if dataset.has_test and None in said and not any_held_out:
        raise DataSetError(f"{labels} does not say which are {dataset.name}'s test videos; hold out their label files")


def _once(labels: list[Label], dataset: Dataset, found: Collected) -> dict[str, Label]:
    """Give one label a video, by the file it names: ratings are checked, dialogues about one video are joined."""
    kept: dict[str, Label] = {}
    files: dict[str, str] = {}
    for label in labels:
        if label.file is None:
            found.without_file.append(label.where)
            continue
        if dataset.scale is not None and not _is_rated(label, dataset.scale):
            found.unrated.append(label.file)
            continue
        file = files.setdefault(dataset.id_of(label.file), label.file)
        before = kept.setdefault(file, label)
        if before is label:
            continue
        if (before.mos, before.in_test) != (label.mos, label.in_test):
            raise DataSetError(f"{label.where}: {label.file} has another label at {before.where}")
        if set(label.dialogue) <= set(before.dialogue):
            found.repeated.append(label.file)
        else:
            kept[file] = replace(before, dialogue=before.dialogue + label.dialogue)
    return kept


def _is_rated(label: Label, scale: tuple[float, float]) -> bool:
    low, high = scale
    if label.mos is not None and not low <= label.mos <= high and label.mos != _UNKNOWN_MOS:
        raise DataSetError(f"{label.where}: MOS {label.mos:g} of {label.file} is off the scale of {low:g} to {high:g}")
    return label.mos is not None and low <= label.mos <= high


def _split(label: Label, content: str, dataset: Dataset) -> str:
    if dataset.split or label.in_test:
        return dataset.split or "test"
    if label.in_validation is not None:
        return "validation" if label.in_validation else "train"
    drawn = content_split(content)
    # A test split of its own is the only one: the rest is for training and validation.
    return "train" if drawn == "test" and (dataset.has_test or label.in_test is False) else drawn
