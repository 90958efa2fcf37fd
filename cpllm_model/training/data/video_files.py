"""Finding the files that labels name below a folder, whatever layout its owner gave it.

In: a folder and the names in a label file. Out: for each name its file, or nothing; never a guess between two. Knows
nothing of what labels say.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from cpllm_model.decoding.samples import has_video_name
from cpllm_model.errors import DataSetError

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class VideoFiles:
    """The files below a folder, by their names.

    Args:
        folder: where to look.
        content_of: names the content of a file.
        id_parts: how many parts at the end of a path tell videos apart; None: the whole path.
        pictures: whether pictures count as well.

    Raises:
        DataSetError: there is no such folder.
    """

    def __init__(
        self, folder: Path, content_of: Callable[[str], str], id_parts: int | None = 1, pictures: bool = False
    ) -> None:
        if not folder.is_dir():
            raise DataSetError(f"{folder} is not a folder")
        self._content_of, self._id_parts = content_of, id_parts
        self._by_path: dict[str, list[Path]] = defaultdict(list)
        self._by_tail: dict[str, list[Path]] = defaultdict(list)
        self._by_content: dict[str, list[Path]] = defaultdict(list)
        self._by_small_letters: dict[str, list[Path]] = defaultdict(list)
        folder = folder.resolve()
        for file in sorted(folder.rglob("*")):
            if not (has_video_name(file.name) or (pictures and _is_picture(file.name))) or not file.is_file():
                continue
            self._by_content[content_of(file.name)].append(file)
            self._by_small_letters[without_extension(file.name).lower()].append(file)
            for start, tail in enumerate(_tails(file.relative_to(folder).as_posix())):
                for name in {tail, without_extension(tail)}:
                    self._by_tail[name].append(file)
                    if start == 0:
                        self._by_path[name].append(file)

    def locate(self, names: Iterable[str]) -> dict[str, Path]:
        """Find the files of a label file's names; a name without a file is left out.

        A file is found by its path from the folder, or from any folder below, with or without extension. If that
        fails, the path is shortened from its front as long as no other name ends alike; a path that is too short to
        tell videos apart counts from the folder alone, for elsewhere it may be another video's. At last comes the
        content, where one of name and file is the content's bare name: `Sports_720P-00a1` finds
        `Sports_720P-00a1_crf_10_ss_00_t_20.0.mp4`; and then the name in other letters, small or capital.

        Raises:
            DataSetError: a name fits several files, or two names one file.
        """
        names = list(names)
        shared = Counter(without_extension(tail) for name in names for tail in _tails(name))
        located: dict[str, Path] = {}
        claimed: dict[Path, str] = {}
        for name in names:
            fits = self._fits(name, shared)
            if not fits:
                continue
            if len(fits) > 1:
                raise DataSetError(f"{name} may be {fits[0]} or {fits[1]}")
            if fits[0] in claimed:
                raise DataSetError(f"{claimed[fits[0]]} and {name} would both be {fits[0]}")
            located[name], claimed[fits[0]] = fits[0], name
        return located

    def _fits(self, name: str, shared: Counter[str]) -> list[Path]:
        tails = list(_tails(name))
        for start, tail in enumerate(tails):
            if start and shared[without_extension(tail)] > 1:
                return []
            if start == 0:
                indexes = (self._by_path, self._by_tail)
            else:
                tells_apart = self._id_parts is not None and len(tails) - start >= self._id_parts
                indexes = (self._by_tail,) if tells_apart else (self._by_path,)
            for key in (tail, without_extension(tail)):
                for index in indexes:
                    if fits := index.get(key):
                        return fits
        if self._id_parts != 1:
            return []
        bare, content = without_extension(tails[-1]), self._content_of(tails[-1])
        found = self._by_content.get(bare) or self._by_tail.get(content)
        return found or self._by_small_letters.get(bare.lower()) or []


def without_extension(file: str) -> str:
    """Take a known extension off. Others stay: a label may name a video without any, and its name may hold dots."""
    head = file.rpartition(".")[0]
    return head if PurePosixPath(head).name and (has_video_name(file) or _is_picture(file)) else file


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURE_SUFFIXES)


def _tails(path: str) -> Iterable[str]:
    """Give a path and all its ends, down to the file's name."""
    parts = PurePosixPath(path).parts
    return ("/".join(parts[start:]) for start in range(len(parts)))
