"""Ray comes when it is asked for, as a private one whatever else runs here, and goes with the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

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


def test_ray_is_private_lazy_and_ends_with_the_run() -> None:
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:1"}
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    imported_early, address, answer, left, error = json.loads(done.stdout.splitlines()[-1])
    assert not imported_early
    assert address != "127.0.0.1:1" and answer == 1
    assert not left
    assert error.startswith("ConfigurationError: no Ray at 'nonsense'") and "\n" not in error
    assert "Token authentication" not in done.stderr and "usage stats" not in done.stderr.lower()
