"""One run at a time: a claim on a library that ends with the process that holds it.

In: a lake's storage, a name, who claims it. Out: a claim, or a LakeError that names the holder. In a folder it is a
lock of the kernel on a file, on S3 an object that is renewed while its holder lives and that no other stands beside;
both lie in the work folder. Knows nothing of tables.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from cpllm_dagster.lake.storage import WORK_FOLDER, BucketStorage, FolderStorage, translated
from cpllm_model.errors import LakeError

_log = logging.getLogger(__name__)

#: A claim on S3 that nobody has renewed for so long is nobody's.
LEASE_S = 45.0
RENEWAL_S = 10.0


@contextlib.contextmanager
def claimed(storage: FolderStorage | BucketStorage, name: str, holder: str) -> Iterator[Callable[[], None]]:
    """Hold a claim for the length of a `with` block.

    Args:
        storage: where all who may claim look.
        name: what is claimed; a name of a file.
        holder: who claims, in the words that others are told.

    Yields:
        what raises LakeError when the claim has been lost (on S3, after LEASE_S without a renewal).

    Raises:
        LakeError: another holds it, or the storage refuses.
    """
    place = f"{WORK_FOLDER}/claims/{name}"
    if isinstance(storage, FolderStorage):
        with _locked(storage.root / place, holder):
            yield lambda: None
    else:
        claim = _Announcement(storage, place, holder)
        try:
            claim.take()
            with claim.renewed():
                yield claim.require
        finally:
            claim.withdraw()


@contextlib.contextmanager
def _locked(path: Path, holder: str) -> Iterator[None]:
    with translated(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _lock(path)
    try:
        with translated(str(path)):
            os.truncate(handle, 0)
            os.write(handle, holder.encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path) -> int:
    """Open and lock a file; the one before us removes it at its end, so it may have to be made again."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BlockingIOError:
            holder = os.pread(handle, 1000, 0).decode(errors="replace")
            os.close(handle)
            raise _taken(holder) from None
        except FileNotFoundError:
            pass
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


class _Announcement:
    """An object of one's own in the folder of a claim; who finds no other there holds the claim.

    It needs no conditional PUT, which many servers do not have, only that a listing shows every object whose PUT has
    ended: each puts first and lists then, so of two the one whose PUT ends later sees the other's object, and never do
    both find themselves alone. Who finds another's object that comes first by name takes the own one away, so that the
    first is alone in the end. An object that is not renewed for LEASE_S is taken for a dead process's and removed;
    whoever needs longer than that between two PUTs takes the claim for lost.
    """

    def __init__(self, storage: BucketStorage, place: str, holder: str) -> None:
        self._storage, self._place, self._holder = storage, place, holder
        self._name = f"{place}/{uuid.uuid4().hex}"
        self._puts = 0
        self._put_at = 0.0
        self._lost = False

    def take(self) -> None:
        """Wait until the claim is held; raises LakeError when another holds it and lives."""
        seen: dict[str, tuple[dict[str, Any], float]] = {}
        with translated(self._storage.address):
            while True:
                names = self._storage.list(self._place)
                if not names:
                    self._put(held=False)
                    names = self._storage.list(self._place)
                    if names == [self._name] and self._put(held=True):
                        return
                elif names == [self._name]:
                    if self._put(held=True):
                        return
                elif self._name == names[0]:
                    self._put(held=False)  # shows the others that the first of them lives
                elif self._name in names:
                    self.withdraw()
                for name in names:
                    if name != self._name:
                        self._look_at(name, seen)
                time.sleep(min(1.0, LEASE_S / 10))

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew until the `with` block ends."""
        ended = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(ended,), name="claim", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def withdraw(self) -> None:
        """Remove the own object; one that cannot be removed now is removed by who finds it not renewed."""
        if self._puts:
            with contextlib.suppress(LakeError):
                self._storage.delete([self._name])

    def require(self) -> None:
        """Raise LakeError if the claim was lost."""
        if self._lost or time.monotonic() - self._put_at > LEASE_S:
            raise LakeError(f"{self._storage.address}{self._place}: the claim was lost, another run may hold it now")

    def _look_at(self, name: str, seen: dict[str, tuple[dict[str, Any], float]]) -> None:
        """Compare another's object with what it was: its holder lives, or is dead, or it is too early to say."""
        content, now = self._content(name), time.monotonic()
        if content is None:
            return
        before, since = seen.setdefault(name, (content, now))
        if content != before:
            if content.get("held"):
                raise _taken(str(content.get("holder", "another run")))
            seen[name] = (content, now)
        elif now - since > LEASE_S:
            _log.warning("%r is taken over from %r", self._place, content.get("holder"))
            self._storage.delete([name])

    def _renew_until(self, ended: threading.Event) -> None:
        while not ended.wait(RENEWAL_S) and not self._lost:
            try:
                # A machine that slept may find that it was taken for dead, however little time its clock shows.
                self._lost = self._content(self._name) is None or not self._put(held=True)
            except (BotoCoreError, ClientError) as error:
                _log.warning("%r is not renewed: %s", self._place, type(error).__name__)

    def _put(self, held: bool) -> bool:
        """Put the own object; whether that ended within LEASE_S of the time before, so that nobody took us for dead."""
        started = time.monotonic()
        self._puts += 1
        content = {"holder": self._holder, "held": held, "puts": self._puts}
        self._storage.client.put_object(**self._key(self._name), Body=json.dumps(content).encode())
        in_time = time.monotonic() - self._put_at <= LEASE_S
        self._put_at = started
        return in_time

    def _content(self, name: str) -> dict[str, Any] | None:
        """Read an announcement; None where there is none any more."""
        try:
            answer = self._storage.client.get_object(**self._key(name))
        except ClientError as error:
            if error.response["Error"].get("Code") not in {"NoSuchKey", "404"}:
                raise
            return None
        try:
            content = json.loads(answer["Body"].read())
        except ValueError:  # somebody else's object
            content = {}
        return content if isinstance(content, dict) else {}

    def _key(self, name: str) -> dict[str, str]:
        return {"Bucket": self._storage.bucket, "Key": self._storage.prefix + name}


def _taken(holder: str) -> LakeError:
    return LakeError(f"another run is working on this library ({holder!r}): start again when it has ended")
