"""One run at a time on a library, in a folder and on a real S3 server: refusals, dead holders, lost claims."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cpllm_dagster.lake import claims
from cpllm_dagster.lake.tables import Lake
from cpllm_model.errors import LakeError
from tests.faults.s3_proxy import Exchange, S3Proxy, forward, refusal, s3_proxy

if TYPE_CHECKING:
    from cpllm_dagster.demo.embedded_s3 import EmbeddedS3
    from tests.cpllm_dagster.conftest import Bucket


@pytest.fixture
def proxy(s3_server: EmbeddedS3) -> Iterator[S3Proxy]:
    """S3 as it is: what looks at a condition and what writes are one; the embedded server does them one by one."""
    one_at_a_time = threading.Lock()

    def put(exchange: Exchange) -> None:
        with one_at_a_time:
            forward(exchange)

    with s3_proxy(s3_server.endpoint_url) as running:
        running.inject(put, when=lambda exchange: exchange.method == "PUT")
        yield running


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "folder":
        return Lake(str(tmp_path / "lake"))
    return on_s3(request.getfixturevalue("bucket"), request.getfixturevalue("proxy"))


def on_s3(bucket: Bucket, proxy: S3Proxy) -> Lake:
    return Lake(f"{bucket.uri}/lake", proxy.endpoint_url)


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_S", 4.0)
    monkeypatch.setattr(claims, "RENEWAL_S", 0.3)


def another(lake: Lake) -> Lake:
    """The same lake as another process sees it."""
    return Lake(lake.uri, lake.endpoint_url)


def test_the_second_is_refused_in_a_sentence_until_the_first_ends(lake: Lake) -> None:
    with lake.claim("../a b", "run 1"):
        with another(lake).claim("c", "run 2"):
            pass
        with (
            pytest.raises(LakeError, match=r"^another run is working on this library \('run 1'\): start again"),
            another(lake).claim("../a b", "run 2"),
        ):
            pass
        lake.write("rankings", "../a b", [], run_id="1", model_id="m")
    with another(lake).claim("../a b", "run 3"):
        pass
    assert lake._storage.list(".work") == []


def test_one_of_many_wins(lake: Lake) -> None:
    winners, refused = [], []
    done = threading.Barrier(8)

    def contend(number: int) -> None:
        try:
            with another(lake).claim("a", f"run {number}"):
                winners.append(number)
                done.wait(60)
        except LakeError:
            refused.append(number)
            done.wait(60)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1 and len(refused) == 7


HOLDER = """
import sys
from cpllm_dagster.lake.tables import Lake
with Lake(sys.argv[1], sys.argv[2] or None).claim("a", "a run that dies"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_held_is_free(lake: Lake) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, lake.uri, lake.endpoint_url or ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        process.kill()
    with lake.claim("a", "the next run"):
        pass


def test_a_claim_that_is_not_renewed_is_lost(bucket: Bucket, proxy: S3Proxy) -> None:
    lake = on_s3(bucket, proxy)
    with lake.claim("a", "a run that is cut off"):
        proxy.inject(refusal(500, "InternalError"), when=lambda exchange: '"a run that' in str(exchange.body))
        with Lake(f"{bucket.uri}/lake", bucket.endpoint_url).claim("a", "the next run"):
            for write in (
                lambda: lake.write("rankings", "a", [], run_id="1", model_id="m"),
                lambda: lake.append_part("a", "m", {"rankings": []}),
                lambda: lake.clear_parts("a", "m"),
            ):
                with pytest.raises(LakeError, match="the claim was lost"):
                    write()
        proxy.heal()
    assert lake.read("rankings", "a") is None


def test_an_outage_shorter_than_the_lease_costs_nothing(bucket: Bucket, proxy: S3Proxy) -> None:
    lake = on_s3(bucket, proxy)
    with lake.claim("a", "run 1"):
        proxy.inject(refusal(500, "InternalError"), when=lambda exchange: exchange.method == "PUT", times=3)
        time.sleep(1)
        lake.write("rankings", "a", [], run_id="1", model_id="m")
