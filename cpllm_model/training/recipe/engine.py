"""The engine of a training stage: Hugging Face's Trainer over our batches, and what listens to it.

In: an objective, batches, a stage. Out: steps, checkpoints, logs. Knows nothing of data sets or of how stages follow
on one another.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from cpllm_model.errors import TrainingError
from cpllm_model.training.data.clips import ClipDataset, ContentBatches
from cpllm_model.training.recipe.config import Stage
from cpllm_model.training.recipe.objectives import Batch, Objective, part_of

#: Seconds between two lines on how far a stage is.
PROGRESS_S = 30.0


class StageTrainer(Trainer):
    """Hugging Face's Trainer over batches that are a function of their number.

    Args:
        batches: which clips each batch has.
        dataset: of the clips.
        workers: processes that read.
        stage: for the parts' learning rates.
    """

    def __init__(
        self, *, batches: ContentBatches, dataset: ClipDataset, workers: int, stage: Stage, **kwargs: Any
    ) -> None:
        super().__init__(train_dataset=dataset, **kwargs)
        self.batches, self.workers, self.stage = batches, workers, stage
        self.parts: dict[str, float] = {}

    def get_train_dataloader(self) -> DataLoader:
        """Give the batches; after a resume, accelerate skips those already seen without reading them."""
        loader = DataLoader(
            self.train_dataset,  # pyright: ignore[reportArgumentType]
            batch_sampler=self.batches,  # pyright: ignore[reportArgumentType]
            collate_fn=self.data_collator,
            num_workers=self.workers,
            persistent_workers=False,
            pin_memory=torch.cuda.is_available(),
        )
        return self.accelerator.prepare_data_loader(loader)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make AdamW with a learning rate for each part; vectors (norms, biases) do not decay."""
        objective: Any = self.model
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for name, parameter in objective.named_parameters():
            if parameter.requires_grad:
                rate = self.args.learning_rate * self._rate(name)
                decay = self.args.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        self.optimizer = torch.optim.AdamW(
            [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
        )
        return self.optimizer

    def _rate(self, name: str) -> float:
        """Give the factor on the learning rate of an objective's parameter; a probe's head has the stage's own."""
        part = part_of(name.removeprefix("model.")) if name.startswith("model.") else None
        return self.stage.rates.get(part, 1.0) if part else 1.0

    def compute_loss(self, model: Any, inputs: Batch, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Give the loss of a batch.

        Raises:
            TrainingError: it is not finite; names the batch.
        """
        found = model(inputs)
        loss = found.pop("loss")
        if not torch.isfinite(loss):
            parts = {name: float(value.detach()) for name, value in found.items()}
            step, batch = self.state.global_step, ", ".join(inputs["video_ids"])
            raise TrainingError(f"loss {float(loss.detach())} at step {step} on the batch {batch}: {parts}")
        self.parts = {name: float(value.detach()) for name, value in found.items()}
        return loss

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint without all trained weights; frozen weights are in no checkpoint."""
        objective: Any = self.model
        missing = set(load_result.missing_keys) & objective.state_dict().keys()
        if wrong := sorted(missing | set(load_result.unexpected_keys)):
            raise TrainingError(f"a checkpoint in {self.args.output_dir} does not fit: {', '.join(wrong[:3])}")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the parts of the loss beside it."""
        if "loss" in logs:
            logs |= {name: round(value, 5) for name, value in self.parts.items()}
        super().log(logs, start_time)


class JsonLog(TrainerCallback):
    """Write a JSON line a step; a resumed run overwrites the steps that it repeats."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage = path, stage

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget the steps after the checkpoint."""
        if state.is_world_process_zero and self.path.exists():
            lines = [json.loads(line) for line in self.path.read_text().splitlines()]
            kept = [one for one in lines if one["stage"] != self.stage or one["step"] <= state.global_step]
            self.path.write_text("".join(json.dumps(one) + "\n" for one in kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        """Write one line."""
        if state.is_world_process_zero and logs and "loss" in logs:
            _append(self.path, {"stage": self.stage, "step": state.global_step, **logs})


class Progress(TrainerCallback):
    """Say every PROGRESS_S, and at the end of a stage, how many steps are done, the mean loss and the time left.

    Args:
        report: takes a line.
        stage: name of the stage.
        clock: gives seconds.
    """

    def __init__(self, report: Callable[[str], None], stage: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.report, self.stage, self.clock = report, stage, clock
        self.losses: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember when the steps of this process began."""
        self.began_s = self.said_s = self.clock()
        self.first_step = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        """Report a line, if it is time."""
        if not (state.is_world_process_zero and logs and "loss" in logs):
            return
        self.losses.append(float(logs["loss"]))
        now_s = self.clock()
        if now_s - self.said_s < PROGRESS_S and state.global_step < state.max_steps:
            return
        step_s = (now_s - self.began_s) / max(1, state.global_step - self.first_step)
        left = timedelta(seconds=round(step_s * (state.max_steps - state.global_step)))
        loss = sum(self.losses) / len(self.losses)
        self.report(
            f"stage {self.stage}: step {state.global_step} of {state.max_steps}, loss {loss:.4f}, "
            f"{step_s:.2f} s a step, about {left} left"
        )
        self.said_s, self.losses = now_s, []


class Validation(TrainerCallback):
    """Measure held-out contents on the way, for learning curves."""

    def __init__(
        self, validate: Callable[[], dict[str, float]], stage: Stage, log: Path, report: Callable[[str], None]
    ) -> None:
        self.validate, self.stage, self.log, self.report = validate, stage, log, report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the figures as a line of the log, and report them."""
        every = self.stage.validate_every
        due = every and state.global_step % every == 0
        if state.is_world_process_zero and (due or state.global_step == state.max_steps):
            found = self.validate()
            _append(self.log, {"stage": self.stage.name, "step": state.global_step, "validation": found})
            if found:
                words = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in found.items())
                self.report(f"stage {self.stage.name}: step {state.global_step}, validation: {words}")


class MovingAverage(TrainerCallback):
    """Keep an exponential moving average of what learns, and put it into the model at the end."""

    def __init__(self, objective: Objective, decay: float) -> None:
        self.objective = objective
        self.average = AveragedModel(objective, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on from a checkpoint's average."""
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "average.pt"
        if path.exists():
            self.average.load_state_dict(torch.load(path, weights_only=True))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the weights in."""
        self.average.update_parameters(self.objective)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the average beside the weights."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            torch.save(self.average.state_dict(), folder / "average.pt")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Replace the weights."""
        self.objective.load_state_dict(self.average.module.state_dict(), strict=False)


def _append(path: Path, line: dict) -> None:
    """Write a line of a JSON log."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
