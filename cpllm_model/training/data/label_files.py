"""Label files as their users have them: people's ratings in a table, or conversations about a video in JSON.

In: the path of one file. Out: its `Label`s, in the file's order. What a row does not know is None; a row that
cannot be understood is an error that names file and line. Knows nothing of data sets, of their scales, or of where
the videos are.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cpllm_model.errors import DataSetError

CONVERSATION_SUFFIXES = (".json", ".jsonl")

#: Columns that name the video and hold its MOS, the first that a header has; in small letters and digits only.
_NAME_COLUMNS = ("path", "filename", "file", "videoname", "imagename", "name", "vid", "flickrid")
_MOS_COLUMNS = ("mos", "mosfull", "realignmentmos")
_TEST_COLUMN, _CONTENT_COLUMN = "istest", "content"
_UNKNOWN = frozenset({"", "na", "n/a", "nan", "none", "null"})
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_ROLES = {"human": "question", "user": "question", "gpt": "answer", "assistant": "answer"}
_PLACEHOLDER = re.compile(r"\s*<(?:image|video)>\s*")


@dataclass(frozen=True)
class Label:
    """What a label file says of one video.

    Args:
        where: file and line (in a JSON list: entry), counted from 1.
        file: relative path of the video, parts joined by "/", perhaps without folder or extension; None where a
            conversation is about no file, or about several.
        mos: mean opinion score on the data set's own scale; None where there is none.
        in_test: whether the data set's own test split has it; None where the file does not say.
        dialogue: questions and answers.
        in_validation: whether the data set's own validation split has it; None where there is none.
        content: name of what it is a version of, a reference picture; None where the file does not say.
        subset: part of the data set that its authors report by itself; None where there is none.
    """

    where: str
    file: str | None
    mos: float | None = None
    in_test: bool | None = None
    dialogue: tuple[tuple[str, str], ...] = ()
    in_validation: bool | None = None
    content: str | None = None
    subset: str | None = None


def read_ratings(path: Path) -> list[Label]:
    """Read a table of ratings.

    Two forms are told apart by the first line: a header that names columns (separated by comma, semicolon or tab;
    with semicolons the decimal comma is understood), or none and `path, duration, fps, mos` in every line, where
    the path may hold commas. A column `content` names what a video is a version of. Empty lines are skipped.

    Raises:
        DataSetError: the file cannot be read, or a line of it understood.
    """
    text = file_text(path)
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    delimiter = max((",", ";", "\t"), key=first.count)
    columns = [re.sub(r"[^a-z0-9]", "", cell.lower()) for cell in first.split(delimiter)]
    name, mos = (
        next((columns.index(c) for c in known if c in columns), None) for known in (_NAME_COLUMNS, _MOS_COLUMNS)
    )
    labels = _listed(path, text) if name is None or mos is None else _tabled(path, text, delimiter, columns, name, mos)
    if not labels:
        raise DataSetError(f"{path} has no rows")
    return labels


def read_conversations(path: Path) -> list[Label]:
    """Read instruction data: a JSON list of entries, or JSON lines, an entry a line.

    An entry has its file under `video` or `image`, and under `conversations` turns `{from, value}` by human (or
    user) and gpt (or assistant) in alternation. Placeholders of the picture are taken out of the words.

    Raises:
        DataSetError: the file cannot be read, or an entry of it understood.
    """
    text = file_text(path)
    if path.suffix.lower() == ".jsonl":
        lines = ((f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1))
        return [_conversation(where, _parsed(where, line)) for where, line in lines if line.strip()]
    entries = _parsed(str(path), text)
    if not isinstance(entries, list):
        raise DataSetError(f"{path} is not a list of conversations")
    return [_conversation(f"{path}, entry {number}", entry) for number, entry in enumerate(entries, 1)]


def _tabled(path: Path, text: str, delimiter: str, columns: list[str], name: int, mos: int) -> list[Label]:
    """Read rows below a header."""
    test, content = (columns.index(column) if column in columns else None for column in (_TEST_COLUMN, _CONTENT_COLUMN))
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    labels, header_seen = [], False
    try:
        for row in rows:
            cells, where = [cell.strip() for cell in row], f"{path}, line {rows.line_num}"
            if not any(cells):
                continue
            if not header_seen:
                header_seen = True
                continue
            if len(cells) <= max(name, mos, test or 0, content or 0) or any(cells[len(columns) :]):
                raise DataSetError(f"{where}: {len(cells)} cells below a header of {len(columns)}")
            score = cells[mos].replace(",", ".") if delimiter == ";" else cells[mos]
            in_test = None if test is None else _truth(cells[test], where)
            source = None if content is None else cells[content] or None
            file = relative_path(cells[name], where)
            labels.append(Label(where, file, number_of(score, where), in_test, content=source))
    except csv.Error as error:
        raise DataSetError(f"{path}, line {rows.line_num}: {error}") from error
    return labels


def _listed(path: Path, text: str) -> list[Label]:
    """Read `path, duration, fps, mos` lines; the middle two, which are often -1 for unknown, are only checked."""
    labels = []
    for number, line in enumerate(io.StringIO(text), 1):
        where, cells = f"{path}, line {number}", [cell.strip() for cell in line.rsplit(",", 3)]
        if not line.strip():
            continue
        if len(cells) != 4:
            raise DataSetError(f"{where}: {line.strip()!r} is neither a known header nor `path, duration, fps, mos`")
        _, _, mos = (number_of(cell, where) for cell in cells[1:])
        labels.append(Label(where, relative_path(cells[0], where), mos))
    return labels


def _conversation(where: str, entry: Any) -> Label:
    if not isinstance(entry, dict) or not isinstance(turns := entry.get("conversations"), list):
        raise DataSetError(f"{where}: the entry is not an object with conversations")
    file = entry.get("video") or entry.get("image")
    files = file if isinstance(file, list) else [file] if file else []
    if not all(isinstance(one, str) for one in files):
        raise DataSetError(f"{where}: {file!r} is not a path")
    spoken: list[str] = []
    for turn in turns:
        role, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if _ROLES.get(str(role)) != ("answer" if len(spoken) % 2 else "question") or not isinstance(value, str):
            raise DataSetError(f"{where}: turn {len(spoken) + 1} is by {role!r}; human and gpt have to alternate")
        words = _PLACEHOLDER.sub(" ", value).strip()
        if not words:
            raise DataSetError(f"{where}: turn {len(spoken) + 1} says nothing")
        spoken.append(words)
    if not spoken or len(spoken) % 2:
        raise DataSetError(f"{where}: {len(spoken)} turns; every question needs its answer")
    dialogue = tuple(zip(spoken[::2], spoken[1::2], strict=True))
    return Label(where, relative_path(files[0], where) if len(files) == 1 else None, dialogue=dialogue)


def file_text(path: Path) -> str:
    """Read UTF-8 with or without byte order mark; every line ends in a line feed alone.

    Raises:
        DataSetError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataSetError(f"{path} cannot be read: {error}") from error


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataSetError(f"{where} is not JSON: {error}") from error


def relative_path(text: str, where: str) -> str:
    """Give a path with "/" between its parts; one that could lead out of the videos' folder is refused.

    Raises:
        DataSetError: it is such a path, or none; names `where`.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    if not path.name or path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:/", str(path)) or "\0" in text:
        raise DataSetError(f"{where}: {text!r} is not a relative path inside the folder of the videos")
    return str(path)


def number_of(text: str, where: str) -> float | None:
    """Read a finite number; None where the text says that there is none.

    Raises:
        DataSetError: it is neither; names `where`.
    """
    if text.lower() in _UNKNOWN:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.inf
    if not math.isfinite(number):
        raise DataSetError(f"{where}: {text!r} is not a number")
    return number


def _truth(text: str, where: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise DataSetError(f"{where}: is_test is {text!r}, neither true nor false")
    return _TRUTHS[text.lower()]
