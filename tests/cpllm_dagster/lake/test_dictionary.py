"""The data dictionary as a page and as DDL says what the schemas say."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlglot
from sqlglot import expressions

from cpllm_dagster.lake.dictionary import columns, ddl, described, markdown
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_model.errors import LakeError

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_that_of_the_schemas() -> None:
    written = (DOCS / "tables.md").read_text()
    assert written == markdown() + "\n", "write it anew: cpllm sql --describe --format markdown > docs/tables.md"


def test_every_column_is_described() -> None:
    found = {(table, column): (kind, null, said) for table, column, kind, null, said in described(list(SCHEMAS))}
    assert len(found) == sum(len(schema) + 1 for schema in SCHEMAS.values())
    assert found["rankings", "library"] == ("varchar", "no", "Name of the content library.")
    assert found["scores", "segment_score"][:2] == ("double[]", "yes")
    assert found["comparisons", "video_id_a"][0] == "varchar"
    assert found["descriptions", "distortions"][0].startswith("struct(name varchar, severity double")
    with pytest.raises(LakeError, match="no table is named 'nothing'"):
        list(described(["nothing"]))


@pytest.mark.parametrize("engine", ["athena", "trino", "spark"])
def test_the_ddl_is_of_the_engines_dialect_and_names_every_column(engine: str) -> None:
    text = ddl(engine, "s3://bucket/lake/")
    statements = sqlglot.parse(text, dialect=engine, error_level=sqlglot.ErrorLevel.RAISE)
    made = {s.this.this.name: s for s in statements if isinstance(s, expressions.Create) and s.kind == "TABLE"}
    assert set(made) == set(SCHEMAS)
    for table_name, statement in made.items():
        found = [
            column.name for column in statement.find_all(expressions.ColumnDef) if column.parent in _tables(statement)
        ]
        names = [field.name for field in columns(table_name)]
        assert sorted({*found, "library"}) == sorted(names)
        assert f"s3://bucket/lake/{table_name}/" in statement.sql()
    assert text.count("COMMENT") >= sum(map(len, SCHEMAS.values()))
    assert "timestamp" in text and "tz" not in text.replace("timestamptz", "tz") and "dictionary" not in text


def _tables(statement: expressions.Create) -> list[expressions.Schema]:
    return list(statement.find_all(expressions.Schema))


def test_an_address_that_would_end_the_literal_is_refused() -> None:
    with pytest.raises(LakeError, match="quotes"):
        ddl("athena", "s3://bucket/it's")
