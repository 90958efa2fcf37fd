"""DuckDB over the files of a lake: a view a table, and nothing else within reach.

In: how to list and open the lake's files. Out: a connection that reads them through Python, in a folder and
on S3 alike: no extension is downloaded, no file but the lake's tables can be read, and none written.
Knows nothing of where the files lie.
"""

from __future__ import annotations

import datetime
import io
import itertools
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from cpllm_dagster.lake.schemas import names_as_text
from cpllm_dagster.lake.storage import BytesSnapshot, Snapshot
from cpllm_model.errors import LakeError

_PROTOCOL = "lake"
_VERSIONS_KEPT = 100_000
_SNAPSHOTS_KEPT = 32
_LOCKDOWN = (
    "SET TimeZone = 'UTC'",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    # A query must not reach what happens to be named in this process.
    "SET python_enable_replacements = false",
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
    open_file: Callable[[str], Snapshot],
    views: dict[str, str] | None = None,
    conditions: dict[str, str] | None = None,
) -> duckdb.DuckDBPyConnection:
    """Open DuckDB with a view for each table; every query sees the files published when it starts.

    Args:
        schemas: columns by table name; a table without files is an empty view of these.
        list_files: table name -> names of its files, each with a folder `library=<percent-quoted>`.
        open_file: file name -> its present version.
        views: queries over these tables by name, each to be a view, too.
        conditions: what follows FROM in the view of a table, by name; it may name tables before it in `schemas`.

    Returns:
        A connection whose views begin with the column `library`; its settings are locked.

    Raises:
        LakeError: the files cannot be listed or read.
    """
    connection = duckdb.connect()
    connection.register_filesystem(_TableFiles(schemas, list_files, open_file))
    try:
        for table_name in schemas:
            connection.execute(
                f'CREATE VIEW "{table_name}" AS SELECT library, * EXCLUDE (library) FROM read_parquet('  # noqa: S608
                f"'{_PROTOCOL}://{table_name}/*', hive_partitioning = true, hive_types = {{'library': VARCHAR}}) "
                + (conditions or {}).get(table_name, "")
            )
        for name, query in (views or {}).items():
            connection.execute(f'CREATE VIEW "{name}" AS {query}')
        for statement in _LOCKDOWN:
            connection.execute(statement)
    except duckdb.Error as error:
        connection.close()
        raise LakeError(sentence(error)) from error
    return connection


def sentence(error: duckdb.Error) -> str:
    """Return what an error says; where it came out of reading a file, without the traceback DuckDB quotes."""
    text = str(error).strip()
    quoted = re.match(r"Traceback .*\n(?:  .*\n)+[\w.]+: (.+)", text)
    return quoted[1] if quoted else text


class _TableFiles(fsspec.AbstractFileSystem):
    """The published files as DuckDB asks for them: `lake://<table>/*` lists, names open for reading only.

    DuckDB opens a file several times in one query, for its footer and in each thread, and would mix versions of
    one that is replaced in between. So each listing, which begins a query, gives the files names of its own,
    `lake://<number>/<name>`, and such a name stands for the version that was opened first: it stays open while
    DuckDB holds it and is among the latest, and it is an error when it was let go and another has come.
    """

    protocol = _PROTOCOL
    cachable = False

    def __init__(
        self,
        schemas: dict[str, pa.Schema],
        list_files: Callable[[str], list[str]],
        open_file: Callable[[str], Snapshot],
    ) -> None:
        super().__init__()
        self._schemas, self._list_files, self._open_file = schemas, list_files, open_file
        self._listings = itertools.count()
        self._versions: OrderedDict[str, str] = OrderedDict()
        self._snapshots: WeakValueDictionary[str, Snapshot] = WeakValueDictionary()
        self._kept: deque[Snapshot] = deque(maxlen=_SNAPSHOTS_KEPT)
        self._lock = threading.Lock()

    def glob(self, path: str, maxdepth: int | None = None, **_: Any) -> list[str]:
        table_name = path.removeprefix(f"{_PROTOCOL}://").partition("/")[0]
        if table_name not in self._schemas:
            return []
        names = self._list_files(table_name) or [_empty_name(table_name)]
        listing = next(self._listings)
        return [f"{_PROTOCOL}://{listing}/{name}" for name in names]

    def open(self, path: str, mode: str = "rb", *_: Any, **__: Any) -> Any:
        if mode != "rb":
            raise PermissionError(f"the tables cannot be written by SQL: {path!r}")
        return _SharedReader(self._snapshot(path))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": self._snapshot(path).size_bytes, "type": "file"}

    def modified(self, path: str) -> datetime.datetime:
        # Only a cache would ask, and it is off.
        return datetime.datetime.fromtimestamp(0, datetime.UTC)

    def _snapshot(self, path: str) -> Snapshot:
        if (found := self._snapshots.get(path)) is not None:
            return found
        name = path.removeprefix(f"{_PROTOCOL}://").partition("/")[2]
        table_name = name.partition("/")[0]
        if table_name in self._schemas and name == _empty_name(table_name):
            opened = _empty_table(self._schemas[table_name])
        else:
            opened = self._open_file(name)
        with self._lock:
            if self._versions.setdefault(path, opened.version) != opened.version:
                raise LakeError(f"{name} was replaced while it was read; run the query again")
            if len(self._versions) > _VERSIONS_KEPT:
                self._versions.popitem(last=False)
            snapshot = self._snapshots.setdefault(path, opened)
            self._kept.append(snapshot)
            return snapshot


class _SharedReader:
    """A reader whose position is each thread's own: DuckDB seeks and reads one handle in all its threads at once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._own = threading.local()

    def _reader(self) -> io.BufferedReader:
        if not hasattr(self._own, "reader"):
            self._own.reader = self._snapshot.reader()
        return self._own.reader

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader().seek(offset, whence)

    def tell(self) -> int:
        return self._reader().tell()

    def read(self, size: int = -1) -> bytes:
        return self._reader().read(size)

    def close(self) -> None:
        """Nothing: the version stays open while it is referred to."""


def _empty_table(schema: pa.Schema) -> Snapshot:
    """Give what stands for a table that no library has yet."""
    sink = pa.BufferOutputStream()
    pq.write_table(names_as_text(schema).empty_table(), sink)
    return BytesSnapshot(sink.getvalue().to_pybytes(), "empty")


def _empty_name(table_name: str) -> str:
    # No library has the empty name, so this file is never a published one.
    return f"{table_name}/library=/data.parquet"
