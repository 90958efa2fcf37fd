"""The label files of rated still-picture sets, as their authors publish them.

In: the name of a set, and its label file or a folder below which that lies. Out: its `Label`s, on the set's own
scale. A form that is not understood is an error that names file and line. Knows nothing of where the pictures are.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from cpllm_model.errors import DataSetError
from cpllm_model.training.data.label_files import Label, file_text, number_of, read_ratings, relative_path

#: KonIQ-10k's own words for its splits.
_KONIQ_SETS = ("training", "validation", "test")
#: A sheet of a workbook, unpacked; SPAQ's has 2 MB.
_MAX_SHEET_BYTES = 1 << 26
_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


@dataclass(frozen=True)
class Form:
    """How a set is published.

    Args:
        files: names of its label files, all of which are needed.
        read: gives the labels from their paths.
    """

    files: tuple[str, ...]
    read: Callable[..., list[Label]]


def read_picture_labels(name: str, labels: Path) -> list[Label]:
    """Read the labels of a still-picture set.

    Args:
        name: one of FORMS.
        labels: a label file, under any name if the set has one; or a folder below which they lie.

    Raises:
        DataSetError: a file is missing, or cannot be understood.
    """
    form = FORMS[name]
    if labels.is_dir():
        paths = [_only(labels, file) for file in form.files]
    else:
        paths = [labels] if len(form.files) == 1 else [labels.parent / file for file in form.files]
    found = form.read(*paths)
    if not found:
        raise DataSetError(f"{paths[0]} has no rows")
    return found


def _only(folder: Path, file: str) -> Path:
    found = sorted(folder.rglob(file))
    if len(found) != 1:
        raise DataSetError(f"below {folder} lie {len(found)} files {file!r}, not one; name the label file itself")
    return found[0]


def _biq2021(training: Path, test: Path) -> list[Label]:
    """Image Name, MOS in 0-1; a file each for training and test. Names begin with the subset, as in "ss03 (12).jpg"."""
    return [
        replace(label, in_test=in_test, subset=(label.file or "").rpartition("/")[2].partition(" ")[0])
        for path, in_test in ((training, False), (test, True))
        for label in read_ratings(path)
    ]


def _koniq(path: Path) -> list[Label]:
    """image_name and how many (or which share) chose each of 1 to 5; `set` in the file that has the splits.

    The column MOS is on 1-5 in one of its files and on 0-100 in the other, so it is computed from the choices.
    """
    labels = []
    for where, row in _rows(path, "image_name", *(f"c{level}" for level in range(1, 6))):
        chosen = [number_of(row[f"c{level}"], where) or 0.0 for level in range(1, 6)]
        if min(chosen) < 0 or sum(chosen) <= 0:
            raise DataSetError(f"{where}: the choices {chosen} are none")
        mos = sum(level * share for level, share in enumerate(chosen, 1)) / sum(chosen)
        split = row.get("set")
        if split is not None and split not in _KONIQ_SETS:
            raise DataSetError(f"{where}: set is {split!r}, none of {', '.join(_KONIQ_SETS)}")
        in_test, in_validation = (None, None) if split is None else (split == "test", split == "validation")
        file = relative_path(row["image_name"], where)
        labels.append(Label(where, file, mos, in_test, in_validation=in_validation))
    return labels


def _spaq(path: Path) -> list[Label]:
    """Image name, MOS in 0-100; the workbook of the authors, or the same as CSV."""
    if path.suffix.lower() != ".xlsx":
        return read_ratings(path)
    rows = _sheet(path)
    header = next(rows, (0, []))[1]
    if "Image name" not in header or "MOS" not in header:
        raise DataSetError(f"{path}, row 1: {header!r:.200} has no columns 'Image name' and 'MOS'")
    name, mos, labels = header.index("Image name"), header.index("MOS"), []
    for number, cells in rows:
        where = f"{path}, row {number}"
        if len(cells) <= max(name, mos):
            raise DataSetError(f"{where}: {len(cells)} cells below a header of {len(header)}")
        labels.append(Label(where, relative_path(cells[name], where), number_of(cells[mos], where)))
    return labels


def _kadid(path: Path) -> list[Label]:
    """dist_img, ref_img, dmos in 1-5, where 5 is the best in spite of the name."""
    return [
        Label(
            where,
            relative_path(row["dist_img"], where),
            number_of(row["dmos"], where),
            content=Path(relative_path(row["ref_img"], where)).stem,
        )
        for where, row in _rows(path, "dist_img", "ref_img", "dmos")
    ]


def _tid2013(path: Path) -> list[Label]:
    """Lines of MOS in 0-9 and file name; the name begins with its reference's, in small or capital letters."""
    labels = []
    for number, line in enumerate(file_text(path).split("\n"), 1):
        where, cells = f"{path}, line {number}", line.split()
        if not cells:
            continue
        reference = re.match(r"(i\d\d)_\d\d_\d", cells[-1], re.IGNORECASE)
        if len(cells) != 2 or reference is None:
            raise DataSetError(f"{where}: {line.strip()!r:.200} is not `MOS iRR_DD_L.bmp`")
        file = relative_path(cells[1], where)
        labels.append(Label(where, file, number_of(cells[0], where), content=reference[1].lower()))
    return labels


