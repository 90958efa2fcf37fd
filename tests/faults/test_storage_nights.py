"""Nights on storage that fails: sixty videos over two workers of each kind, with faults at several points.

After each fault every video has exactly one right row, no finished work is lost, and the tables are those of a quiet
night but for times, timings and the run's id.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest

from cpllm_dagster.automation import PARTITION_SET
from cpllm_dagster.definitions import Settings, build_definitions
from cpllm_dagster.demo.embedded_s3 import EmbeddedS3
from cpllm_dagster.lake.schemas import LOGS, SCHEMAS
from cpllm_dagster.lake.tables import Lake
from cpllm_model.errors import ConfigurationError, LakeError
from cpllm_model.training.data.encode import write_video
from cpllm_model.training.data.scenes import render_scene
from tests.conftest import UNSEEN_SEED
from tests.faults.conftest import RUN_S
from tests.faults.s3_proxy import (
    INTERNAL,
    PASSING,
    SLOW_DOWN,
    Exchange,
    S3Proxy,
    broken_body,
    forward,
    refusal,
    reset,
    s3_proxy,
    short_body,
)
from tests.faults.small_disk import fill, free, small_disk

LIBRARY = "films"
VIDEOS = 60
#: Columns that tell when an object was put, when and by whom a row was made, and how long that took.
CIRCUMSTANCES = {"last_modified", "scored_at", "run_id", "decode_s", "inference_s"}
#: Videos that may be decoded, or decoded and not answered, when a run breaks off: the run is told so.
IN_FLIGHT = 16
PART_VIDEOS = 5
EXPIRED = refusal(400, "ExpiredToken", "The token AKIASECRET has expired")

Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Nightly:
    """A library behind a proxy and a lake, and what a night does with them."""

    proxy: S3Proxy
    bucket: str
    client: Any
    lake_uri: str

    @property
    def lake(self) -> Lake:
        return Lake(self.lake_uri, self.proxy.endpoint_url)

    @property
    def settings(self) -> Settings:
        return Settings(f"s3://{self.bucket}/libraries", self.lake_uri, "tiny", self.proxy.endpoint_url, "local")

    def uri(self, name: str) -> str:
        return f"s3://{self.bucket}/libraries/{LIBRARY}/{name}"

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"libraries/{LIBRARY}/{name}", Body=content)

    def run(self) -> dg.ExecuteInProcessResult:
        """Run the library's job, keeping a part every PART_VIDEOS."""
        job = build_definitions(self.settings).resolve_job_def("score_library")
        knobs = {
            "quality": {"config": {"part_videos": PART_VIDEOS, "samples_in_memory": IN_FLIGHT}},
            "video_catalog": {"config": {"part_videos": 20}},
        }
        with dg.DagsterInstance.ephemeral() as instance:
            instance.add_dynamic_partitions(PARTITION_SET, [LIBRARY])
            return job.execute_in_process(partition_key=LIBRARY, instance=instance, run_config={"ops": knobs})

    def tables(self) -> Rows:
        """Rows of every table without their circumstances; pictures of a report end when their time is over."""
        found = {}
        for name in set(SCHEMAS) - {*LOGS, "events", "key_frames"}:
            table = self.lake.read(name, LIBRARY)
            assert table is not None, name
            found[name] = table.drop_columns([*CIRCUMSTANCES & {*table.column_names}]).to_pylist()
        return found

    def score_rows(self) -> dict[str, dict[str, Any]]:
        """Rows of the scores by the video's name."""
        table = self.lake.read("scores", LIBRARY)
        assert table is not None
        rows = {row["uri"].rpartition("/")[2]: row for row in table.to_pylist()}
        assert len(rows) == len(table)
        return rows

    def pictures(self) -> int:
        """Number of videos that the report of the first whole run has read once more."""
        table = self.lake.read("key_frames", LIBRARY)
        assert table is not None
        return len(table)

    def finished(self) -> set[str]:
        """Ids of the videos whose answers a broken run has kept."""
        definitions = build_definitions(self.settings)
        parts, _ = self.lake.read_parts(LIBRARY, definitions.resources["model"].model_id)  # pyright: ignore
        return set(parts["scores"]["video_id"].to_pylist())


