"""Where videos lie: an S3 prefix or a local folder whose first level are the libraries.

In: `s3://bucket/prefix` or a folder. Out: names of libraries, their videos as VideoObject page by page, and a
video's bytes as a seekable file: small objects downloaded to an anonymous temporary file, large ones read by
ranges, always those of the listed ETag. Knows nothing of what a video holds.

Names are data. A library's name may hold any character; its `partition_key` is percent-quoted.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote
from urllib.request import url2pathname

from botocore.exceptions import BotoCoreError, ClientError

from cpllm_dagster.catalog import s3_object
from cpllm_dagster.catalog.s3_client import (
    ACCESS,
    SIGNED,
    is_bucket,
    is_endpoint,
    listed_version,
    s3_client,
    without_secrets,
)
from cpllm_dagster.catalog.s3_object import RangedFile, S3Object, listing_error
from cpllm_model.decoding.samples import DecodeLimits, has_video_name
from cpllm_model.errors import (
    AccessDeniedError,
    ConfigurationError,
    LimitExceededError,
    ObjectChangedError,
    ObjectMissingError,
    SourceReadError,
)

log = logging.getLogger(__name__)

#: Objects up to this size are downloaded whole; larger ones are read by ranges.
DOWNLOAD_BYTES = 100_000_000
LISTING_PAGE = 1000
#: Storage classes whose objects may have to be restored before they are read.
ARCHIVES = {"GLACIER", "DEEP_ARCHIVE", "INTELLIGENT_TIERING"}


def partition_key(library: str) -> str:
    """The percent-quoted name of a library: safe as a partition key, a path component and an URL's part."""
    key = quote(library, safe="")
    return "%2E" if key == "." else key.replace("..", "%2E%2E")


def library_name(partition_key: str) -> str:
    """The library whose `partition_key` this is."""
    return unquote(partition_key)


@dataclass(frozen=True)
class VideoObject:
    """One listed video.

    Args:
        uri: `s3://bucket/` and the key, or `file://` and the path; names stand in it as they are, not quoted.
        etag: the version.
        size_bytes: its length.
        last_modified: when this version was written.
        may_be_archived: whether its storage class is one whose objects may have to be restored.
        key: the object's key in its bucket, or the file's path below the catalogue's folder.
    """

    uri: str
    etag: str
    size_bytes: int
    last_modified: datetime
    may_be_archived: bool = False
    key: str = ""


class VideoListing(Iterator[VideoObject]):
    """The videos of a library as they are listed; `skipped` counts the others so far, told by their names."""

    def __init__(self, objects: Iterator[VideoObject]) -> None:
        self._objects = objects
        self.skipped = 0

    def __next__(self) -> VideoObject:
        for found in self._objects:
            if has_video_name(found.uri):
                return found
            self.skipped += 1
        raise StopIteration