def _live_itw(images: Path, scores: Path) -> list[Label]:
    """AllImages_release and AllMOS_release in 0-100; t1 to t7, on which raters practised, count as unrated."""
    names, mos = _variable(images), _variable(scores)
    if len(names) != len(mos):
        raise DataSetError(f"{images} has {len(names)} names, {scores} has {len(mos)} scores")
    labels = []
    for number, (name, score) in enumerate(zip(names, mos, strict=True), 1):
        where = f"{images}, entry {number}"
        rated = None if re.match(r"t\d", name) else number_of(score, where)
        labels.append(Label(where, relative_path(name, where), rated))
    return labels


def _variable(path: Path) -> list[str]:
    """The entries of the vector in a MATLAB file that has its name."""
    import numpy as np
    from scipy.io import loadmat

    try:
        vector = np.ravel(loadmat(path, variable_names=[path.stem])[path.stem])
        return [str(np.ravel(entry)[0]) for entry in vector]
    except Exception as error:  # whatever is in the file, it is not this vector
        raise DataSetError(f"{path} has no vector {path.stem}: {error}") from error


def _rows(path: Path, *columns: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table that has these columns, each with file and line."""
    reader = csv.DictReader(io.StringIO(file_text(path), newline=""), skipinitialspace=True, restval="")
    if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
        raise DataSetError(f"{path}, line 1: no column {', '.join(missing)}")
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise DataSetError(f"{where}: more cells than the header has")
            yield where, {column: cell.strip() for column, cell in row.items()}
    except csv.Error as error:
        raise DataSetError(f"{path}, line {reader.line_num}: {error}") from error


def _sheet(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each row of a workbook's first sheet that has any (ECMA-376, part 1, 18.3)."""
    try:
        with zipfile.ZipFile(path) as book:
            sheets = sorted(name for name in book.namelist() if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name))
            texts = "xl/sharedStrings.xml"
            shared = (
                [_text(item) for item in _part(book, texts).findall(f"{_SHEET}si")] if texts in book.namelist() else []
            )
            rows = _part(book, sheets[0]).iter(f"{_SHEET}row")
            found = [(int(row.get("r", "0")), _cells(row, shared)) for row in rows]
    except Exception as error:  # whatever is in the file, it is no such workbook
        raise DataSetError(f"{path} is not a workbook with a sheet of labels: {error}") from error
    yield from ((number, cells) for number, cells in found if any(cells))


def _part(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if book.getinfo(name).file_size > _MAX_SHEET_BYTES:
        raise ValueError(f"{name} has {book.getinfo(name).file_size} bytes")
    return ElementTree.fromstring(book.read(name))  # noqa: S314 (expat bounds what entities may unpack to)


def _cells(row: ElementTree.Element, shared: list[str]) -> list[str]:
    cells: list[str] = []
    for cell in row.findall(f"{_SHEET}c"):
        letters = re.match(r"[A-Z]{1,3}", cell.get("r", ""))
        column = sum((ord(c) - 64) * 26**place for place, c in enumerate(reversed(letters[0]))) if letters else 0
        cells += [""] * (column - 1 - len(cells))
        value = cell.findtext(f"{_SHEET}v", "")
        if cell.get("t") == "s":
            value = shared[int(value)]
        elif cell.get("t") == "inlineStr":
            value = _text(cell)
        cells.append(value.strip())
    return cells


def _text(element: ElementTree.Element) -> str:
    return "".join(part.text or "" for part in element.iter(f"{_SHEET}t"))


FORMS = {
    "biq2021": Form(("Train (Images and MOS).csv", "Test (Images and MOS).csv"), _biq2021),
    "koniq-10k": Form(("koniq10k_distributions_sets.csv",), _koniq),
    "spaq": Form(("MOS and Image attribute scores.xlsx",), _spaq),
    "kadid-10k": Form(("dmos.csv",), _kadid),
    "tid2013": Form(("mos_with_names.txt",), _tid2013),
    "live-itw": Form(("AllImages_release.mat", "AllMOS_release.mat"), _live_itw),
}
