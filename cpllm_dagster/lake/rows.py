"""What every row of a table must keep to, and how rows are named by their keys.

In: rows as dicts or Arrow tables. Out: an Arrow table of a table's columns, in key order, or a LakeError.
Knows nothing of files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cpllm_dagster.lake.schemas import KEYS, PAIRS, schema, severity_column
from cpllm_dagster.lake.spool import is_large, taken
from cpllm_model.errors import LakeError
from cpllm_model.scale import DISTORTIONS, SCORE_MAX, SCORE_MIN, SEVERITY_MAX

_SHARE = (0.0, 1.0)
_SCORE = (SCORE_MIN, SCORE_MAX)
_BOUNDS = {
    "level_probabilities": _SHARE,
    "probability_a_better": _SHARE,
    "failed_share": _SHARE,
    "share_below_3": _SHARE,
    "percentile": (0.0, 100.0),
    "segment_score": _SCORE,
    "previous_score": _SCORE,
    **dict.fromkeys(("score", "score_worst", "score_mean", "score_median"), _SCORE),
    **dict.fromkeys(("score_p5", "score_p25", "score_p75", "score_p95"), _SCORE),
    **dict.fromkeys(map(severity_column, DISTORTIONS), (0.0, SEVERITY_MAX)),
}


def validate(table_name: str, rows: pa.Table | list[dict[str, Any]]) -> pa.Table:
    """Bring rows into a table's schema and key order, or refuse them.

    Args:
        table_name: a name in SCHEMAS.
        rows: an Arrow table or one dict a row; a column that may be null may be left out.

    Returns:
        The rows with exactly the schema's columns, sorted by key; one chunk a column, but for large tables.

    Raises:
        LakeError: an unknown table or column, a wrong type, a null where none may be, a number that is not
            finite or out of range, a key twice, a status that its error or score contradicts.
    """
    table = _conform(table_name, rows)
    for field in table.schema:
        if not pa.types.is_large_binary(field.type):
            _check_numbers(f"{table_name}.{field.name}", table[field.name].combine_chunks(), _BOUNDS.get(field.name))
    number_N = _distinct_numbers(table_name, table)
    _check_status(table_name, table)
    if (np.diff(number_N) < 0).any():
        table = taken(table, np.argsort(number_N))
    return table if is_large(table.schema) else tidy_names(table).combine_chunks()


def tidy_names(table: pa.Table) -> pa.Table:
    """Give the same rows, the dictionaries of names sorted and without what no row names."""
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type) and len(table):
            chunk = table[index].unify_dictionaries().combine_chunks()
            distinct = chunk.dictionary.unique().sort()
            place_P = places(chunk, distinct)
            used = np.bincount(place_P, minlength=len(distinct)) > 0
            numbers = pa.array((np.cumsum(used, dtype=np.int32) - 1)[place_P])
            table = table.set_column(index, field, pa.DictionaryArray.from_arrays(numbers, distinct.filter(used)))
    return table


def places(column: pa.ChunkedArray | pa.Array, values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Give where among distinct values each value of a column of text stands, -1 where it does not.

    Returns:
        int32 (rows,).
    """
    numbers = None
    if pa.types.is_dictionary(column.type):
        whole = column.unify_dictionaries().combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        column, numbers = whole.dictionary, whole.indices.to_numpy()
    # All chunks at once: each call hashes the values anew.
    found = pc.index_in(column, values).fill_null(-1).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    return found if numbers is None else found[numbers]


def version_places(rows: pa.Table, versions: pa.Table, *names: str) -> np.ndarray:
    """Give where among versions each row's own stands, -1 where it does not: int (rows,).

    Args:
        rows: with the columns of `versions`.
        versions: `video_id`, each once, and what else makes a version.
        names: the columns beside `video_id` that must be the same, of text.
    """
    place_N = places(rows["video_id"], versions["video_id"])
    if not len(versions):
        return place_N
    for name in names:
        values = versions[name].unique()
        same_N = places(versions[name], values)[place_N] == places(rows[name], values)
        place_N = np.where(same_N, place_N, -1)
    return place_N


def _conform(table_name: str, rows: pa.Table | list[dict[str, Any]]) -> pa.Table:
    wanted = schema(table_name)
    given = {name for row in rows for name in row} if isinstance(rows, list) else set(rows.column_names)
    if unknown := sorted(given - set(wanted.names)):
        raise LakeError(f"{table_name}: no column is named {unknown[0]!r}")
    try:
        if isinstance(rows, list):
            table = pa.Table.from_pylist(rows, schema=wanted)
        else:
            columns = [
                rows[field.name].cast(field.type) if field.name in given else pa.nulls(len(rows), field.type)
                for field in wanted
            ]
            table = pa.table(columns, schema=wanted).unify_dictionaries()
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise LakeError(f"{table_name}: a value does not fit its column: {error}") from error
    for field, column in zip(wanted, table.columns, strict=True):
        if not field.nullable and column.null_count:
            raise LakeError(f"{table_name}.{field.name}: {column.null_count} of {len(column)} values are missing")
    return table