@pytest.fixture(scope="module")
def proxy(s3_server: EmbeddedS3) -> Iterator[S3Proxy]:
    with s3_proxy(s3_server.endpoint_url) as running:
        yield running


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Small videos of three scenes, a good and a bad one each."""
    folder = tmp_path_factory.mktemp("clips")
    scenes = [render_scene(UNSEEN_SEED + number, 144, 112, 12) for number in range(3)]
    paths = [
        write_video(scene, folder / f"{number}-{crf}.mp4", crf=crf)
        for number, scene in enumerate(scenes)
        for crf in (20, 40)
    ]
    return [path.read_bytes() for path in paths]


def video_name(number: int) -> str:
    return f"{number:02d}.mp4"


@pytest.fixture(scope="module")
def library(proxy: S3Proxy, s3_server: EmbeddedS3, clips: list[bytes]) -> tuple[str, Any]:
    """A bucket with a library of sixty videos, and a client that goes past the proxy."""
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    for number in range(VIDEOS):
        key = f"libraries/{LIBRARY}/{video_name(number)}"
        client.put_object(Bucket=bucket, Key=key, Body=clips[number % len(clips)])
    return bucket, client


@pytest.fixture
def night(proxy: S3Proxy, library: tuple[str, Any], local_ray: None, tmp_path: Path) -> Iterator[Nightly]:
    """The library before its first night; what a test does to it is undone."""
    bucket, client = library
    proxy.heal()
    before = {
        item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        for item in client.list_objects_v2(Bucket=bucket, Prefix="libraries/")["Contents"]
    }
    yield Nightly(proxy, bucket, client, str(tmp_path / "lake"))
    proxy.heal()
    for key, content in before.items():
        client.put_object(Bucket=bucket, Key=key, Body=content)


@pytest.fixture(scope="module")
def quiet(proxy: S3Proxy, library: tuple[str, Any], local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The tables of a night without faults."""
    proxy.heal()
    found = Nightly(proxy, *library, str(tmp_path_factory.mktemp("quiet")))
    assert found.run().success
    tables = found.tables()
    assert len(tables["scores"]) == VIDEOS and {row["status"] for row in tables["scores"]} == {"ok"}
    return tables


def break_off_and_go_on(
    night: Nightly,
    quiet: Rows,
    error: type[Exception],
    words: str,
    mend: Callable[[], object],
    lost: int = 0,
) -> None:
    """Run until a fault ends the run, mend it, and run again: what was finished is kept, the tables are the quiet ones.

    Args:
        night, quiet: the library, and its tables without a fault.
        error, words: what ends the first run.
        mend: what is done in between.
        lost: videos whose finished answers the fault has taken.
    """
    with pytest.raises(error, match=words) as caught:
        night.run()
    assert "AKIASECRET" not in "".join(traceback.format_exception(caught.value))
    decoded = max(0, night.proxy.reads - VIDEOS)
    mend()
    kept = night.finished()
    night.proxy.heal()
    second = night.run()
    assert night.tables() == quiet
    run_of = {row["video_id"]: row["run_id"] for row in night.score_rows().values()}
    assert {video for video, run_id in run_of.items() if run_id != second.run_id} == kept
    assert decoded - len(kept) <= IN_FLIGHT + PART_VIDEOS + lost
    if decoded:  # the catalogue was published, and no video of it is read but those without an answer, and for pictures
        assert night.proxy.reads == VIDEOS - len(kept) + night.pictures()


@pytest.mark.slow
def test_passing_faults_leave_no_trace(night: Nightly, quiet: Rows) -> None:
    """A third of all requests fail once, to the catalogue and to a lake on S3 alike."""
    faults, chance, lock, spoilt = [*PASSING.values()], random.Random(4), threading.Lock(), set()

    def spoil(exchange: Exchange) -> None:
        request = (exchange.method, exchange.path, str(exchange.query), exchange.headers.get("range"))
        with lock:
            fault = chance.choice(faults) if request not in spoilt and chance.random() < 0.3 else forward
            spoilt.add(request)
        fault(exchange)

    on_s3 = replace(night, lake_uri=f"s3://{night.bucket}/lake-{uuid.uuid4().hex[:8]}")
    night.proxy.inject(spoil)
    assert on_s3.run().success
    night.proxy.heal()
    assert on_s3.tables() == quiet


