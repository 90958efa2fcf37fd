"""The knobs of Ray work as the UI's launchpad shows them.

What is left empty of the workers is what the resource `ray` says (the environment's CPLLM_DECODE_WORKERS and so on),
and where that says nothing, what the cluster carries. Other defaults are those of supervisor.py.
"""

from __future__ import annotations

from dataclasses import fields

import dagster as dg
from pydantic import Field

from cpllm_dagster.batch.placement import Precision, Workers
from cpllm_dagster.batch.supervisor import BatchSettings
from cpllm_dagster.resources import BatchRay

_DEFAULTS = BatchSettings()


class BatchConfig(dg.Config):
    """How work is spread over Ray; numbers of workers are fitted to the cluster, at least one of each kind."""

    decode_workers: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of decode workers; by default CPLLM_DECODE_WORKERS, else one per CPU.",
    )
    decode_cpus: float = Field(default=_DEFAULTS.decode_cpus, ge=0, description="CPUs a decode worker reserves.")
    model_workers: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of model workers; by default CPLLM_MODEL_WORKERS, else one per GPU or CPU.",
    )
    model_cpus: float = Field(default=_DEFAULTS.model_cpus, ge=0, description="CPUs a model worker reserves.")
    model_gpus: float | None = Field(
        default=None,
        ge=0,
        description="GPUs per model worker, or a share of one; 0 computes on CPUs; "
        "by default CPLLM_MODEL_GPUS, else 1 if the cluster has GPUs.",
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Videos per batch; by default CPLLM_BATCH_SIZE, else 4 on a CPU, 16 on a GPU.",
    )
    precision: Precision | None = Field(
        default=None,
        description="Precision of the weights; by default CPLLM_PRECISION, else bfloat16 on a GPU, float32 on a CPU.",
    )
    pair_batch_size: int = Field(
        default=_DEFAULTS.pair_batch_size, ge=1, description="Pairs the model compares at once."
    )
    samples_in_memory: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of decoded videos that wait; by default enough to keep every worker busy.",
    )
    decode_deadline_s: float = Field(
        default=_DEFAULTS.decode_deadline_s, gt=0, description="Longest time to fetch and decode one video."
    )
    model_deadline_s: float = Field(
        default=_DEFAULTS.model_deadline_s,
        gt=0,
        description="Longest time for the model's answer on one video or pair.",
    )
    start_deadline_s: float = Field(
        default=_DEFAULTS.start_deadline_s, gt=0, description="Longest time until the first worker of a kind is ready."
    )
    attempts: int = Field(
        default=_DEFAULTS.attempts,
        ge=1,
        description="Attempts per video whose workers die or hang before it counts as failed.",
    )

    def batch_settings(self, ray: BatchRay) -> BatchSettings:
        """Give these knobs as the batch takes them, what is empty as the resource has it."""
        values = {name: getattr(self, name) for name in vars(_DEFAULTS)}
        for field in fields(Workers):
            values[field.name] = getattr(ray if values[field.name] is None else self, field.name)
        return BatchSettings(**values)
