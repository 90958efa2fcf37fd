"""Where videos lie: an S3 prefix or a local folder whose first level are the libraries.

In: `s3://bucket/prefix` or a folder. Out: names of libraries, their videos as VideoObject page by page, and a
video's bytes as a seekable file: small objects downloaded to an anonymous temporary file, large ones read by
ranges, always those of the listed ETag. Knows nothing of what a video holds.

Videos that lie loose, in no library, are one of the address's last name. Names are data: a library's name may hold
any character; its `partition_key` is percent-quoted.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote
from urllib.request import url2pathname

from botocore.exceptions import BotoCoreError, ClientError

from cpllm_dagster.catalog import s3_object
from cpllm_dagster.catalog.folder import Folder
from cpllm_dagster.catalog.listing import EXCLUDED, LeftOut, NameRule, VideoListing, VideoObject
from cpllm_dagster.catalog.s3_client import (
    ACCESS,
    SIGNED,
    is_bucket,
    is_endpoint,
    listed_version,
    s3_client,
    without_secrets,
)
from cpllm_dagster.catalog.s3_object import DENIAL_CODES, RangedFile, S3Object, listing_error
from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.errors import ConfigurationError, LimitExceededError, SourceReadError

#: Objects up to this size are downloaded whole; larger ones are read by ranges.
DOWNLOAD_BYTES = 100_000_000
LISTING_PAGE = 1000
#: Storage classes whose objects may have to be restored before they are read.
ARCHIVES = {"GLACIER", "DEEP_ARCHIVE", "INTELLIGENT_TIERING"}
#: Libraries that a sentence names, where there are more.
NAMES_SHOWN = 10


def partition_key(library: str) -> str:
    """The percent-quoted name of a library: safe as a partition key, a path component and an URL's part."""
    key = quote(library, safe="")
    return "%2E" if key == "." else key.replace("..", "%2E%2E")


def library_name(partition_key: str) -> str:
    """The library whose `partition_key` this is."""
    return unquote(partition_key)


def no_library(name: str, there: Collection[str]) -> ConfigurationError:
    """Give the error for a library that is not there: a sentence that names those that are."""
    if not there:
        return ConfigurationError(f"there is no library {name!r}; there are no libraries at all")
    near = difflib.get_close_matches(name, there, 1)
    shown = ", ".join(map(repr, sorted(there)[:NAMES_SHOWN]))
    more = f" and {len(there) - NAMES_SHOWN} more" if len(there) > NAMES_SHOWN else ""
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return ConfigurationError(f"there is no library {name!r}{meant}; there are {shown}{more}")


def lies_inside(inner: str, outer: str) -> bool:
    """Tell whether one address, of S3 or of a folder, is that of another or lies below it."""
    if inner.startswith("s3://") or outer.startswith("s3://"):
        return f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/")
    paths = [
        Path(url2pathname(uri.removeprefix("file://")) if uri.startswith("file://") else uri) for uri in (inner, outer)
    ]
    inside, around = (path.expanduser().resolve() for path in paths)
    return inside.is_relative_to(around)


@dataclass(frozen=True)
class VideoStore:
    """The libraries under one address; it pickles as its settings, and connects where it is first used.

    Args:
        uri: `s3://bucket[/prefix]`, or a folder as a path or a file:// URI.
        endpoint_url: an S3 endpoint other than AWS's own; credentials come by boto3's usual chain.
        exclude: patterns of names that are left out, files and folders.
        access: how S3 is asked, one of s3_client's ACCESS.

    Raises:
        ConfigurationError: the address is neither.
    """

    uri: str
    endpoint_url: str | None = None
    exclude: tuple[str, ...] = EXCLUDED
    access: str = SIGNED

    def __post_init__(self) -> None:
        scheme, separator, rest = self.uri.partition("://")
        bucket = rest.partition("/")[0]
        if not self.uri or (separator and scheme != "file" and not (scheme == "s3" and is_bucket(bucket))):
            raise ConfigurationError(f"{without_secrets(self.uri)!r} is neither s3://bucket/prefix nor a folder")
        if self.access not in ACCESS:
            raise ConfigurationError(f"there is no S3 access {self.access!r}; give one of {', '.join(ACCESS)}")
        if self.endpoint_url is not None and not is_endpoint(self.endpoint_url):
            raise ConfigurationError("the S3 endpoint is not an http(s) address, or it contains a password")

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoStore, (self.uri, self.endpoint_url, self.exclude, self.access)

    @cached_property
    def _place(self) -> _S3Prefix | Folder:
        names = NameRule(self.exclude)
        if self.uri.startswith("s3://"):
            return _S3Prefix(self.uri, self.endpoint_url, names, self.access)
        return Folder(self.uri, names)

    def libraries(self) -> list[str]:
        """Names of the first level, and of the library of videos that lie loose there, sorted.

        Raises:
            ConfigurationError: the folder or bucket is not there, or credentials or endpoint are wrong.
            SourceReadError: the storage does not answer, after retries.
        """
        return sorted(set(self._place.libraries()))

    def objects(self, library: str) -> VideoListing:
        """List the videos of a library, page by page; a library that is not there is empty.

        Raises:
            ConfigurationError, SourceReadError: as `libraries`, while the listing is read.
        """
        if not library or "/" in library:
            raise ConfigurationError(f"{library!r} cannot be the name of a library")
        return VideoListing(self._place.objects(library))

    def still_there(self, uri: str) -> bool:
        """Tell of a video that a listing did not name whether it is gone: the storage is asked for that one.

        Raises:
            ConfigurationError, SourceReadError: as `libraries`.
        """
        return self._place.still_there(uri)

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


