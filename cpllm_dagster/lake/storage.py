"""The files of a lake, in a local folder or under a prefix of an S3 bucket.

In: names relative to the lake (`scores/library=a/data.parquet`). Out: listings, snapshots to read, whole files
put in place at once. A snapshot keeps the version it opened: in a folder by the open file, on S3 by the ETag of
every answer. Knows nothing of tables or Parquet.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import tempfile
import time
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

from cpllm_dagster.catalog.s3_client import is_bucket, is_endpoint, s3_client, version_of, without_secrets
from cpllm_model.errors import LakeError

WORK_FOLDER = ".work"
_HEAD_BYTES = 2 << 20
_BUFFER_BYTES = 1 << 20
_STALE_S = 24 * 3600.0
_BODY_ATTEMPTS = 3
_READ_TIMEOUT_S = 60.0
_DELETES_AT_ONCE = 16
_MULTIPART_BYTES = 256 << 20


class FolderStorage:
    """The files below one local folder, which is made when the first file is put."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def list(self, prefix: str) -> list[str]:
        """Return the names that begin with the folder `prefix`, sorted."""
        with translated(str(self.root)):
            found = sorted(path for path in (self.root / prefix).rglob("*") if path.is_file())
        return [path.relative_to(self.root).as_posix() for path in found]

    def address_of(self, name: str) -> str:
        """Return the address of a file as programs take it."""
        return (self.root / name).absolute().as_uri()

    def open(self, name: str) -> Snapshot:
        """Open a file's present version; raises FileNotFoundError when there is none of this name."""
        return _FileSnapshot(self.root / name)

    @contextlib.contextmanager
    def work_file(self) -> Iterator[Path]:
        """Lend a path on the lake's own disk, where no table's glob reaches; it is removed at the end."""
        folder = self.root / WORK_FOLDER / "writing"
        with translated(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if old.stat().st_mtime < time.time() - _STALE_S:
                        old.unlink()
        path = folder / f"{uuid.uuid4().hex}.tmp"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def put(self, source: Path, name: str) -> None:
        """Move a work file to its name in one rename; readers see the old file or the new one."""
        target = self.root / name
        with translated(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            sync(source)
            source.replace(target)
            sync(target.parent)

    def delete(self, names: list[str]) -> None:
        """Remove files; a missing one is no error."""
        with translated(str(self.root)):
            for name in names:
                (self.root / name).unlink(missing_ok=True)


class BucketStorage:
    """The objects under one prefix of an S3 bucket; credentials by boto3's usual chain."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.address = f"s3://{bucket}/{self.prefix}"
        self._endpoint_url = endpoint_url

    @functools.cached_property
    def client(self) -> Any:
        with translated(self.address):
            return s3_client(self._endpoint_url, read_timeout_s=_READ_TIMEOUT_S)

    def list(self, prefix: str) -> list[str]:
        """Return the names that begin with the folder `prefix`, or all where it is empty; sorted."""
        pages = self.client.get_paginator("list_objects_v2")
        with translated(self.address):
            keys = [
                item["Key"].removeprefix(self.prefix)
                for page in pages.paginate(Bucket=self.bucket, Prefix=f"{self.prefix}{prefix}{'/' if prefix else ''}")
                for item in page.get("Contents", ())
            ]
        return sorted(keys)

    def address_of(self, name: str) -> str:
        """Return the address of an object as programs take it."""
        return f"{self.address}{name}"

    def open(self, name: str) -> Snapshot:
        """Open an object's present version; raises FileNotFoundError when there is none of this name."""
        return _ObjectSnapshot(self.client, self.bucket, self.prefix + name)

    @contextlib.contextmanager
    def work_file(self) -> Iterator[Path]:
        """Lend a path on the local disk; it is removed at the end."""
        with translated(tempfile.gettempdir()):
            folder = tempfile.TemporaryDirectory(prefix="cpllm-lake-")
        with folder as path:
            yield Path(path) / "work.tmp"

    def put(self, source: Path, name: str) -> None:
        """Upload a work file; S3 shows the object when it is complete, and the old one until then."""
        transfer = TransferConfig(multipart_threshold=_MULTIPART_BYTES, multipart_chunksize=_MULTIPART_BYTES)
        # A browser shows a page only if the object says that it is one.
        says = {"ContentType": "text/html; charset=utf-8"} if name.endswith(".html") else None
        with translated(self.address):
            self.client.upload_file(str(source), self.bucket, self.prefix + name, ExtraArgs=says, Config=transfer)

    def delete(self, names: list[str]) -> None:
        """Remove objects; a missing one is no error.

        One by one: some servers know no request that deletes many, or refuse it for want of a Content-MD5.
        """

        def delete_one(name: str) -> None:
            with contextlib.suppress(FileNotFoundError), translated(f"{self.address}{name}"):
                self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

        with ThreadPoolExecutor(_DELETES_AT_ONCE) as threads:
            list(threads.map(delete_one, names))


def storage_at(uri: str, endpoint_url: str | None = None) -> FolderStorage | BucketStorage:
    """Open the storage behind an address; nothing is read yet.

    Args:
        uri: `s3://bucket/prefix`, `file:///folder` or a folder's path.
        endpoint_url: address of an S3-compatible server; None is AWS.

    Raises:
        LakeError: the address has another scheme or no valid bucket name, or the endpoint is not an http(s) address.
    """
    if endpoint_url is not None and not is_endpoint(endpoint_url):
        raise LakeError("the S3 endpoint is not an http(s) address, or it contains a password")
    if not uri.strip():
        raise LakeError("the lake's address is empty; give s3://bucket/prefix or a folder")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return FolderStorage(Path(uri).expanduser().absolute())
    if scheme == "file":
        return FolderStorage(Path(unquote(urlsplit(uri).path)))
    if scheme != "s3":
        raise LakeError(f"the lake's address begins with {scheme!r}://; give s3://bucket/prefix or a folder")
    bucket, _, prefix = rest.partition("/")
    if not is_bucket(bucket):
        # What stands before an @ may be a secret that somebody put where a bucket name belongs.
        named = without_secrets(uri).removeprefix("s3://").partition("/")[0]
        raise LakeError(f"{named!r} in the address is not a bucket name")
    return BucketStorage(bucket, prefix, endpoint_url)


class Snapshot(ABC):
    """One version of a file, whatever takes its name later; threads may share it.

    version: tells this version of the name from others.
    size_bytes: its length.
    """

    version: str
    size_bytes: int

    @abstractmethod
    def read_at(self, start: int, stop: int) -> bytes:
        """Return bytes from `start` to `stop`, both within the file; perhaps fewer, but at least one."""

    def reader(self) -> io.BufferedReader:
        """Return a seekable reader with a position of its own; it need not be closed."""
        return io.BufferedReader(_SnapshotReader(self), _BUFFER_BYTES)


class BytesSnapshot(Snapshot):
    """Content in memory that stands for a file."""

    def __init__(self, content: bytes, version: str) -> None:
        self._content = content
        self.version, self.size_bytes = version, len(content)

    def read_at(self, start: int, stop: int) -> bytes:
        return self._content[start:stop]


class _FileSnapshot(Snapshot):
    """A local file, which stays open until nothing refers to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with translated(str(path)):
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._handle)
        status = os.fstat(self._handle)
        self.version, self.size_bytes = f"{status.st_ino}-{status.st_mtime_ns}", status.st_size

    def read_at(self, start: int, stop: int) -> bytes:
        with translated(str(self._path)):
            return os.pread(self._handle, stop - start, start)


class _ObjectSnapshot(Snapshot):
    """An S3 object read by ranges of one ETag; a small one comes whole with the first request."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client, self._bucket, self._key = client, bucket, key
        self.version = ""
        self._head = self._get(0, _HEAD_BYTES)

    def read_at(self, start: int, stop: int) -> bytes:
        return self._head[start:stop] if start < len(self._head) else self._get(start, stop)

    def _get(self, start: int, stop: int) -> bytes:
        request = {"Bucket": self._bucket, "Key": self._key, "Range": f"bytes={start}-{stop - 1}"}
        address = f"s3://{self._bucket}/{self._key}"
        with translated(address):
            answer, data = _get_whole(self._client, request)
        if self.version and version_of(answer) != self.version:
            raise LakeError(f"{address}: the table was replaced while it was read; run the query again")
        self.version, self.size_bytes = version_of(answer), int(answer["ContentRange"].rpartition("/")[2])
        return data


class _SnapshotReader(io.RawIOBase):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size_bytes = self._snapshot.size_bytes
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size_bytes}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._snapshot.size_bytes)
        if stop <= self._position:
            return 0
        data = self._snapshot.read_at(self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _get_whole(client: Any, request: dict[str, str]) -> tuple[dict[str, Any], bytes]:
    """Get an object and its body; boto3 repeats failed requests, but not a body that breaks off."""
    for _ in range(_BODY_ATTEMPTS - 1):
        answer = client.get_object(**request)
        with contextlib.suppress(HTTPClientError, IncompleteReadError):
            return answer, answer["Body"].read()
    answer = client.get_object(**request)
    return answer, answer["Body"].read()


@contextlib.contextmanager
def translated(address: str) -> Iterator[None]:
    """Turn what the disk or S3 raises into one sentence; a missing file stays a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LakeError(f"{address}: {error.strerror or error}") from error
    except (BotoCoreError, Boto3Error, ClientError, ValueError) as error:
        answer = error.__context__ if isinstance(error, Boto3Error) else error
        if not isinstance(answer, ClientError):
            raise LakeError(f"{address}: {error}") from error
        code = str(answer.response.get("Error", {}).get("Code", "unknown"))
        if code in {"NoSuchKey", "404"}:
            raise FileNotFoundError(address) from None
        # The error itself holds S3's own text, which may quote what must not be logged.
        raise LakeError(f"{address}: {_CAUSES.get(code, f'S3 answered {code}')}") from None


_CAUSES = {
    "NoSuchBucket": "the bucket does not exist",
    "AccessDenied": "access is denied for these credentials",
    "403": "access is denied for these credentials",
    "InvalidAccessKeyId": "the access key is not known",
    "SignatureDoesNotMatch": "the secret key does not match the access key",
    "ExpiredToken": "the credentials have expired",
}


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
