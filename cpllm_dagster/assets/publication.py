"""How an asset publishes its table: only when a row has changed, and with what the UI shows of every table.

In: a library's rows as they should be and as they were published before. Out: the published file and the asset's
materialization. A table whose rows are the same is left untouched and keeps its data version.
"""

from __future__ import annotations

from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa

from cpllm_dagster.lake.append_only import RowView
from cpllm_dagster.lake.rows import key_numbers, validate
from cpllm_dagster.lake.schemas import SCHEMA_VERSION, SCHEMAS, comment, names_as_text
from cpllm_dagster.lake.tables import Lake
from cpllm_model.errors import LakeError


def table_metadata(table_name: str) -> dict[str, Any]:
    """Give what the UI shows of an asset that is a table of the lake: its name there and its columns."""
    columns = [
        dg.TableColumn(
            field.name,
            str(field.type),
            description=comment(field),
            constraints=dg.TableColumnConstraints(nullable=field.nullable),
        )
        for field in names_as_text(SCHEMAS[table_name])
    ]
    return {"table": table_name, "dagster/column_schema": dg.TableSchema(columns)}


def published(lake: Lake, table_name: str, library: str, columns: list[str] | None = None) -> pa.Table:
    """Read a table that must have been published.

    Raises:
        LakeError: the library has no such table yet.
    """
    table = lake.read(table_name, library, columns)
    if table is None:
        raise _not_yet(table_name, library)
    return table


def published_rows(lake: Lake, table_name: str, library: str) -> RowView:
    """Open a table whose files are only added, and which must have been published.

    Raises:
        LakeError: the library has no such table yet.
    """
    view = lake.view(table_name, library)
    if view is None:
        raise _not_yet(table_name, library)
    return view


def _not_yet(table_name: str, library: str) -> LakeError:
    return LakeError(f"library {library!r} has no table {table_name!r} yet: materialize the asset before this one")


def published_or_empty(lake: Lake, table_name: str, library: str, columns: list[str] | None = None) -> pa.Table:
    """Read a table; one that was never published has no rows."""
    table = lake.read(table_name, library, columns)
    empty = SCHEMAS[table_name].empty_table()
    return table if table is not None else empty.select(columns or empty.column_names)


def publish(
    lake: Lake,
    table_name: str,
    library: str,
    rows: pa.Table | None,
    *,
    made: int,
    run_id: str,
    model_id: str,
    metadata: dict[str, Any] | None = None,
    asset_key: str | None = None,
) -> dg.MaterializeResult:
    """Publish a library's table unless it is published already, and tell what changed.

    Args:
        lake: where to.
        table_name, library: which.
        rows: all rows the table should have; None leaves it as it was published.
        made: how many of them this run computed.
        run_id, model_id: who computes.
        metadata: what more the UI shows.
        asset_key: the asset, where the function that yields the result makes several.

    Raises:
        LakeError: the rows break the schema, or the lake cannot be written.
    """
    removed = 0
    before = lake.metadata(table_name, library)
    if rows is None and before is None:
        rows = SCHEMAS[table_name].empty_table()
    if rows is not None:
        valid = validate(table_name, rows)
        old = published_or_empty(lake, table_name, library)
        # A file of an earlier version is brought to the present columns.
        if before is None or before.get("schema_version") != SCHEMA_VERSION or not valid.equals(old):
            lake.write(table_name, library, valid, run_id=run_id, model_id=model_id)
            removed = _removed(table_name, old, valid)
    return _result(lake, table_name, library, made, removed, metadata, asset_key)


def publish_versions(
    lake: Lake,
    table_name: str,
    library: str,
    old: pa.Table,
    fresh: pa.Table,
    holding: pa.Table,
    *,
    made: int,
    run_id: str,
    model_id: str,
    asset_key: str,
) -> dg.MaterializeResult:
    """Add rows to a table whose files are only added, and tell what changed.

    Args:
        lake: where to.
        table_name, library: which.
        old: versions that have a row so far.
        fresh: the rows to add.
        holding: versions that have a row from now on, those of `fresh` included.
        made: how many rows this run computed.
        run_id, model_id: who computes.
        asset_key: the asset.

    Raises:
        LakeError: a version has no row, or the lake cannot be written.
    """
    lake.update(table_name, library, fresh, holding, run_id=run_id, model_id=model_id)
    return _result(lake, table_name, library, made, _removed(table_name, old, holding), None, asset_key)


def _result(
    lake: Lake,
    table_name: str,
    library: str,
    made: int,
    removed: int,
    metadata: dict[str, Any] | None,
    asset_key: str | None,
) -> dg.MaterializeResult:
    """Tell what a published table has now."""
    file = lake.metadata(table_name, library)
    assert file is not None
    row_count = file["row_count"]
    return dg.MaterializeResult(
        asset_key=asset_key,
        # The run that wrote the file: assets after this one are out of date only when it was written anew.
        data_version=dg.DataVersion(file["run_id"]),
        metadata={
            "library": library,
            "dagster/partition_row_count": row_count,
            "new": made,
            "kept": row_count - made,
            "removed": removed,
            "published_by_run": file["run_id"],
            **(metadata or {}),
        },
    )


def _removed(table_name: str, old: pa.Table, new: pa.Table) -> int:
    """Count the rows whose key is no longer there."""
    old_N, new_N = key_numbers(table_name, old, new)
    return int((~np.isin(old_N, new_N)).sum())