def _check_numbers(column: str, array: pa.Array, bounds: tuple[float, float] | None) -> None:
    if pa.types.is_list(array.type):
        _check_numbers(column, array.flatten(), bounds)
    elif pa.types.is_struct(array.type):
        for child in array.flatten():
            _check_numbers(column, child, bounds)
    elif pa.types.is_floating(array.type):
        numbers = array.drop_null().to_numpy()
        low, high = bounds or (-np.inf, np.inf)
        wrong = numbers[~(np.isfinite(numbers) & (numbers >= low) & (numbers <= high))]
        if len(wrong):
            raise LakeError(f"{column}: {len(wrong)} numbers are not finite within {low}..{high}: {wrong[0]}")


def key_numbers(table_name: str, *tables: pa.Table) -> list[np.ndarray]:
    """Number rows by their keys: equal keys have equal numbers, and numbers sort as keys do.

    Args:
        table_name: a name in SCHEMAS.
        tables: rows; the columns of the key suffice.

    Returns:
        int64 (rows,) for each table.
    """
    keys = KEYS[table_name]
    numbers = [np.zeros(len(table), np.int64) for table in tables]
    for name in keys:
        columns = [table[name] for table in tables]
        if pa.types.is_floating(columns[0].type):
            values = np.unique(np.concatenate([column.to_numpy() for column in columns]))
            found = [np.searchsorted(values, column.to_numpy()) for column in columns]
        else:
            # Both names of a pair are numbered alike, so that a pair can be turned.
            named = keys if table_name in PAIRS else (name,)
            values = _distinct([table[other] for table in tables for other in named])
            found = [places(column, values) for column in columns]
        numbers = [number_N * len(values) + place_N for number_N, place_N in zip(numbers, found, strict=True)]
    return numbers


def _distinct(columns: list[pa.ChunkedArray]) -> pa.Array:
    """Give the texts of all columns, each once, sorted."""
    values = [column.unique() for column in columns]
    texts = [value.dictionary if pa.types.is_dictionary(value.type) else value for value in values]
    return pa.concat_arrays(texts).unique().sort()


def _distinct_numbers(table_name: str, table: pa.Table) -> np.ndarray:
    """Number the rows so that they sort by key: int64 (rows,); no two may have one key."""
    keys = list(KEYS[table_name])
    named = table.select(keys)
    (number_N,) = key_numbers(table_name, named)
    key_N = number_N
    if table_name in PAIRS:
        number_N, turned_N = key_numbers(table_name, named, named.select(keys[::-1]).rename_columns(keys))
        if (number_N == turned_N).any():
            raise LakeError(f"{table_name}: a video is compared with itself")
        # (a, b) and (b, a) are the same pair.
        key_N = np.minimum(number_N, turned_N)
    _, first, count = np.unique(key_N, return_index=True, return_counts=True)
    if (count > 1).any():
        example = list(named.slice(int(first[count > 1][0]), 1).to_pylist()[0].values())
        raise LakeError(f"{table_name}: {(count > 1).sum()} keys are duplicated, the first is {example}")
    return number_N


def _check_status(table_name: str, table: pa.Table) -> None:
    for status, error_type in (("status", "error_type"), ("probe_status", "probe_error_type")):
        if status in table.column_names:
            _check_one_status(table_name, table, status, error_type)


def _check_one_status(table_name: str, table: pa.Table, status: str, error_type: str) -> None:
    """See that rows are 'ok' or 'failed'; where a status may be null, such a row has neither error nor score."""
    status_N = table[status].to_numpy()
    failed_N, ok_N = status_N == "failed", status_N == "ok"
    if not (failed_N | ok_N | table[status].is_null().to_numpy()).all():
        raise LakeError(f"{table_name}.{status}: a value is neither 'ok' nor 'failed'")
    if (table[error_type].is_valid().to_numpy() != failed_N).any():
        raise LakeError(f"{table_name}: an 'ok' row has an error_type, or a 'failed' row has none")
    if "score" in table.column_names and (table["score"].is_valid().to_numpy() != ok_N).any():
        raise LakeError(f"{table_name}: an 'ok' row has no score, or a 'failed' row has one")
