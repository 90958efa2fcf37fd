"""The cpllm command: the model's commands, and run | retire | sql | report | models | metrics | demo | dev.

Answers go to standard output, what goes on and what went wrong to standard error. Exit status: 0 done, 1 a library
failed, 2 wrong use or settings, 130 interrupted. Dagster, Ray and torch are imported by the commands that need them;
the model's commands work where they are not installed.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cpllm_dagster.batch.placement import Precision, Workers
from cpllm_model.cli import _shown, _told_in_a_sentence, app, run_and_end
from cpllm_model.errors import ConfigurationError

if TYPE_CHECKING:
    import duckdb

    from cpllm_dagster.lake.tables import Lake
    from cpllm_dagster.models.store import ModelStore


#: How an answer is printed, and the engines whose DDL can be printed.
Output = Literal["table", "csv", "json", "markdown", "parquet"]
Engine = Literal["athena", "trino", "spark"]

LakeUri = Annotated[str | None, typer.Option("--lake", help="s3://bucket/prefix or a folder. (env: CPLLM_LAKE_URI)")]
CatalogUri = Annotated[
    str | None,
    typer.Option("--catalog", help="s3://bucket/prefix or a folder of libraries. (env: CPLLM_CATALOG_URI)"),
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="A bundled model, or a model's folder. (env: CPLLM_MODEL, else tiny)")
]
Videos = Annotated[
    Path | None,
    typer.Argument(help="Folder of your own videos, one sub-folder per library; by default clips are rendered."),
]
WorkFolder = Annotated[Path, typer.Option("--work", help="Folder for videos, tables and Dagster's records.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print progress on standard error.")]


@app.command()
def run(
    library: Annotated[
        list[str] | None, typer.Option(help="Library; can be repeated; by default all libraries.")
    ] = None,
    catalog: CatalogUri = None,
    lake: LakeUri = None,
    model: ModelName = None,
    allow_shrinking: Annotated[
        bool,
        typer.Option("--allow-shrinking", help="Accept that the named libraries have lost many videos."),
    ] = False,
    decode_workers: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of decode workers. (env: CPLLM_DECODE_WORKERS; default: one per CPU)"),
    ] = None,
    model_workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum number of model workers. (env: CPLLM_MODEL_WORKERS; default: one per GPU or CPU)"
        ),
    ] = None,
    model_gpus: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="GPUs per model worker, or a share of one. (env: CPLLM_MODEL_GPUS; default: 1, or 0 without GPUs)",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Videos per batch. (env: CPLLM_BATCH_SIZE; default: 4 on a CPU, 16 on a GPU)"),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Precision of the weights. (env: CPLLM_PRECISION; default: bfloat16 on a GPU, else float32)"),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Score libraries now, in this process: catalogue, scores, descriptions, comparisons, rankings.

    Only new and changed videos cost work. A library that has tables and is no longer in the catalogue fails. The run is
    recorded in the Dagster instance of DAGSTER_HOME, if that is set.
    """
    if allow_shrinking and not library:
        raise typer.BadParameter("--allow-shrinking needs --library: name those that have shrunk")
    with _told_in_a_sentence("platform"):
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
    library: Annotated[str, typer.Argument(help="Library to remove.")],
    lake: LakeUri = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Really remove; without it, only print what would be removed.")
    ] = False,
) -> None:
    """Remove a library's tables and its partition; its videos are not touched.

    A library that is still in the catalogue comes back with the next run.
    """
    with _told_in_a_sentence("platform"):
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
    query: Annotated[
        str | None,
        typer.Argument(
            help="Query; by default, or with -, read from standard input. With --describe: name of a table."
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="File with the query.")] = None,
    lake: LakeUri = None,
    output: Annotated[Output, typer.Option("--format", help="Output format.")] = "table",
    limit: Annotated[int, typer.Option(help="Maximum number of rows on the terminal.", min=1)] = 100,
    describe: Annotated[
        bool, typer.Option("--describe", help="Print what the columns of one table, or of all, mean.")
    ] = False,
    ddl: Annotated[Engine | None, typer.Option("--ddl", help="Print the DDL of the tables for an engine.")] = None,
) -> None:
    """Ask the tables of a lake a question in SQL (DuckDB).

    The table to start from is videos: cpllm sql "select file_name, score from videos order by score limit 10"
    """
    with _told_in_a_sentence("platform"):
        if ddl is not None:
            _print_ddl(ddl, lake)
        elif describe:
            _describe(query, output)
        else:
            _ask(_filled_lake(lake), _query(query, file), output, limit)


