"""The cpllm command: the model's commands and those of the platform, run | retire | sql | report | demo | dev.

Answers go to standard output, what goes on and what went wrong to standard error. Exit status: 0 done, 1 a library
failed, 2 wrong use or settings, 130 interrupted. Dagster, Ray and torch are imported by the commands that need them.
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

from cpllm_dagster.batch.placement import Precision, Workers
from cpllm_model.cli import _shown, _told_in_a_sentence, app
from cpllm_model.errors import ConfigurationError

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
    allow_shrinking: Annotated[
        bool,
        typer.Option("--allow-shrinking", help="Take it as right that the named libraries have lost many videos."),
    ] = False,
    decode_workers: Annotated[
        int | None, typer.Option(min=1, help="Most decode workers. [env: CPLLM_DECODE_WORKERS, else one a CPU]")
    ] = None,
    model_workers: Annotated[
        int | None, typer.Option(min=1, help="Most model workers. [env: CPLLM_MODEL_WORKERS, else one a GPU or CPU]")
    ] = None,
    model_gpus: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs, or the share of one, a model worker has. [env: CPLLM_MODEL_GPUS, else 1 or 0]"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Videos the model sees at once. [env: CPLLM_BATCH_SIZE, else 4 or 16]")
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Of matrix products. [env: CPLLM_PRECISION, else float32]")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Score libraries now, in this process: catalogue, scores, descriptions, comparisons, rankings.

    Only new and changed videos cost work. A library that has tables and is no longer in the catalogue fails. The run is
    recorded in the Dagster instance of DAGSTER_HOME, if that is set.
    """
    if allow_shrinking and not library:
        raise typer.BadParameter("--allow-shrinking needs --library: name those that have shrunk")
    with _told_in_a_sentence():
        from cpllm_dagster import definitions, local_runs
        from cpllm_dagster.lake.tables import Lake

        workers = Workers(decode_workers, model_workers, model_gpus, batch_size, precision)
        settings = definitions.read_settings(catalog_uri=catalog, lake=lake, model=model, workers=workers)
        platform = definitions.build_definitions(settings, keep_ray=True)
        store, tables = definitions.video_store(settings), Lake(settings.lake_uri, settings.s3_endpoint_url)
        libraries = local_runs.libraries_to_run(store, tables, library)
        with definitions.dagster_instance() as instance:
            log_level = "INFO" if verbose else "CRITICAL"
            failed = local_runs.run_libraries(
                platform, libraries, instance, Console(stderr=True), log_level, allow_shrinking=allow_shrinking
            )
    raise typer.Exit(1 if failed else 0)


@app.command()
def retire(
    library: Annotated[str, typer.Argument(help="A library that is no longer wanted.")],
    lake: LakeUri = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only say what would be removed.")] = False,
) -> None:
    """Remove a library's tables and its partition; its videos are not touched.

    A library that is still in the catalogue comes back with the next run.
    """
    with _told_in_a_sentence():
        from cpllm_dagster import definitions, local_runs

        tables = _filled_lake(lake, library)
        if not yes:
            raise ConfigurationError(
                f"the tables of {library!r} in {tables.uri!r}, of {_videos(tables, library)} videos, would be removed. "
                "Nothing was: say --yes if that is right"
            )
        with definitions.dagster_instance() as instance:
            removed = local_runs.retire_library(tables, library, instance)
    Console(stderr=True).print(_shown(f"{library}: removed {', '.join(removed)}"))


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="SQL over the tables scores, rankings, catalog and so on.")],
    lake: LakeUri = None,
    output: Annotated[Format, typer.Option("--format", help="How rows are printed.")] = Format.table,
    limit: Annotated[int, typer.Option(help="Most rows of a table on the terminal.", min=1)] = 100,
) -> None:
    """Ask the tables of a lake a question in SQL (DuckDB)."""
    with _told_in_a_sentence():
        columns, rows = _answer(_filled_lake(lake), query)
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
        from cpllm_dagster.report.tables import print_library

        tables = _filled_lake(lake, *(library or []))
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


def _filled_lake(uri: str | None, *libraries: str) -> Lake:
    """Open the lake that is given, else that of the environment; it must hold these libraries, and some at all.

    Raises:
        ConfigurationError: it does not.
    """
    from cpllm_dagster import definitions
    from cpllm_dagster.catalog.objects import no_library
    from cpllm_dagster.lake.tables import Lake

    lake = Lake(definitions.lake_uri(uri), definitions.s3_endpoint_url())
    there = lake.libraries()
    if not there:
        raise ConfigurationError(f"no tables lie under {lake.uri!r}: give the lake that `cpllm run` has filled")
    for library in libraries:
        if library not in there:
            raise no_library(library, there)
    return lake


def _videos(lake: Lake, library: str) -> int:
    found = lake.metadata("catalog", library)
    return found["row_count"] if found else 0


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
