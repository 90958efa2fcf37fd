"""Storage that fails: S3 behind a proxy that spoils requests, full disks, damaged parts, two runs at once.

An object's bytes are the listed ones or there is a typed error, after bounded retries; a listing is whole or an error;
tables stay as they were. What becomes of whole nights is in test_storage_nights.py.
"""

from __future__ import annotations

import random
import time
import traceback
import tracemalloc
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pyarrow as pa
import pytest

from cpllm_dagster.assets.catalog import split_listing
from cpllm_dagster.catalog import s3_object
from cpllm_dagster.catalog.objects import VideoObject, VideoStore
from cpllm_dagster.demo.embedded_s3 import EmbeddedS3
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.tables import Lake, video_id
from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.errors import ConfigurationError, CPLLMError, LakeError, VideoError
from tests.faults.s3_proxy import (
    INTERNAL,
    PASSING,
    SLOW_DOWN,
    Exchange,
    Fault,
    S3Proxy,
    made_up_listing,
    meanwhile,
    refusal,
    reset,
    s3_proxy,
    silence,
    slow_body,
)
from tests.faults.small_disk import fill, free, small_disk

LIBRARY = "films"
VIDEOS = 60
#: How often botocore puts a request that fails before its body.
REQUEST_ATTEMPTS = 4


# --- one object at a time ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxy(s3_server: EmbeddedS3) -> Iterator[S3Proxy]:
    with s3_proxy(s3_server.endpoint_url) as running:
        yield running


@pytest.fixture(autouse=True)
def no_fault_is_left_behind(proxy: S3Proxy) -> Iterator[None]:
    yield
    proxy.heal()


@pytest.fixture(scope="module")
def objects(s3_server: EmbeddedS3) -> tuple[str, dict[str, bytes]]:
    """A bucket with sixty objects of random bytes in a library, and their content by URI."""
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    content = {}
    for number in range(VIDEOS):
        key, data = f"libraries/{LIBRARY}/{number:02d}.mp4", random.Random(number).randbytes(5_000 + number)
        client.put_object(Bucket=bucket, Key=key, Body=data)
        content[f"s3://{bucket}/{key}"] = data
    return bucket, content


def read_all(store: VideoStore, whole: bool = True) -> dict[str, bytes | CPLLMError]:
    """List a library and read its objects, eight at a time; gives bytes or the error by URI."""

    def read(video: VideoObject) -> bytes | CPLLMError:
        try:
            with store.open(video.uri, video.etag, video.size_bytes, DecodeLimits(), whole=whole) as file:
                return file.read()
        except CPLLMError as error:
            return error

    videos = list(store.objects(LIBRARY))
    with ThreadPoolExecutor(8) as threads:
        return dict(zip((video.uri for video in videos), threads.map(read, videos), strict=True))


