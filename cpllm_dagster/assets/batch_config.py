"""The knobs of Ray work as the UI's launchpad shows them; defaults are those of batch.py."""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from cpllm_dagster.batch.supervisor import BatchSettings

_DEFAULTS = BatchSettings()


class BatchConfig(dg.Config):
    """How work is spread over Ray; the reserved CPUs and GPUs must leave room for one worker of each kind."""

    decode_workers: int = Field(default=_DEFAULTS.decode_workers, ge=1, description="Most decode workers.")
    decode_cpus: float = Field(default=_DEFAULTS.decode_cpus, ge=0, description="CPUs a decode worker reserves.")
    model_workers: int = Field(default=_DEFAULTS.model_workers, ge=1, description="Most model workers.")
    model_cpus: float = Field(default=_DEFAULTS.model_cpus, ge=0, description="CPUs a model worker reserves.")
    model_gpus: float = Field(
        default=_DEFAULTS.model_gpus, ge=0, description="GPUs, or the share of one, a model worker reserves."
    )
    batch_size: int = Field(default=_DEFAULTS.batch_size, ge=1, description="Videos the model sees at once.")
    pair_batch_size: int = Field(
        default=_DEFAULTS.pair_batch_size, ge=1, description="Pairs the model compares at once."
    )
    samples_in_memory: int = Field(
        default=_DEFAULTS.samples_in_memory, ge=1, description="Most videos decoded and not yet answered."
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
        default=_DEFAULTS.attempts, ge=1, description="Tries of a video whose workers die or hang before it fails."
    )

    def batch_settings(self) -> BatchSettings:
        """Give these knobs as the batch takes them."""
        return BatchSettings(**{name: getattr(self, name) for name in vars(_DEFAULTS)})
