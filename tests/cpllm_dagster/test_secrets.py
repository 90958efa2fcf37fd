"""Credentials and signatures stay where they are used: a storage that quotes them in its errors finds no echo.

The S3 server stands behind a proxy that knows what each request was signed with, and that answers some of them with
errors in whose text the access key, the secret, the session's token and a presigned address stand.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from cpllm_dagster.catalog.objects import VideoStore
from cpllm_dagster.demo.embedded_s3 import EmbeddedS3
from cpllm_dagster.lake.tables import Lake
from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.errors import CPLLMError
from tests.faults.s3_proxy import Exchange, S3Proxy, refusal, s3_proxy

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAHIDDENHIDDEN1234",
    "AWS_SECRET_ACCESS_KEY": "hiddenHidden/hidden+Hidden0123456789abcd",
    "AWS_SESSION_TOKEN": "hiddenSessionTokenOfThisTest==",
}
PRESIGNED = "X-Amz-Signature=5ec4e7" + "0" * 58
ECHO = " ".join([*CREDENTIALS.values(), f"https://bucket.s3.amazonaws.com/a.mp4?{PRESIGNED}"])


@pytest.fixture(scope="module")
def proxy(s3_server: EmbeddedS3) -> Iterator[S3Proxy]:
    with s3_proxy(s3_server.endpoint_url) as running:
        yield running


@pytest.fixture
def bucket(s3_server: EmbeddedS3, proxy: S3Proxy) -> Iterator[str]:
    """A bucket with a library of three objects that are no videos."""
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    for number in range(3):
        client.put_object(Bucket=name, Key=f"libraries/films/{number}.mp4", Body=b"no video")
    yield name
    proxy.heal()


def secrets_in(text: str, proxy: S3Proxy) -> list[str]:
    """Give the secrets, and the signatures of requests that were made, that stand in a text."""
    signed = {
        signature
        for exchange in proxy.requests
        for signature in re.findall(r"Signature=([0-9a-f]{64})", exchange.headers.get("authorization", ""))
    }
    assert signed or not proxy.requests
    return [secret for secret in (*CREDENTIALS.values(), PRESIGNED, *signed) if secret in text]


@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "SomethingNew"])
def test_what_the_storage_quotes_is_not_repeated(
    proxy: S3Proxy, bucket: str, code: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    store = VideoStore(f"s3://{bucket}/libraries", proxy.endpoint_url)
    lake = Lake(f"s3://{bucket}/lake", proxy.endpoint_url)
    video = next(store.objects("films"))
    lake.write("rankings", "films", [], run_id="1", model_id="m")
    proxy.inject(refusal(403, code, ECHO))

    def read() -> None:
        with store.open(video.uri, video.etag, video.size_bytes, DecodeLimits()):
            pass

    def claim() -> None:
        with lake.claim("films", "a run"):
            pass

    attempts: list[Callable[[], object]] = [
        store.libraries,
        lambda: list(store.objects("films")),
        read,
        claim,
        lake.libraries,
        lake.connect,
        lambda: lake.read("rankings", "films"),
        lambda: lake.metadata("rankings", "films"),
        lambda: lake.read_parts("films", "m"),
        lambda: lake.clear_parts("films", "m"),
        lambda: lake.append_part("films", "m", {"rankings": []}),
        lambda: lake.write("rankings", "films", [], run_id="1", model_id="m"),
    ]
    for attempt in attempts:
        with pytest.raises(CPLLMError) as caught:
            attempt()
        told = "".join(traceback.format_exception(caught.value))
        assert code in told or "denied" in told or "key" in told
        assert secrets_in(told + caplog.text, proxy) == []


KEY, SECRET, _ = CREDENTIALS.values()


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: VideoStore(f"https://bucket.s3.amazonaws.com/films?{PRESIGNED}"),
        lambda: VideoStore(f"s3://{KEY}:{SECRET}@bucket/libraries"),
        lambda: VideoStore("s3://bucket/libraries", f"http://{KEY}:{SECRET}@host:9000"),
        lambda: VideoStore("s3://bucket/libraries", f"https://host:9000/?{PRESIGNED}"),
        lambda: Lake(f"https://bucket.s3.amazonaws.com/lake?{PRESIGNED}"),
        lambda: Lake(f"s3://{KEY}:{SECRET}@bucket/lake"),
        lambda: Lake("s3://bucket/lake", f"http://{KEY}:{SECRET}@host:9000"),
        lambda: Lake("s3://bucket/lake", f"https://host:9000/?{PRESIGNED}"),
    ],
)
def test_an_address_with_secrets_is_refused_without_them(attempt: Callable[[], object], proxy: S3Proxy) -> None:
    with pytest.raises(CPLLMError) as caught:
        attempt()
    assert secrets_in(str(caught.value), proxy) == []


def run(proxy: S3Proxy, bucket: str, folder: Path, lake_uri: str) -> str:
    """Run the library in a process of its own; gives all that it said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CPLLM_")}
    for name in ("home", "lake"):
        (folder / name).mkdir(exist_ok=True)
    shutil.copy(Path(__file__).parents[2] / "infra" / "dagster" / "dagster.yaml", folder / "home")
    done = subprocess.run(
        [sys.executable, "-m", "cpllm_dagster.cli", "run", "--verbose", "--library", "films"],
        env=environment
        | CREDENTIALS
        | {"CPLLM_CATALOG_URI": f"s3://{bucket}/libraries", "CPLLM_LAKE_URI": lake_uri}
        | {"CPLLM_S3_ENDPOINT_URL": proxy.endpoint_url, "DAGSTER_HOME": str(folder / "home"), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


def assert_no_secret(folder: Path, said: str, proxy: S3Proxy) -> None:
    """Look into every file of a folder, and into what a run said."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert secrets_in(path.read_bytes().decode("latin-1"), proxy) == [], path
    assert secrets_in(said, proxy) == [], said


def test_a_run_leaves_no_secret_in_tables_records_and_logs(proxy: S3Proxy, bucket: str, tmp_path: Path) -> None:
    """One object is denied in words that hold secrets; then the listing is, and the run fails with a sentence."""
    proxy.inject(refusal(403, "AccessDenied", ECHO), when=lambda exchange: exchange.path.endswith("/1.mp4"))
    said = run(proxy, bucket, tmp_path, str(tmp_path / "lake"))
    assert said.startswith("0\n"), said
    rows = Lake(str(tmp_path / "lake")).read("scores", "films")
    assert rows is not None and sorted(rows["error_type"].to_pylist()) == [
        "access_denied",
        "not_a_video",
        "not_a_video",
    ]
    assert len(proxy.requests) > 3
    assert_no_secret(tmp_path, said, proxy)

    def lists_the_library(exchange: Exchange) -> bool:
        return exchange.is_listing and "delimiter" not in exchange.query

    proxy.inject(refusal(403, "SignatureDoesNotMatch", ECHO), when=lists_the_library)
    said = run(proxy, bucket, tmp_path, str(tmp_path / "lake"))
    assert said.startswith("1\n") and "cannot be listed: SignatureDoesNotMatch" in said
    assert_no_secret(tmp_path, said, proxy)
