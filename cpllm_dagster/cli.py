"""The cpllm command: the model's commands and those of the platform, run | sql | report | demo | dev.

Answers go to standard output, what goes on and what went wrong to standard error. Exit status: 0 done, 1 a library
failed, 2 wrong use or settings. Dagster, Ray and torch are imported by the commands that need them.
"""

from __future__ import annotations

import csv
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cpllm_model.cli import _shown, _told_in_a_sentence, app

if TYPE_CHECKING:
    from cpllm_dagster.lake.tables import Lake


class Format(StrEnum):
    """How the rows of an SQL answer are printed."""

    table = "table"
    csv = "csv"
    json = "json"


LakeUri = Annotated[str | None, typer.Option("--lake", help="s3://bucket/prefix or a folder. [env: CPLLM_LAKE_URI]")]
CatalogUri = Annotated[
    str | None,
    typer.Option("--catalog", help="s3://bucket/prefix or a folder of libraries. [env: CPLLM_CATALOG_URI]"),
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="A bundled model, or a model's folder. [env: CPLLM_MODEL, else tiny]")
]
Videos = Annotated[
    Path | None,
    typer.Argument(help="A folder of your own videos, each sub-folder a library; without it clips are rendered."),
]
WorkFolder = Annotated[Path, typer.Option("--work", help="Folder for videos, tables and Dagster's records.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say on standard error what goes on.")]


@app.command()
def run(
    library: Annotated[list[str] | None, typer.Option(help="A library; may be repeated. Without it: all.")] = None,
    catalog: CatalogUri = None,
    lake: LakeUri = None,
    model: ModelName = None,
    verbose: Verbose = False,
) -> None:
    """Score libraries now, in this process: catalogue, scores, descriptions, comparisons, rankings.

    Only new and changed videos cost work. The run is recorded in the Dagster instance of DAGSTER_HOME, if that is set.
    """
    with _told_in_a_sentence():
        from cpllm_dagster import definitions, local_runs

        settings = definitions.read_settings(catalog_uri=catalog, lake=lake, model=model)
        platform = definitions.build_definitions(settings, keep_ray=True)
        libraries = library or definitions.video_store(settings).libraries()
        with definitions.dagster_instance() as instance:
            log_level = "INFO" if verbose else "CRITICAL"
            failed = local_runs.run_libraries(platform, libraries, instance, Console(stderr=True), log_level)
    raise typer.Exit(1 if failed else 0)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="SQL over the tables scores, rankings, catalog and so on.")],
    lake: LakeUri = None,
    output: Annotated[Format, typer.Option("--format", help="How rows are printed.")] = Format.table,
    limit: Annotated[int, typer.Option(help="Most rows of a table on the terminal.", min=1)] = 100,
) -> None:
    """Ask the tables of a lake a question in SQL (DuckDB)."""
    with _told_in_a_sentence():
        from cpllm_dagster import definitions
        from cpllm_dagster.lake.tables import Lake

        tables = Lake(definitions.lake_uri(lake), definitions.s3_endpoint_url())
        columns, rows = _answer(tables, query)
    if output is Format.csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        writer.writerows(rows)
    elif output is Format.json:
        for row in rows:
            print(json.dumps(dict(zip(columns, row, strict=True)), default=str))
    else:
        from cpllm_dagster.report.tables import print_table

        print_table(Console(), None, columns, rows, limit)


@app.command()
def report(
    library: Annotated[list[str] | None, typer.Option(help="A library; may be repeated. Without it: all.")] = None,
    lake: LakeUri = None,
    limit: Annotated[int, typer.Option(help="Most rows of each table.", min=1)] = 20,
) -> None:
    """Print each library's ranking and its failures."""
    with _told_in_a_sentence():
        from cpllm_dagster import definitions
        from cpllm_dagster.lake.tables import Lake
        from cpllm_dagster.report.tables import print_library

        tables = Lake(definitions.lake_uri(lake), definitions.s3_endpoint_url())
        for name in library or tables.libraries():
            print_library(tables, name, Console(), limit)


@app.command()
def demo(videos: Videos = None, work: WorkFolder = Path("work"), verbose: Verbose = False) -> None:
    """Score two libraries of rendered clips, or your own videos, from an embedded S3 server to SQL."""
    with _told_in_a_sentence():
        from cpllm_dagster.demo.commands import run_demo

        failed = run_demo(videos, work.resolve(), Console(), "INFO" if verbose else "CRITICAL")
    raise typer.Exit(1 if failed else 0)


@app.command()
def dev(
    videos: Videos = None,
    work: WorkFolder = Path("work"),
    port: Annotated[int, typer.Option(help="Port of the Dagster UI on the loopback interface.")] = 3000,
) -> None:
    """Start the Dagster UI, its daemon and an embedded S3 server with the demo's libraries."""
    with _told_in_a_sentence():
        from cpllm_dagster.demo.commands import run_dev

        status = run_dev(videos, work.resolve(), Console(), port)
    raise typer.Exit(status)


def main() -> None:
    """Run the command."""
    app()


def _answer(lake: Lake, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Give the columns and the rows that a query asks for.

    Raises:
        typer.Exit: the query is wrong, or a table cannot be read; DuckDB's words are printed.
        LakeError: the lake cannot be read.
    """
    import duckdb

    from cpllm_dagster.lake.sql import sentence

    with lake.connect() as connection:
        try:
            answer = connection.execute(query)
            return [column[0] for column in answer.description or []], answer.fetchall()
        except duckdb.Error as error:
            # Several lines, of which the last points at a place in the one before.
            for line in f"cpllm: {sentence(error)}".split("\n"):
                Console(stderr=True).print(_shown(line), soft_wrap=True)
            raise typer.Exit(2) from None


if __name__ == "__main__":
    main()
