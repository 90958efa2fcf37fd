"""The embedded S3 server: answers at once, dies with its block, and dies with a killed parent."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import boto3
import pytest

from cpllm_dagster.demo.embedded_s3 import EmbeddedS3, embedded_s3
from cpllm_model.errors import ConfigurationError


def port_of(server: EmbeddedS3) -> int:
    port = urlsplit(server.endpoint_url).port
    assert port
    return port


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_serves_and_stops() -> None:
    with embedded_s3() as server:
        names = {
            "AWS_ACCESS_KEY_ID": "aws_access_key_id",
            "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
            "AWS_DEFAULT_REGION": "region_name",
        }
        given = {names[name]: value for name, value in server.environment.items()}
        client = boto3.client("s3", endpoint_url=server.endpoint_url, **given)
        client.create_bucket(Bucket="videos")
        client.put_object(Bucket="videos", Key="a/b.mp4", Body=b"bytes")
        assert client.get_object(Bucket="videos", Key="a/b.mp4")["Body"].read() == b"bytes"
    assert not is_listening(port_of(server))


def test_fixed_port_and_taken_port() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with embedded_s3(free) as server:
        assert port_of(server) == free
        with pytest.raises(ConfigurationError, match=str(free)), embedded_s3(free):
            pass


def test_dies_with_a_killed_parent() -> None:
    code = (
        "from cpllm_dagster.demo.embedded_s3 import embedded_s3; import time\n"
        "with embedded_s3() as server: print(server.endpoint_url, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        port = port_of(EmbeddedS3(parent.stdout.readline().strip()))
        assert is_listening(port)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while is_listening(port):
        assert time.monotonic() < deadline
        time.sleep(0.05)
