"""Videos in a local folder: libraries, their files, and a file's bytes.

In: a folder whose first level are the libraries. Out: entries for a listing, open files. Nothing outside of the folder
is listed or opened: a link to a folder inside is followed, once; one that leads out, nowhere or back is named and left
out. Knows nothing of what a video holds.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from urllib.request import url2pathname

from cpllm_dagster.catalog.listing import MATCHED, LeftOut, NameRule, VideoObject
from cpllm_model.errors import (
    AccessDeniedError,
    ConfigurationError,
    ObjectChangedError,
    ObjectMissingError,
    SourceReadError,
)

log = logging.getLogger(__name__)

LEADS_OUT = "a link that leads out of the catalogue"
LEADS_ROUND = "a link that leads in a circle"
LEADS_NOWHERE = "a link that leads nowhere"
LISTED_ALREADY = "a link to a folder that is listed already"
NO_FILE = "no regular file"


class Folder:
    """A local folder of libraries; the videos that lie in it loose are a library of its own name.

    Raises:
        ConfigurationError: it is not there.
    """

    def __init__(self, uri: str, names: NameRule) -> None:
        path = url2pathname(uri.removeprefix("file://")) if uri.startswith("file://") else uri
        self.root = Path(path).resolve()
        #: "" where the folder has no name that a library could have.
        self.loose = self.root.name if _is_utf8(self.root.name) else ""
        self._names = names
        if not self.root.is_dir():
            raise ConfigurationError(f"{uri!r} is not a folder")

    def libraries(self) -> Iterator[str]:
        """Give the names of the libraries, perhaps one of them twice."""
        for entry in self._scan(self.root):
            if self._names.excludes(entry.name):
                continue
            found = self._look(entry)
            if isinstance(found, LeftOut):
                log.warning("left out, %s: %r", found.reason, entry.path)
            elif found is not None and stat.S_ISDIR(found.st_mode):
                if not _is_utf8(entry.name):
                    log.warning("left out a folder whose name is not UTF-8: %r", entry.path)
                elif entry.is_symlink() and self.root.is_relative_to(os.path.realpath(entry.path)):
                    log.warning("left out, %s: %r", LEADS_ROUND, entry.path)
                else:
                    yield entry.name
            elif found is not None and isinstance(self._file(entry, found), VideoObject):
                if self.loose:
                    yield self.loose
                else:
                    log.warning("left out a video in no library: %r", entry.path)

    def objects(self, library: str) -> Iterator[VideoObject | LeftOut]:
        """List a library; one that is not there is empty.

        Raises:
            SourceReadError: a folder cannot be read; if only the permission is missing, it is left out instead.
        """
        if library == self.loose:
            for entry in self._scan(self.root):
                found = self._look(entry)
                if isinstance(found, os.stat_result) and not stat.S_ISDIR(found.st_mode):
                    yield self._file(entry, found)
                elif isinstance(found, LeftOut) and not entry.is_dir(follow_symlinks=False):
                    yield found
        top = self.root / library
        if library not in (".", "..") and self._holds(top) and top.is_dir():
            yield from self._walk(top)

    def still_there(self, uri: str) -> bool:
        """Tell of a video that no listing names whether it lies where it was, and not by way of a link."""
        path = Path(_as_path(uri.removeprefix("file://")))
        if not uri.startswith("file://") or not path.is_relative_to(self.root):
            return False
        named = self._names.objection(path.relative_to(self.root).as_posix()) is None
        return named and path.is_file() and os.path.realpath(path) == str(path)

    @contextmanager
    def open(self, uri: str, etag: str, size_bytes: int, whole: bool) -> Iterator[BinaryIO]:
        """Open a listed video."""
        path = _as_path(uri.removeprefix("file://"))
        if not uri.startswith("file://") or not self._holds(path):
            raise ConfigurationError(f"{uri!r} is not inside {str(self.root)!r}")
        try:
            # A pipe put in a file's place would wait for its writer.
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
        except FileNotFoundError:
            raise ObjectMissingError(uri, "the file is gone since it was listed") from None
        except PermissionError:
            raise AccessDeniedError(uri, "the file may be listed and not read") from None
        except OSError as error:
            raise SourceReadError(uri, f"the file cannot be opened: {error.strerror}") from error
        with file:
            if _file_etag(os.fstat(file.fileno())) != etag:
                raise ObjectChangedError(uri, "the file changed since it was listed")
            yield file

    def _walk(self, top: Path) -> Iterator[VideoObject | LeftOut]:
        """List the files below a folder, each folder once: links come last, so that true paths go before them."""
        seen: set[str] = set()
        folders, links = [top], deque[Path]()
        while folders or links:
            folder = folders.pop() if folders else links.popleft()
            real = os.path.realpath(folder)
            if folder != top and Path(os.path.realpath(top)).is_relative_to(real):
                yield LeftOut(self._name(folder), LEADS_ROUND)
                continue
            if real in seen:
                yield LeftOut(self._name(folder), LISTED_ALREADY)
                continue
            seen.add(real)
            inside = []
            try:
                entries = self._scan(folder)
            except PermissionError as error:
                if folder == top:
                    raise SourceReadError(str(top), "the folder may not be read") from error
                yield LeftOut(f"{self._name(folder)}/", "a folder that may not be read", f"{_as_uri(folder)}/")
                continue
            for entry in entries:
                found = self._look(entry)
                if found is None:
                    continue
                if isinstance(found, LeftOut):
                    yield found
                elif not stat.S_ISDIR(found.st_mode):
                    yield self._file(entry, found)
                elif self._names.excludes(entry.name):
                    yield LeftOut(f"{self._name(entry.path)}/", MATCHED)
                elif entry.is_symlink():
                    links.append(Path(entry.path))
                else:
                    inside.append(Path(entry.path))
            folders += reversed(inside)

    def _scan(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except PermissionError:
            if folder == self.root:
                raise ConfigurationError(f"{str(folder)!r} may not be read") from None
            raise
        except FileNotFoundError:
            if folder == self.root:
                raise ConfigurationError(f"{str(folder)!r} is gone") from None
            return []  # it went while it was listed
        except OSError as error:
            raise SourceReadError(str(folder), f"the folder cannot be read: {error.strerror}") from error

    def _look(self, entry: os.DirEntry[str]) -> os.stat_result | LeftOut | None:
        """Give what is known of a file or folder, or why it cannot be used; None if it has just gone."""
        name = self._name(entry.path)
        try:
            found = entry.stat()
        except FileNotFoundError:
            return LeftOut(name, LEADS_NOWHERE) if entry.is_symlink() else None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return LeftOut(name, LEADS_ROUND)
            return LeftOut(name, f"cannot be looked at ({error.strerror})", _as_uri(entry.path))
        if entry.is_symlink() and not self._holds(entry.path):
            return LeftOut(name, LEADS_OUT)
        return found

    def _file(self, entry: os.DirEntry[str], found: os.stat_result) -> VideoObject | LeftOut:
        name = self._name(entry.path)
        etag = _file_etag(found)
        if objection := self._names.objection(entry.name) or (None if etag else NO_FILE):
            return LeftOut(name, objection)
        key = _as_text(name)
        return VideoObject(_as_uri(entry.path), etag, found.st_size, _moment(found.st_mtime), key=key)

    def _name(self, path: str | Path) -> str:
        return Path(path).relative_to(self.root).as_posix()

    def _holds(self, path: str | Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self.root)


def _moment(time_s: float) -> datetime | None:
    """Give a file's time; None if it lies past the year 9999, as clocks and network shares have it now and then."""
    try:
        return datetime.fromtimestamp(time_s, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _as_uri(path: str | Path) -> str:
    return f"file://{_as_text(path)}"


def _as_text(path: str | Path) -> str:
    """Give a path as it is; bytes that are not UTF-8 are percent-quoted, since no table could hold them."""
    return "".join(f"%{ord(mark) - 0xDC00:02X}" if "\udc80" <= mark <= "\udcff" else mark for mark in str(path))


def _as_path(text: str) -> str:
    """Give the path that `_as_text` has made this of; what is there by that very name goes first."""
    if os.path.lexists(text):
        return text
    unquoted = os.fsdecode(re.sub(rb"%([89A-F][0-9A-F])", lambda found: bytes([int(found[1], 16)]), os.fsencode(text)))
    # Letters beyond ASCII stand in a text as they are: quoted, as in tables of earlier versions, they name no file.
    return unquoted if os.path.lexists(unquoted) and _as_text(unquoted) == text else text


def _is_utf8(name: str) -> bool:
    return os.fsencode(name).decode(errors="replace") == name


def _file_etag(info: os.stat_result) -> str:
    """What stands for a file's ETag: size and time in hexadecimal; "" if it is no regular file."""
    return f"{info.st_size:x}-{info.st_mtime_ns:x}" if stat.S_ISREG(info.st_mode) else ""
