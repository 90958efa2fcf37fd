"""One S3 object at one ETag: its bytes, whole or by ranges, and what a failed request means.

In: a boto3 client, bucket, key, listed ETag and size. Out: bytes, a seekable file, typed errors. Requests
that fail before their body are repeated by botocore, bodies that break off are repeated here. Messages carry
codes and class names only: S3's own texts may quote what must not be logged. Knows nothing of libraries.
"""

from __future__ import annotations

import io
import random
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ReadTimeoutError,
)
from urllib3.exceptions import HTTPError

from cpllm_model.errors import (
    ConfigurationError,
    ObjectChangedError,
    ObjectMissingError,
    SourceReadError,
)

PIECE_BYTES = 16 << 20
BLOCK_BYTES = 1 << 20
BLOCKS_KEPT = 32
BODY_ATTEMPTS = 3
#: Silence after which a request is given up, to be repeated by botocore.
READ_TIMEOUT_S = 20.0
#: A range that trickles in for longer than this is given up, however alive the connection looks.
RANGE_DEADLINE_S = 30.0

#: Codes by which S3 says that what a person configured is wrong, whichever object was asked for.
CONFIGURATION_CODES = {
    "AccountProblem",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidBucketName",
    "InvalidToken",
    "NoSuchBucket",
    "PermanentRedirect",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}


def client_config(endpoint_url: str | None) -> Config:
    """Time limits and bounded retries of a client; S3-compatible servers know no bucket host names."""
    return Config(
        connect_timeout=5,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=32,
        s3={"addressing_style": "path" if endpoint_url else "auto"},
    )


def is_bucket(name: str) -> bool:
    """Whether a name is one that a bucket may have; a key and its secret, put in its place, are none."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", name) is not None


def is_endpoint(url: str) -> bool:
    """Whether an address is one of an S3 endpoint, and holds neither a password nor a signature."""
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not set("@?") & set(url)


def without_secrets(address: str) -> str:
    """An address without what may be a password or a signature: what stands before an @ or after a question mark."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"  # a secret key may hold slashes


def listing_error(address: str, error: BotoCoreError | ClientError) -> ConfigurationError | SourceReadError:
    """What a failed listing of `address` means: a wrong setting, or a storage that does not answer."""
    if isinstance(error, ClientError):
        reason, status = _code(error), error.response["ResponseMetadata"]["HTTPStatusCode"]
        outage = status == 429 or status >= 500
    else:
        reason, outage = type(error).__name__, isinstance(error, (ReadTimeoutError, ConnectionClosedError))
    if outage:
        return SourceReadError(address, f"the listing failed after retries: {reason}")
    return ConfigurationError(f"{address!r} cannot be listed: {reason}")


@dataclass(frozen=True)
class S3Object:
    """One object as it was listed.

    Args:
        client: boto3's S3 client.
        bucket, key: where it lies.
        etag: as listed, without quotation marks.
        size_bytes: as listed.
    """

    client: Any
    bucket: str
    key: str
    etag: str
    size_bytes: int

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def download(self, file: IO[bytes]) -> None:
        """Write all bytes to a file; raises what `read` raises."""
        for start in range(0, self.size_bytes, PIECE_BYTES):
            file.write(self.read(start, min(start + PIECE_BYTES, self.size_bytes)))

    def read(self, start: int, stop: int) -> bytes:
        """Read the bytes [start, stop), which must lie inside the object.

        Raises:
            ObjectMissingError, ObjectChangedError: the object is gone, or is no longer the listed one.
            SourceReadError: the storage failed to deliver, after retries.
            ConfigurationError: the bucket or the credentials have become wrong.
        """
        reason = ""
        for attempt in range(BODY_ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0.1, 0.5) * 2**attempt)  # noqa: S311 # jitter, no secret
            body = self._request(start, stop)
            try:
                return _read_body(body, stop - start)
            except (BotoCoreError, HTTPError, OSError) as error:
                reason = str(error) if isinstance(error, TimeoutError) else type(error).__name__
        raise SourceReadError(self.uri, f"bytes {start}-{stop} broke off {BODY_ATTEMPTS} times: {reason}")

    def _request(self, start: int, stop: int) -> Any:
        """Ask for a range; the body is still to be read."""
        try:
            answer = self.client.get_object(
                Bucket=self.bucket,
                Key=self.key,
                IfMatch=f'"{self.etag}"',
                Range=f"bytes={start}-{stop - 1}",
            )
        except ClientError as error:
            raise self._refusal(_code(error)) from None  # its text is the storage's own
        except BotoCoreError as error:
            raise SourceReadError(self.uri, f"no answer after retries: {type(error).__name__}") from error
        if answer["ETag"].strip('"') != self.etag:  # an S3 look-alike that ignores If-Match
            raise ObjectChangedError(self.uri, "the object changed since it was listed")
        return answer["Body"]

    def _refusal(self, code: str) -> Exception:
        if code in ("NoSuchKey", "404"):
            return ObjectMissingError(self.uri, "the object was listed and is gone")
        if code in ("PreconditionFailed", "412", "InvalidRange", "416"):
            return ObjectChangedError(self.uri, "the object changed since it was listed")
        if code in CONFIGURATION_CODES:
            return ConfigurationError(f"bucket {self.bucket!r} cannot be read: {code}")
        return SourceReadError(self.uri, f"the storage answers {code}")


class RangedFile(io.RawIOBase):
    """An object as a seekable file, read in blocks of which the last used ones are kept.

    Reading raises what `S3Object.read` raises.
    """

    def __init__(self, source: S3Object) -> None:
        self._source = source
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size_bytes}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the whole buffer, short only at the object's end."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._position < self._source.size_bytes:
            index, offset = divmod(self._position, BLOCK_BYTES)
            part = self._block(index)[offset : offset + len(view) - filled]
            view[filled : filled + len(part)] = part
            filled += len(part)
            self._position += len(part)
        return filled

    def _block(self, index: int) -> bytes:
        if index not in self._blocks:
            start = index * BLOCK_BYTES
            self._blocks[index] = self._source.read(start, min(start + BLOCK_BYTES, self._source.size_bytes))
            if len(self._blocks) > BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(index)
        return self._blocks[index]


def _read_body(body: Any, size_bytes: int) -> bytes:
    """Read a whole body as it arrives, within RANGE_DEADLINE_S."""
    deadline = time.monotonic() + RANGE_DEADLINE_S
    parts, missing = [], size_bytes
    with body as stream:  # urllib3's response, whose read1 returns what one receive brought
        while missing:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{missing} of {size_bytes} bytes missing after {RANGE_DEADLINE_S:g} s")
            part = stream.read1(min(missing, BLOCK_BYTES))
            if not part:
                raise ConnectionError(f"{missing} of {size_bytes} bytes missing")
            parts.append(part)
            missing -= len(part)
    return b"".join(parts)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "an error without a code"))
