"""A lake as people have it: in a folder, and in a bucket of a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpllm_dagster.lake.tables import Lake


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake of either kind."""
    if request.param == "folder":
        return Lake(str(tmp_path / "lake"))
    bucket = request.getfixturevalue("bucket")
    return Lake(f"{bucket.uri}/some/prefix", bucket.endpoint_url)
