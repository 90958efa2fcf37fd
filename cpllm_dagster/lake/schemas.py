"""The tables' columns and what every row of them must keep to.

In: rows as dicts or Arrow tables. Out: an Arrow table of a table's columns, in key order, or a LakeError.
Knows nothing of files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cpllm_dagster.lake.spool import is_large, taken
from cpllm_model.errors import LakeError
from cpllm_model.scale import SCENE_FACTS

SCHEMA_VERSION = 1


def _schema(**columns: pa.DataType | tuple[pa.DataType]) -> pa.Schema:
    """Build a schema; a type in a tuple may be null."""
    return pa.schema(
        [
            pa.field(name, kind[0] if isinstance(kind, tuple) else kind, nullable=isinstance(kind, tuple))
            for name, kind in columns.items()
        ]
    )


_text, _real, _count = pa.string(), pa.float64(), pa.int64()
# Comparisons name each video many times: in memory a name is a number into a list of names, in files it is text.
_name = pa.dictionary(pa.int32(), _text)
_moment = pa.timestamp("us", tz="UTC")
_distortion = pa.struct([("name", _text), ("severity", _real), ("probability", _real), ("named", pa.bool_())])
# What is shown, as the model answers: light, detail, motion, kind.
_scene = pa.struct([(name, _text) for name in SCENE_FACTS])

#: The columns of every table but the partition column `library`, which stands in the path.
SCHEMAS: dict[str, pa.Schema] = {
    "catalog": _schema(
        video_id=_text,
        uri=_text,
        key=(_text,),  # null in rows of versions before it
        etag=_text,
        size_bytes=_count,
        last_modified=(_moment,),
        duration_s=(_real,),
        width_px=(_count,),
        height_px=(_count,),
        fps=(_real,),
        codec=(_text,),
        pixel_format=(_text,),
        rotation_deg=(_count,),
        bit_rate_bps=(_count,),
        status=_text,
        error_type=(_text,),
        error_message=(_text,),
    ),
    "scores": _schema(
        video_id=_text,
        uri=_text,
        key=(_text,),
        etag=_text,
        model_id=_text,
        score=(_real,),
        score_std=(_real,),
        level=(_text,),
        level_probabilities=(pa.list_(_real),),
        segment_start_s=(pa.list_(_real),),
        segment_score=(pa.list_(_real),),
        scene=(_scene,),
        sampling_plan=(_text,),
        damaged_frames=(_count,),
        status=_text,
        error_type=(_text,),
        error_message=(_text,),
        failed_runs=(_count,),  # of failures that are tried again with a back-off
        retry_after=(_moment,),
        decode_s=(_real,),
        inference_s=(_real,),
        scored_at=_moment,
        run_id=_text,
    ),
    "descriptions": _schema(
        video_id=_text, etag=_text, model_id=_text, description=_text, distortions=pa.list_(_distortion)
    ),
    "features": _schema(
        video_id=_text,
        etag=_text,
        model_id=_text,
        segment_start_s=pa.list_(_real),
        tokens=pa.large_binary(),
        tokens_shape=pa.list_(pa.int32()),
    ),
    "comparisons": _schema(
        video_id_a=_name,
        video_id_b=_name,
        etag_a=_name,
        etag_b=_name,
        model_id=_name,
        probability_a_better=_real,
        order_gap=_real,
    ),
    "rankings": _schema(
        video_id=_text,
        model_id=_text,
        rank=_count,
        percentile=_real,
        strength=_real,
        strength_se=_real,
        comparisons=_count,
    ),
}

#: What names a row of a table; rows are published in this order.
KEYS: dict[str, tuple[str, ...]] = {
    "catalog": ("video_id",),
    "scores": ("video_id",),
    "descriptions": ("video_id",),
    "features": ("video_id",),
    "comparisons": ("video_id_a", "video_id_b"),
    "rankings": ("video_id",),
}

_BOUNDS = {
    "score": (1.0, 5.0),
    "segment_score": (1.0, 5.0),
    "level_probabilities": (0.0, 1.0),
    "probability_a_better": (0.0, 1.0),
    "percentile": (0.0, 100.0),
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
    number_N = _key_numbers(table_name, table)
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


def names_as_text(columns: pa.Schema) -> pa.Schema:
    """Give the schema as files have it."""
    return pa.schema(
        [field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field for field in columns],
        columns.metadata,
    )


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


def schema(table_name: str) -> pa.Schema:
    """Return a table's columns.

    Raises:
        LakeError: there is no such table.
    """
    if table_name not in SCHEMAS:
        raise LakeError(f"no table is named {table_name!r}; the tables are {', '.join(SCHEMAS)}")
    return SCHEMAS[table_name]


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


def key_values(table_name: str, table: pa.Table) -> pa.Array:
    """Give the ids that the keys of a table are made of, sorted."""
    values = [table[name].unique() for name in KEYS[table_name]]
    texts = [value.dictionary if pa.types.is_dictionary(value.type) else value for value in values]
    return pa.concat_arrays(texts).unique().sort()


def _key_numbers(table_name: str, table: pa.Table) -> np.ndarray:
    """Number the rows so that they sort by key: int64 (rows,); no two may have one key."""
    names, distinct = KEYS[table_name], key_values(table_name, table)
    place_KN = np.stack([places(table[name], distinct) for name in names])
    if len(names) == 2 and (place_KN[0] == place_KN[1]).any():
        raise LakeError(f"{table_name}: a video is compared with itself")
    # (a, b) and (b, a) are the same pair.
    low_N, high_N = place_KN.min(axis=0), place_KN.max(axis=0)
    number_N = np.sort(low_N * np.int64(len(distinct)) + high_N)
    if len(twice := np.unique(number_N[1:][number_N[1:] == number_N[:-1]])):
        first = [distinct[int(place)].as_py() for place in divmod(twice[0], len(distinct))]
        raise LakeError(f"{table_name}: {len(twice)} keys stand twice or more, the first {first[: len(names)]}")
    return place_KN[0] * np.int64(len(distinct)) + place_KN[-1]


def _check_status(table_name: str, table: pa.Table) -> None:
    if "status" not in table.column_names:
        return
    status_N = table["status"].to_numpy()
    failed_N = status_N == "failed"
    if not (failed_N | (status_N == "ok")).all():
        raise LakeError(f"{table_name}.status: a value is neither 'ok' nor 'failed'")
    if (table["error_type"].is_valid().to_numpy() != failed_N).any():
        raise LakeError(f"{table_name}: an 'ok' row has an error_type, or a 'failed' row has none")
    if "score" in table.column_names and (table["score"].is_null().to_numpy() != failed_N).any():
        raise LakeError(f"{table_name}: an 'ok' row has no score, or a 'failed' row has one")
