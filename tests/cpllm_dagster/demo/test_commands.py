"""The demo from end to end, and the pieces of it that take no minute."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import dagster as dg
import pytest
from rich.console import Console

from cpllm_dagster.catalog.objects import VideoStore
from cpllm_dagster.demo import commands
from cpllm_dagster.demo.clips import LIBRARIES
from cpllm_dagster.demo.embedded_s3 import EmbeddedS3
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.run_launcher import CheckedRunLauncher
from cpllm_model.errors import ConfigurationError
from tests.dagster_ui import ask, wait_for


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Take back what the demo puts into the environment."""
    with mock.patch.dict(os.environ):
        yield


def libraries_of(folder: Path, work: Path) -> dict[str, int]:
    """The libraries that a person's folder makes, and how many videos each has."""
    with commands.demo_libraries(folder, work, Console(file=io.StringIO())) as settings:
        store = VideoStore(settings.catalog_uri, settings.s3_endpoint_url)
        return {library: len(list(store.objects(library))) for library in store.libraries()}


def test_a_folder_of_ones_own_videos_becomes_libraries(tmp_path: Path) -> None:
    for name in ("films/a.mp4", "films/deep/b.mkv", "shows/c d.webm", "loose.mov", "films/notes.txt", ".hidden.mp4"):
        path = tmp_path / "my videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    found = libraries_of(tmp_path / "my videos", tmp_path / "work")
    assert found == {"films": 2, "my videos": 1, "shows": 1}


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_videos_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=name):
        libraries_of(tmp_path / name, tmp_path / "work")


def test_the_demo_is_large_and_varied_enough() -> None:
    assert len(LIBRARIES) == 2
    for clips in LIBRARIES.values():
        assert len(clips) >= 12 and len({clip.name for clip in clips}) == len(clips)
        assert len({clip.codec for clip in clips}) >= 3


def test_the_instance_is_that_of_infra(tmp_path: Path) -> None:
    with dg.DagsterInstance.from_config(str(commands.dagster_home(tmp_path))) as instance:
        assert not instance.telemetry_enabled
        assert isinstance(instance.run_launcher, CheckedRunLauncher)


def test_the_demos_libraries_are_put_on_a_server_and_again(s3_server: EmbeddedS3, tmp_path: Path) -> None:
    for library, clips in LIBRARIES.items():  # rendered already
        (tmp_path / "demo" / "videos" / library).mkdir(parents=True)
        for clip in clips:
            (tmp_path / "demo" / "videos" / library / clip.name).write_bytes(b"clip " * 9)
    for _ in range(2):
        assert commands.put_libraries(tmp_path, s3_server.endpoint_url) == 28
    assert VideoStore(f"s3://{commands.BUCKET}/libraries", s3_server.endpoint_url).libraries() == sorted(LIBRARIES)


@pytest.mark.slow
def test_the_demo_from_end_to_end_and_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cpllm_dagster.cli", "demo", "--work", str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert first.returncode == 0, first.stderr
    lake = Lake(str(tmp_path / "demo" / "lake"))
    answer = lake.connect().execute("select library, status, count(*) from scores group by all order by all").fetchall()
    assert answer == [
        (library, status, n) for library in sorted(LIBRARIES) for status, n in (("failed", 2), ("ok", 12))
    ]
    for expected in ("films: ranking", "user uploads: failures", "mean_score", "cpllm dev"):
        assert expected in first.stdout
    runs = set(lake.connect().execute("select distinct run_id from scores").fetchall())
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0
    assert set(lake.connect().execute("select distinct run_id from scores").fetchall()) == runs


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def below(parent: int) -> set[int]:
    """The processes that a process has started, and those that these have."""
    command = [shutil.which("ps") or "ps", "-eo", "pid=,ppid="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(ppid) for pid, ppid in map(str.split, listed.splitlines())}
    found = {parent}
    while more := {pid for pid, ppid in parents.items() if ppid in found} - found:
        found |= more
    return found - {parent}


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())  # one that nobody has waited for yet


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_dev_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_text("no video")
    command = [sys.executable, "-m", "cpllm_dagster.cli", "dev", str(tmp_path / "videos"), "--work", str(tmp_path)]
    port = free_port()
    with subprocess.Popen([*command, "--port", port], start_new_session=True) as process:
        try:
            wait_for(lambda: ask(f"http://127.0.0.1:{port}/graphql", "{ version }"), 240)
            started = below(process.pid)
            assert len(started) >= 5
        finally:
            process.send_signal(number)  # to this one alone
            process.wait(120)
    assert wait_for(lambda: not any(map(is_there, started)), 15)


@pytest.fixture
def ui(tmp_path: Path, clips: list[Path]) -> Iterator[str]:
    """The address of the UI that `cpllm dev` starts over three clips; it ends as Ctrl-C ends it."""
    port = free_port()
    (tmp_path / "videos").mkdir()
    for clip in clips:
        shutil.copy(clip, tmp_path / "videos")
    command = [sys.executable, "-m", "cpllm_dagster.cli", "dev", str(tmp_path / "videos"), "--work", str(tmp_path)]
    with subprocess.Popen([*command, "--port", port], start_new_session=True) as process:
        try:
            yield f"http://127.0.0.1:{port}/graphql"
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(120)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=1)
    assert wait_for(lambda: has_ended(process.pid), 15)


def has_ended(process_group: int) -> bool:
    try:
        os.killpg(process_group, 0)
    except ProcessLookupError:
        return True
    return False


NODES = "{ repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } schedules { name } } } } }"
RUNS = "{ runsOrError { ... on Runs { results { status tags { key value } } } } }"
LAUNCH = """
mutation { launchPartitionBackfill(backfillParams: {allPartitions: false, partitionNames: ["videos"], assetSelection: [
  {path: ["video_catalog"]}, {path: ["visual_features"]}, {path: ["quality_descriptions"]}, {path: ["quality_scores"]},
  {path: ["score_history"]}, {path: ["nights"]},
  {path: ["pairwise_comparisons"]}, {path: ["quality_rankings"]}
]}) { __typename ... on PythonError { message } } }
"""


@pytest.mark.slow
def test_a_library_is_materialized_by_hand_in_the_ui(ui: str, tmp_path: Path) -> None:
    (repository,) = wait_for(lambda: ask(ui, NODES)["repositoriesOrError"]["nodes"], 240)
    assert {"score_library", "score_all_libraries"} <= {job["name"] for job in repository["jobs"]}
    assert [schedule["name"] for schedule in repository["schedules"]] == ["nightly"]
    assert ask(ui, LAUNCH)["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess"

    def ended() -> list[dict]:
        runs = ask(ui, RUNS)["runsOrError"]["results"]
        return [run for run in runs if run["status"] in ("SUCCESS", "FAILURE", "CANCELED")]

    (run,) = wait_for(ended, 500)
    assert run["status"] == "SUCCESS"
    assert {"key": "dagster/partition", "value": "videos"} in run["tags"]
    answer = Lake(str(tmp_path / "videos" / "lake")).connect().execute("select count(*) from rankings").fetchall()
    assert answer == [(3,)]
