"""Which rows of a catalogue may go because a listing no longer names their videos.

In: the published catalogue, what was listed, the storage. Out: rows that stay although they are not listed, or an error
where so much is gone that a person has to say whether that is right. A listing alone removes nothing: of each video
that it does not name, the storage is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from cpllm_dagster.catalog.listing import VideoObject
from cpllm_dagster.catalog.objects import VideoStore
from cpllm_dagster.catalog.s3_client import is_named
from cpllm_model.errors import ShrunkLibraryError

#: So many videos may be gone whatever their share, unless all are: in a small library one is a large share.
SMALL_LOSS = 10
ASKED_AT_ONCE = 16


def confirmed_rows(
    published: pa.Table,
    kept: pa.Table,
    new: Sequence[VideoObject],
    unread: Collection[str],
    store: VideoStore,
    *,
    library: str,
    largest_loss: float,
) -> pa.Table:
    """Give the published rows that stay although the listing does not name their videos.

    Args:
        published: the catalogue as it was.
        kept: its rows whose videos are listed unchanged.
        new: videos that are listed and have no row that holds.
        unread: addresses that could not be looked at; a folder's ends in a slash.
        store: what is asked whether an object is there.
        library: its name, for messages.
        largest_loss: share of the rows that may go; 1 allows that all go.

    Raises:
        ShrunkLibraryError: more would go. A video that is listed under another name with the same ETag is not lost.
        ConfigurationError, SourceReadError: the storage does not say what is there.
    """
    named = {*kept["uri"].to_pylist(), *(video.uri for video in new)}
    unread = {*unread}
    folders = tuple(address for address in unread if address.endswith("/"))
    uris, etags = published["uri"].to_pylist(), published["etag"].to_pylist()
    staying = {uri for uri in uris if uri not in named and (uri in unread or uri.startswith(folders))}
    missing = [uri for uri in uris if uri not in named and uri not in staying]
    moved = {video.etag for video in new if is_named(video.etag)}
    etag_of = dict(zip(uris, etags, strict=True))
    lost = [uri for uri in missing if etag_of[uri] not in moved]
    _refuse_loss(library, lost, len(published), len(named) + len(staying), largest_loss)
    with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
        there = threads.map(store.still_there, missing)
        staying |= {uri for uri, is_there in zip(missing, there, strict=True) if is_there}
    return published.filter(pa.array([uri in staying for uri in uris], pa.bool_()))


def _refuse_loss(library: str, lost: list[str], before: int, now: int, largest_loss: float) -> None:
    vanished = before and not now
    if largest_loss >= 1 or not (vanished or len(lost) > max(SMALL_LOSS, largest_loss * before)):
        return
    what = f"all {before} videos are" if vanished else f"{len(lost)} of {before} videos are"
    raise ShrunkLibraryError(
        f"library {library!r}: {what} no longer there, the first {lost[0]!r}. Its tables are kept as they were. "
        "If that is right, run it once with --allow-shrinking (run config: ops.video_catalog.config.allow_shrinking), "
        "or take the library away with `cpllm retire`"
    )
