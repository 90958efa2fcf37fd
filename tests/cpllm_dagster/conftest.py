"""What the platform's tests stand on: buckets of a real S3 server, small clips from a real encoder."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from cpllm_dagster.demo.embedded_s3 import EmbeddedS3

CLIP_FRAMES = 48


@dataclass(frozen=True)
class Bucket:
    """A fresh bucket of the embedded S3 server."""

    name: str
    endpoint_url: str
    client: Any

    @property
    def uri(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, content: bytes) -> str:
        """Store an object; gives its ETag as listings of the store show it."""
        return self.client.put_object(Bucket=self.name, Key=key, Body=content)["ETag"].strip('"')


@pytest.fixture
def bucket(s3_server: EmbeddedS3) -> Bucket:
    """An empty bucket."""
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return Bucket(name, s3_server.endpoint_url, client)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three short videos of one scene, from good to bad."""
    from cpllm_model.training.data.encode import write_video
    from cpllm_model.training.data.scenes import render_scene

    folder = tmp_path_factory.mktemp("clips")
    frames_THW3 = render_scene(7, 320, 240, CLIP_FRAMES)
    return [write_video(frames_THW3, folder / f"crf{crf}.mp4", crf=crf) for crf in (20, 32, 44)]