@pytest.mark.parametrize("whole", [True, False], ids=["downloaded", "by ranges"])
def test_passing_faults_cost_no_object(proxy: S3Proxy, objects: tuple[str, dict[str, bytes]], whole: bool) -> None:
    bucket, content = objects
    faults = list(PASSING.values())
    for number, uri in enumerate(content):  # each object meets one fault, in its turn
        proxy.inject(
            faults[number % len(faults)],
            when=lambda exchange, uri=uri: exchange.is_read_of(uri),
            times=1,
        )
    proxy.inject(SLOW_DOWN, when=lambda exchange: exchange.is_listing, times=1)
    assert read_all(VideoStore(f"s3://{bucket}/libraries", proxy.endpoint_url), whole) == content
    reads = Counter(exchange.path for exchange in proxy.requests if exchange.is_read)
    # All but the slow bodies were asked for twice.
    assert Counter(reads.values()) == {2: VIDEOS * 5 // 6, 1: VIDEOS // 6}


def test_lasting_faults_are_typed_errors_after_bounded_retries(
    proxy: S3Proxy, objects: tuple[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, content = objects
    monkeypatch.setattr(s3_object, "READ_TIMEOUT_S", 1.5)
    monkeypatch.setattr(s3_object, "RANGE_DEADLINE_S", 2.0)
    lasting = PASSING | {"slow body": slow_body(1000), "silence": silence(2.0)}
    spoilt = dict(zip(content, lasting.items(), strict=False))
    for uri, (_, fault) in spoilt.items():
        proxy.inject(fault, when=lambda exchange, uri=uri: exchange.is_read_of(uri))
    denied = list(content)[-1]
    proxy.inject(refusal(403, "AccessDenied", "AKIASECRET"), when=lambda exchange: exchange.is_read_of(denied))
    found = read_all(VideoStore(f"s3://{bucket}/libraries", proxy.endpoint_url))
    failed = {uri: error for uri, error in found.items() if isinstance(error, CPLLMError)}
    assert set(failed) == {*spoilt, denied}
    assert {uri: data for uri, data in found.items() if uri not in failed} == {
        uri: data for uri, data in content.items() if uri not in failed
    }
    reads = Counter(exchange.path for exchange in proxy.requests if exchange.is_read)
    for uri, error in failed.items():
        assert isinstance(error, VideoError) and error.transient
        assert error.error_type == ("access_denied" if uri == denied else "source_read")
        assert "AKIASECRET" not in "".join(traceback.format_exception(error))
        most = s3_object.BODY_ATTEMPTS if "broke off" in error.cause else REQUEST_ATTEMPTS
        assert reads[uri.removeprefix("s3:/")] == (1 if uri == denied else most)


def test_replaced_and_deleted_objects_are_never_taken_for_the_listed_ones(
    proxy: S3Proxy, objects: tuple[str, dict[str, bytes]], s3_server: EmbeddedS3
) -> None:
    bucket, content = objects
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    replaced, deleted = list(content)[:20], list(content)[20:40]

    def replace_object(exchange: Exchange) -> None:
        client.put_object(Bucket=bucket, Key=key_of(exchange), Body=content[f"s3:/{exchange.path}"][::-1])

    def delete_object(exchange: Exchange) -> None:
        client.delete_object(Bucket=bucket, Key=key_of(exchange))

    def key_of(exchange: Exchange) -> str:
        return exchange.path.removeprefix(f"/{bucket}/")

    for uris, action in ((replaced, replace_object), (deleted, delete_object)):
        paths = {uri.removeprefix("s3:/") for uri in uris}
        proxy.inject(meanwhile(action), when=lambda e, paths=paths: e.is_read and e.path in paths)
    found = read_all(VideoStore(f"s3://{bucket}/libraries", proxy.endpoint_url))
    for uri in replaced + deleted:
        client.put_object(Bucket=bucket, Key=uri.removeprefix(f"s3://{bucket}/"), Body=content[uri])
    kinds = {uri: getattr(answer, "error_type", None) for uri, answer in found.items()}
    assert {uri for uri, kind in kinds.items() if kind == "object_changed"} == set(replaced)
    assert {uri for uri, kind in kinds.items() if kind == "object_missing"} == set(deleted)
    assert {uri: found[uri] for uri, kind in kinds.items() if kind is None} == {
        uri: content[uri] for uri in list(content)[40:]
    }


@pytest.mark.parametrize(("fault", "times"), [(INTERNAL, 1), (reset, 2), (SLOW_DOWN, None)])
def test_a_listing_is_whole_or_an_error(
    proxy: S3Proxy, objects: tuple[str, dict[str, bytes]], fault: Fault, times: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bucket, content = objects
    monkeypatch.setattr("cpllm_dagster.catalog.objects.LISTING_PAGE", 7)
    # The pages after the first are spoilt: half a listing must never look like a library that has shrunk.
    proxy.inject(fault, when=lambda e: e.is_listing and "continuation-token" in e.query, times=times)
    listing = VideoStore(f"s3://{bucket}/libraries", proxy.endpoint_url).objects(LIBRARY)
    if times:
        assert [video.uri for video in listing] == list(content)
    else:
        with pytest.raises(CPLLMError, match="the listing failed after retries"):
            list(listing)


@pytest.mark.slow
def test_a_listing_of_a_hundred_thousand_objects(proxy: S3Proxy, objects: tuple[str, dict[str, bytes]]) -> None:
    """All are listed, and told from what is new, in bounded memory; the figures are printed (`pytest -s`)."""
    bucket, _ = objects
    count = 100_000
    proxy.inject(made_up_listing(count, f"libraries/{LIBRARY}/"), when=lambda exchange: exchange.is_listing)
    store = VideoStore(f"s3://{bucket}/libraries", proxy.endpoint_url)
    started = time.monotonic()
    listed = list(store.objects(LIBRARY))
    listing_s = time.monotonic() - started
    assert len({video.uri for video in listed}) == count

    rows = [
        {"video_id": video_id(v.uri), "probe_status": "failed", "probe_error_type": "too_short"} | vars(v)
        for v in listed
    ]
    known = pa.Table.from_pylist(rows, SCHEMAS["catalog"])
    del listed, rows
    tracemalloc.start()
    kept, new = split_listing(store.objects(LIBRARY), known)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{count} objects: listed in {listing_s:.1f} s, planned in {peak_bytes / 1e6:.0f} MB")
    assert len(kept) == count and new == [] and peak_bytes < 200_000_000


# --- disks -------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


def test_a_full_lake_keeps_its_tables_and_says_so(disk: Path) -> None:
    lake = Lake(str(disk / "lake"))
    rows = [
        {"video_id": f"{n:08d}", "model_id": "m", "rank": n + 1, "percentile": 50.0, "strength": 0.0}
        | {"strength_se": n / 7, "comparisons": 1}
        for n in range(20_000)
    ]  # fmt: skip
    lake.write("rankings", LIBRARY, rows[:9000], run_id="1", model_id="m")
    lake.append_part(LIBRARY, "m", {"rankings": rows[:10]})
    for spare_bytes in (0, 4096, 65_536):
        fill(disk, spare_bytes)
        for attempt in (
            lambda: lake.write("rankings", LIBRARY, rows, run_id="2", model_id="m"),
            lambda: lake.append_part(LIBRARY, "m", {"rankings": rows}),
        ):
            with pytest.raises(LakeError, match="No space left on device") as caught:
                attempt()
            assert "\n" not in str(caught.value)
        free(disk)
        assert (lake.metadata("rankings", LIBRARY) or {})["run_id"] == "1"
        assert len(lake.read("rankings", LIBRARY) or ()) == 9000
        parts, damaged = lake.read_parts(LIBRARY, "m")
        assert len(parts["rankings"]) == 10 and damaged == []
        assert not list(disk.rglob("*.tmp"))
    lake.write("rankings", LIBRARY, rows, run_id="3", model_id="m")
    assert len(lake.read("rankings", LIBRARY) or ()) == len(rows)


def test_a_full_temporary_folder_is_one_sentence(
    disk: Path, proxy: S3Proxy, objects: tuple[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, content = objects
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    store = VideoStore(f"s3://{bucket}/libraries", proxy.endpoint_url)
    lake = Lake(f"s3://{bucket}/lake", proxy.endpoint_url)
    fill(disk)
    for error in read_all(store).values():
        assert isinstance(error, ConfigurationError) and "No space left on device" in str(error)
        assert str(disk) in str(error)
    with pytest.raises(LakeError, match="No space left on device"):
        lake.write("rankings", LIBRARY, [], run_id="1", model_id="m")
    free(disk)
    assert read_all(store) == content
    lake.write("rankings", LIBRARY, [], run_id="1", model_id="m")
    assert list(disk.iterdir()) == []
