"""The tables of a lake: how rows become a published file, how they are read, and SQL over them.

In: rows as dicts or Arrow tables. Out: one Parquet file a table and library,
`<lake>/<table>/library=<percent-quoted name>/data.parquet`, that a reader sees whole or not at all (a name that is
too long for a folder is cut, and stands whole in the file's metadata); of tables that only grow one file a run,
`<time>_<run id>.parquet` in the same folder, which is never changed; of `features` such files and a manifest
(see append_only.py); a library's page
`<lake>/reports/library=<name>/index.html`; parts of a running job under `<lake>/.work`,
which no table's glob reaches; a DuckDB connection with a view a table.
Knows nothing of Dagster, Ray or the model.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cpllm_dagster.lake import sql
from cpllm_dagster.lake.append_only import WHOLE, AppendOnlyTable, RowView
from cpllm_dagster.lake.claims import claimed
from cpllm_dagster.lake.parquet import moment, put_file, write_parquet
from cpllm_dagster.lake.rows import tidy_names, validate
from cpllm_dagster.lake.schemas import GROWING, KEYS, LOGS, RENAMED, SCHEMA_VERSION, SCHEMAS, names_as_text, schema
from cpllm_dagster.lake.spool import Spool, is_large, taken
from cpllm_dagster.lake.storage import (
    WORK_FOLDER,
    BucketStorage,
    BytesSnapshot,
    FolderStorage,
    Snapshot,
    storage_at,
)
from cpllm_dagster.lake.views import CONDITIONS, VIEWS
from cpllm_model.errors import LakeError

_log = logging.getLogger(__name__)

(_LARGE,) = (table_name for table_name, columns in SCHEMAS.items() if is_large(columns))
_PARTS_AT_ONCE = 16
#: Of tables read from parts so many small ones become one.
_PIECES_TOGETHER = 256
#: A file of a table that only grows: when it was recorded, and by which run. Names sort as times do.
_LOG_NAME = re.compile(r"(\d{8}T\d{12}Z)_[\w.~%-]+\.parquet", re.ASCII)
#: More bytes no file system takes for the name of a folder.
_LONGEST_NAME = 255 - len("library=")
#: Marks a shortened name; it stands in no percent-quoted one.
_SHORTENED = "!"


def video_id(uri: str) -> str:
    """Return the id of the video at an address: the first 16 hex digits of the SHA-256 of its URI."""
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Lake:
    """The published tables and the parts of running jobs at one address; it travels as two strings.

    Args:
        uri: `s3://bucket/prefix`, `file:///folder` or a folder's path.
        endpoint_url: address of an S3-compatible server; None is AWS.

    Raises:
        LakeError: here or in any method, one sentence: a wrong address, bucket or credential, a full disk.
    """

    uri: str
    endpoint_url: str | None = None

    def __post_init__(self) -> None:
        storage_at(self.uri, self.endpoint_url)

    def __reduce__(self) -> tuple[type[Lake], tuple[str, str | None]]:
        return Lake, (self.uri, self.endpoint_url)

    @functools.cached_property
    def _storage(self) -> FolderStorage | BucketStorage:
        return storage_at(self.uri, self.endpoint_url)

    @functools.cached_property
    def _claims(self) -> dict[str, Callable[[], None]]:
        return {}

    @contextlib.contextmanager
    def claim(self, library: str, holder: str) -> Iterator[None]:
        """Be the only one that writes a library's tables and parts, for the length of a `with` block.

        Args:
            library: the library's true name.
            holder: who claims it, in the words that others are told.

        Raises:
            LakeError: another holds it; from then on also in writing, where this claim has been lost.
        """
        with claimed(self._storage, f"library={_quoted(library)}", holder) as require:
            self._claims[library] = require
            try:
                yield
            finally:
                del self._claims[library]

    def _require_claim(self, library: str) -> None:
        if library in self._claims:
            self._claims[library]()

    def write(
        self,
        table_name: str,
        library: str,
        rows: pa.Table | list[dict[str, Any]],
        *,
        run_id: str,
        model_id: str,
    ) -> pa.Table:
        """Validate rows and publish them as the library's whole table, in place of the one before.

        The same rows give the same bytes but for the run and model ids in the file's metadata.

        Args:
            table_name: a name in SCHEMAS.
            library: the library's true name; any text but the empty one.
            rows: as for `validate`.
            run_id: the run that publishes.
            model_id: the model the rows come from.

        Returns:
            The rows as published.
        """
        if table_name in LOGS:
            raise LakeError(f"{table_name} only grows: append to it")
        if table_name in GROWING:
            table = validate(table_name, rows)
            self._update(table_name, library, table, None, run_id, model_id)
            return table
        return self._write(table_name, _file_name(table_name, library), library, rows, run_id, model_id)

    def append(
        self,
        table_name: str,
        library: str,
        rows: pa.Table | list[dict[str, Any]],
        *,
        recorded_at: datetime,
        run_id: str,
        model_id: str,
    ) -> pa.Table:
        """Validate rows and add them to a table that only grows, as one file more.

        The same time and run give the same file, so an append that is repeated adds nothing.

        Args:
            table_name: a name in LOGS.
            library: the library's true name.
            rows: as for `validate`.
            recorded_at: when the rows were made; with a time zone.
            run_id, model_id: as for `write`.

        Returns:
            The rows as published.
        """
        if table_name not in LOGS:
            raise LakeError(f"{table_name} does not grow: write it")
        name = f"{_folder(table_name, library)}/{moment(recorded_at)}_{quote(run_id, safe='')}.parquet"
        return self._write(table_name, name, library, rows, run_id, model_id)

    def update(
        self,
        table_name: str,
        library: str,
        fresh: pa.Table,
        holding: pa.Table,
        *,
        run_id: str,
        model_id: str,
    ) -> bool:
        """Add rows to a table whose files are only added, and say which rows hold; whether anything has changed.

        Args:
            table_name: a name in GROWING.
            library: the library's true name.
            fresh: rows to add; of a version that is there the older row stays.
            holding: versions (video_id, etag, model_id) that are to have a row from now on, each video once.
            run_id, model_id: as for `write`.
        """
        return self._update(table_name, library, fresh, holding, run_id, model_id)

    def _update(
        self, table_name: str, library: str, fresh: pa.Table, holding: pa.Table | None, run_id: str, model_id: str
    ) -> bool:
        return self._growing(table_name, library).update(
            fresh,
            holding,
            run_id=run_id,
            model_id=model_id,
            require_claim=lambda: self._require_claim(library),
        )

    def view(self, table_name: str, library: str) -> RowView | None:
        """Open the present state of a table whose files are only added; None when it was never published.

        Args:
            table_name: a name in GROWING.
            library: the library's true name.
        """
        return self._growing(table_name, library).view()

    def _growing(self, table_name: str, library: str) -> AppendOnlyTable:
        if table_name not in GROWING:
            raise LakeError(f"the files of {table_name} are replaced, not added")
        return AppendOnlyTable(self._storage, table_name, _folder(table_name, library), library)

    def _write(
        self,
        table_name: str,
        name: str,
        library: str,
        rows: pa.Table | list[dict[str, Any]],
        run_id: str,
        model_id: str,
    ) -> pa.Table:
        table = validate(table_name, rows)
        metadata = {
            "run_id": run_id,
            "model_id": model_id,
            "row_count": str(len(table)),
            "schema_version": str(SCHEMA_VERSION),
            "library": library,
        }
        described = table.replace_schema_metadata(metadata)
        self._require_claim(library)
        put_file(self._storage, name, lambda path: write_parquet(path, described))
        return table

    def write_report(self, library: str, page: str) -> str:
        """Publish the page of a library in place of the one before, and return its address.

        Args:
            library: the library's true name.
            page: HTML.
        """
        name = f"{_report_folder(library)}/index.html"
        self._require_claim(library)
        put_file(self._storage, name, lambda path: path.write_text(page, encoding="utf-8"))
        return self._storage.address_of(name)

    def read(self, table_name: str, library: str, columns: list[str] | None = None) -> pa.Table | None:
        """Return a library's table, or None when it was never published; one that is large lies on the local disk.

        Columns have their present names, also where a file of an earlier version has others.

        Args:
            table_name: a name in SCHEMAS; one that only grows is read whole.
            library: the library's true name.
            columns: the columns wanted; None is all that the file has.
        """
        if table_name in LOGS:
            return self.read_log(table_name, library, columns=columns)
        if table_name in GROWING:
            view = self.view(table_name, library)
            return None if view is None else view.whole(columns)
        return self._read(table_name, _file_name(table_name, library), columns)

    def read_log(
        self, table_name: str, library: str, *, newest: int | None = None, columns: list[str] | None = None
    ) -> pa.Table | None:
        """Return the rows of a table that only grows, oldest first, or None when it has no file.

        Args:
            table_name: a name in LOGS.
            library: the library's true name.
            newest: how many files are read, the newest; None is all.
            columns: the columns wanted; None is all.
        """
        names = self._log_files(table_name, library)
        names = names if newest is None else names[-newest:]
        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
            found = list(pool.map(lambda name: self._read(table_name, name, columns), names))
        pieces = [piece for piece in found if piece is not None]
        return pa.concat_tables(pieces, promote_options="default") if pieces else None

    def prune_logs(self, library: str, before: datetime) -> list[str]:
        """Remove the files of tables that only grow that were recorded before a time, and return their names."""
        self._require_claim(library)
        names = [name for table_name in LOGS for name in self._log_files(table_name, library)]
        old = [name for name in names if name.rpartition("/")[2] < moment(before)]
        self._storage.delete(old)
        return old

    def _log_files(self, table_name: str, library: str) -> list[str]:
        """Return the names of a library's files of a table that only grows, oldest first."""
        names = self._storage.list(_folder(table_name, library))
        return [name for name in names if _LOG_NAME.fullmatch(name.rpartition("/")[2])]

    def _read(self, table_name: str, name: str, columns: list[str] | None) -> pa.Table | None:
        try:
            names = [field.name for field in SCHEMAS[table_name] if pa.types.is_dictionary(field.type)]
            file = pq.ParquetFile(self._storage.open(name).reader(), read_dictionary=names)
            older = _older_names(table_name, file.schema_arrow)
            columns = columns and [older.get(column, column) for column in columns]
            table = file.read(columns=columns)
        except FileNotFoundError:
            return None
        except pa.ArrowException as error:
            raise LakeError(f"{self.uri}/{name}: not a readable table: {error}") from error
        return tidy_names(_renamed(table_name, table).replace_schema_metadata(None))

    def metadata(self, table_name: str, library: str) -> dict[str, Any] | None:
        """Return run_id, model_id, row_count, schema_version and library of a library's table; None without one.

        Of a table that only grows they are the newest file's.
        """
        if table_name in GROWING:
            return self._growing(table_name, library).metadata()
        names = self._log_files(table_name, library) if table_name in LOGS else [_file_name(table_name, library)]
        if not names:
            return None
        name = names[-1]
        try:
            footer = pq.read_metadata(self._storage.open(name).reader()).metadata or {}
        except FileNotFoundError:
            return None
        except pa.ArrowException as error:
            raise LakeError(f"{self.uri}/{name}: not a readable table: {error}") from error
        text = {key.decode(): value.decode() for key, value in footer.items() if key != b"ARROW:schema"}
        counts = {key: int(text[key]) for key in ("row_count", "schema_version") if key in text}
        return text | counts

    def libraries(self) -> list[str]:
        """Return the true names of all libraries that have a published table, sorted."""
        return sorted({library for table_name in SCHEMAS for library, _ in self._published(table_name)})

    def _published(self, table_name: str) -> Iterator[tuple[str, str]]:
        """Give library and name of each published file of a table."""
        for name in self._storage.list(table_name):
            _, partition, *rest = name.split("/")
            if partition.startswith("library=") and len(rest) == 1 and _is_published(table_name, rest[0]):
                yield self._true_name(name, partition.removeprefix("library=")), name

    def _true_name(self, file_name: str, quoted: str) -> str:
        """Return the library of a file; where its folder's name is shortened, the file itself says it."""
        if _SHORTENED not in quoted:
            return unquote(quoted)
        if quoted not in self._true_names:
            try:
                footer = pq.read_metadata(self._storage.open(file_name).reader()).metadata or {}
            except (pa.ArrowException, FileNotFoundError) as error:
                raise LakeError(f"{self.uri}/{file_name}: not a readable table: {error}") from error
            library = footer.get(b"library", b"").decode(errors="replace")
            if not library or _quoted(library) != quoted:
                raise LakeError(f"{self.uri}/{file_name}: the file does not say which library it is of")
            self._true_names[quoted] = library
        return self._true_names[quoted]

    @functools.cached_property
    def _true_names(self) -> dict[str, str]:
        return {}

    def append_part(self, library: str, model_id: str, rows: Mapping[str, pa.Table | list[dict[str, Any]]]) -> str:
        """Keep finished rows of a running job in one file that appears whole.

        Args:
            library: the library's true name.
            model_id: the model the rows come from.
            rows: rows by table name, as for `validate`.

        Returns:
            The part's name, for `clear_parts`.
        """
        sink = pa.BufferOutputStream()
        for table_name, table_rows in rows.items():
            table = validate(table_name, table_rows).replace_schema_metadata({"table_name": table_name})
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
        content = sink.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        name = f"{_parts_folder(library, model_id)}/{time.time_ns():020d}-{digest}.part"
        self._require_claim(library)
        put_file(self._storage, name, lambda path: path.write_bytes(content))
        return name

    def read_parts(self, library: str, model_id: str) -> tuple[dict[str, pa.Table], list[str]]:
        """Return the rows kept by `append_part`, the newest of each key.

        Args:
            library: the library's true name.
            model_id: the model the rows come from.

        Returns:
            Rows by table name (every table, empty where no part has rows), and the names of part files that
            are damaged; those are logged and left out.
        """
        names = self._storage.list(_parts_folder(library, model_id))
        gathered = {name: _Pieces(columns) for name, columns in SCHEMAS.items() if name != _LARGE}
        damaged = []
        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool, Spool(SCHEMAS[_LARGE]) as spool:
            for start in range(0, len(names), _PARTS_AT_ONCE):
                some = names[start : start + _PARTS_AT_ONCE]
                for name, part in zip(some, pool.map(self._read_part, some), strict=True):
                    if part is None:
                        damaged.append(name)
                        continue
                    for table_name, table in part.items():
                        (spool if table_name == _LARGE else gathered[table_name]).add(table)
            found = {_LARGE: spool.table()}
        found |= {table_name: pieces.table() for table_name, pieces in gathered.items()}
        return {table_name: _newest(table_name, found[table_name]) for table_name in SCHEMAS}, damaged

    def _read_part(self, name: str) -> dict[str, pa.Table] | None:
        try:
            content = self._storage.open(name).reader().read()
        except FileNotFoundError:
            return {}
        try:
            if hashlib.sha256(content).hexdigest() != Path(name).stem.rpartition("-")[2]:
                raise LakeError("its content is not what was written")
            reader = pa.BufferReader(content)
            part = {}
            while reader.tell() < len(content):
                table = pa.ipc.open_stream(reader).read_all()
                table_name = (table.schema.metadata or {})[b"table_name"].decode()
                part[table_name] = validate(table_name, _renamed(table_name, table).replace_schema_metadata(None))
        except (LakeError, pa.ArrowException, KeyError) as error:
            _log.warning("part file %r is left out: %s", name, error)
            return None
        return part

    def clear_parts(self, library: str, model_id: str, but: Collection[str] = ()) -> None:
        """Remove the parts of a library and model, but for those of these names."""
        self._require_claim(library)
        names = self._storage.list(_parts_folder(library, model_id))
        self._storage.delete([name for name in names if name not in but])

    def retire(self, library: str) -> list[str]:
        """Remove a library's tables, parts and report, and return the names of its tables.

        The tables that others are made from go last, so that an interrupted removal can be resumed.
        """
        self._require_claim(library)
        files = {name: self._storage.list(_folder(name, library)) for name in reversed(SCHEMAS)}
        self._storage.delete(self._storage.list(f"{WORK_FOLDER}/parts/library={_quoted(library)}"))
        self._storage.delete(self._storage.list(_report_folder(library)))
        for names in files.values():
            self._storage.delete(names)
        return [table_name for table_name, names in files.items() if names]

    def connect(self, library: str | None = None) -> duckdb.DuckDBPyConnection:
        """Open DuckDB with one view a table, `library` its first column; see `cpllm_dagster.lake.sql`.

        A query sees each library's table as published last; it can read nothing else, and write nothing.

        Args:
            library: the only library that is seen; None is all.
        """
        files = {name: columns for name, columns in SCHEMAS.items() if name not in VIEWS}
        return sql.connect(files, functools.partial(self._listed, library), self._open_listed, VIEWS, CONDITIONS)

    def _listed(self, only: str | None, table_name: str) -> list[str]:
        """Return the table's files by names from which hive readers decode the true libraries, however long."""
        found = [(library, name) for library, name in self._published(table_name) if only in (None, library)]
        if table_name in GROWING:
            libraries = {library for library, _ in found}
            named = {library: self._growing(table_name, library).files() for library in libraries}
            found = [(library, name) for library, name in found if name.rpartition("/")[2] in named[library]]
        return sorted(
            f"{table_name}/library={_percent_quoted(library)}/{name.rpartition('/')[2]}" for library, name in found
        )

    def _open_listed(self, name: str) -> Snapshot:
        table_name, _, rest = name.partition("/library=")
        library, _, file = rest.partition("/")
        if table_name not in SCHEMAS or not library or not _is_published(table_name, file):
            raise FileNotFoundError(name)
        snapshot = self._storage.open(f"{_folder(table_name, unquote(library))}/{file}")
        return _in_present_columns(table_name, snapshot)


