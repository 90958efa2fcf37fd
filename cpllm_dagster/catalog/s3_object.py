"""One S3 object at one ETag: its bytes, whole or by ranges, and what a failed request means.

In: a boto3 client, bucket, key, listed ETag and size. Out: bytes, a seekable file, typed errors. Requests
that fail before their body are repeated by botocore, bodies that break off are repeated here. Messages carry
codes and class names only: S3's own texts may quote what must not be logged. Knows nothing of libraries.
"""

from __future__ import annotations

import io
import random
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import IO, Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ReadTimeoutError,
)
from urllib3.exceptions import HTTPError

from cpllm_dagster.catalog.s3_client import listed_version, version_of
from cpllm_model.errors import (
    AccessDeniedError,
    ArchivedError,
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
#: Codes by which S3, or a server without codes, refuses one object; and what to do where it refuses everything.
DENIAL_CODES = {"AccessDenied", "403", "Forbidden"}
ACCESS_HINT = "CPLLM_CATALOG_ACCESS=unsigned reads a public bucket, =requester-pays one at your expense"


def listing_error(address: str, error: BotoCoreError | ClientError) -> ConfigurationError | SourceReadError:
    """What a failed listing of `address` means: a wrong setting, or a storage that does not answer."""
    if isinstance(error, ClientError):
        reason, status = _code(error), error.response["ResponseMetadata"]["HTTPStatusCode"]
        outage = status == 429 or status >= 500
    else:
        reason, outage = type(error).__name__, isinstance(error, (ReadTimeoutError, ConnectionClosedError))
    if outage:
        return SourceReadError(address, f"the listing failed after retries: {reason}")
    hint = f" ({ACCESS_HINT})" if reason in {*DENIAL_CODES, "NoCredentialsError"} else ""
    return ConfigurationError(f"{address!r} cannot be listed: {reason}{hint}")


@dataclass(eq=False)
class S3Object:
    """One object as it was listed; every read is held against that version.

    Args:
        client: boto3's S3 client.
        bucket, key: where it lies.
        etag: its version, as `listed_version` names it.
        size_bytes: as listed.
    """

    client: Any
    bucket: str
    key: str
    etag: str
    size_bytes: int
    _read_as: str = ""  # what the storage calls that version when it is read, where that is another name

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
            AccessDeniedError, ArchivedError: the object may not be read, or has to be restored first.
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
        answer = self._ask(self.client.get_object, Key=self.key, Range=f"bytes={start}-{stop - 1}")
        found = version_of(answer)
        if found != (self._read_as or self.etag) and found != self._other_name():
            answer["Body"].close()
            raise ObjectChangedError(self.uri, "the object changed since it was listed")
        return answer["Body"]

    def _other_name(self) -> str:
        """Find out once what the storage calls the listed version when it is read.

        Some servers list other ETags than they send, or list none. The name that they send is taken for the listed
        version's if a listing that is made after it still shows the listed one.
        """
        if not self._read_as:
            found = version_of(self._ask(self.client.head_object, Key=self.key))
            page = self._ask(self.client.list_objects_v2, Prefix=self.key, MaxKeys=1)
            now = {item["Key"]: (listed_version(item), item["Size"]) for item in page.get("Contents", ())}
            self._read_as = found if now.get(self.key) == (self.etag, self.size_bytes) else self.etag
        return self._read_as

    def _ask(self, request: Any, **arguments: Any) -> Any:
        try:
            return request(Bucket=self.bucket, **arguments)
        except ClientError as error:
            raise self._refusal(_code(error)) from None  # its text is the storage's own
        except BotoCoreError as error:
            raise SourceReadError(self.uri, f"no answer after retries: {type(error).__name__}") from error

    def _refusal(self, code: str) -> Exception:
        if code in ("NoSuchKey", "404"):
            return ObjectMissingError(self.uri, "the object is gone since it was listed")
        if code in ("PreconditionFailed", "412", "InvalidRange", "416"):
            return ObjectChangedError(self.uri, "the object changed since it was listed")
        if code in DENIAL_CODES:
            return AccessDeniedError(self.uri, f"the object may be listed and not read: {code}")
        if code == "InvalidObjectState":
            return ArchivedError(self.uri, "the object lies in an archive and has to be restored first")
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