@app.command()
def report(
    library: Annotated[list[str] | None, typer.Argument(help="Libraries; by default all.")] = None,
    lake: LakeUri = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one library's page to this file instead of printing.")
    ] = None,
    catalog: CatalogUri = None,
    model: ModelName = None,
    limit: Annotated[int, typer.Option(help="Maximum number of rows of each table.", min=1)] = 20,
) -> None:
    """Print the ranking and the failures of libraries, or write a page: cpllm report films --html films.html

    The page shows pictures that the last run took; --catalog and --model are for those that it did not take.
    """
    with _told_in_a_sentence("platform"):
        from cpllm_dagster.report.tables import print_library

        tables = _filled_lake(lake, *(library or []))
        names = library or tables.libraries()
        if html is None:
            for name in names:
                print_library(tables, name, Console(), limit)
        elif len(names) > 1:
            raise ConfigurationError(f"a page shows one library: name one of the {len(names)} before --html")
        else:
            _write_page(tables, names[0], html, catalog=catalog, lake=lake, model=model)


@app.command()
def demo(videos: Videos = None, work: WorkFolder = Path("work"), verbose: Verbose = False) -> None:
    """Score two libraries of rendered clips, or your own videos, from an embedded S3 server to SQL."""
    with _told_in_a_sentence("demo"):
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
    with _told_in_a_sentence("demo"):
        from cpllm_dagster.demo.commands import run_dev

        status = run_dev(videos, work.resolve(), Console(), port)
    raise typer.Exit(status)


@app.command("demo-libraries")
def demo_libraries(
    work: Annotated[Path, typer.Option("--work", help="Folder where the clips are rendered.")] = Path("work"),
) -> None:
    """Render the demo's libraries and put them on the S3 server of CPLLM_S3_ENDPOINT_URL."""
    with _told_in_a_sentence("demo"):
        from cpllm_dagster import definitions
        from cpllm_dagster.demo.commands import put_libraries

        endpoint_url = definitions.s3_endpoint_url()
        if endpoint_url is None:
            raise ConfigurationError("CPLLM_S3_ENDPOINT_URL is not set: the S3 server that the clips are put on")
        uploaded = put_libraries(work.resolve(), endpoint_url)
    Console().print(_shown(f"{uploaded} files are on the S3 server at {endpoint_url}"))


@app.command()
def metrics(
    lake: LakeUri = None,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 9464,
) -> None:
    """Serve figures of libraries, runs and daemons to Prometheus, until Ctrl-C.

    Runs and daemons are those of the Dagster instance of DAGSTER_HOME; the code location is asked at DAGSTER_CODE_HOST
    and DAGSTER_CODE_PORT.
    """
    with _told_in_a_sentence("platform"):
        from cpllm_dagster import definitions
        from cpllm_dagster.lake.tables import Lake
        from cpllm_dagster.metrics import PlatformCollector, serve_metrics

        tables = Lake(definitions.lake_uri(lake), definitions.s3_endpoint_url())
        with definitions.dagster_instance() as instance:
            collector = PlatformCollector(tables, instance, definitions.code_server())
            _, wait = serve_metrics(collector, host, port)
            Console(stderr=True).print(_shown(f"Metrics on http://{host}:{port}/metrics. Ctrl-C ends."))
            wait()


models = typer.Typer(help="List, show and promote the models of CPLLM_MODELS_URI.", no_args_is_help=True)
app.add_typer(models, name="models")
ModelsUri = Annotated[
    str | None, typer.Option("--models", help="s3://bucket/prefix or a folder. (env: CPLLM_MODELS_URI)")
]


@models.command("list", epilog="Example: cpllm models list --models s3://our-models/cpllm")
def list_models(uri: ModelsUri = None) -> None:
    """List the models; the promoted one, which CPLLM_MODEL=promoted names, is marked."""
    with _told_in_a_sentence("platform"):
        store = _model_store(uri)
        promoted, ids = store.promoted_id, store.ids()
        for model_id in ids:
            Console().print(_shown(f"{'*' if model_id == promoted else ' '} {model_id}"))
        if promoted is None:
            Console(stderr=True).print(_shown(f"No model is promoted in {store.uri}."))


@models.command("show", epilog="Example: cpllm models show tiny-0123456789ab")
def show_model(model: Annotated[str, typer.Argument(help="Id of a model.")], uri: ModelsUri = None) -> None:
    """Print what a model was promoted on, as JSON."""
    with _told_in_a_sentence("platform"):
        print(json.dumps(_model_store(uri).record(model), indent=2))


@models.command("promote", epilog="Example: cpllm models promote our-model")
def promote_model(
    model: Annotated[str, typer.Argument(help="Id of a model that is there, or a model folder to copy there.")],
    uri: ModelsUri = None,
) -> None:
    """Make a model the promoted one, without comparing it with the present one; runs that begin later use it."""
    with _told_in_a_sentence("platform"):
        store = _model_store(uri)
        model_id = (
            model if model in store.ids() else store.publish(Path(model), {"promoted_by": "cpllm models promote"})
        )
        before = store.promoted_id
        store.promote(model_id)
    Console().print(_shown(f"{model_id} is promoted; before: {before or 'none'}"))


@models.command("back", epilog="Example: cpllm models back")
def go_back(uri: ModelsUri = None) -> None:
    """Promote the model that was promoted before the present one."""
    with _told_in_a_sentence("platform"):
        model_id = _model_store(uri).go_back()
    Console().print(_shown(f"{model_id} is promoted"))