@pytest.mark.slow
def test_lasting_faults_fail_their_videos_alone(night: Nightly, quiet: Rows, clips: list[bytes]) -> None:
    """Faults after the catalogue was made: each is a typed row; the next night mends all."""
    lasting = [INTERNAL, SLOW_DOWN, reset, broken_body, short_body]
    spoilt = {night.uri(video_name(number)): fault for number, fault in zip(range(0, 50, 10), lasting, strict=True)}
    replaced, deleted = [video_name(n) for n in (11, 22, 33)], [video_name(n) for n in (14, 25, 36)]
    gone = {night.uri(name) for name in deleted}

    def begin() -> None:
        for uri, fault in spoilt.items():
            night.proxy.inject(fault, when=lambda exchange, uri=uri: exchange.is_read_of(uri))
        for name in replaced:
            night.put(name, clips[0] + b"another")
        for name in deleted:
            night.client.delete_object(Bucket=night.bucket, Key=f"libraries/{LIBRARY}/{name}")

    night.proxy.before_read(VIDEOS + 1, begin)
    first = night.run()
    assert first.success
    by_name = night.score_rows()
    kinds = {night.uri(name): row["error_type"] for name, row in by_name.items()}
    assert len(kinds) == VIDEOS
    expected = dict.fromkeys(kinds) | dict.fromkeys(spoilt, "source_read")
    expected |= {night.uri(name): "object_changed" for name in replaced} | dict.fromkeys(gone, "object_missing")
    assert kinds == expected
    rows = {row["uri"]: row for row in night.tables()["scores"]}
    assert [row for row in quiet["scores"] if kinds[row["uri"]] is None] == [
        row for row in rows.values() if row["status"] == "ok"
    ]

    night.proxy.heal()
    for number in (11, 22, 33, 14, 25, 36):
        night.put(video_name(number), clips[number % len(clips)])
    second = night.run()
    # Pairs are chosen among what is scored, and comparisons of the first night hold: those two tables may differ.
    for name in ("catalog", "scores", "descriptions", "features"):
        assert night.tables()[name] == quiet[name], name
    assert len(night.tables()["rankings"]) == VIDEOS
    again = {night.uri(name) for name, row in night.score_rows().items() if row["run_id"] == second.run_id}
    assert again == {uri for uri, kind in expected.items() if kind}


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 30, VIDEOS + 1, VIDEOS + 25, 2 * VIDEOS])
def test_expired_credentials_end_the_run_and_lose_nothing(night: Nightly, quiet: Rows, number: int) -> None:
    """Credentials expire in the listing, in the catalogue, and at the first, a middle and the last video."""
    if number:
        night.proxy.before_read(number, lambda: night.proxy.inject(EXPIRED))
    else:
        night.proxy.inject(EXPIRED)
    break_off_and_go_on(night, quiet, ConfigurationError, "ExpiredToken", lambda: None)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 30, VIDEOS + 1, VIDEOS + 25, 2 * VIDEOS])
def test_a_lake_that_is_full_ends_the_run_and_loses_nothing(
    night: Nightly, quiet: Rows, disk: Path, number: int
) -> None:
    """The lake's disk fills up in the catalogue and at the first, a middle and the last video."""
    night = replace(night, lake_uri=str(disk / "lake"))
    night.proxy.before_read(number, lambda: fill(disk))
    break_off_and_go_on(night, quiet, LakeError, "No space left on device", lambda: free(disk))


@pytest.mark.slow
def test_a_damaged_part_is_done_again(night: Nightly, quiet: Rows) -> None:
    night.proxy.before_read(VIDEOS + 30, lambda: night.proxy.inject(EXPIRED))

    def damage() -> None:
        first, second, *_ = sorted(Path(night.lake_uri).rglob("*.part"))
        first.write_bytes(first.read_bytes()[:-100])
        content = bytearray(second.read_bytes())
        content[len(content) // 2] ^= 1
        second.write_bytes(content)

    break_off_and_go_on(night, quiet, ConfigurationError, "ExpiredToken", damage, lost=2 * PART_VIDEOS)


@pytest.mark.slow
def test_a_full_temporary_folder_ends_the_run_and_loses_nothing(night: Nightly, quiet: Rows, disk: Path) -> None:
    """A run of its own process, whose workers keep what they download on a disk that fills up."""
    night.proxy.before_read(VIDEOS + 25, lambda: fill(disk))
    first = command(night, TMPDIR=str(disk), RAY_TMPDIR="/tmp")
    _, errors = first.communicate(timeout=RUN_S)
    assert first.returncode == 1 and "No space left on device" in errors and "Traceback" not in errors, errors
    free(disk)
    night.proxy.heal()
    second = command(night, TMPDIR=str(disk), RAY_TMPDIR="/tmp")
    _, errors = second.communicate(timeout=RUN_S)
    assert second.returncode == 0, errors
    assert night.tables() == quiet


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_two_runs_of_a_library_at_once(night: Nightly, quiet: Rows, place: str) -> None:
    """The one that comes second ends with a sentence, and the tables are the first one's."""
    if place == "s3":
        night = replace(night, lake_uri=f"s3://{night.bucket}/lake-{uuid.uuid4().hex[:8]}")
    processes = [command(night) for _ in range(2)]
    errors = [process.communicate(timeout=RUN_S)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 1], errors
    refused = errors[[process.returncode for process in processes].index(1)]
    assert re.search(
        r"films: failed: another run is working on this library \('run [-0-9a-f]+, process \d+ on ", refused
    )
    assert night.tables() == quiet
    assert len({row["run_id"] for row in night.score_rows().values()}) == 1


def command(night: Nightly, **environment: str) -> subprocess.Popen[str]:
    """Start `cpllm run` on the library."""
    settings = night.settings
    variables = {
        "CPLLM_CATALOG_URI": settings.catalog_uri,
        "CPLLM_LAKE_URI": settings.lake_uri,
        "CPLLM_S3_ENDPOINT_URL": settings.s3_endpoint_url or "",
        "RAY_worker_niceness": "0",
        "COLUMNS": "500",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "cpllm_dagster.cli", "run", "--library", LIBRARY],
        env=os.environ | variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
