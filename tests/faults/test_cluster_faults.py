"""A Ray cluster that loses a node, all nodes or its head while a run in a process of its own scores on it."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.conftest import RUN_S

if TYPE_CHECKING:
    from tests.faults.conftest import Films, Machine

pytestmark = pytest.mark.slow
#: Each has room for all workers of a run, so that one node is enough.
NODE_CPUS = 2
PART = 7


@pytest.fixture
def cluster(quiet: Films) -> Iterator[Any]:
    """A head on which nothing runs and one node."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        found.add_node(num_cpus=NODE_CPUS)
        yield found
    finally:
        found.shutdown()


@pytest.fixture
def on_cluster(films: Films, quiet: Films, cluster: Any) -> Films:
    """The library, catalogued, to be scored on the cluster."""
    films.take_over(quiet, "catalog")
    return dataclasses.replace(films, settings=dataclasses.replace(films.settings, ray_address=cluster.address))


def wait_until_kept(films: Films, videos: int) -> None:
    deadline = time.monotonic() + RUN_S
    while len(films.kept()) < videos:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("parts", [1, 5])
@pytest.mark.parametrize("spare", [True, False])
def test_a_lost_node(
    on_cluster: Films, quiet: Films, cluster: Any, machine: Machine, tmp_path: Path, parts: int, spare: bool
) -> None:
    (node,) = cluster.worker_nodes
    with on_cluster.process(tmp_path) as process:
        wait_until_kept(on_cluster, parts * PART)
        lost = [one.pid for one in machine.workers()]
        assert len(lost) >= 4
        for pid in lost:  # in the middle of their calls: the run must not end before its node does
            os.kill(pid, signal.SIGSTOP)
        if spare:
            cluster.add_node(num_cpus=NODE_CPUS)
        cluster.remove_node(node, allow_graceful=False)
        machine.assert_gone(lost)
        if not spare:
            cluster.add_node(num_cpus=NODE_CPUS)  # as a cluster's operator does after a while
        _, errors = process.communicate(timeout=RUN_S)
        assert process.returncode == 0, errors
    on_cluster.assert_same(quiet)
    assert len(set(on_cluster.runs().values())) == 1


def test_a_lost_head(on_cluster: Films, films: Films, quiet: Films, cluster: Any, tmp_path: Path) -> None:
    with on_cluster.process(tmp_path) as process:
        wait_until_kept(on_cluster, 3 * PART)
        cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        _, errors = process.communicate(timeout=RUN_S)
    assert process.returncode == 1
    assert f"ConfigurationError: Ray's head at {cluster.address} is lost" in errors
    kept = films.kept()
    assert len(kept) >= 3 * PART
    assert films.run_all().success  # on a Ray of its own
    films.assert_same(quiet)
    runs = films.runs()
    assert len({runs[video] for video in kept}) == 1
    assert not {runs[video] for video in kept} & {runs[video] for video in set(runs) - kept}
