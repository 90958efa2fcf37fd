"""A video behind an address becomes a temporary file, which is decoded like any other: libav never gets an address.

In: `https://`, `http://` or `s3://bucket/key`. Out: an open file of bounded size, removed when it is closed; or a typed
error. What speaks to the web is imported when it is needed, and boto3, an extra of the package, for s3:// alone;
credentials come by its usual chain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO

from cpllm_model.errors import (
    AccessDeniedError,
    ArchivedError,
    ConfigurationError,
    LimitExceededError,
    ObjectMissingError,
    SourceReadError,
    VideoError,
)

SCHEMES = ("https://", "http://", "s3://")
#: The largest file that is fetched, and how long that may take, however alive the connection looks.
MOST_BYTES, DEADLINE_S = 16 << 30, 3600.0
#: Silence after which a connection is given up.
_TIMEOUT_S = 20.0
_PIECE_BYTES = 1 << 20
_ATTEMPTS = 3
#: Codes by which S3 refuses credentials, whichever object was asked for.
_CREDENTIAL_CODES = {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}


def is_address(name: str) -> bool:
    """Whether a name is an address that `fetched` takes, and not a file's."""
    return name.lower().startswith(SCHEMES)


@contextmanager
def fetched(address: str, most_bytes: int = MOST_BYTES) -> Iterator[BinaryIO]:
    """Fetch a file; what breaks off or is refused for a moment is asked for again.

    Args:
        address: see `is_address`.
        most_bytes: a larger file is refused, before it is fetched where the server says its size.

    Yields:
        the file, at its beginning.

    Raises:
        ObjectMissingError, AccessDeniedError, ArchivedError, LimitExceededError, SourceReadError: it cannot be fetched.
        ConfigurationError: boto3 is missing, or credentials are missing or wrong.
    """
    fetch = _fetch_s3 if address.lower().startswith("s3://") else _fetch_http
    with TemporaryFile(prefix="cpllm-") as file:
        out = _Bounded(file, address, most_bytes)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                fetch(address, out)
                break
            except SourceReadError:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(2**attempt / 4)
                file.seek(0)
                file.truncate()
        file.seek(0)
        yield file  # pyright: ignore[reportReturnType] (a wrapper with the same methods)


class _Bounded:
    """Takes the pieces of one file, within its limits."""

    def __init__(self, file: IO[bytes], address: str, most_bytes: int) -> None:
        self._file, self._address, self._most_bytes = file, address, most_bytes
        self._deadline = time.monotonic() + DEADLINE_S

    def take(self, read: Callable[[int], bytes], size_bytes: int | None) -> None:
        """Take all that `read` gives; `size_bytes` is what the server says."""
        taken = 0
        self._require_room_for(size_bytes or 0)
        while piece := read(_PIECE_BYTES):
            taken += len(piece)
            self._require_room_for(taken)
            if time.monotonic() > self._deadline:
                raise LimitExceededError(self._address, f"it did not arrive within {DEADLINE_S:g} s")
            self._write(piece)
        if size_bytes is not None and taken < size_bytes:
            raise SourceReadError(self._address, f"it broke off after {taken} of {size_bytes} bytes")

    def _require_room_for(self, count: int) -> None:
        if count > self._most_bytes:
            raise LimitExceededError(
                self._address, f"the file is larger than {self._most_bytes / 2**30:g} GiB, the most that is fetched"
            )

    def _write(self, piece: bytes) -> None:
        try:
            self._file.write(piece)
        except OSError as error:  # of this machine, and not of the connection: another attempt would not help
            raise LimitExceededError(self._address, f"its temporary file cannot be written: {error.strerror}") from None


def _fetch_http(address: str, out: _Bounded) -> None:
    import http.client
    import urllib.error
    import urllib.request

    class WebOnly(urllib.request.HTTPRedirectHandler):
        """Follows redirections to http and https only."""

        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if not newurl.lower().startswith(("http://", "https://")):
                raise urllib.error.URLError("the server redirects to another kind of address")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    opener = urllib.request.build_opener(WebOnly)
    try:
        # The scheme is one of SCHEMES, and redirections keep to the web.
        request = urllib.request.Request(address, headers={"User-Agent": "cpllm"})  # noqa: S310
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            length = answer.headers.get("Content-Length", "")
            out.take(answer.read, int(length) if length.isdecimal() else None)
    except urllib.error.HTTPError as error:
        raise _refused(address, error.code) from None
    except urllib.error.URLError as error:
        raise SourceReadError(address, f"the server cannot be reached: {error.reason}") from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise SourceReadError(address, f"it cannot be fetched: {str(error) or type(error).__name__}") from None


def _refused(address: str, status: int) -> VideoError:
    if status in (404, 410):
        return ObjectMissingError(address, f"the server answers {status}: there is no such file")
    if status in (401, 403):
        return AccessDeniedError(address, f"the server answers {status}: you have no permission to read it")
    return SourceReadError(address, f"the server answers {status}")


def _fetch_s3(address: str, out: _Bounded) -> None:
    bucket, _, key = address[len("s3://") :].partition("/")
    if not bucket or not key:
        raise ConfigurationError(f"{address!r} names no object: give s3://bucket/key")
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            ParamValidationError,
            PartialCredentialsError,
        )
    except ImportError:
        raise ConfigurationError(f"{address}: an s3:// address needs boto3: pip install 'cpllm[s3]'") from None
    config = Config(connect_timeout=5, read_timeout=_TIMEOUT_S, retries={"mode": "standard", "total_max_attempts": 4})
    try:
        # A session of its own: boto3's shared one may not be used by threads.
        answer = boto3.Session().client("s3", config=config).get_object(Bucket=bucket, Key=key)
        with answer["Body"] as body:
            out.take(body.read, int(answer["ContentLength"]))
    except (NoCredentialsError, PartialCredentialsError):
        raise ConfigurationError(
            f"{address}: there are no AWS credentials; set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or give the https:// address of a public object"
        ) from None
    except ParamValidationError:
        raise ConfigurationError(f"{address}: {bucket!r} is not a bucket name") from None
    except ClientError as error:
        raise _refused_by_s3(address, bucket, error.response) from None  # its text is the storage's own
    except BotoCoreError as error:
        raise SourceReadError(address, f"no answer after retries: {type(error).__name__}") from None
    except OSError as error:
        raise SourceReadError(address, f"it broke off: {error.strerror or type(error).__name__}") from None


def _refused_by_s3(address: str, bucket: str, response: Any) -> Exception:
    code = str(response.get("Error", {}).get("Code", "an error without a code"))
    if code in ("NoSuchKey", "404"):
        return ObjectMissingError(address, "there is no such object")
    if code == "NoSuchBucket":
        return ObjectMissingError(address, f"there is no bucket {bucket!r}")
    if code in ("AccessDenied", "403", "Forbidden"):
        return AccessDeniedError(address, f"these credentials may not read it, or it does not exist: {code}")
    if code == "InvalidObjectState":
        return ArchivedError(address, "the object lies in an archive and has to be restored first")
    if code in _CREDENTIAL_CODES:
        return ConfigurationError(f"{address}: S3 does not accept the AWS credentials: {code}")
    return SourceReadError(address, f"the storage answers {code}")