@dataclass(frozen=True)
class VideoStore:
    """The libraries under one address; it pickles as its strings, and connects where it is first used.

    Args:
        uri: `s3://bucket[/prefix]`, or a folder as a path or a file:// URI.
        endpoint_url: an S3 endpoint other than AWS's own; credentials come by boto3's usual chain.
        access: how S3 is asked, one of s3_client's ACCESS.

    Raises:
        ConfigurationError: the address is neither.
    """

    uri: str
    endpoint_url: str | None = None
    access: str = SIGNED

    def __post_init__(self) -> None:
        scheme, separator, rest = self.uri.partition("://")
        bucket = rest.partition("/")[0]
        if not self.uri or (separator and scheme != "file" and not (scheme == "s3" and is_bucket(bucket))):
            raise ConfigurationError(f"{without_secrets(self.uri)!r} is neither s3://bucket/prefix nor a folder")
        if self.access not in ACCESS:
            raise ConfigurationError(f"{self.access!r} is no way to read S3: one of {', '.join(ACCESS)}")
        if self.endpoint_url is not None and not is_endpoint(self.endpoint_url):
            raise ConfigurationError("the S3 endpoint is no http(s) address, or one that holds a password")

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoStore, (self.uri, self.endpoint_url, self.access)

    @cached_property
    def _place(self) -> _S3Prefix | _Folder:
        if self.uri.startswith("s3://"):
            return _S3Prefix(self.uri, self.endpoint_url, self.access)
        return _Folder(self.uri)

    def libraries(self) -> list[str]:
        """Names of the first level, sorted.

        Raises:
            ConfigurationError: the folder or bucket is not there, or credentials or endpoint are wrong.
            SourceReadError: the storage does not answer, after retries.
        """
        return sorted(self._place.libraries())

    def objects(self, library: str) -> VideoListing:
        """List the videos of a library, page by page; a library that is not there is empty.

        Raises:
            ConfigurationError, SourceReadError: as `libraries`, while the listing is read.
        """
        if not library or "/" in library:
            raise ConfigurationError(f"{library!r} cannot be the name of a library")
        return VideoListing(self._place.objects(library))

    @contextmanager
    def open(
        self, uri: str, etag: str, size_bytes: int, limits: DecodeLimits, *, whole: bool = True
    ) -> Iterator[BinaryIO]:
        """A listed video's bytes as a seekable binary file; reading it may raise what this raises.

        Args:
            uri, etag, size_bytes: as listed.
            limits: its `max_file_bytes` is the largest object that is touched at all.
            whole: download a small object at once; False suits a probe, which reads little of it.

        Raises:
            ObjectMissingError, ObjectChangedError: the object is gone, or is no longer the listed one.
            AccessDeniedError, ArchivedError: the object may not be read, or has to be restored first.
            SourceReadError: the storage failed to deliver the bytes, after retries.
            LimitExceededError: the object is larger than the limit.
            ConfigurationError: the credentials or the bucket have become wrong, or the disk of temporary files is full.
        """
        if size_bytes > limits.max_file_bytes:
            raise LimitExceededError(uri, f"{size_bytes} bytes are more than {limits.max_file_bytes}")
        with self._place.open(uri, etag, size_bytes, whole) as file:
            yield file


class _Folder:
    """A local folder; links to folders are not followed, and nothing outside it is listed or opened."""

    def __init__(self, uri: str) -> None:
        path = url2pathname(uri.removeprefix("file://")) if uri.startswith("file://") else uri
        self.root = Path(path).resolve()
        if not self.root.is_dir():
            raise ConfigurationError(f"{uri!r} is not a folder")
        self.uri = f"file://{_as_text(self.root)}".rstrip("/")

    def libraries(self) -> Iterator[str]:
        for entry in os.scandir(self.root):
            if entry.is_dir() and self._holds(entry.path):
                if _is_utf8(entry.name):
                    yield entry.name
                else:
                    log.warning("left out a folder whose name is not UTF-8: %r", entry.path)

    def objects(self, library: str) -> Iterator[VideoObject]:
        top = self.root / library
        if library in (".", "..") or not self._holds(top) or not top.exists():
            return
        for folder, folders, names in os.walk(top, onerror=_unreadable):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if not self._holds(path):
                    log.warning("left out a link that leads out of %r: %r", str(self.root), str(path))
                    continue
                try:
                    info = path.stat()
                except FileNotFoundError:
                    continue
                if etag := _file_etag(info):
                    modified = datetime.fromtimestamp(info.st_mtime, UTC)
                    key = _as_text(path.relative_to(self.root))
                    yield VideoObject(f"{self.uri}/{key}", etag, info.st_size, modified, key=key)

    @contextmanager
    def open(self, uri: str, etag: str, size_bytes: int, whole: bool) -> Iterator[BinaryIO]:
        path = _as_path(uri.removeprefix("file://"))
        if not uri.startswith("file://") or not self._holds(path):
            raise ConfigurationError(f"{uri!r} does not lie under {str(self.root)!r}")
        try:
            # A pipe put in a file's place would wait for its writer.
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
        except FileNotFoundError:
            raise ObjectMissingError(uri, "the file was listed and is gone") from None
        except PermissionError:
            raise AccessDeniedError(uri, "the file may be listed and not read") from None
        except OSError as error:
            raise SourceReadError(uri, f"the file cannot be opened: {error.strerror}") from error
        with file:
            if _file_etag(os.fstat(file.fileno())) != etag:
                raise ObjectChangedError(uri, "the file changed since it was listed")
            yield file

    def _holds(self, path: str | Path) -> bool:
        return Path(path).resolve().is_relative_to(self.root)


