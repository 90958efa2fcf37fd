"""The asset video_catalog: one row for each video that a library's listing names, probed or failed with a reason.

In: the listing of the library and its catalogue so far. Out: the table `catalog`. Unchanged videos (same URI and ETag)
keep their row; the rest is probed, several at a time, each in a process that can be killed. Which rows may go is
decided in losses.py. Knows nothing of the model.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import dagster as dg
import pyarrow as pa
from pydantic import Field

from cpllm_dagster.assets.incremental import ARCHIVED, TRANSIENT_TYPES
from cpllm_dagster.assets.losses import confirmed_rows
from cpllm_dagster.assets.progress import Progress
from cpllm_dagster.assets.publication import publish, published_or_empty, table_metadata
from cpllm_dagster.catalog.listing import VideoListing, VideoObject
from cpllm_dagster.catalog.objects import VideoStore, library_name, no_library
from cpllm_dagster.catalog.s3_client import is_named
from cpllm_dagster.catalog.s3_object import ACCESS_HINT
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.tables import video_id
from cpllm_dagster.partitions import LIBRARIES
from cpllm_dagster.report.tables import failures_by_type, plain
from cpllm_dagster.resources import Catalog, TableLake, VideoLimits
from cpllm_model.decoding import wall
from cpllm_model.decoding.samples import DecodeLimits, VideoInfo
from cpllm_model.decoding.sandbox import DecodeSandbox, measures_in_force
from cpllm_model.errors import AccessDeniedError, ConfigurationError, VideoError

#: The metadata that says in words what was left out.
LEFT_OUT_SENTENCE = "left_out_sentence"
#: What the parts of a catalogue that a broken run has probed lie under, beside the names of models.
PROBED = "probed"


class CatalogConfig(dg.Config):
    """How a library is probed."""

    probe_processes: int = Field(default=2, ge=1, description="Videos probed at the same time.")
    part_videos: int = Field(default=1000, ge=1, description="Probed videos per part.")
    retry_archived: bool = Field(default=False, description="Try archived objects again, after they were restored.")
    allow_shrinking: bool = Field(default=False, description="Accept that the library is gone or has lost many videos.")


#: What lies in the storage; nothing here makes it.
CONTENT = dg.AssetSpec(
    "content_libraries",
    group_name="sources",
    description="The videos as they lie in the storage: its first level are the libraries.",
)


@dg.asset(
    deps=[CONTENT],
    partitions_def=LIBRARIES,
    group_name="library",
    kinds={"parquet"},
    metadata=table_metadata("catalog"),
)
def video_catalog(
    context: dg.AssetExecutionContext,
    config: CatalogConfig,
    catalog: Catalog,
    lake: TableLake,
    limits: VideoLimits,
) -> dg.MaterializeResult:
    """Every video of the library: address, version and format, or why it cannot be read."""
    library = library_name(context.partition_key)
    store, tables = catalog.open(), lake.claim(context, library)
    published = published_or_empty(tables, "catalog", library)
    broken, _ = tables.read_parts(library, PROBED)
    # A table of an earlier version may not have this column.
    known = pa.concat_tables([published, broken["catalog"]], promote_options="default")
    listing = store.objects(library)
    kept, new = split_listing(listing, known, retry_archived=config.retry_archived)
    if not (len(published) or new or len(kept) or listing.left_out):
        there = store.libraries()
        if library not in there:
            raise no_library(library, there)
    unlisted = confirmed_rows(
        published, kept, new, listing.unread, store,
        library=library, largest_loss=1.0 if config.allow_shrinking else catalog.largest_loss,
    )  # fmt: skip
    kept = pa.concat_tables([kept, unlisted], promote_options="default")
    context.log.info(f"{library!r}: {len(new)} videos to probe, {len(kept)} unchanged. {left_out_sentence(listing)}")
    if len(unlisted):
        context.log.warning(f"{library!r}: {len(unlisted)} videos are not listed and not gone: their rows stay")
    parts = [SCHEMAS["catalog"].empty_table()]
    progress = Progress(library, len(new), context.log.info, context.log.warning)
    for rows in probe_videos(new, store, limits.decode_limits(), config):
        tables.append_part(library, PROBED, {"catalog": rows})
        parts.append(pa.Table.from_pylist(rows, SCHEMAS["catalog"]))
        for row in rows:
            progress.add(row["uri"], row.get("probe_error_type"), row.get("probe_error_message"))
    if new:
        context.log.info(progress.line())
    probed = pa.concat_tables(parts).combine_chunks()
    good = int((kept["probe_status"].to_numpy() == "ok").sum())
    require_readable(library, probed["probe_error_type"].to_pylist(), good)
    rows = pa.concat_tables([kept, probed], promote_options="default")
    result = publish(
        tables,
        "catalog",
        library,
        rows,
        made=len(probed),
        run_id=context.run.run_id,
        model_id="",
        metadata={
            "unlisted": len(unlisted),
            **left_out_metadata(listing),
            **({"decoding": wall.described(measures_in_force())} if new else {}),
            **failure_metadata(rows),
        },
    )
    tables.clear_parts(library, PROBED)
    return result


def require_readable(library: str, errors: Iterable[str | None], good: int) -> None:
    """Refuse to go on where every object that was asked for is refused, and no other video of the library is good.

    Args:
        library: the library's true name.
        errors: the error type of each object that was asked for; None if it has no error.
        good: number of videos that hold an earlier answer.

    Raises:
        ConfigurationError: all are refused.
    """
    asked = [error for error in errors if error != ARCHIVED]
    if not good and set(asked) == {AccessDeniedError.error_type}:
        raise ConfigurationError(
            f"library {library!r}: {len(asked)} objects are listed, and reading each of them is refused: the "
            f"run needs the right to read them (on S3 s3:GetObject; {ACCESS_HINT})"
        )


def split_listing(
    listing: Iterator[VideoObject], known: pa.Table, *, retry_archived: bool = False
) -> tuple[pa.Table, list[VideoObject]]:
    """Part a listing into rows that still hold and videos to probe.

    Args:
        listing: the videos there are.
        known: rows of the catalog table; of two for one video version the later one counts.
        retry_archived: whether objects that had to be restored are asked for again.

    Returns:
        The rows of unchanged videos, and the videos that are new, changed, or failed for a reason that may pass.
        An object that had to be restored is asked for again when its storage class no longer says so.
    """
    columns = (known[name].to_pylist() for name in ("uri", "etag", "probe_error_type"))
    row_of = {
        (uri, etag): row
        for row, (uri, etag, error_type) in enumerate(zip(*columns, strict=True))
        if error_type not in TRANSIENT_TYPES
    }
    archived_N = known["probe_error_type"].to_numpy() == ARCHIVED
    etag_of = dict(row_of.keys())
    kept, keys, new = [], [], []
    for found in listing:
        # A listing without an ETag does not contradict the present row.
        known_etag = etag_of.get(found.uri, "")
        etag = known_etag if known_etag and is_named(known_etag) and not is_named(found.etag) else found.etag
        row = row_of.get((found.uri, etag))
        if row is None or (archived_N[row] and (retry_archived or not found.may_be_archived)):
            new.append(found)
        else:
            kept.append(row)
            keys.append(found.key)
    rows = known.take(pa.array(kept, pa.int64()))
    rows = rows.set_column(rows.column_names.index("key"), SCHEMAS["catalog"].field("key"), pa.array(keys, pa.string()))
    return rows.select(SCHEMAS["catalog"].names), new


def probe_videos(
    videos: list[VideoObject], store: VideoStore, limits: DecodeLimits, config: CatalogConfig
) -> Iterator[list[dict[str, Any]]]:
    """Probe videos, several at a time, and yield their catalogue rows a part at a time."""
    with ExitStack() as stack:
        idle: SimpleQueue[DecodeSandbox] = SimpleQueue()
        count = min(config.probe_processes, len(videos))
        sandboxes = [stack.enter_context(DecodeSandbox(limits)) for _ in range(count)]
        for sandbox in sandboxes:
            idle.put(sandbox)
        threads = ThreadPoolExecutor(config.probe_processes)

        @stack.callback
        def stop() -> None:
            """Wait for no video that a cancelled run was just probing."""
            threads.shutdown(wait=False, cancel_futures=True)
            for sandbox in sandboxes:
                sandbox.interrupt()
            threads.shutdown()

        def probe(video: VideoObject) -> dict[str, Any]:
            sandbox = idle.get()
            try:
                with store.open(video.uri, video.etag, video.size_bytes, limits, whole=False) as file:
                    return catalog_row(video, sandbox.probe(file, video.uri))
            except VideoError as error:
                return catalog_row(video, error)
            finally:
                idle.put(sandbox)

        remaining = iter(videos)
        while part := list(itertools.islice(remaining, config.part_videos)):
            yield list(threads.map(probe, part))


def catalog_row(video: VideoObject, found: VideoInfo | VideoError) -> dict[str, Any]:
    """Give a video's row of the catalog table.

    Args:
        video: as listed.
        found: what probing found, or why it failed.
    """
    row = {
        "video_id": video_id(video.uri),
        "uri": video.uri,
        "key": video.key,
        "etag": video.etag,
        "size_bytes": video.size_bytes,
        "last_modified": video.last_modified,
    }
    if isinstance(found, VideoError):
        return row | {
            "probe_status": "failed",
            "probe_error_type": found.error_type,
            "probe_error_message": found.cause,
        }
    format_ = {name: value for name, value in dataclasses.asdict(found).items() if name in SCHEMAS["catalog"].names}
    return row | format_ | {"probe_status": "ok"}


def left_out_metadata(listing: VideoListing) -> dict[str, Any]:
    """Give what the run's result and the UI show of objects that are not in the catalogue."""
    columns = ("reason", "objects", "examples")
    records = [
        dg.TableRecord(
            {"reason": reason, "objects": count, "examples": ", ".join(map(plain, listing.examples[reason]))}
        )
        for reason, count in listing.left_out.most_common()
    ]
    kinds = [dg.TableColumn(name, "int" if name == "objects" else "string") for name in columns]
    return {
        "left_out": listing.left_out.total(),
        "left_out_by_reason": dg.MetadataValue.table(records, dg.TableSchema(kinds)),
        LEFT_OUT_SENTENCE: left_out_sentence(listing),
    }


def left_out_sentence(listing: VideoListing) -> str:
    """Say how many objects are not in the catalogue, why, and name some."""
    if not listing.left_out:
        return "Nothing is left out"
    reasons = (
        f"{reason} ({count}: {', '.join(map(plain, listing.examples[reason][:2]))}{', …' if count > 2 else ''})"
        for reason, count in listing.left_out.most_common()
    )
    return f"{listing.left_out.total()} objects are left out: {'; '.join(reasons)}"


def failure_metadata(rows: pa.Table) -> dict[str, Any]:
    """Give the number of failed rows, and their types as a table for the UI."""
    failures = failures_by_type(rows)
    records = [dg.TableRecord({"error_type": name, "videos": count}) for name, count in failures]
    schema = dg.TableSchema([dg.TableColumn("error_type", "string"), dg.TableColumn("videos", "int")])
    return {
        "failed": sum(count for _, count in failures),
        "failures_by_type": dg.MetadataValue.table(records, schema),
    }
