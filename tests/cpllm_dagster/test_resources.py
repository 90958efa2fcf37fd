"""Ray comes when it is asked for, as a private one whatever else runs here, and goes with the run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cpllm_dagster import resources
from cpllm_dagster.resources import BatchRay, ray_folder, require_listener
from cpllm_model.errors import ConfigurationError

PROGRAM = """
import json
import dagster as dg
from cpllm_dagster.resources import BatchRay

seen = []

@dg.asset
def idle(ray: BatchRay):
    import sys
    seen.append("ray" in sys.modules)

@dg.asset(deps=[idle])
def busy(context: dg.AssetExecutionContext, ray: BatchRay):
    import ray as library
    ray.require(context)
    context_address = library.get_runtime_context().gcs_address
    ray.require(context)  # a second asset finds it there
    seen.append(context_address)
    seen.append(library.get(library.remote(lambda: 1).options(num_cpus=0.1).remote()))

logs = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
result = dg.materialize([idle, busy], resources={"ray": BatchRay()}, run_config=logs)
import ray
seen.append(ray.is_initialized())

@dg.asset
def lost(context: dg.AssetExecutionContext, ray: BatchRay):
    try:
        ray.require(context)
    except Exception as error:
        seen.append(f"{type(error).__name__}: {error}")

dg.materialize([lost], resources={"ray": BatchRay(address="nonsense")}, run_config=logs)
print(json.dumps(seen))
"""


def test_ray_is_private_lazy_and_ends_with_the_run(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 15)  # longer than a socket's path may be, with what Ray puts below it
    long.mkdir()
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:1", "TMPDIR": str(long)}
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    imported_early, address, answer, left, error = json.loads(done.stdout.splitlines()[-1])
    assert not imported_early
    assert address != "127.0.0.1:1" and answer == 1
    assert not left
    assert error.startswith("ConfigurationError: no Ray at 'nonsense'") and "\n" not in error
    assert "Token authentication" not in done.stderr and "usage stats" not in done.stderr.lower()


def test_an_address_where_nobody_listens_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "LISTENER_DEADLINE_S", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(ConfigurationError, match=rf"^no Ray at '{address}': .*Connection refused"):
            BatchRay(address=address).connect(None)
    with pytest.raises(ConfigurationError, match="99999999"):
        require_listener("127.0.0.1:99999999")


def test_only_long_folders_are_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert ray_folder() == {}
    monkeypatch.setattr(tempfile, "tempdir", f"/scratch/{'x' * 51}")
    found = ray_folder()
    assert found["object_spilling_directory"] == f"/scratch/{'x' * 51}"
    folder = Path(found["_temp_dir"]).parent
    assert len(found["_temp_dir"]) < 35 and folder.stat().st_mode & 0o077 == 0

    def somebody_elses() -> int:
        return os.stat(folder).st_uid + 1  # noqa: PTH116

    monkeypatch.setattr(os, "getuid", somebody_elses)
    link = Path(f"/tmp/cpllm-ray-{somebody_elses()}")
    link.symlink_to(tmp_path)
    try:
        with pytest.raises(ConfigurationError, match="does not belong to this user"):
            ray_folder()
    finally:
        link.unlink()
