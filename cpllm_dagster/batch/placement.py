"""How many workers of each kind a cluster carries, and on which of its nodes they go.

In: what is asked for, and the nodes with their CPUs and GPUs. Out: numbers that fit, with at least one worker of each
kind, and a node for each. Model workers go where GPUs are, decode workers where none are, as far as there is room.
Arithmetic alone, but for `cluster_nodes`, which asks Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cpllm_dagster.batch.supervisor import BatchSettings

#: Videos a call of the model by default.
CPU_BATCH, GPU_BATCH = 4, 16
#: Decoded videos that wait for a model worker by default, in its batches; and at the least.
BATCHES_WAITING, LEAST_WAITING = 2, 16
#: Most videos that a decode worker gets at once. By default there is memory for that many only with more than
#: MANY_DECODERS workers, since fewer do not keep a driver busy.
MOST_VIDEOS_A_CALL, MANY_DECODERS = 8, 32
#: Sums of shares such as 0.4 are not exact.
ROUNDING = 1e-6


class Precision(StrEnum):
    """What a model worker keeps weights and activations in; statistics and answers are float32 in any case."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(frozen=True)
class Workers:
    """What a person may say of the workers; what is None follows from the cluster.

    Args:
        decode_workers: most processes that decode; by default one a CPU.
        model_workers: most processes that hold the model; by default one a GPU (or one a share of `model_gpus`), and
            one a CPU where there are no GPUs.
        model_gpus: GPUs, or the share of one, that a model worker reserves; 0 computes on CPUs.
        batch_size: videos a call of the model; by default 4 on a CPU, 16 on a GPU.
        precision: of weights and activations; by default bfloat16 on a GPU, else float32, whose bits do not depend on
            the batch on a CPU.
    """

    decode_workers: int | None = None
    model_workers: int | None = None
    model_gpus: float | None = None
    batch_size: int | None = None
    precision: Precision | None = None


@dataclass
class Node:
    """A machine of the cluster, and what of it is not given away."""

    node_id: str
    cpus: float
    gpus: float

    def take(self, cpus: float, gpus: float) -> bool:
        """Give these CPUs and GPUs away, if they are there."""
        if self.cpus + ROUNDING < cpus or self.gpus + ROUNDING < gpus:
            return False
        self.cpus, self.gpus = self.cpus - cpus, self.gpus - gpus
        return True


@dataclass(frozen=True)
class Placement:
    """The settings with every number stated, and the node of each worker.

    Args:
        settings: with the numbers of workers that have a place.
        model_nodes, decode_nodes: of each worker; None leaves the place to Ray.
        models_to_come, decoders_to_come: workers that were asked for and have no room in the cluster as it is. They may
            start when both kinds are at work: a cluster that grows makes room, and another goes on without them.
    """

    settings: BatchSettings
    model_nodes: list[str | None]
    decode_nodes: list[str | None]
    models_to_come: int
    decoders_to_come: int


def cluster_nodes() -> list[Node]:
    """Give the living nodes of the cluster that this process is connected to."""
    import ray

    found = [(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [Node(node_id, has.get("CPU", 0.0), has.get("GPU", 0.0)) for node_id, has in found]


def place(settings: BatchSettings, nodes: Sequence[Node], *, decoding: bool = True) -> Placement:
    """Fit workers to a cluster.

    The kinds are placed in turn, a model worker first. A kind for which no node has room gets one worker that waits for
    Ray to find a place: the cluster may grow, and if not, the start's deadline says what is lacking.

    Args:
        settings: what is asked for.
        nodes: the cluster, with nothing given away.
        decoding: whether decode workers are needed.
    """
    free = [replace(node) for node in nodes]
    cpus, gpus = sum(node.cpus for node in free), sum(node.gpus for node in free)
    share = settings.model_gpus if settings.model_gpus is not None else float(gpus > 0)
    most_models = settings.model_workers or max(1, int(gpus / share + ROUNDING) if share else int(cpus))
    most_decoders = (settings.decode_workers or max(1, int(cpus))) if decoding else 0
    model_nodes: list[str | None] = []
    decode_nodes: list[str | None] = []
    kinds = [
        (model_nodes, most_models, settings.model_cpus, share),
        (decode_nodes, most_decoders, settings.decode_cpus, 0.0),
    ]
    # The emptiest node first; decode workers keep away from nodes with GPUs as long as others have room.
    with_gpus = {node.node_id for node in nodes if node.gpus}
    for placed, most, cpu_share, gpu_share in kinds * max(most_models, most_decoders):
        order = sorted(free, key=lambda node: (not gpu_share and node.node_id in with_gpus, -node.cpus))
        if len(placed) < most:
            node_id = next((node.node_id for node in order if node.take(cpu_share, gpu_share)), None)
            if node_id is not None or not placed:
                placed.append(node_id)
    batch = settings.batch_size or (GPU_BATCH if share else CPU_BATCH)
    return Placement(
        replace(
            settings,
            decode_workers=len(decode_nodes),
            model_workers=len(model_nodes),
            model_gpus=share,
            batch_size=batch,
            precision=settings.precision or (Precision.bfloat16 if share else Precision.float32),
            samples_in_memory=settings.samples_in_memory
            or max(LEAST_WAITING, _decoding(len(decode_nodes)) + BATCHES_WAITING * batch * len(model_nodes)),
        ),
        model_nodes,
        decode_nodes,
        max(0, (settings.model_workers or 0) - len(model_nodes)),
        max(0, (settings.decode_workers or 0) - len(decode_nodes)) if decoding else 0,
    )


def _decoding(workers: int) -> int:
    """Give how many videos are decoded at once: where workers are many, a call may be of several videos."""
    return workers * (MOST_VIDEOS_A_CALL if workers > MANY_DECODERS else 1)
