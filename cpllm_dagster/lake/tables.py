"""The tables of a lake: how rows become a published file, how they are read, and SQL over them.

In: rows as dicts or Arrow tables. Out: one Parquet file a table and library,
`<lake>/<table>/library=<percent-quoted name>/data.parquet`, that a reader sees whole or not at all (a name that is
too long for a folder is cut, and stands whole in the file's metadata); parts of a running job under `<lake>/.work`,
which no table's glob reaches; a DuckDB connection with a view a table.
Knows nothing of Dagster, Ray or the model.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cpllm_dagster.lake import sql
from cpllm_dagster.lake.claims import claimed
from cpllm_dagster.lake.schemas import KEYS, SCHEMAS, names_as_text, schema, tidy_names, validate
from cpllm_dagster.lake.spool import ROWS_AT_ONCE, Spool, is_large, spooled, taken
from cpllm_dagster.lake.storage import WORK_FOLDER, BucketStorage, FolderStorage, Snapshot, storage_at
from cpllm_model.errors import LakeError

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
#: Small groups where a row is large, so that a reader needs little memory.
_ROWS_PER_GROUP = {name: ROWS_AT_ONCE if is_large(columns) else 65_536 for name, columns in SCHEMAS.items()}
(_LARGE,) = (table_name for table_name, columns in SCHEMAS.items() if is_large(columns))
_PARTS_AT_ONCE = 16
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
        name = _file_name(table_name, library)
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
        self._publish(name, lambda path: _write_parquet(path, described, _ROWS_PER_GROUP[table_name]))
        return table

    def _publish(self, name: str, write: Callable[[Path], object]) -> None:
        with self._storage.work_file() as path:
            try:
                write(path)
            except (pa.ArrowException, OSError) as error:
                raise LakeError(f"{self.uri}/{name}: cannot be written: {error}") from error
            self._storage.put(path, name)

    def read(self, table_name: str, library: str, columns: list[str] | None = None) -> pa.Table | None:
        """Return a library's table, or None when it was never published; see `spool` for one that is large.

        Args:
            table_name: a name in SCHEMAS.
            library: the library's true name.
            columns: the columns wanted; None is all.
        """
        name = _file_name(table_name, library)
        try:
            names = [field.name for field in SCHEMAS[table_name] if pa.types.is_dictionary(field.type)]
            file = pq.ParquetFile(self._storage.open(name).reader(), read_dictionary=names)
            wanted = file.schema_arrow if columns is None else pa.schema([file.schema_arrow.field(c) for c in columns])
            if is_large(wanted):
                groups = (file.read_row_group(index, columns) for index in range(file.num_row_groups))
                return spooled(wanted.remove_metadata(), (group.replace_schema_metadata(None) for group in groups))
            table = file.read(columns=columns)
        except FileNotFoundError:
            return None
        except pa.ArrowException as error:
            raise LakeError(f"{self.uri}/{name}: not a readable table: {error}") from error
        return tidy_names(table.replace_schema_metadata(None))

    def metadata(self, table_name: str, library: str) -> dict[str, Any] | None:
        """Return run_id, model_id, row_count, schema_version and library of a library's table; None without one."""
        name = _file_name(table_name, library)
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
        return sorted({library for table_name in SCHEMAS for library in self._published(table_name)})

    def _published(self, table_name: str) -> dict[str, str]:
        """Return file name by library."""
        published = {}
        for name in self._storage.list(table_name):
            _, partition, *rest = name.split("/")
            if partition.startswith("library=") and rest == ["data.parquet"]:
                published[self._true_name(name, partition.removeprefix("library="))] = name
        return published

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
        self._publish(name, lambda path: path.write_bytes(content))
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
        tables = {table_name: [schema.empty_table()] for table_name, schema in SCHEMAS.items() if not is_large(schema)}
        damaged = []
        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool, Spool(SCHEMAS[_LARGE]) as spool:
            for start in range(0, len(names), _PARTS_AT_ONCE):
                some = names[start : start + _PARTS_AT_ONCE]
                for name, part in zip(some, pool.map(self._read_part, some), strict=True):
                    if part is None:
                        damaged.append(name)
                        continue
                    for table_name, table in part.items():
                        (spool.add if table_name == _LARGE else tables[table_name].append)(table)
            found = {_LARGE: spool.table()}
        found |= {table_name: pa.concat_tables(pieces) for table_name, pieces in tables.items()}
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
                part[table_name] = validate(table_name, table.replace_schema_metadata(None))
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
        """Remove a library's tables and parts, and return the names of its tables.

        The tables that others are made from go last, so that one that is interrupted can be taken up again.
        """
        self._require_claim(library)
        tables = [name for name in reversed(SCHEMAS) if self.metadata(name, library) is not None]
        self._storage.delete(self._storage.list(f"{WORK_FOLDER}/parts/library={_quoted(library)}"))
        for name in tables:
            self._storage.delete([_file_name(name, library)])
        return tables

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Open DuckDB with one view a table, `library` its first column; see `cpllm_dagster.lake.sql`.

        A query sees each library's table as published last; it can read nothing else, and write nothing.
        """
        return sql.connect(SCHEMAS, self._listed, self._open_listed)

    def _listed(self, table_name: str) -> list[str]:
        """Return the table's files by names from which hive readers decode the true libraries, however long."""
        libraries = self._published(table_name)
        return sorted(f"{table_name}/library={_percent_quoted(library)}/data.parquet" for library in libraries)

    def _open_listed(self, name: str) -> Snapshot:
        table_name, _, rest = name.partition("/library=")
        library, _, file = rest.partition("/")
        if table_name not in SCHEMAS or not library or file != "data.parquet":
            raise FileNotFoundError(name)
        return self._storage.open(_file_name(table_name, unquote(library)))


def _file_name(table_name: str, library: str) -> str:
    schema(table_name)
    return f"{table_name}/library={_quoted(library)}/data.parquet"


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


def _write_parquet(path: Path, table: pa.Table, rows_per_group: int) -> None:
    plain = names_as_text(table.schema)
    with pq.ParquetWriter(path, plain, compression="zstd", write_page_checksum=True) as file:
        for start in range(0, len(table), rows_per_group):
            # Names become text a group at a time; how the rows arrived must not show in the file's bytes.
            file.write_table(table.slice(start, rows_per_group).cast(plain).combine_chunks(), rows_per_group)
    written = pq.read_metadata(path)
    if written.num_rows != len(table) or not written.schema.to_arrow_schema().equals(plain):
        raise LakeError(f"{path}: {written.num_rows} of {len(table)} rows stand in it, or in another schema")


def _newest(table_name: str, table: pa.Table) -> pa.Table:
    """Keep the last row of each key."""
    keys = list(KEYS[table_name])
    numbered = table.select(keys).unify_dictionaries().append_column("row", pa.array(np.arange(len(table))))
    last = numbered.group_by(keys).aggregate([("row", "max")])["row_max"]
    return taken(table, last.sort().to_numpy()) if len(last) < len(table) else table
