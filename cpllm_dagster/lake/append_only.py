"""A table of large rows that are written once: files that are never changed, and a manifest of the rows that hold.

In: new rows, and which versions (id, ETag, model) hold. Out: in the library's folder one file of the new rows,
`<time>_<run id>.parquet`, beside it `_<time>_<run id>.keys` with the versions alone, and `_manifest.json`, which names
the files and in each the numbers of the rows that no longer hold. The manifest is put last and at once, so a reader
that begins with it sees one state of the table. What it does not name is left over from a run that died, and goes with
the next update. Small files, and files of which little holds, are merged into the next new one. Other engines pass
over names that begin with an underscore. Knows nothing of what a row holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cpllm_dagster.lake.parquet import moment, put_file, write_parquet
from cpllm_dagster.lake.rows import validate, version_places
from cpllm_dagster.lake.schemas import SCHEMA_VERSION, SCHEMAS
from cpllm_dagster.lake.spool import spooled, taken
from cpllm_dagster.lake.storage import BucketStorage, FolderStorage
from cpllm_model.errors import LakeError

#: What a row is of; rows of one version never differ.
VERSION = ["video_id", "etag", "model_id"]
#: The only file of a table that an earlier version of this project wrote.
WHOLE = "data.parquet"
_MANIFEST = "_manifest.json"
#: How often a reader begins again whose files were merged while it opened them.
_READ_ATTEMPTS = 5


@dataclass(frozen=True, eq=False)
class RowFile:
    """A file of the table: its name in the folder, its number of rows, and those that no longer hold, ascending."""

    name: str
    row_count: int
    gone_G: np.ndarray

    @property
    def holding(self) -> int:
        """Number of rows that hold."""
        return self.row_count - len(self.gone_G)

    @property
    def mostly_gone(self) -> bool:
        """Whether half of the rows or more no longer hold."""
        return 0 < self.row_count <= 2 * len(self.gone_G)


@dataclass(frozen=True, eq=False)
class _Manifest:
    """One state of the table: whose it is, and its files."""

    metadata: dict[str, Any]
    files: list[RowFile]

    @classmethod
    def parse(cls, text: bytes) -> Self:
        content = json.loads(text)
        files = [
            RowFile(str(one["name"]), int(one["row_count"]), np.array(one["gone"], np.int64))
            for one in content.pop("files")
        ]
        if any("/" in one.name for one in files):
            raise ValueError("a file's name has a slash")
        return cls(content, files)

    def text(self) -> str:
        files = [{"name": one.name, "row_count": one.row_count, "gone": one.gone_G.tolist()} for one in self.files]
        return json.dumps(self.metadata | {"files": files}, separators=(",", ":"))


class RowView:
    """One state of the table; rows are read when they are asked for.

    Args:
        table: whose state it is.
        manifest: the state.
    """

    def __init__(self, table: AppendOnlyTable, manifest: _Manifest) -> None:
        self._table, self.files = table, manifest.files
        keys = [table.keys(file.name) for file in self.files]
        for file, found in zip(self.files, keys, strict=True):
            if len(found) != file.row_count or (file.gone_G >= file.row_count).any():
                raise LakeError(f"{table.address(file.name)}: {len(found)} rows stand in it, not {file.row_count}")
        #: Versions of all rows, also of those that no longer hold.
        self.all_versions = pa.concat_tables([SCHEMAS[table.name].empty_table().select(VERSION), *keys])
        self._start_F = np.cumsum([0, *(file.row_count for file in self.files)])
        gone = [start + file.gone_G for start, file in zip(self._start_F, self.files, strict=False)]
        self._row_N = np.delete(np.arange(self._start_F[-1]), np.concatenate([np.empty(0, np.int64), *gone]))

    @cached_property
    def versions(self) -> pa.Table:
        """Versions of the rows that hold."""
        return self.all_versions.take(pa.array(self._row_N))

    def rows(self, chosen_N: np.ndarray, columns: list[str] | None = None) -> pa.Table:
        """Give rows by their places in `versions`, in ascending order, on the local disk if they are large."""
        return self._spooled(self._row_N[np.unique(chosen_N)], columns)

    def whole(self, columns: list[str] | None = None) -> pa.Table:
        """Give all rows that hold, in key order."""
        order_N = np.argsort(self.versions["video_id"].to_numpy(), kind="stable")
        if columns is not None and set(columns) <= set(VERSION):
            return self.versions.select(columns).take(pa.array(order_N))
        found = self._spooled(self._row_N, columns)
        return found if (np.diff(order_N) == 1).all() else taken(found, order_N)

    def _spooled(self, row_N: np.ndarray, columns: list[str] | None) -> pa.Table:
        schema = SCHEMAS[self._table.name]
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        return spooled(wanted.remove_metadata(), self._pieces(row_N, wanted))

    def _pieces(self, row_N: np.ndarray, wanted: pa.Schema) -> Iterator[pa.Table]:
        for file, start, stop in zip(self.files, self._start_F, self._start_F[1:], strict=False):
            here_N = row_N[(row_N >= start) & (row_N < stop)] - start
            if len(here_N):
                yield from self._table.pieces(file.name, here_N, wanted)


class AppendOnlyTable:
    """The files of one table and library.

    Args:
        storage: the lake's files.
        name: a table in schemas.GROWING.
        folder: of the library, within the lake.
        library: its true name.
    """

    def __init__(self, storage: FolderStorage | BucketStorage, name: str, folder: str, library: str) -> None:
        self._storage, self.name, self._folder, self._library = storage, name, folder, library

    def address(self, name: str) -> str:
        """Give the address of a file, for messages."""
        return self._storage.address_of(f"{self._folder}/{name}")

    def metadata(self) -> dict[str, Any] | None:
        """Give run_id, model_id, row_count, schema_version and library; None where nothing was published."""
        manifest = self._manifest()
        return None if manifest is None else manifest.metadata

    def files(self) -> list[str]:
        """Give the names of the files, oldest first."""
        manifest = self._manifest()
        return [] if manifest is None else [file.name for file in manifest.files]

    def view(self) -> RowView | None:
        """Open the present state; None where nothing was published."""
        for attempt in range(_READ_ATTEMPTS):
            manifest = self._manifest()
            try:
                return None if manifest is None else RowView(self, manifest)
            except FileNotFoundError as error:
                if attempt == _READ_ATTEMPTS - 1:
                    raise LakeError(f"{error}: the file is missing") from error
        raise AssertionError("unreachable")

    def update(
        self,
        fresh: pa.Table,
        holding: pa.Table | None,
        *,
        run_id: str,
        model_id: str,
        require_claim: Callable[[], None],
    ) -> bool:
        """Add rows and let others go; whether anything has changed.

        Args:
            fresh: new rows; of versions that the table has, the older row stays.
            holding: the versions that hold from now on, each video once; None makes the new rows the whole table.
            run_id, model_id: who publishes.
            require_claim: raises when the right to write was lost.

        Raises:
            LakeError: a version is to hold and has no row; or the lake cannot be written.
        """
        view = None if holding is None else self.view()
        versions = fresh.select(VERSION) if holding is None else holding
        files, missing_N = self._let_go(view, versions)
        new_N = np.flatnonzero(version_places(fresh, versions.filter(missing_N), *VERSION[1:]) >= 0)
        if len(new_N) != missing_N.sum():
            raise LakeError(f"{self.name} of {self._library!r}: {missing_N.sum() - len(new_N)} versions have no rows")
        new = fresh if len(new_N) == len(fresh) else taken(fresh, new_N)
        merged = _to_merge(files, len(new_N))
        kept = [file for file in files if file not in merged]
        if view is not None and not len(new_N) and not merged and _same(files, view):
            return False
        rows = validate(self.name, self._merged(merged, new))
        metadata = {"run_id": run_id, "model_id": model_id, "row_count": len(versions)}
        metadata |= {"schema_version": SCHEMA_VERSION, "library": self._library}
        require_claim()
        if len(rows) or not kept:
            kept.append(self._add(rows, metadata, run_id))
        for file in kept:
            self._add_keys(file.name)
        require_claim()
        self._put(_MANIFEST, lambda path: path.write_text(_Manifest(metadata, kept).text()))
        self._remove_all_but(kept)
        return True

    def keys(self, name: str) -> pa.Table:
        """Read the versions of all rows of a file, in their order."""
        try:
            try:
                return self._parquet(_keys_name(name)).read(columns=VERSION).replace_schema_metadata(None)
            except FileNotFoundError:
                return self._parquet(name).read(columns=VERSION).replace_schema_metadata(None)
        except pa.ArrowException as error:
            raise LakeError(f"{self.address(name)}: not a readable table: {error}") from error

    def pieces(self, name: str, row_N: np.ndarray, wanted: pa.Schema) -> Iterator[pa.Table]:
        """Read rows of a file by their numbers, ascending, a row group at a time."""
        try:
            file = self._parquet(name)
            sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
            start_G = np.cumsum([0, *sizes])
            group_N = np.searchsorted(start_G, row_N, side="right") - 1
            for group in np.unique(group_N).tolist():
                found = file.read_row_group(group, wanted.names).select(wanted.names)
                chosen = found.take(pa.array(row_N[group_N == group] - start_G[group]))
                yield chosen.cast(wanted).replace_schema_metadata(None)
        except FileNotFoundError as error:
            raise LakeError(f"{self.address(name)} was replaced while it was read; run again") from error
        except pa.ArrowException as error:
            raise LakeError(f"{self.address(name)}: not a readable table: {error}") from error

    def _let_go(self, view: RowView | None, holding: pa.Table) -> tuple[list[RowFile], np.ndarray]:
        """Give the files with what no longer holds, and which of the versions have no row yet: bool (N,)."""
        missing_N = np.ones(len(holding), bool)
        if view is None:
            return [], missing_N
        place_R = version_places(view.all_versions, holding, *VERSION[1:])
        missing_N[place_R[place_R >= 0]] = False
        pieces = np.split(place_R, np.cumsum([file.row_count for file in view.files])[:-1])
        return [
            RowFile(file.name, file.row_count, np.flatnonzero(piece < 0))
            for file, piece in zip(view.files, pieces, strict=True)
        ], missing_N

    def _merged(self, files: list[RowFile], fresh: pa.Table) -> pa.Table:
        """Give what holds of some files together with the new rows."""
        schema = SCHEMAS[self.name]

        def pieces() -> Iterator[pa.Table]:
            for file in files:
                yield from self.pieces(file.name, np.delete(np.arange(file.row_count), file.gone_G), schema)
            for batch in fresh.to_batches():
                yield pa.Table.from_batches([batch]).cast(schema).replace_schema_metadata(None)

        return spooled(schema.remove_metadata(), pieces()) if files else fresh

    def _add(self, rows: pa.Table, metadata: dict[str, Any], run_id: str) -> RowFile:
        name = f"{moment(datetime.now(UTC))}_{quote(run_id, safe='')}.parquet"
        described = rows.replace_schema_metadata({key: str(value) for key, value in metadata.items()})
        self._put(_keys_name(name), lambda path: write_parquet(path, rows.select(VERSION)))
        self._put(name, lambda path: write_parquet(path, described))
        return RowFile(name, len(rows), np.empty(0, np.int64))

    def _add_keys(self, name: str) -> None:
        """Write the versions of a file beside it, where an earlier version of this project wrote the file."""
        if name == WHOLE and f"{self._folder}/{_keys_name(name)}" not in self._storage.list(self._folder):
            keys = self.keys(name)
            self._put(_keys_name(name), lambda path: write_parquet(path, keys))

    def _remove_all_but(self, kept: list[RowFile]) -> None:
        names = {_MANIFEST, *(file.name for file in kept), *(_keys_name(file.name) for file in kept)}
        here = self._storage.list(self._folder)
        self._storage.delete([name for name in here if name.rpartition("/")[2] not in names])

    def _manifest(self) -> _Manifest | None:
        name = f"{self._folder}/{_MANIFEST}"
        try:
            return _Manifest.parse(self._storage.open(name).reader().read())
        except FileNotFoundError:
            return self._of_earlier_version()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LakeError(f"{self.address(_MANIFEST)}: not a manifest: {error}") from error

    def _of_earlier_version(self) -> _Manifest | None:
        try:
            footer = self._parquet(WHOLE).metadata
        except FileNotFoundError:
            return None
        except pa.ArrowException as error:
            raise LakeError(f"{self.address(WHOLE)}: not a readable table: {error}") from error
        text = {key.decode(): value.decode() for key, value in (footer.metadata or {}).items()}
        names = ("run_id", "model_id", "library", "row_count", "schema_version")
        metadata: dict[str, Any] = {name: text[name] for name in names if name in text}
        metadata |= {name: int(metadata[name]) for name in names[3:] if name in metadata}
        return _Manifest(metadata, [RowFile(WHOLE, footer.num_rows, np.empty(0, np.int64))])

    def _parquet(self, name: str) -> pq.ParquetFile:
        return pq.ParquetFile(self._storage.open(f"{self._folder}/{name}").reader())

    def _put(self, name: str, write: Callable[[Path], object]) -> None:
        put_file(self._storage, f"{self._folder}/{name}", write)


def _to_merge(files: list[RowFile], new: int) -> list[RowFile]:
    """Choose the files that go into the next one: what mostly no longer holds, and what is no larger than the rest.

    So each row is written anew at most about log2 of the table's length times, and the files are as few.
    """
    merged = [file for file in files if file.mostly_gone]
    total = new + sum(file.holding for file in merged)
    for file in sorted(files, key=lambda one: one.holding):
        if file not in merged and total and file.holding <= total:
            merged.append(file)
            total += file.holding
    return merged


def _same(files: list[RowFile], view: RowView) -> bool:
    """Tell whether the same rows hold as before."""
    return all(np.array_equal(a.gone_G, b.gone_G) for a, b in zip(files, view.files, strict=True))


def _keys_name(name: str) -> str:
    return f"_{name.removesuffix('.parquet')}.keys"
