"""The answer to an SQL query as text or bytes: for a terminal, or for another program.

In: a DuckDB relation. Out: a box or a card a row, in which numbers are rounded and no value is a terminal command; or
CSV, JSON lines, markdown and Parquet with every digit. Knows nothing of the tables.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cpllm_dagster.report.tables import escaped_markdown, printable

#: Digits of a number that a person reads.
DIGITS = 4
_REAL = {"DOUBLE", "FLOAT"}


def print_answer(answer: duckdb.DuckDBPyRelation, console: Console, limit: int) -> None:
    """Print rows as a box, or, where that does not fit the terminal, one under the other.

    Args:
        answer: the rows.
        console: where to; its width counts.
        limit: most rows that are printed.
    """
    rounded = answer.project(", ".join(map(_rounded, range(1, len(answer.columns) + 1), answer.types, answer.columns)))
    box = io.StringIO()
    with contextlib.redirect_stdout(box):
        rounded.show(max_width=console.width, max_rows=limit)  # pyright: ignore[reportCallIssue]
    text = box.getvalue().rstrip()
    if "… │" not in text:  # no column is left out and no value is cut
        for line in text.split("\n"):
            console.print(Text(printable(line)), soft_wrap=True)
        return
    rows = rounded.limit(limit + 1).fetchall()
    for number, row in enumerate(rows[:limit], start=1):
        console.print(Text(f"row {number}", style="bold"))
        card = Table.grid("", "", padding=(0, 2, 0, 0))
        for name, value in zip(answer.columns, row, strict=True):
            card.add_row(Text(f"  {printable(name)}"), Text("" if value is None else printable(str(value))))
        console.print(card)
    if len(rows) > limit:
        console.print(Text(f"… and more rows than {limit} (--limit)"))


def write_answer(answer: duckdb.DuckDBPyRelation, output: str) -> None:
    """Write rows to standard output for another program, with every digit.

    Args:
        answer: the rows.
        output: csv, json (lines), markdown or parquet.
    """
    if output == "parquet":
        sink = io.BytesIO()
        pq.write_table(answer.to_arrow_table(), sink, compression="zstd")
        sys.stdout.buffer.write(sink.getvalue())
        sys.stdout.buffer.flush()
        return
    columns, rows = answer.columns, answer.fetchall()
    if output == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        writer.writerows(rows)
    elif output == "json":
        for row in rows:
            print(json.dumps(dict(zip(columns, row, strict=True)), default=str))
    else:
        print(markdown_rows(columns, rows))


def markdown_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Give rows as a markdown table with whole values; null is an empty cell."""

    def line(cells: Sequence[Any]) -> str:
        return (
            "| " + " | ".join("" if cell is None else escaped_markdown(printable(str(cell))) for cell in cells) + " |"
        )

    return "\n".join([line(columns), "|" + " --- |" * len(columns), *map(line, rows)])


def _rounded(place: int, kind: Any, name: str) -> str:
    """Give the expression that shows a column, rounded where it holds numbers that are not whole."""
    value = f"#{place}"
    if str(kind) in _REAL:
        value = _significant(value)
    elif str(kind) in {f"{real}[]" for real in _REAL}:
        value = f"list_transform({value}, lambda x: {_significant('x')})"
    quoted = name.replace('"', '""')
    return f'{value} AS "{quoted}"'


def _significant(value: str) -> str:
    digits = f"greatest(0, {DIGITS - 1} - floor(log10(abs({value}))))::INTEGER"
    return f"CASE WHEN {value} = 0 OR NOT isfinite({value}) THEN {value} ELSE round({value}, {digits}) END"
