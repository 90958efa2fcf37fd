"""What a listing of a library gives: its videos, and what it leaves out, counted by reason with examples.

In: the entries of a storage one by one, patterns of names to leave out. Out: videos, each once; what was left out and
why; addresses that could not be looked at, of which nothing may be concluded. Knows no storage.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from cpllm_model.decoding.samples import has_video_name

#: What NAS boxes, file managers and operating systems leave beside videos, and folders of what was deleted.
EXCLUDED = (
    "@eaDir",
    "@Recycle",
    "#recycle",
    "#snapshot",
    ".snapshot",
    "$RECYCLE.BIN",
    "RECYCLER",
    "System Volume Information",
    "lost+found",
    ".Trash*",
    ".Spotlight-V100",
    ".fseventsd",
    ".AppleDouble",
    "._*",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
)
NO_ENDING = "no ending of a video"
MATCHED = "a name that is excluded"
REPEATED = "listed twice"
EXAMPLES_KEPT = 5


@dataclass(frozen=True)
class VideoObject:
    """One listed video.

    Args:
        uri: `s3://bucket/` and the key, or `file://` and the path; names stand in it as they are, not quoted.
        etag: the version; made of size and time where the storage lists no ETag.
        size_bytes: as listed.
        last_modified: None where the storage names no time that a calendar has.
        may_be_archived: whether its storage class is one whose objects may have to be restored.
        key: the object's key in its bucket, or the file's path below the catalogue's folder.
    """

    uri: str
    etag: str
    size_bytes: int
    last_modified: datetime | None
    may_be_archived: bool = False
    key: str = ""


@dataclass(frozen=True)
class LeftOut:
    """One entry that is not among the videos.

    Args:
        name: where it lies, below the catalogue's address.
        reason: why, in words.
        unread: the address of what could not be looked at; one of a folder ends in a slash.
    """

    name: str
    reason: str
    unread: str | None = None


@dataclass(frozen=True)
class NameRule:
    """Which names are those of videos.

    Args:
        excluded: patterns of the shell, without regard to case; a file or folder of such a name is left out.
    """

    excluded: tuple[str, ...] = EXCLUDED

    @cached_property
    def _excluded(self) -> re.Pattern[str]:
        return re.compile("|".join(fnmatch.translate(pattern.casefold()) for pattern in self.excluded) or r"(?!)")

    def excludes(self, name: str) -> bool:
        """Tell whether a file or folder of this name is left out."""
        return self._excluded.match(name.casefold()) is not None

    def objection(self, path: str) -> str | None:
        """Give why a file of this path is no video, None if it is taken for one."""
        parts = path.split("/")
        if any(map(self.excludes, parts)):
            return MATCHED
        return None if has_video_name(parts[-1]) else NO_ENDING


class VideoListing(Iterator[VideoObject]):
    """The videos of a library as they are listed, each address once.

    left_out: so far, the number of other entries by reason.
    examples: the names of the first of them by reason.
    unread: addresses that could not be looked at.
    """

    def __init__(self, entries: Iterator[VideoObject | LeftOut]) -> None:
        self._entries = entries
        self._named: set[str] = set()
        self.left_out: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.unread: list[str] = []

    def __next__(self) -> VideoObject:
        for found in self._entries:
            if isinstance(found, LeftOut):
                self._leave_out(found)
            elif found.uri in self._named:
                self._leave_out(LeftOut(found.uri, REPEATED))
            else:
                self._named.add(found.uri)
                return found
        raise StopIteration

    def _leave_out(self, entry: LeftOut) -> None:
        self.left_out[entry.reason] += 1
        examples = self.examples.setdefault(entry.reason, [])
        if len(examples) < EXAMPLES_KEPT:
            examples.append(entry.name)
        if entry.unread is not None:
            self.unread.append(entry.unread)
