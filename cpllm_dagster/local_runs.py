"""Runs of the library job in this process, without a queue, a daemon or a web server; and the end of a library.

In: definitions, an instance and library names. Out: published tables, and the runs' records in the instance.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Sequence

import dagster as dg
from rich.console import Console
from rich.text import Text

from cpllm_dagster.assets.catalog import LEFT_OUT_SENTENCE, video_catalog
from cpllm_dagster.automation import PARTITION_SET, score_library
from cpllm_dagster.catalog.objects import VideoStore, no_library, partition_key
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.report.tables import plain
from cpllm_model.errors import ConfigurationError, CPLLMError


def libraries_to_run(store: VideoStore, lake: Lake, named: Sequence[str] | None) -> list[str]:
    """Give the libraries of a run: those named, else those of the catalogue and those that have tables.

    Raises:
        ConfigurationError: a named library is in neither, or there is no library at all.
        LakeError, SourceReadError: one of the two cannot be read.
    """
    there = sorted({*store.libraries(), *lake.libraries()})
    for library in named or ():
        if library not in there:
            raise no_library(library, there)
    if not there:
        raise ConfigurationError(f"{store.uri!r} holds no library and no video")
    return list(named or there)


def run_libraries(
    definitions: dg.Definitions,
    libraries: Iterable[str],
    instance: dg.DagsterInstance,
    console: Console,
    log_level: str = "CRITICAL",
    *,
    allow_shrinking: bool = False,
) -> list[str]:
    """Run libraries one after another; a failed library does not stop the others.

    Args:
        definitions: of `build_definitions`.
        libraries: their true names.
        instance: what keeps the runs' records.
        console: where a line on each library goes, and one on what its catalogue leaves out.
        log_level: what else of a run is written to standard error: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        allow_shrinking: whether libraries may vanish or lose many videos.

    Returns:
        The libraries that failed.

    Raises:
        KeyboardInterrupt: the run was interrupted; a line has said what is kept.
    """
    failed = []
    for library in libraries:
        console.print(Text(f"{plain(library)}: started"))
        started = time.monotonic()
        try:
            result = run_library(definitions, library, instance, log_level, allow_shrinking=allow_shrinking)
        except (CPLLMError, dg.DagsterError) as error:
            failed.append(library)
            console.print(Text(f"{plain(library)}: failed: {error}"))
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            console.print(
                Text(
                    f"{plain(library)}: interrupted after {time.monotonic() - started:.1f} s. Published tables are "
                    "whole, finished results are kept, and the next run goes on from them"
                )
            )
            raise KeyboardInterrupt from None
        else:
            console.print(Text(f"{plain(library)}: done in {time.monotonic() - started:.1f} s"))
            (found,) = result.asset_materializations_for_node(video_catalog.node_def.name)
            if found.metadata["left_out"].value:
                console.print(Text(f"{plain(library)}: {found.metadata[LEFT_OUT_SENTENCE].value}"))
    return failed


def run_library(
    definitions: dg.Definitions,
    library: str,
    instance: dg.DagsterInstance,
    log_level: str = "CRITICAL",
    *,
    allow_shrinking: bool = False,
) -> dg.ExecuteInProcessResult:
    """Materialize every asset of a library, with its checks; what the run raises is raised here."""
    key = partition_key(library)
    instance.add_dynamic_partitions(PARTITION_SET, [key])
    return definitions.resolve_job_def(score_library.name).execute_in_process(
        partition_key=key,
        instance=instance,
        run_config={
            "loggers": {"console": {"config": {"log_level": log_level}}},
            "ops": {video_catalog.node_def.name: {"config": {"allow_shrinking": allow_shrinking}}},
        },
    )


def retire_library(lake: Lake, library: str, instance: dg.DagsterInstance) -> list[str]:
    """Remove a library's tables, parts and partition; gives the names of the tables.

    Raises:
        LakeError: a run is working on it, or the lake cannot be written.
    """
    with lake.claim(library, f"cpllm retire, process {os.getpid()} on {socket.gethostname()}"):
        removed = lake.retire(library)
    instance.delete_dynamic_partition(PARTITION_SET, partition_key(library))
    return removed