def _folder(table_name: str, library: str) -> str:
    schema(table_name)
    return f"{table_name}/library={_quoted(library)}"


def _report_folder(library: str) -> str:
    return f"reports/library={_quoted(library)}"


def _file_name(table_name: str, library: str) -> str:
    return f"{_folder(table_name, library)}/{WHOLE}"


def _is_published(table_name: str, file: str) -> bool:
    """Tell whether a file of this name, in a library's folder, may be of the table."""
    added = table_name in LOGS + GROWING and bool(_LOG_NAME.fullmatch(file))
    return added or (table_name not in LOGS and file == WHOLE)


def _parts_folder(library: str, model_id: str) -> str:
    return f"{WORK_FOLDER}/parts/library={_quoted(library)}/model={_quoted(model_id)}"


def _quoted(name: str) -> str:
    """Percent-quote a name for a path; one that is too long is cut, and told from others by a digest."""
    quoted = _percent_quoted(name)
    if len(quoted) <= _LONGEST_NAME:
        return quoted
    ending = _SHORTENED + hashlib.sha256(name.encode()).hexdigest()[:32]
    beginnings = (quote(name[:length], safe="") for length in range(len(name), -1, -1))
    return next(text for text in beginnings if len(text) <= _LONGEST_NAME - len(ending)) + ending


