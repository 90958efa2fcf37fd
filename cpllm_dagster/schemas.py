"""The tables' columns and what every row of them must keep to.

In: rows as dicts or Arrow tables. Out: an Arrow table of a table's columns, in key order, or a LakeError.
Knows nothing of files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from cpllm_model.errors import LakeError

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
_moment = pa.timestamp("us", tz="UTC")
_distortion = pa.struct([("name", _text), ("severity", _real), ("probability", _real), ("named", pa.bool_())])

#: The columns of every table but the partition column `library`, which stands in the path.
SCHEMAS: dict[str, pa.Schema] = {
    "catalog": _schema(
        video_id=_text,
        uri=_text,
        etag=_text,
        size_bytes=_count,
        last_modified=_moment,
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
        etag=_text,
        model_id=_text,
        score=(_real,),
        score_std=(_real,),
        level=(_text,),
        level_probabilities=(pa.list_(_real),),
        segment_start_s=(pa.list_(_real),),
        segment_score=(pa.list_(_real),),
        sampling_plan=(_text,),
        damaged_frames=(_count,),
        status=_text,
        error_type=(_text,),
        error_message=(_text,),
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
        video_id_a=_text,
        video_id_b=_text,
        etag_a=_text,
        etag_b=_text,
        model_id=_text,
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
        The rows with exactly the schema's columns, sorted by key, one chunk a column.

    Raises:
        LakeError: an unknown table or column, a wrong type, a null where none may be, a number that is not
            finite or out of range, a key twice, a status that its error or score contradicts.
    """
    table = _conform(table_name, rows)
    for name in table.column_names:
        _check_numbers(f"{table_name}.{name}", table[name].combine_chunks(), _BOUNDS.get(name))
    _check_keys(table_name, table)
    _check_status(table_name, table)
    # One chunk a column: how the rows arrived must not show in the file's bytes.
    return table.sort_by([(key, "ascending") for key in KEYS[table_name]]).combine_chunks()


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
            table = pa.table(columns, schema=wanted)
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


def _check_keys(table_name: str, table: pa.Table) -> None:
    names = KEYS[table_name]
    keys = pa.concat_arrays([chunk for name in names for chunk in table[name].chunks] or [pa.array([], _text)])
    codes = keys.dictionary_encode()
    # (a, b) and (b, a) are the same pair, so a pair's codes are sorted.
    codes_KN = np.sort(codes.indices.to_numpy().astype(np.int64).reshape(len(names), -1), axis=0)
    if len(names) == 2 and (codes_KN[0] == codes_KN[1]).any():
        raise LakeError(f"{table_name}: a video is compared with itself")
    numbers_N, counts_N = np.unique(codes_KN[0] * len(codes.dictionary) + codes_KN[-1], return_counts=True)
    if len(twice := numbers_N[counts_N > 1]):
        first = [codes.dictionary[int(code)].as_py() for code in divmod(twice[0], len(codes.dictionary))]
        raise LakeError(f"{table_name}: {len(twice)} keys stand twice or more, the first {first[: len(names)]}")


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
