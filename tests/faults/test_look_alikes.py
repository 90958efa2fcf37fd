"""S3 servers that are not AWS, played by the proxy before a real server: each has a quirk that some have.

Tables are published, read and cleared on each of them, one run at a time; videos are read, and are never taken for
others. Storages that list more than they let be read are here, too.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import boto3
import dagster as dg
import pytest

from cpllm_dagster.automation import PARTITION_SET
from cpllm_dagster.catalog.listing import VideoObject
from cpllm_dagster.catalog.objects import VideoStore
from cpllm_dagster.catalog.s3_client import ACCESS
from cpllm_dagster.definitions import Settings, build_definitions
from cpllm_dagster.demo.embedded_s3 import EmbeddedS3
from cpllm_dagster.lake import claims
from cpllm_dagster.lake.storage import BucketStorage
from cpllm_dagster.lake.tables import Lake
from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.errors import ConfigurationError, LakeError, ObjectChangedError, ObjectMissingError
from tests.faults.s3_proxy import LOOK_ALIKES, Exchange, S3Proxy, forward, refusal, s3_proxy

TABLES = ("catalog", "scores", "descriptions", "features", "comparisons", "rankings", "videos")


@dataclass
class Place:
    """A bucket behind a proxy, with a library of films and a lake."""

    proxy: S3Proxy
    bucket: str
    client: Any
    access: str = "signed"

    @cached_property
    def store(self) -> VideoStore:
        return VideoStore(f"s3://{self.bucket}/libraries", self.proxy.endpoint_url, access=self.access)

    @cached_property
    def lake(self) -> Lake:
        return Lake(f"s3://{self.bucket}/lake", self.proxy.endpoint_url)

    def put(self, name: str, content: bytes, **arguments: str) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"libraries/films/{name}", Body=content, **arguments)

    def read(self, video: VideoObject, *, whole: bool) -> bytes:
        with self.store.open(video.uri, video.etag, video.size_bytes, DecodeLimits(), whole=whole) as file:
            return file.read()

    def run(self, **config: Any) -> dg.ExecuteInProcessResult:
        """Run the library's job; `config` is that of the catalogue."""
        settings = Settings(
            self.store.uri, self.lake.uri, "tiny", self.proxy.endpoint_url, "local", catalog_access=self.access
        )
        job = build_definitions(settings).resolve_job_def("score_library")
        with dg.DagsterInstance.ephemeral() as instance:
            instance.add_dynamic_partitions(PARTITION_SET, ["films"])
            return job.execute_in_process(
                partition_key="films",
                instance=instance,
                run_config={
                    "ops": {"video_catalog": {"config": config}},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
            )

    def reasons(self, table: str = "scores") -> dict[str, str | None]:
        """The error type of each video, by its name."""
        rows = self.lake.read(table, "films")
        assert rows is not None
        name = "probe_error_type" if table == "catalog" else "error_type"
        return {row["uri"].rpartition("/")[2]: row[name] for row in rows.to_pylist()}


@pytest.fixture(scope="module")
def client(s3_server: EmbeddedS3) -> Any:
    return boto3.client("s3", endpoint_url=s3_server.endpoint_url)


@pytest.fixture
def place(s3_server: EmbeddedS3, client: Any) -> Iterator[Place]:
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    with s3_proxy(s3_server.endpoint_url) as proxy:
        yield Place(proxy, bucket, client)


@pytest.fixture(params=LOOK_ALIKES)
def look_alike(request: pytest.FixtureRequest, place: Place) -> Place:
    """The place on a server with one quirk."""
    place.proxy.inject(*LOOK_ALIKES[request.param])
    return place


# --- tables ------------------------------------------------------------------------------------------------


def rankings(count: int) -> list[dict[str, Any]]:
    row = {"model_id": "m", "percentile": 50.0, "strength": 0.0, "strength_se": 0.1, "comparisons": 1}
    return [row | {"video_id": f"{number:08d}", "rank": number + 1} for number in range(count)]


def test_tables_are_published_read_and_cleared(look_alike: Place) -> None:
    lake = look_alike.lake
    with lake.claim("films", "run 1"):
        lake.write("rankings", "films", rankings(3), run_id="1", model_id="m")
        for number in range(3):
            lake.append_part("films", "m", {"rankings": rankings(number + 1)})
        assert len(lake.read_parts("films", "m")[0]["rankings"]) == 3
        lake.clear_parts("films", "m")
        assert len(lake.read_parts("films", "m")[0]["rankings"]) == 0
        lake.clear_parts("films", "m")  # what is not there is no error
    table = lake.read("rankings", "films")
    assert table is not None and table.to_pylist() == rankings(3)
    with lake.connect() as connection:
        assert connection.execute("SELECT library, count(*) FROM rankings GROUP BY 1").fetchall() == [("films", 3)]
    keys = look_alike.client.list_objects_v2(Bucket=look_alike.bucket)["Contents"]
    assert [item["Key"] for item in keys] == ["lake/rankings/library=films/data.parquet"]


@pytest.mark.parametrize("quirk", ["ignores conditions", "sends weak ETags", "sends other ETags"])
def test_a_snapshot_is_of_one_version(place: Place, quirk: str) -> None:
    place.proxy.inject(*LOOK_ALIKES[quirk])
    place.put("large", bytes(3 << 20))
    storage = BucketStorage(place.bucket, "libraries", place.proxy.endpoint_url)
    snapshot = storage.open("films/large")
    assert snapshot.read_at(3 << 19, 3 << 20) and len(snapshot.reader().read()) == 3 << 20
    place.put("large", b"1" * (3 << 20))
    with pytest.raises(LakeError, match="was replaced while it was read"):
        snapshot.read_at(5 << 19, 3 << 20)


def test_one_of_two_runs_holds_a_library(look_alike: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_S", 4.0)
    monkeypatch.setattr(claims, "RENEWAL_S", 0.2)
    with (
        look_alike.lake.claim("films", "run 1"),
        pytest.raises(LakeError, match=r"another run is working on this library .'run 1"),
        look_alike.lake.claim("films", "run 2"),
    ):
        pass
    with look_alike.lake.claim("films", "run 3"):
        pass
    assert "Contents" not in look_alike.client.list_objects_v2(Bucket=look_alike.bucket)


def test_of_two_that_find_each_other_one_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both announce themselves before either lists: neither may go on at once, and one has to in the end."""
    monkeypatch.setattr(claims, "LEASE_S", 4.0)
    monkeypatch.setattr(claims, "RENEWAL_S", 0.2)
    both = threading.Barrier(2)

    def put_and_wait(exchange: Exchange) -> None:
        forward(exchange)
        both.wait(30)

    place.proxy.inject(put_and_wait, when=lambda exchange: exchange.method == "PUT", times=2)
    outcomes: list[str] = []
    holding, ended = threading.Semaphore(1), threading.Event()

    def contend(holder: str) -> None:
        try:
            with place.lake.claim("films", holder):
                assert holding.acquire(blocking=False)  # never two at once
                outcomes.append("held")
                ended.wait(30)
                holding.release()
        except LakeError as error:
            outcomes.append(str(error))
            ended.set()

    threads = [threading.Thread(target=contend, args=(f"run {number}",)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes[0] == "held" and "another run is working on this library ('run" in outcomes[1]


# --- videos ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False], ids=["downloaded", "by ranges"])
def test_videos_are_read_and_never_taken_for_others(look_alike: Place, whole: bool) -> None:
    content = {f"{number}.mp4": bytes([number]) * (1500 + number) for number in range(3)}
    for name, data in content.items():
        look_alike.put(name, data)
    kept, replaced, deleted = look_alike.store.objects("films")
    assert [video.size_bytes for video in (kept, replaced, deleted)] == [1500, 1501, 1502]
    assert [look_alike.read(video, whole=whole) for video in (kept, replaced, deleted)] == list(content.values())
    look_alike.put("1.mp4", b"others")
    look_alike.client.delete_object(Bucket=look_alike.bucket, Key="libraries/films/2.mp4")
    assert look_alike.read(kept, whole=whole) == content["0.mp4"]
    with pytest.raises(ObjectMissingError):
        look_alike.read(deleted, whole=whole)
    with pytest.raises(ObjectChangedError):
        look_alike.read(replaced, whole=whole)


def test_listed_etags_stay_what_they_are(look_alike: Place) -> None:
    """A night without change must not take a video for a new one."""
    look_alike.put("a.mp4", b"a")
    first, second = (list(look_alike.store.objects("films")) for _ in range(2))
    assert first == second and first[0].etag


def test_a_night_on_every_look_alike_at_once(place: Place) -> None:
    """No video, so that neither Ray nor model is needed: catalogue, tables, parts and claims are."""
    for name in ("wants Content-MD5", "refuses conditional PUT", "refuses checksum headers", "lists no ETags"):
        place.proxy.inject(*LOOK_ALIKES[name])
    for number in range(5):
        place.put(f"{number}.mp4", b"no video")
    assert place.run(part_videos=2).success
    assert place.reasons() == {f"{number}.mp4": "not_a_video" for number in range(5)}
    before = {name: place.lake.metadata(name, "films") for name in TABLES}
    reads = place.proxy.reads
    assert place.run().success
    assert {name: place.lake.metadata(name, "films") for name in TABLES} == before
    assert not [
        e for e in place.proxy.requests[reads:] if "/libraries/" in e.path and e.is_read and ".mp4" not in e.path
    ]
    keys = place.client.list_objects_v2(Bucket=place.bucket, Prefix="lake/")["Contents"]
    found = {item["Key"] for item in keys}
    grown = {key for key in found if not key.endswith("/data.parquet")}
    whole = {*TABLES, "key_frames"} - {"features"}
    assert found - grown == {f"lake/{name}/library=films/data.parquet" for name in whole}
    assert sorted(key.split("/")[1] for key in grown) == [
        *["features"] * 3, "nights", "nights", "reports", "score_history"
    ]  # fmt: skip
    assert "lake/features/library=films/_manifest.json" in grown


# --- listed and not to be read -----------------------------------------------------------------------------


def denied(name: str) -> tuple[Any, Callable[[Exchange], bool]]:
    """Reading is refused of objects whose keys end so."""
    return refusal(403, "AccessDenied"), lambda e: e.is_read and "/libraries/" in e.path and e.path.endswith(name)


def test_a_library_of_which_nothing_may_be_read_fails_its_run(place: Place) -> None:
    for number in range(3):
        place.put(f"{number}.mp4", b"no video")
    place.proxy.inject(*denied(".mp4"))
    with pytest.raises(ConfigurationError, match=r"'films': 3 objects are listed, and reading each .* is refused") as e:
        place.run()
    assert "s3:GetObject" in str(e.value) and "CPLLM_CATALOG_ACCESS" in str(e.value)
    assert place.lake.read("catalog", "films") is None
    place.proxy.heal()
    assert place.run().success
    assert set(place.reasons().values()) == {"not_a_video"}


def test_one_object_that_may_not_be_read_is_a_row_and_is_asked_for_again(place: Place) -> None:
    for number in range(3):
        place.put(f"{number}.mp4", b"no video")
    place.proxy.inject(*denied("1.mp4"))
    assert place.run().success
    expected = {"0.mp4": "not_a_video", "1.mp4": "access_denied", "2.mp4": "not_a_video"}
    assert place.reasons("catalog") == place.reasons() == expected
    place.proxy.heal()
    assert place.run().success
    assert set(place.reasons().values()) == {"not_a_video"}


def test_archived_objects_have_a_reason_of_their_own_and_are_left_alone(place: Place) -> None:
    classes = {"a.mp4": "GLACIER", "b.mp4": "DEEP_ARCHIVE", "c.mp4": "INTELLIGENT_TIERING"}
    for name, storage_class in classes.items():
        place.put(name, b"no video", StorageClass=storage_class)
    place.put("d.mp4", b"no video")

    def run(archived: str, **config: bool) -> set[str]:
        """Run while these are archived; gives the names of all that are asked for."""
        place.proxy.heal()
        place.proxy.inject(refusal(403, "InvalidObjectState"), when=lambda e: e.is_read and e.path[-5:] in archived)
        assert place.run(**config).success
        return {exchange.path[-5:] for exchange in place.proxy.requests if exchange.is_read} & {*classes, "d.mp4"}

    everything = " ".join(classes)
    assert run(everything) == {*classes, "d.mp4"}
    expected = dict.fromkeys(classes, "object_archived") | {"d.mp4": "not_a_video"}
    assert place.reasons("catalog") == place.reasons() == expected
    assert run(everything) == set()
    # One comes back in another class; of another only a person knows that it was restored.
    place.put("a.mp4", b"no video")
    assert run("b.mp4") == {"a.mp4"}
    assert place.reasons() == expected | {"a.mp4": "not_a_video"}
    assert run("b.mp4", retry_archived=True) == {"b.mp4", "c.mp4"}
    assert place.reasons() == dict.fromkeys(expected, "not_a_video") | {"b.mp4": "object_archived"}


# --- how requests are made ---------------------------------------------------------------------------------


@pytest.mark.parametrize("access", ACCESS)
def test_videos_are_asked_for_as_the_setting_says(place: Place, access: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Place(place.proxy, place.bucket, place.client, access)
    asked.put("a.mp4", b"a video", ACL="public-read")
    if access == "unsigned":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert asked.store.libraries() == ["films"]
    (video,) = asked.store.objects("films")
    assert asked.read(video, whole=True) == b"a video"
    signed = {"authorization" in exchange.headers for exchange in place.proxy.requests}
    payers = {exchange.headers.get("x-amz-request-payer") for exchange in place.proxy.requests}
    assert signed == {access != "unsigned"}
    assert payers == {"requester" if access == "requester-pays" else None}


def test_an_unknown_way_to_ask_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="there is no S3 access 'public'; give one of signed, unsigned"):
        VideoStore("s3://bucket", access="public")
