"""Workers fitted to clusters: as arithmetic, and on a real Ray of declared CPUs and GPUs, of one node and of three."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpllm_dagster.batch.placement import Node, place
from cpllm_dagster.batch.supervisor import BatchSettings

SETTINGS = BatchSettings()
COUNT = st.none() | st.integers(1, 40)


def nodes_of(*shapes: tuple[float, float]) -> list[Node]:
    """Nodes a, b, … with these CPUs and GPUs."""
    return [Node(chr(ord("a") + index), cpus, gpus) for index, (cpus, gpus) in enumerate(shapes)]


@pytest.mark.parametrize(
    ("shapes", "models", "decoders", "gpus"),
    [
        ([(1, 0)], "a", "a", 0),
        ([(2, 0)], "aa", "aa", 0),
        ([(3, 0)], "aaa", "aaa", 0),
        ([(4, 1)], "a", "aaaa", 1),
        ([(2, 0), (1, 1), (1, 1)], "bc", "aaaa", 1),
    ],
)
def test_by_default_every_cpu_and_gpu_is_used(
    shapes: list[tuple[float, float]], models: str, decoders: str, gpus: float
) -> None:
    placement = place(SETTINGS, nodes_of(*shapes))
    assert sorted(placement.model_nodes, key=str) == [*models]
    assert sorted(placement.decode_nodes, key=str) == [*decoders]
    assert placement.settings.model_gpus == gpus


def test_decode_workers_fill_the_nodes_without_gpus_first() -> None:
    placement = place(replace(SETTINGS, decode_cpus=1.0), nodes_of((2, 1), (4, 0), (2, 1)))
    assert sorted(placement.model_nodes, key=str) == ["a", "c"]
    assert Counter(placement.decode_nodes) == {"b": 4, "a": 1, "c": 1}
    assert placement.decode_nodes[:4] == ["b"] * 4


def test_a_gpu_can_be_shared_or_left_alone() -> None:
    shared = place(replace(SETTINGS, model_gpus=0.5), nodes_of((4, 1)))
    assert shared.model_nodes == ["a", "a"] and shared.settings.batch_size == 16
    left = place(replace(SETTINGS, model_gpus=0.0, model_workers=1), nodes_of((4, 1)))
    assert left.model_nodes == ["a"] and left.settings.batch_size == 4


def test_what_finds_no_room_waits_for_ray_with_one_worker() -> None:
    """The cluster may be growing; the start's deadline says what is lacking."""
    placement = place(replace(SETTINGS, model_gpus=1.0, model_workers=8), nodes_of((4, 0)))
    assert placement.model_nodes == [None] and placement.models_to_come == 7
    assert len(placement.decode_nodes) == 4 and placement.decoders_to_come == 0
    assert place(SETTINGS, []).decode_nodes == [None]


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4)), min_size=1, max_size=4), COUNT, COUNT, st.booleans())
def test_no_cluster_leaves_a_kind_without_a_worker(
    shapes: list[tuple[float, float]], models: int | None, decoders: int | None, decoding: bool
) -> None:
    settings = replace(SETTINGS, model_workers=models, decode_workers=decoders)
    nodes = nodes_of(*shapes)
    placement = place(settings, nodes, decoding=decoding)
    assert None not in placement.model_nodes and placement.model_nodes
    assert bool(placement.decode_nodes) == decoding and None not in placement.decode_nodes
    assert len(placement.model_nodes) <= (models or 99) and len(placement.decode_nodes) <= (decoders or 99)
    assert len(placement.model_nodes) + placement.models_to_come == (models or len(placement.model_nodes))
    for node in nodes:
        here = placement.model_nodes.count(node.node_id), placement.decode_nodes.count(node.node_id)
        assert here[0] * settings.model_cpus + here[1] * settings.decode_cpus <= node.cpus + 1e-6
        assert here[0] * (placement.settings.model_gpus or 0) <= node.gpus


