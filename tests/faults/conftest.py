"""A library of sixty videos on a real S3 server, its quiet run, and the processes that the tests look for and end."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pyarrow as pa
import pytest

from cpllm_dagster.automation import PARTITION_SET
from cpllm_dagster.definitions import Settings, build_definitions
from cpllm_dagster.demo.embedded_s3 import EmbeddedS3
from cpllm_dagster.lake.tables import Lake

LIBRARY = "films"
VIDEOS = 60
#: The assets of one pass of the model.
QUALITY = ("visual_features", "quality_descriptions", "quality_scores", "score_history", "nights")
TABLES = ("catalog", "scores", "descriptions", "features", "comparisons", "rankings")
#: What two runs of the same videos may differ in.
CIRCUMSTANCES = {"scored_at", "run_id", "decode_s", "inference_s"}
#: Until what was ended is gone, on a busy machine; what stays, stays for ever.
GONE_S = 120.0
#: Until a run in a process of its own is over, on a busy machine.
RUN_S = 600.0
#: Small parts and batches, so that there are many points at which something can die.
PART = 7
CONFIG = {
    "video_catalog": {"part_videos": PART},
    "quality": {"part_videos": PART, "part_interval_s": 3600.0, "batch_size": 2, "samples_in_memory": 8},
    "pairwise_comparisons": {"part_pairs": 50, "pair_batch_size": 8},
}


@dataclass(frozen=True)
class Films:
    """The library over one lake, and its tables."""

    settings: Settings

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.lake_uri)

    @property
    def model_id(self) -> str:
        return build_definitions(self.settings).resources["model"].model_id  # pyright: ignore

    def run(self, *assets: str, **ops: dict[str, Any]) -> dg.ExecuteInProcessResult:
        """Materialize assets, or all, in this process; `ops` are their configuration by name of the op."""
        with dg.DagsterInstance.ephemeral() as instance:
            instance.add_dynamic_partitions(PARTITION_SET, [LIBRARY])
            return (
                build_definitions(self.settings)
                .resolve_job_def("score_library")
                .execute_in_process(
                    partition_key=LIBRARY,
                    instance=instance,
                    asset_selection=[dg.AssetKey(name) for name in assets] or None,
                    run_config={
                        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                        "ops": {name: {"config": config} for name, config in ops.items()},
                    },
                )
            )

    def run_all(self) -> dg.ExecuteInProcessResult:
        """Materialize all assets in this process, in small parts."""
        return self.run(**CONFIG)

    @contextmanager
    def process(self, home: Path, hold: tuple[str, int, bool] | None = None) -> Iterator[subprocess.Popen[str]]:
        """Start the same in a process of its own, which is held where library_run.py is told to."""
        settings = dataclasses.asdict(self.settings)
        run = {"settings": settings, "library": LIBRARY, "ops": CONFIG, "home": str(home), "hold": hold}
        command = [sys.executable, str(Path(__file__).with_name("library_run.py")), json.dumps(run)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **streams) as process:
            try:
                yield process
            finally:
                process.kill()

    def score(self, **config: Any) -> dg.ExecuteInProcessResult:
        """Materialize the assets of one pass of the model in this process."""
        return self.run(*QUALITY, quality=config)

    def table(self, name: str) -> pa.Table:
        table = self.lake.read(name, LIBRARY)
        assert table is not None, name
        return table

    def kept(self) -> set[str]:
        """The videos whose results lie in parts."""
        return set(self.lake.read_parts(LIBRARY, self.model_id)[0]["scores"]["video_id"].to_pylist())

    def runs(self) -> dict[str, str]:
        """Run id by scored video."""
        scores = self.table("scores")
        return dict(zip(scores["video_id"].to_pylist(), scores["run_id"].to_pylist(), strict=True))

    def take_over(self, other: Films, *tables: str) -> None:
        """Publish tables of another lake as they are there."""
        for name in tables:
            metadata = other.lake.metadata(name, LIBRARY)
            assert metadata is not None
            run_id, model_id = metadata["run_id"], metadata["model_id"]
            self.lake.write(name, LIBRARY, other.table(name), run_id=run_id, model_id=model_id)

    def assert_same(self, other: Films, *tables: str) -> None:
        """Every video has exactly one row, and tables equal those of another lake but for the circumstances."""
        for name in tables or TABLES:
            ours, theirs = (
                table.drop_columns(list(CIRCUMSTANCES & set(table.column_names)))
                for table in (self.table(name), other.table(name))
            )
            assert ours.equals(theirs), name
        assert not list(Path(self.settings.lake_uri, ".work").rglob("*.part"))


@pytest.fixture(scope="session")
def library_uri(s3_server: EmbeddedS3, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sixty short videos of six contents; every one has bytes of its own and so an ETag of its own."""
    from cpllm_model.training.data.encode import write_video
    from cpllm_model.training.data.scenes import render_scene

    folder = tmp_path_factory.mktemp("contents")
    contents = []
    for seed in (40, 41, 42):
        frames_THW3 = render_scene(seed, 192, 128, 12)
        contents += [write_video(frames_THW3, folder / f"{seed}-{crf}.mp4", crf=crf).read_bytes() for crf in (20, 42)]
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    bucket = f"faults-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    for number in range(VIDEOS):
        mark = struct.pack(">I4sI", 12, b"free", number)  # an MP4 box that means nothing
        content = contents[number % len(contents)] + mark
        client.put_object(Bucket=bucket, Key=f"libraries/{LIBRARY}/{number:02}.mp4", Body=content)
    return f"s3://{bucket}/libraries"


