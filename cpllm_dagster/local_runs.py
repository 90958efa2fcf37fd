"""Runs of the library job in this process, without a queue, a daemon or a web server.

In: definitions, an instance and library names. Out: published tables, and the runs' records in the instance.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import dagster as dg
from rich.console import Console
from rich.text import Text

from cpllm_dagster.automation import PARTITION_SET, score_library
from cpllm_dagster.catalog.objects import partition_key
from cpllm_dagster.report.tables import plain
from cpllm_model.errors import CPLLMError


def run_libraries(
    definitions: dg.Definitions,
    libraries: Iterable[str],
    instance: dg.DagsterInstance,
    console: Console,
    log_level: str = "CRITICAL",
) -> list[str]:
    """Run libraries one after another; one that fails with a sentence does not keep the others from running.

    Args:
        definitions: of `build_definitions`.
        libraries: their true names.
        instance: what keeps the runs' records.
        console: where a line on each library goes.
        log_level: what else of a run is written to standard error: DEBUG, INFO, WARNING, ERROR or CRITICAL.

    Returns:
        The libraries that failed.
    """
    failed = []
    for library in libraries:
        console.print(Text(f"{plain(library)}: started"))
        started = time.monotonic()
        try:
            run_library(definitions, library, instance, log_level)
        except (CPLLMError, dg.DagsterError) as error:
            failed.append(library)
            console.print(Text(f"{plain(library)}: failed: {error}"))
        else:
            console.print(Text(f"{plain(library)}: done in {time.monotonic() - started:.1f} s"))
    return failed


def run_library(
    definitions: dg.Definitions, library: str, instance: dg.DagsterInstance, log_level: str = "CRITICAL"
) -> dg.ExecuteInProcessResult:
    """Materialize every asset of a library, with its checks; what the run raises is raised here."""
    key = partition_key(library)
    instance.add_dynamic_partitions(PARTITION_SET, [key])
    return definitions.resolve_job_def(score_library.name).execute_in_process(
        partition_key=key,
        instance=instance,
        run_config={"loggers": {"console": {"config": {"log_level": log_level}}}},
    )
