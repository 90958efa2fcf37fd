"""The data dictionary as text: rows for a terminal, the page docs/tables.md, and DDL for other engines.

In: the schemas. Out: text. What a column means is said in schemas.py alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from cpllm_dagster.lake.schemas import GROWING, KEYS, LOGS, SCHEMAS, SENTENCES, comment, names_as_text, schema
from cpllm_model.errors import LakeError

#: Trino's procedure for partitions has to be told the schema by name.
_TRINO_SCHEMA = "cpllm"
#: What `described` gives of each column.
COLUMNS = ("table", "column", "type", "null", "meaning")
LIBRARY = pa.field("library", pa.string(), nullable=False, metadata={b"comment": "Name of the content library."})


def columns(table_name: str) -> list[pa.Field]:
    """Give the columns of a table as readers of its files see them, the partition column first.

    Raises:
        LakeError: there is no such table.
    """
    return [LIBRARY, *names_as_text(schema(table_name))]


def described(table_names: list[str]) -> Iterator[tuple[str, str, str, str, str]]:
    """Give table, column, type, whether it may be null, and meaning of each column."""
    for table_name in table_names:
        for field in columns(table_name):
            yield table_name, field.name, _sql_type(field.type), "yes" if field.nullable else "no", comment(field)


def markdown() -> str:
    """Give the page docs/tables.md."""
    lines = [
        "# Tables",
        "",
        "Written by `cpllm sql --describe --format markdown > docs/tables.md`; the sentences are those of "
        "`cpllm_dagster/lake/schemas.py`, the Parquet files and Dagster's column schemas. Types are DuckDB's.",
        "",
        "Every table has the partition column `library`. A column that two tables share means the same in both. "
        "`status` and `error_type` are of scoring; what is of probing begins with `probe_`. Join with "
        "`using (library, video_id)`: the join of columns that may be null, as a natural join does it, loses rows. "
        f"{' and '.join(f'`{name}`' for name in LOGS)} say what was at the time of a run, under the same names.",
        "",
    ]
    for table_name in SCHEMAS:
        growth = "Grows by one file a run and library." if table_name in LOGS else "One file a library."
        if table_name in GROWING:
            growth = (
                "Runs add files and now and then merge them. A row is valid while `scores` has its version as `ok`: "
                "other engines join by `video_id`, `etag` and `model_id`."
            )
        keys = ", ".join(f"`{name}`" for name in ("library", *KEYS[table_name]))
        lines += [f"## {table_name}", "", f"{SENTENCES[table_name]} {growth} Key: {keys}.", ""]
        lines += ["| column | type | null | meaning |", "|---|---|---|---|"]
        lines += [f"| `{name}` | {kind} | {null} | {said} |" for _, name, kind, null, said in described([table_name])]
        lines.append("")
    return "\n".join(lines)


def ddl(engine: str, lake_uri: str) -> str:
    """Give statements that make the tables known to an engine: to Trino in the schema `cpllm`, else where it is now.

    Args:
        engine: athena, trino or spark.
        lake_uri: where the tables lie, as the engine finds them.

    Raises:
        LakeError: the address holds a quote, which the engines read differently.
    """
    if set(lake_uri) & set("'\"`\\"):
        raise LakeError(f"{lake_uri!r}: no DDL is written for an address with quotes or backslashes")
    begin = [f"CREATE SCHEMA IF NOT EXISTS {_TRINO_SCHEMA};"] if engine == "trino" else []
    return "\n\n".join([*begin, *(_STATEMENTS[engine](name, f"{lake_uri.rstrip('/')}/{name}/") for name in SCHEMAS)])


def _athena(table_name: str, location: str) -> str:
    listed = _lines(f"`{f.name}` {_hive_type(f.type)} COMMENT {_text(comment(f))}" for f in columns(table_name)[1:])
    return (
        f"CREATE EXTERNAL TABLE IF NOT EXISTS `{table_name}` (\n{listed}\n)\n"
        f"COMMENT {_text(SENTENCES[table_name])}\nPARTITIONED BY (`library` string)\nSTORED AS PARQUET\n"
        f"LOCATION {_text(location)};\n\nMSCK REPAIR TABLE `{table_name}`;"
    )


def _spark(table_name: str, location: str) -> str:
    given = [*columns(table_name)[1:], LIBRARY]
    listed = _lines(f"`{f.name}` {_hive_type(f.type)} COMMENT {_text(comment(f))}" for f in given)
    return (
        f"CREATE TABLE IF NOT EXISTS `{table_name}` (\n{listed}\n)\nUSING PARQUET\nPARTITIONED BY (`library`)\n"
        f"LOCATION {_text(location)}\nCOMMENT {_text(SENTENCES[table_name])};\n\nMSCK REPAIR TABLE `{table_name}`;"
    )


def _trino(table_name: str, location: str) -> str:
    given = [*columns(table_name)[1:], LIBRARY]  # Trino wants partition columns last
    listed = _lines(f'"{f.name}" {_trino_type(f.type)} COMMENT {_text(comment(f))}' for f in given)
    return (
        f'CREATE TABLE IF NOT EXISTS {_TRINO_SCHEMA}."{table_name}" (\n{listed}\n)\n'
        f"COMMENT {_text(SENTENCES[table_name])}\n"
        f"WITH (external_location = {_text(location)}, format = 'PARQUET', partitioned_by = ARRAY['library']);\n\n"
        f"CALL system.sync_partition_metadata('{_TRINO_SCHEMA}', '{table_name}', 'ADD');"
    )


_STATEMENTS = {"athena": _athena, "trino": _trino, "spark": _spark}


def _lines(given: Iterator[str]) -> str:
    return ",\n".join(f"  {line}" for line in given)


def _text(value: str) -> str:
    """Give a text as a literal; the engines escape a quote in different ways, so that it becomes a typographic one."""
    return "'" + value.replace("'", "’") + "'"


def _nested(kind: pa.DataType, names: dict[pa.DataType, str], list_form: str, struct_form: str, pair: str) -> str:
    """Write a type in the words of an engine."""
    if pa.types.is_list(kind):
        return list_form.format(_nested(kind.value_type, names, list_form, struct_form, pair))
    if pa.types.is_struct(kind):
        inner = (pair.format(f.name, _nested(f.type, names, list_form, struct_form, pair)) for f in kind)
        return struct_form.format(", ".join(inner))
    return names[kind]


_PLAIN = {pa.float64(): "double", pa.int64(): "bigint", pa.bool_(): "boolean"}
_MOMENT = pa.timestamp("us", tz="UTC")
_HIVE = _PLAIN | {
    pa.string(): "string",
    pa.int32(): "int",
    pa.large_binary(): "binary",
    pa.binary(): "binary",
    _MOMENT: "timestamp",
}
_TRINO = _PLAIN | {
    pa.string(): "varchar",
    pa.int32(): "integer",
    pa.large_binary(): "varbinary",
    pa.binary(): "varbinary",
    _MOMENT: "timestamp(6)",
}
_DUCKDB = _PLAIN | {
    pa.string(): "varchar",
    pa.int32(): "integer",
    pa.large_binary(): "blob",
    pa.binary(): "blob",
    _MOMENT: "timestamptz",
}


def _hive_type(kind: pa.DataType) -> str:
    return _nested(kind, _HIVE, "array<{}>", "struct<{}>", "{}:{}")


def _trino_type(kind: pa.DataType) -> str:
    return _nested(kind, _TRINO, "array({})", "row({})", "{} {}")


def _sql_type(kind: pa.DataType) -> str:
    return _nested(kind, _DUCKDB, "{}[]", "struct({})", "{} {}")