#: Scores a library on a cluster of declared resources, and prints which worker did how much where.
NIGHT = """
import json, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
import ray.cloudpickle
from cpllm_dagster.batch import supervisor
from cpllm_dagster.batch.workers import DecodeWorker, ModelWorker

shapes, folder = json.loads(sys.argv[1]), Path(sys.argv[2])

class NotingDecodeWorker(DecodeWorker):
    def decode(self, item):
        note("decode")
        return super().decode(item)

class NotingModelWorker(ModelWorker):
    # Declared GPUs are none: the model runs on the CPU wherever it is.
    def prepare(self):
        self.given, self._device = self._device, "cpu"
        super().prepare()

    def score(self, *samples):
        note(f"model on {self.given} {len(ray.get_gpu_ids())}")
        return super().score(*samples)

def note(what):
    node = ray.get_runtime_context().get_node_id()
    with (folder / "notes").open("a") as notes:
        notes.write(json.dumps([what, node]) + "\\n")

def main():
    ray.cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    supervisor.DecodeWorker, supervisor.ModelWorker = NotingDecodeWorker, NotingModelWorker
    supervisor.VIDEOS_A_MODEL_WORKER = 4
    cluster = Cluster()
    ids = [
        cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=128 << 20, include_dashboard=False).node_id
        for cpus, gpus in shapes
    ]
    cluster.wait_for_nodes()

    import dagster as dg
    from rich.console import Console
    from cpllm_dagster import local_runs
    from cpllm_dagster.batch.placement import Workers
    from cpllm_dagster.definitions import Settings, build_definitions

    workers = Workers(batch_size=2)
    settings = Settings(str(folder / "videos"), str(folder / "lake"), "tiny", None, cluster.address, workers=workers)
    platform = build_definitions(settings, keep_ray=True)
    with dg.DagsterInstance.ephemeral() as instance:
        failed = local_runs.run_libraries(platform, ["films"], instance, Console(stderr=True), "ERROR")
    import pyarrow.parquet as pq
    (table,) = (folder / "lake").glob("scores/**/*.parquet")
    notes = [json.loads(line) for line in (folder / "notes").read_text().splitlines()]
    print(json.dumps({"failed": failed, "status": pq.read_table(table)["status"].to_pylist(),
                      "notes": sorted({(what, ids.index(node)) for what, node in notes})}))
    ray.shutdown()
    cluster.shutdown()

main()
"""


def night(shapes: list[tuple[int, int]], folder: Path, clips: list[Path], videos: int) -> dict:
    """Run a night on a cluster of nodes with these CPUs and GPUs; gives what the program prints."""
    library = folder / "videos" / "films"
    library.mkdir(parents=True)
    for index in range(videos):
        shutil.copy(clips[index % len(clips)], library / f"{index}.mp4")
    program = folder / "night.py"
    program.write_text(NIGHT)
    command = [sys.executable, str(program), json.dumps(shapes), str(folder)]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_night_on_three_raylets_uses_every_gpu(tmp_path: Path, clips: list[Path]) -> None:
    found = night([(2, 0), (1, 1), (1, 1)], tmp_path, clips, 12)
    assert found["failed"] == [] and found["status"] == ["ok"] * 12
    assert [tuple(one) for one in found["notes"] if one[0] != "decode"] == [
        ("model on cuda 1", 1), ("model on cuda 1", 2),
    ]  # fmt: skip
    assert ["decode", 0] in found["notes"]


@pytest.mark.slow
@pytest.mark.parametrize(("cpus", "gpus"), [(1, 0), (2, 0), (3, 0), (4, 1)])
def test_no_shape_of_cluster_deadlocks(tmp_path: Path, clips: list[Path], cpus: int, gpus: int) -> None:
    found = night([(cpus, gpus)], tmp_path, clips, 17)
    assert found["failed"] == [] and found["status"] == ["ok"] * 17
