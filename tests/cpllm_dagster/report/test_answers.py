"""Answers fit the terminal and are inert there; for programs they are whole."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cpllm_dagster.report.answers import markdown_rows, print_answer, write_answer

HOSTILE = "\x1b[31m| *b* \u202e\u2028<img>\nline"


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as found:
        yield found


def printed(answer: duckdb.DuckDBPyRelation, width: int = 80, limit: int = 10) -> str:
    screen = io.StringIO()
    print_answer(answer, Console(file=screen, width=width), limit)
    return screen.getvalue()


def test_a_narrow_answer_is_a_box_with_rounded_numbers(connection: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT 'a' AS name, pi() AS real, 0.0::DOUBLE AS zero, [pi(), NULL] AS list, 12345.678::DOUBLE AS large"
    text = printed(
        connection.sql(query + ", 'nan'::DOUBLE AS nan, 1234567 AS whole, -0.00012345::DOUBLE AS small"), 120
    )
    assert text.startswith("┌") and max(map(len, text.splitlines())) <= 120
    for shown in ("3.142", "[3.142, NULL]", "12346.0", "nan", "1234567", "-0.0001235", "double"):
        assert f" {shown} " in text
    assert "3.14159" not in text


@pytest.mark.parametrize("width", [40, 80])
def test_a_wide_answer_is_shown_row_by_row_and_whole(connection: duckdb.DuckDBPyConnection, width: int) -> None:
    names = [f"column_{number}" for number in range(12)]
    query = ", ".join(f"'{'word ' * 20}{name}' AS {name}" for name in names)
    text = printed(connection.sql(f"SELECT {query}, pi() AS pi, NULL AS n FROM range(3)"), width, limit=2)  # noqa: S608
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert [line.strip() for line in lines if line.startswith("row ")] == ["row 1", "row 2"]
    assert text.count("column_7") == 4 and "3.142" in text and "NULL" not in text and "None" not in text
    assert lines[-1] == "… and more rows than 2 (--limit)"


def test_long_answers_are_cut_and_counted(connection: duckdb.DuckDBPyConnection) -> None:
    text = printed(connection.sql("SELECT range AS n FROM range(300)"), limit=6)
    assert "300 rows" in text and "(6 shown)" in text and len(text.splitlines()) < 20


@pytest.mark.parametrize("width", [30, 200])
def test_no_value_and_no_name_is_a_terminal_command(connection: duckdb.DuckDBPyConnection, width: int) -> None:
    answer = connection.sql('SELECT $1 AS "na\x1bme", $1 AS other', params=[HOSTILE])
    text = printed(answer, width)
    assert all(mark.isprintable() or mark == "\n" for mark in text)
    assert "line" not in [line.strip() for line in text.splitlines()]


def test_columns_of_one_name_stay_two(connection: duckdb.DuckDBPyConnection) -> None:
    text = printed(connection.sql("SELECT 1 AS a, 2 AS a"))
    assert " 1 " in text and " 2 " in text


def test_other_formats_have_every_digit(
    connection: duckdb.DuckDBPyConnection, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    answer = connection.sql("SELECT 'a,\"b' AS name, pi() AS real, NULL AS nothing, [1, 2] AS list")

    def written(output: str) -> bytes:
        write_answer(answer, output)
        return capsysbinary.readouterr().out

    (row,) = csv.DictReader(io.StringIO(written("csv").decode()))
    assert (row["name"], row["real"], row["nothing"]) == ('a,"b', "3.141592653589793", "")
    found: dict[str, Any] = json.loads(written("json"))
    assert found == {"name": 'a,"b', "real": 3.141592653589793, "nothing": None, "list": [1, 2]}
    assert "3\\.141592653589793" in written("markdown").decode()
    table = pq.read_table(io.BytesIO(written("parquet")))
    assert table.to_pylist() == [found]


def test_markdown_holds_its_cells() -> None:
    lines = markdown_rows(["a", "b|c"], [(HOSTILE, None), ("x" * 500, 1.5)]).splitlines()
    assert len(lines) == 4 and lines[2].count("|") - lines[2].count("\\|") == 3
    assert "<img>" not in lines[2] and "x" * 500 in lines[3] and lines[2].endswith("|  |")