def _percent_quoted(name: str) -> str:
    """Percent-quote a name, so that hive readers decode it to the same name."""
    try:
        quoted = quote(name, safe="")
    except UnicodeEncodeError:
        raise LakeError(f"{name!r} is not valid text") from None
    if not quoted:
        raise LakeError("a library or model has an empty name")
    # Hive's own word for "no partition" would read as NULL.
    return quoted.replace("__HIVE", "%5F_HIVE", 1) if quoted.startswith("__HIVE") else quoted


def _older_names(table_name: str, columns: pa.Schema) -> dict[str, str]:
    """Give, by present name, the names that columns have in a file of an earlier version."""
    renamed = RENAMED.get(table_name, {})
    return {new: old for old, new in renamed.items() if old in columns.names and new not in columns.names}


def _renamed(table_name: str, table: pa.Table) -> pa.Table:
    """Give a table of any version with the present names of its columns."""
    present = {old: new for new, old in _older_names(table_name, table.schema).items()}
    return table.rename_columns([present.get(name, name) for name in table.column_names]) if present else table


def _in_present_columns(table_name: str, snapshot: Snapshot) -> Snapshot:
    """Give a file of an earlier version with the present columns, so that SQL reads files of all versions at once.

    Missing columns are null. Large tables have never changed and are left as they are.
    """
    wanted = names_as_text(SCHEMAS[table_name])
    try:
        if is_large(wanted) or pq.read_schema(snapshot.reader()).names == wanted.names:
            return snapshot
        table = _renamed(table_name, pq.read_table(snapshot.reader()))
    except pa.ArrowException as error:
        raise LakeError(f"not a readable table: {error}") from error
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in wanted
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, names=wanted.names), sink)
    return BytesSnapshot(sink.getvalue().to_pybytes(), snapshot.version)


class _Pieces:
    """Tables of one kind, gathered so that many small ones do not cost more than their rows."""

    def __init__(self, schema: pa.Schema) -> None:
        self._gathered, self._small = [schema.empty_table()], []

    def add(self, table: pa.Table) -> None:
        self._small.append(table)
        if len(self._small) == _PIECES_TOGETHER:
            self._gathered.append(pa.concat_tables(self._small).combine_chunks())
            self._small = []

    def table(self) -> pa.Table:
        return pa.concat_tables([*self._gathered, *self._small])


def _newest(table_name: str, table: pa.Table) -> pa.Table:
    """Keep the last row of each key."""
    keys = list(KEYS[table_name])
    numbered = table.select(keys).unify_dictionaries().append_column("row", pa.array(np.arange(len(table))))
    last = numbered.group_by(keys).aggregate([("row", "max")])["row_max"]
    return taken(table, last.sort().to_numpy()) if len(last) < len(table) else table
