"""DuckDB over the files of a lake: a view a table, and nothing else within reach.

In: how to list and open the lake's files. Out: a connection that reads them through Python, in a folder and
on S3 alike: no extension is downloaded, no file but the lake's tables can be read, and none written.
Knows nothing of where the files lie.
"""

from __future__ import annotations

import datetime
import io
import threading
from collections.abc import Callable
from typing import Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from cpllm_dagster.storage import PinnedFile

_PROTOCOL = "lake"
_LOCKDOWN = (
    "SET TimeZone = 'UTC'",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    # A published file may be replaced at any time under the same name.
    "SET enable_external_file_cache = false",
    "SET temp_directory = ''",
    f"SET allowed_directories = ['{_PROTOCOL}://']",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


def connect(
    schemas: dict[str, pa.Schema],
    list_files: Callable[[str], list[str]],
    open_file: Callable[[str], PinnedFile],
) -> duckdb.DuckDBPyConnection:
    """Open DuckDB with a view for each table; every query sees the files published when it starts.

    Args:
        schemas: columns by table name; a table without files is an empty view of these.
        list_files: table name -> names of its files, each with a folder `library=<percent-quoted>`.
        open_file: file name -> reader of one version of it.

    Returns:
        A connection whose views begin with the column `library`; its settings are locked.
    """
    connection = duckdb.connect()
    connection.register_filesystem(_TableFiles(schemas, list_files, open_file))
    for table_name in schemas:
        connection.execute(
            f'CREATE VIEW "{table_name}" AS SELECT library, * EXCLUDE (library) FROM read_parquet('  # noqa: S608
            f"'{_PROTOCOL}://{table_name}/*', hive_partitioning = true, hive_types = {{'library': VARCHAR}})"
        )
    for statement in _LOCKDOWN:
        connection.execute(statement)
    return connection


class _TableFiles(fsspec.AbstractFileSystem):
    """The published files as DuckDB asks for them: `lake://<table>/*` lists, names open for reading only."""

    protocol = _PROTOCOL
    cachable = False

    def __init__(
        self,
        schemas: dict[str, pa.Schema],
        list_files: Callable[[str], list[str]],
        open_file: Callable[[str], PinnedFile],
    ) -> None:
        super().__init__()
        self._schemas, self._list_files, self._open_file = schemas, list_files, open_file
        self._opened: dict[int, tuple[str, int]] = {}

    def glob(self, path: str, maxdepth: int | None = None, **_: Any) -> list[str]:
        table_name = _relative(path).partition("/")[0]
        if table_name not in self._schemas:
            return []
        names = self._list_files(table_name) or [_empty_name(table_name)]
        return [f"{_PROTOCOL}://{name}" for name in names]

    def open(self, path: str, mode: str = "rb", *_: Any, **__: Any) -> Any:
        if mode != "rb":
            raise PermissionError(f"the tables cannot be written by SQL: {path!r}")
        name = _relative(path)
        table_name = name.partition("/")[0]
        if name == _empty_name(table_name) and table_name in self._schemas:
            sink = io.BytesIO()
            pq.write_table(self._schemas[table_name].empty_table(), sink)
            size_bytes, file = sink.tell(), sink
        else:
            file = self._open_file(name)
            size_bytes = file.size_bytes
        # DuckDB asks for the size by name right after it opened the file, in the same thread; the file may
        # have been replaced in between, so the answer is that of the version just opened. It is kept by thread
        # number because DuckDB's threads lose their threading.local between calls.
        self._opened[threading.get_ident()] = (name, size_bytes)
        return file

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        name = _relative(path)
        opened_name, size_bytes = self._opened.get(threading.get_ident(), ("", 0))
        if opened_name != name:
            with self._open_file(name) as file:
                size_bytes = file.size_bytes
        return {"name": path, "size": size_bytes, "type": "file"}

    def modified(self, path: str) -> datetime.datetime:
        # Only a cache would ask, and it is off.
        return datetime.datetime.fromtimestamp(0, datetime.UTC)


def _relative(path: str) -> str:
    return path.removeprefix(f"{_PROTOCOL}://")


def _empty_name(table_name: str) -> str:
    # No library has the empty name, so this file is never a published one.
    return f"{table_name}/library=/data.parquet"
