"""One run at a time: a claim on a library that ends with the process that holds it.

In: a lake's storage, a name, who claims it. Out: a claim, or a LakeError that names the holder. In a folder it is a
lock of the kernel on a file, on S3 an object that is renewed while its holder lives; both lie in the work folder.
Knows nothing of tables.
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
#: What S3 answers when an object is, or is not, what the request says it should be.
_OTHERS = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409", "NoSuchKey", "404"}


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
        lease = _Lease(storage, place, holder)
        lease.take()
        with lease.renewed():
            yield lease.require


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


class _Lease:
    """An object that exists while its holder renews it; who finds it unchanged for LEASE_S takes it over."""

    def __init__(self, storage: BucketStorage, name: str, holder: str) -> None:
        self._storage, self._name, self._holder = storage, name, holder
        self._token = uuid.uuid4().hex
        self._renewals = 0
        self._etag = ""
        self._renewed_at = 0.0
        self._lost = False

    def take(self) -> None:
        """Put the object where there is none, or in the place of one that is not renewed any more."""
        with translated(self._storage.address):
            if self._put(IfNoneMatch="*"):
                return
            watched, since = None, 0.0
            while True:
                etag, content = self._found()
                if etag is None:
                    if self._put(IfNoneMatch="*"):
                        return
                elif watched is None:
                    watched, since = etag, time.monotonic()
                elif etag != watched:
                    raise _taken(content.get("holder", "another run"))
                elif time.monotonic() - since > LEASE_S:
                    _log.warning("%r is taken over from %r", self._name, content.get("holder"))
                    if self._put(IfMatch=etag):
                        return
                    watched = None
                time.sleep(min(1.0, LEASE_S / 10))

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew until the `with` block ends, then remove the object."""
        ended = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(ended,), name="claim", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            if not self._lost:
                with contextlib.suppress(LakeError):  # it runs out by itself
                    self._storage.delete([self._name])

    def require(self) -> None:
        if self._lost or time.monotonic() - self._renewed_at > LEASE_S:
            raise LakeError(f"{self._storage.address}{self._name}: the claim was lost, another run may hold it now")

    def _renew_until(self, ended: threading.Event) -> None:
        while not ended.wait(RENEWAL_S) and not self._lost:
            try:
                self._lost = not self._put(IfMatch=self._etag)
            except (BotoCoreError, ClientError) as error:
                _log.warning("%r is not renewed: %s", self._name, type(error).__name__)

    def _put(self, **condition: str) -> bool:
        """Write the object under a condition; whether it is ours then."""
        self._renewals += 1
        content = {"holder": self._holder, "token": self._token, "renewals": self._renewals}
        started = time.monotonic()
        try:
            answer = self._storage.client.put_object(**self._key, Body=json.dumps(content).encode(), **condition)
            etag = answer["ETag"]
        except ClientError as error:
            if error.response["Error"].get("Code") not in _OTHERS:
                raise
            # A repeated request meets what the first one, whose answer was lost, has written.
            etag, found = self._found()
            if found != content:
                return False
        self._etag, self._renewed_at = etag or "", started
        return True

    def _found(self) -> tuple[str | None, dict[str, Any]]:
        try:
            answer = self._storage.client.get_object(**self._key)
        except ClientError as error:
            if error.response["Error"].get("Code") not in {"NoSuchKey", "404"}:
                raise
            return None, {}
        try:
            content = json.loads(answer["Body"].read())
        except ValueError:  # somebody else's object
            content = {}
        return answer["ETag"], content if isinstance(content, dict) else {}

    @property
    def _key(self) -> dict[str, str]:
        return {"Bucket": self._storage.bucket, "Key": self._storage.prefix + self._name}


def _taken(holder: str) -> LakeError:
    return LakeError(f"the library is being worked on by {holder!r}: start again when that has ended")