@pytest.fixture
def films(s3_server: EmbeddedS3, library_uri: str, tmp_path: Path) -> Films:
    """The library over an empty lake."""
    return Films(Settings(library_uri, str(tmp_path / "lake"), "tiny", s3_server.endpoint_url, "local"))


@pytest.fixture(scope="session")
def quiet(s3_server: EmbeddedS3, local_ray: None, library_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Films:
    """The library after a run in which nothing died."""
    lake = tmp_path_factory.mktemp("quiet") / "lake"
    found = Films(Settings(library_uri, str(lake), "tiny", s3_server.endpoint_url, "local"))
    assert found.run().success
    scores = found.table("scores")
    assert scores["status"].to_pylist() == ["ok"] * VIDEOS
    assert len(set(scores["score"].to_pylist())) == 6
    return found


@pytest.fixture
def catalogued(films: Films, quiet: Films) -> Films:
    """The library over a lake that has a catalogue and nothing else."""
    films.take_over(quiet, "catalog")
    return films


# --- processes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """A living process."""

    pid: int
    parent: int
    is_stopped: bool
    command: str


class Machine:
    """The living processes of this machine."""

    def processes(self) -> list[Process]:
        command = ["ps", "-axww", "-o", "pid=,ppid=,stat=,command="]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows = [line.split(maxsplit=3) for line in listing.splitlines()]
        return [
            Process(int(pid), int(parent), state.startswith("T"), command)
            for pid, parent, state, command in (row for row in rows if len(row) == 4)
            if not state.startswith("Z")
        ]

    def below(self, pid: int) -> list[Process]:
        """Give the descendants of a process."""
        everyone = self.processes()
        found = [process for process in everyone if process.parent == pid]
        for one in found:  # grows while it is gone through
            found += [process for process in everyone if process.parent == one.pid]
        return found

    def workers(self, kind: str = "", pid: int | None = None) -> list[Process]:
        """Give the Ray workers of a class below a process, this one by default; the busy ones first."""
        found = [
            one for one in self.below(pid or os.getpid()) if re.match(rf"ray::\w*{kind or 'Worker'}\b", one.command)
        ]
        return sorted(found, key=lambda one: not re.match(r"ray::\w+\.", one.command))

    def decoders(self, pid: int | None = None) -> list[Process]:
        """Give the decoding processes below a process."""
        return [one for one in self.below(pid or os.getpid()) if "cpllm_model.decoding.decoder_process" in one.command]

    def at_work(self, pid: int) -> list[Process]:
        """Give what a run's process has started that works: Ray and its workers, decoders."""
        names = re.compile(r"ray::\w+Worker|.*/(raylet|gcs_server) |.*cpllm_model\.decoding\.decoder_process")
        return [one for one in self.below(pid) if names.match(one.command)]

    def assert_gone(self, pids: Iterable[int]) -> None:
        """Fail unless processes end within GONE_S."""
        gone = set(pids)
        deadline = time.monotonic() + GONE_S
        while left := [one for one in self.processes() if one.pid in gone]:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)

    def assert_nothing_left(self) -> None:
        """Fail unless this process's workers and decoders end within GONE_S."""
        self.assert_gone(one.pid for one in [*self.workers(), *self.decoders()])


@pytest.fixture
def machine() -> Machine:
    return Machine()