class _S3Prefix:
    """A prefix of a bucket; one client a process, safe in threads."""

    def __init__(self, uri: str, endpoint_url: str | None, names: NameRule, access: str) -> None:
        self.address = uri
        self.bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self.prefix = prefix and prefix.rstrip("/") + "/"
        self.loose = prefix.rstrip("/").rpartition("/")[2] or self.bucket
        self._names = names
        try:
            self.client = s3_client(endpoint_url, read_timeout_s=s3_object.READ_TIMEOUT_S, access=access)
        except BotoCoreError as error:
            raise listing_error(uri, error) from error

    def libraries(self) -> Iterator[str]:
        for page in self._pages(Prefix=self.prefix, Delimiter="/"):
            if any(isinstance(self._entry(found), VideoObject) for found in page.get("Contents", ())):
                yield self.loose
            for found in page.get("CommonPrefixes", ()):
                name = found["Prefix"][len(self.prefix) : -1]
                if not name:  # keys with two slashes lie in a folder without a name
                    yield self.loose
                elif not self._names.excludes(name):
                    yield name

    def objects(self, library: str) -> Iterator[VideoObject | LeftOut]:
        queries = [{"Prefix": f"{self.prefix}{library}/"}]
        if library == self.loose:
            queries += [{"Prefix": self.prefix, "Delimiter": "/"}, {"Prefix": f"{self.prefix}/"}]
        for query in queries:
            for page in self._pages(**query):
                for found in page.get("Contents", ()):
                    if not found.get("Key", "").endswith("/") or found.get("Size"):  # a folder's marker
                        yield self._entry(found)

    def still_there(self, uri: str) -> bool:
        start = f"s3://{self.bucket}/"
        key = uri.removeprefix(start)
        inside = uri.startswith(start + self.prefix)
        if not inside or self._names.objection(key[len(self.prefix) :]) is not None:
            return False
        try:
            self.client.head_object(Bucket=self.bucket, Key=key)
        except (BotoCoreError, ClientError) as error:
            code = error.response["Error"].get("Code") if isinstance(error, ClientError) else None
            if code in ("404", "NoSuchKey", "NotFound"):
                return False
            if code not in DENIAL_CODES:  # one that may not be read may be there
                raise listing_error(self.address, error) from None
        return True

    def _entry(self, found: dict[str, Any]) -> VideoObject | LeftOut:
        """Give one entry of a listing; look-alikes of S3 leave facts out."""
        name = found.get("Key", "")[len(self.prefix) :]
        if objection := self._names.objection(name):
            return LeftOut(name, objection)
        uri = f"s3://{self.bucket}/{found['Key']}"
        if "Size" not in found:
            return LeftOut(name, "listed without its size", uri)
        return VideoObject(
            uri,
            etag=listed_version(found),
            size_bytes=found["Size"],
            last_modified=found.get("LastModified"),
            may_be_archived=found.get("StorageClass") in ARCHIVES,
            key=found["Key"],
        )

    @contextmanager
    def open(self, uri: str, etag: str, size_bytes: int, whole: bool) -> Iterator[BinaryIO]:
        start = f"s3://{self.bucket}/"
        if not uri.startswith(start + self.prefix):
            raise ConfigurationError(f"{uri!r} is not inside {self.address!r}")
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
            for page in pages.paginate(Bucket=self.bucket, PaginationConfig=size, **query):
                yield page
                if page.get("IsTruncated") and not page.get("NextContinuationToken"):
                    raise SourceReadError(
                        self.address, "the listing ends early: the storage does not say how it goes on"
                    )
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