def main() -> None:
    """Run the command."""
    run_and_end()


def _model_store(uri: str | None) -> ModelStore:
    """Open the place of models that is given, else that of the environment."""
    from cpllm_dagster import definitions
    from cpllm_dagster.resources import PromotedModels

    return PromotedModels(uri=definitions.models_uri(uri), s3_endpoint_url=definitions.s3_endpoint_url()).open()


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
        raise ConfigurationError(f"there are no tables under {lake.uri!r}: give the lake that `cpllm run` has filled")
    for library in libraries:
        if library not in there:
            raise no_library(library, there)
    return lake


def _write_page(
    tables: Lake, library: str, file: Path, *, catalog: str | None, lake: str | None, model: str | None
) -> None:
    """Write a library's page to a file.

    Raises:
        ConfigurationError: the file cannot be written, or settings are wrong.
    """
    from cpllm_dagster import definitions
    from cpllm_dagster.report.key_frames import take_key_frames
    from cpllm_dagster.report.page import library_page, no_pictures
    from cpllm_dagster.resources import VideoLimits
    from cpllm_model.network import checkpoint

    take, settings = no_pictures, definitions.optional_settings(catalog_uri=catalog, lake=lake, model=model)
    if settings is not None:
        store = definitions.video_store(settings)
        sampling = checkpoint.sampling_settings(definitions.quality_model(settings).name)
        take = partial(take_key_frames, store=store, sampling=sampling, limits=VideoLimits().decode_limits())
    page = library_page(tables, library, take)
    try:
        file.write_text(page.html, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{str(file)!r} cannot be written: {error.strerror}") from error


def _videos(lake: Lake, library: str) -> int:
    found = lake.metadata("catalog", library)
    return found["row_count"] if found else 0


def _query(given: str | None, file: Path | None) -> str:
    """Give the query of the command line, of a file or of standard input.

    Raises:
        BadParameter: there is none, or there are two.
        ConfigurationError: the file cannot be read.
    """
    if file is not None and given is not None:
        raise typer.BadParameter("give a query or --file, not both")
    if file is not None:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{str(file)!r} cannot be read: {error}") from error
    if given is None and sys.stdin.isatty():
        raise typer.BadParameter("give a query, --file, or a query on standard input")
    return sys.stdin.read() if given in (None, "-") else str(given)


def _ask(lake: Lake, query: str, output: Output, limit: int) -> None:
    """Print what a query asks for.

    Raises:
        typer.Exit: the query is wrong, or a table cannot be read; DuckDB's words are printed.
        LakeError: the lake cannot be read.
    """
    import duckdb

    from cpllm_dagster.lake.sql import sentence
    from cpllm_dagster.report.answers import print_answer, write_answer

    if output == "parquet" and sys.stdout.isatty():
        raise typer.BadParameter(
            "Parquet is not text: send it to a file, as in > answer.parquet", param_hint="--format"
        )
    with lake.connect() as connection:
        try:
            answer = connection.sql(query)
            if answer is None:  # a statement without rows
                return
            if output == "table":
                print_answer(answer, Console(), limit)
            else:
                write_answer(answer, output)
        except duckdb.Error as error:
            # Several lines, of which the last points at a place in the one before.
            for line in f"cpllm: {sentence(_pointed(connection, query, error))}".split("\n"):
                Console(stderr=True).print(_shown(line), soft_wrap=True)
            raise typer.Exit(2) from None


def _pointed(connection: duckdb.DuckDBPyConnection, query: str, error: duckdb.Error) -> duckdb.Error:
    """Give the error of a query that names what is not there with the place in the query, which `sql` leaves out."""
    import duckdb

    if isinstance(error, duckdb.BinderException | duckdb.CatalogException):
        try:
            connection.execute(query)
        except duckdb.Error as found:
            return found
    return error


def _describe(table_name: str | None, output: Output) -> None:
    """Print the data dictionary."""
    import duckdb
    import pyarrow as pa

    from cpllm_dagster.lake import dictionary
    from cpllm_dagster.lake.schemas import SCHEMAS, SENTENCES
    from cpllm_dagster.report.answers import write_answer
    from cpllm_dagster.report.tables import print_table

    if output == "markdown" and table_name is None:
        print(dictionary.markdown())
    elif output == "table":
        for name in [table_name] if table_name else SCHEMAS:
            rows = [row[1:] for row in dictionary.described([name])]
            print_table(Console(), f"{name}: {SENTENCES[name]}", dictionary.COLUMNS[1:], rows, len(rows))
    else:
        rows = list(dictionary.described([table_name] if table_name else list(SCHEMAS)))
        cells = map(list, zip(*rows, strict=True))
        write_answer(duckdb.from_arrow(pa.table(dict(zip(dictionary.COLUMNS, cells, strict=True)))), output)


def _print_ddl(engine: Engine, lake: str | None) -> None:
    from cpllm_dagster import definitions
    from cpllm_dagster.lake.dictionary import ddl

    print(ddl(engine, definitions.lake_uri(lake)))


if __name__ == "__main__":
    main()
