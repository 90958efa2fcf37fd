"""The demo and the development set-up: an embedded S3 server with libraries in it, and the whole platform on top.

In: a folder of a person's own videos, or none. Out: under a work folder the rendered clips, the lake's tables and a
Dagster instance; on the terminal rankings, failures and an answer in SQL. Everything stays on this machine.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import boto3
import dagster as dg
from rich.console import Console
from rich.text import Text

from cpllm_dagster.automation import PARTITION_SET
from cpllm_dagster.catalog.objects import VideoStore, partition_key
from cpllm_dagster.definitions import Settings, build_definitions
from cpllm_dagster.demo.clips import render_libraries
from cpllm_dagster.demo.embedded_s3 import embedded_s3
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.local_runs import run_libraries
from cpllm_dagster.report.tables import print_library, print_table
from cpllm_model.decoding.samples import has_video_name
from cpllm_model.errors import ConfigurationError

#: Configuration of Dagster, as it lies beside this module.
INSTANCE, WORKSPACE = (Path(__file__).with_name(name) for name in ("dagster.yaml", "workspace.yaml"))
BUCKET = "cpllm-demo"
QUESTION = (
    "select library, level, count(*) as videos, round(avg(score), 2) as mean_score from scores "
    "where status = 'ok' group by all order by library, mean_score desc"
)
#: Signals by which a terminal, a supervisor or a container asks the development set-up to end, and how long that takes.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST_END_S = 60.0
EXAMPLE = "select library, uri, score from scores order by score"


def run_demo(videos: Path | None, work: Path, console: Console, log_level: str) -> list[str]:
    """Score libraries on an embedded S3 server and print what was found.

    Args:
        videos: a person's own folder; None renders two libraries.
        work: where clips, tables and Dagster's records are kept.
        console: where answers go.
        log_level: what of the runs goes to standard error.

    Returns:
        The libraries that failed.
    """
    started = time.monotonic()
    with demo_libraries(videos, work, console) as settings:
        libraries = VideoStore(settings.catalog_uri, settings.s3_endpoint_url).libraries()
        definitions = build_definitions(settings, keep_ray=True)
        with dg.DagsterInstance.from_config(str(dagster_home(work))) as instance:
            # The folder is what a person gave just now: what it no longer holds is not missed.
            failed = run_libraries(definitions, libraries, instance, console, log_level, allow_shrinking=True)
    lake = Lake(settings.lake_uri)
    for library in libraries:
        print_library(lake, library, console, limit=30)
    answer = lake.connect().execute(QUESTION)
    columns = [column[0] for column in answer.description or []]
    console.print(Text(QUESTION))
    print_table(console, None, columns, answer.fetchall(), limit=30)
    given = f" {shlex.quote(str(videos))}" if videos else ""
    for line in (
        f"Done in {time.monotonic() - started:.0f} s. The tables are Parquet files under {settings.lake_uri}",
        f"Ask them:    cpllm sql --lake {settings.lake_uri} '{EXAMPLE}'",
        f"Dagster UI:  cpllm dev{given}   (http://127.0.0.1:3000)",
    ):
        console.print(Text(line), soft_wrap=True)
    return failed


def run_dev(videos: Path | None, work: Path, console: Console, port: int) -> int:
    """Start the Dagster UI and daemon over an embedded S3 server, until Ctrl-C or another signal that asks to end.

    Args:
        videos: a person's own folder; None renders two libraries.
        work: where clips, tables and Dagster's records are kept; the demo's are found there.
        console: where to say what starts.
        port: of the UI, on the loopback interface.

    Returns:
        Exit status of `dg dev`.

    Raises:
        ConfigurationError: `dg` is not installed.
    """
    dg_command = Path(sys.executable).with_name("dg")
    if not dg_command.exists():
        raise ConfigurationError("the development UI needs dagster-dg-cli: pip install 'cpllm[demo]'")
    home = dagster_home(work)
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    with demo_libraries(videos, work, console) as settings:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            libraries = VideoStore(settings.catalog_uri, settings.s3_endpoint_url).libraries()
            instance.add_dynamic_partitions(PARTITION_SET, [partition_key(library) for library in libraries])
        console.print(
            Text(f"Dagster UI on http://127.0.0.1:{port}: materialize the assets of a library by hand. Ctrl-C ends.")
        )
        environment = os.environ | {
            "DAGSTER_HOME": str(home),
            "CPLLM_CATALOG_URI": settings.catalog_uri,
            "CPLLM_LAKE_URI": settings.lake_uri,
            "CPLLM_S3_ENDPOINT_URL": settings.s3_endpoint_url or "",
        }
        command = [str(dg_command), "dev", "-w", str(WORKSPACE), "-h", "127.0.0.1", "-p", str(port)]
        with subprocess.Popen(command, env=environment, cwd=home, start_new_session=True) as process:
            try:
                process.wait()
            except KeyboardInterrupt:
                console.print(Text("Ending the UI and the daemon"))
            finally:
                _end_group(process)
            return process.returncode


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, as Ctrl-C on their terminal does, and what does not end by force."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    deadline = time.monotonic() + LONGEST_END_S
    with suppress(ProcessLookupError):  # none of the group is left
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(LONGEST_END_S)
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def demo_libraries(videos: Path | None, work: Path, console: Console) -> Iterator[Settings]:
    """Serve the libraries on an embedded S3 server for the length of a `with` block.

    Raises:
        ConfigurationError: the folder of videos is not there or holds none.
    """
    source = videos.expanduser().resolve() if videos else work / "demo" / "videos"
    if videos is None:
        console.print(Text(f"Rendering clips into {source}"))
        render_libraries(source)
    with embedded_s3() as server:
        # boto3, here and in every worker, finds these by its usual chain; a proxy must not see loopback addresses.
        os.environ.update(server.environment, NO_PROXY="127.0.0.1,localhost", no_proxy="127.0.0.1,localhost")
        os.environ.pop("AWS_PROFILE", None)
        uploaded = upload_libraries(source, server.endpoint_url)
        console.print(Text(f"{uploaded} files from {source} on the embedded S3 server at {server.endpoint_url}"))
        yield Settings(
            catalog_uri=f"s3://{BUCKET}/libraries",
            lake_uri=str(work / ("demo" if videos is None else "videos") / "lake"),
            model="tiny",
            s3_endpoint_url=server.endpoint_url,
            ray_address="local",
        )


def put_libraries(work: Path, endpoint_url: str) -> int:
    """Render the demo's libraries below a folder and put them on an S3 server; gives how many files there are."""
    source = work / "demo" / "videos"
    render_libraries(source)
    return upload_libraries(source, endpoint_url)


def upload_libraries(source: Path, endpoint_url: str) -> int:
    """Put the videos below a folder into the demo's bucket, each sub-folder a library; loose files are one more.

    Raises:
        ConfigurationError: the folder is not there or holds no video.
    """
    if not source.is_dir():
        raise ConfigurationError(f"{str(source)!r} is not a folder")
    client = boto3.client("s3", endpoint_url=endpoint_url)
    client.create_bucket(Bucket=BUCKET)
    visible = (path for path in sorted(source.rglob("*")) if path.is_file() and not path.name.startswith("."))
    paths = [path for path in visible if has_video_name(path.name)]
    if not paths:
        raise ConfigurationError(f"{str(source)!r} holds no video")
    for path in paths:
        inside = path.relative_to(source)
        key = inside if len(inside.parts) > 1 else Path(source.name, inside)
        client.upload_file(str(path), BUCKET, f"libraries/{key.as_posix()}")
    return len(paths)


def dagster_home(work: Path) -> Path:
    """Make the folder of the Dagster instance and give it."""
    home = work / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(INSTANCE, home / "dagster.yaml")
    return home