def _unreadable(error: OSError) -> None:
    raise SourceReadError(str(error.filename), f"the folder cannot be read: {error.strerror}") from error


def _as_text(path: Path) -> str:
    """Give a path as it is; bytes that are not UTF-8 are percent-quoted, since no table could hold them."""
    return "".join(f"%{ord(mark) - 0xDC00:02X}" if "\udc80" <= mark <= "\udcff" else mark for mark in str(path))


def _as_path(text: str) -> str:
    """Give the path that `_as_text` has made this of; what is there by that very name goes first."""
    unquoted = re.sub("%([89A-F][0-9A-F])", lambda found: chr(0xDC00 + int(found[1], 16)), text)
    return text if os.path.lexists(text) or not os.path.lexists(unquoted) else unquoted


def _is_utf8(name: str) -> bool:
    return os.fsencode(name).decode(errors="replace") == name


def _file_etag(info: os.stat_result) -> str:
    """What stands for a file's ETag: size and time in hexadecimal; "" if it is no regular file."""
    return f"{info.st_size:x}-{info.st_mtime_ns:x}" if stat.S_ISREG(info.st_mode) else ""


class _S3Prefix:
    """A prefix of a bucket; one client a process, safe in threads."""

    def __init__(self, uri: str, endpoint_url: str | None, access: str) -> None:
        self.address = uri
        self.bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self.prefix = prefix and prefix.rstrip("/") + "/"
        try:
            self.client = s3_client(endpoint_url, read_timeout_s=s3_object.READ_TIMEOUT_S, access=access)
        except BotoCoreError as error:
            raise listing_error(uri, error) from error

    def libraries(self) -> Iterator[str]:
        unnamed = 0
        for page in self._pages(Prefix=self.prefix, Delimiter="/"):
            unnamed += sum(not found["Key"].endswith("/") for found in page.get("Contents", ()))
            for found in page.get("CommonPrefixes", ()):
                name = found["Prefix"][len(self.prefix) : -1]
                if name:
                    yield name
                else:
                    unnamed += 1
        if unnamed:
            log.warning("%s: %d objects lie in no library and are left out", self.address, unnamed)

    def objects(self, library: str) -> Iterator[VideoObject]:
        for page in self._pages(Prefix=f"{self.prefix}{library}/"):
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):  # a folder's marker
                    yield VideoObject(
                        uri=f"s3://{self.bucket}/{found['Key']}",
                        etag=listed_version(found),
                        size_bytes=found["Size"],
                        last_modified=found["LastModified"],
                        may_be_archived=found.get("StorageClass") in ARCHIVES,
                        key=found["Key"],
                    )

    @contextmanager
    def open(self, uri: str, etag: str, size_bytes: int, whole: bool) -> Iterator[BinaryIO]:
        start = f"s3://{self.bucket}/"
        if not uri.startswith(start + self.prefix):
            raise ConfigurationError(f"{uri!r} does not lie under {self.address!r}")
        source = S3Object(self.client, self.bucket, uri.removeprefix(start), etag, size_bytes)
        if size_bytes > DOWNLOAD_BYTES or not whole:
            yield cast(BinaryIO, RangedFile(source))
            return
        with _downloaded(source) as file:
            yield file

    def _pages(self, **query: str) -> Iterator[dict[str, Any]]:
        pages = self.client.get_paginator("list_objects_v2")
        size = {"PageSize": LISTING_PAGE}
        try:
            yield from pages.paginate(Bucket=self.bucket, PaginationConfig=size, **query)
        except (BotoCoreError, ClientError) as error:
            raise listing_error(self.address, error) from None  # its text is the storage's own


def _downloaded(source: S3Object) -> BinaryIO:
    """A temporary file without a name that holds all of an object's bytes."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile())
            source.download(file)
            file.seek(0)
        except OSError as error:
            raise ConfigurationError(
                f"a video cannot be kept in the temporary folder {tempfile.tempdir!r}: {error.strerror}"
            ) from error
        stack.pop_all()
        return cast(BinaryIO, file)
