"""The one S3 client of the platform, for videos and tables alike: what AWS and its look-alikes all understand.

In: an endpoint, and how requests are made. Out: a boto3 client; what names a version of an object. Neither conditional
requests nor checksum headers are needed of a server, only listings that show what has been put. Knows nothing of
libraries or tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from boto3.session import Session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.utils import parse_timestamp

#: How requests are made: with credentials, without any (public buckets), or at the expense of whoever asks.
SIGNED, UNSIGNED_ACCESS, REQUESTER_PAYS = ACCESS = ("signed", "unsigned", "requester-pays")
_UNNAMED = "listed-"


def s3_client(endpoint_url: str | None, *, read_timeout_s: float, access: str = SIGNED) -> Any:
    """Make a client with time limits and bounded retries; threads may share it.

    Args:
        endpoint_url: an S3-compatible server; None is AWS.
        read_timeout_s: silence after which a request is given up, to be repeated.
        access: one of ACCESS; credentials come by boto3's usual chain.

    Raises:
        BotoCoreError: a profile or a region is wrong.
    """
    config = Config(
        connect_timeout=5,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=32,
    )
    if endpoint_url:
        # Look-alikes know neither bucket host names nor, often, the newer checksum headers.
        config = config.merge(
            Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
        )
    if access == UNSIGNED_ACCESS:
        config = config.merge(Config(signature_version=UNSIGNED))
    # A session of its own: boto3's shared one keeps credentials and may not be used by threads that start.
    core = botocore.session.get_session()
    # Its own parser takes two thirds of the time of a long listing.
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    client = Session(botocore_session=core).client("s3", endpoint_url=endpoint_url, config=config)
    if access == REQUESTER_PAYS:
        client.meta.events.register("before-call.s3", _pay)
    return client


def _pay(params: dict[str, Any], **_: Any) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"


def _moment(text: str) -> datetime | None:
    """Read a time: S3 lists ISO 8601; headers have other forms. None if no calendar has it."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        with suppress(ValueError, OverflowError):
            return parse_timestamp(text)
    return None


def version_of(answer: Mapping[str, Any]) -> str:
    """Give what names the version of an object that was read: its ETag, or its time where the server sends none."""
    return _bare(answer.get("ETag")) or f"{answer.get('LastModified') or ''}"


def listed_version(item: Mapping[str, Any]) -> str:
    """Give what names the version of an object in a listing: its ETag, or size and time where the server lists none."""
    if etag := _bare(item.get("ETag")):
        return etag
    modified = item.get("LastModified")
    return f"{_UNNAMED}{item['Size']:x}-{int(modified.timestamp() * 1e6) if modified else 0:x}"


def is_named(version: str) -> bool:
    """Whether a version in a listing has a name that the server has given it."""
    return not version.startswith(_UNNAMED)


def _bare(etag: str | None) -> str:
    """Give an ETag without its quotation marks and without the mark of a weak one."""
    return (etag or "").removeprefix("W/").strip('"')


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
