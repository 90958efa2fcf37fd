"""Train the tiny CP-LLM: the pixel encoder alone, then everything on all three tasks, then all but the former.

In: a corpus folder. Out: a model folder, and a log of one JSON line a report. Warming the pixel encoder up with
plain linear heads costs a fraction of what it costs through an untrained decoder; the heads are thrown away.

Shape legend: X clips of a batch, N segments, L visual tokens of a segment, D decoder width, C contents.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from queue import Queue
from threading import Thread

import numpy as np
import torch
from torch import nn

from cpllm_model.config import CPLLMConfig
from cpllm_model.metrics import agreement
from cpllm_model.modeling import IGNORED_LABEL, CPLLMForVideoQuality, pad
from cpllm_model.processing import CPLLMProcessor, train_tokenizer
from cpllm_model.scale import DISTORTIONS, LEVELS, SEVERITIES
from cpllm_model.training.clips import Clip, ClipStore
from cpllm_model.training.losses import linearity_loss, preference, rank_loss, soft_cross_entropy, soft_labels


@dataclass(frozen=True)
class TrainSettings:
    """How long and how hard to train.

    Args:
        pixel_s: wall time of the pixel encoder's warm-up.
        joint_s: wall time of the joint training of every part.
        decoder_s: wall time of the joint training of all but the pixel encoder, which is the dearest part.
        groups: contents in a batch.
        clips: versions of a content in a batch.
        pixel_grid: fragments a side in the warm-up: fewer fragments of more clips teach more a second.
        learning_rate: peak of AdamW; the pixel encoder's is halved in the joint training.
        seed: of everything random.
        report_every: steps between reports.
    """

    pixel_s: float = 1500.0
    joint_s: float = 1500.0
    decoder_s: float = 900.0
    groups: int = 4
    clips: int = 5
    pixel_grid: int = 2
    learning_rate: float = 1e-3
    seed: int = 0
    report_every: int = 100


def train(corpus: Path, out: Path, settings: TrainSettings = TrainSettings()) -> Path:
    """Train and save a tiny model; give its folder.

    The wall-clock schedule makes the figures depend on the machine's speed; the order of the data does not.

    Args:
        corpus: made by `make_corpus`.
        out: model folder; `train_log.jsonl` is written beside the weights.
    """
    torch.manual_seed(settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    store, held_out = ClipStore(corpus, "train"), ClipStore(corpus, "validation")
    tokenizer = train_tokenizer([clip.description for clip in store.clips])
    config = CPLLMConfig.tiny(vocab_size=len(tokenizer))
    model = CPLLMForVideoQuality(config)
    slots = config.sampling_settings.context_frames * config.context_tokens
    processor = CPLLMProcessor(tokenizer, context_slots=slots, pixel_slots=config.pixel_tokens)
    trainer = Trainer(model, processor, store, held_out, settings, out / "train_log.jsonl")
    processor.save_pretrained(out)
    trainer.warm_up_pixels()
    for phase, limit_s, pixels_learn in (("joint", settings.joint_s, True), ("decoder", settings.decoder_s, False)):
        trainer.train_jointly(phase, limit_s, pixels_learn=pixels_learn)
        model.save_pretrained(out)
    return out


class Trainer:
    """The three phases over one model; see the module."""

    def __init__(
        self,
        model: CPLLMForVideoQuality,
        processor: CPLLMProcessor,
        store: ClipStore,
        held_out: ClipStore,
        settings: TrainSettings,
        log: Path,
    ) -> None:
        self.model, self.processor, self.store, self.held_out = model, processor, store, held_out
        self.settings, self.log = settings, log
        self.fragment_px = model.config.sampling_settings.fragment_px
        self.grid = model.config.sampling_settings.fragment_grid
        self.rng = np.random.default_rng(settings.seed)

    def warm_up_pixels(self) -> None:
        """Regress mos and severities from the mean token of the pixel encoder."""
        encoder = self.model.pixel_encoder
        head = nn.Linear(encoder.config.hidden_size, 1 + len(DISTORTIONS))
        nn.init.constant_(head.bias, 3.0)
        optimizer = torch.optim.AdamW(
            [*encoder.parameters(), *head.parameters()], self.settings.learning_rate, weight_decay=0.02
        )
        encoder.train()

        def step(clips: list[Clip], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            hidden = encoder(pixel_values=inputs["pixel_values"]).last_hidden_state.mean(1)
            predicted = head(hidden)
            mos, severities = labels(clips)
            return {
                "mos": functional_huber(predicted[:, 0], mos),
                "linearity": linearity_loss(predicted[:, 0], mos),
                "rank": rank_loss(predicted[:, 0], mos, same_content(clips)),
                "severity": 0.3 * functional_huber(predicted[:, 1:], severities),
            }

        def mos_of(clip: Clip) -> float:
            pixels = self._inputs([clip], self.grid, None, 2)["pixel_values"]
            return float(head(encoder(pixel_values=pixels).last_hidden_state.mean((0, 1)))[0])

        def validate() -> dict[str, float]:
            encoder.eval()
            with torch.inference_mode():
                found = np.array([mos_of(clip) for clip in self.held_out.clips])
            encoder.train()
            return figures(self.held_out.clips, found)

        self._run(
            "pixel", step, validate, optimizer, self.settings.pixel_s, self._prefetched(self.settings.pixel_grid, (1,))
        )

    def train_jointly(self, phase: str, limit_s: float, *, pixels_learn: bool) -> None:
        """Train on score, severities, description and comparison at once.

        Args:
            phase: for the log.
            limit_s: wall time.
            pixels_learn: whether the pixel encoder learns too, at a quarter of the rate; a step costs twice as much.
        """
        model, rate = self.model, self.settings.learning_rate
        model.pixel_encoder.requires_grad_(pixels_learn)
        self._set_training()
        pixel = [p for p in model.pixel_encoder.parameters() if p.requires_grad]
        others = [p for name, p in model.named_parameters() if not name.startswith("pixel_encoder.")]
        optimizer = torch.optim.AdamW(
            [{"params": pixel, "lr": rate / 4}, {"params": others, "lr": rate}], weight_decay=0.02
        )

        def step(clips: list[Clip], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            tokens = model.encode_segments(**inputs)
            visual_XLD = tokens.reshape(len(clips), -1, tokens.shape[-1])
            return self._score_losses(clips, visual_XLD) | {
                "description": 0.3 * self._description_loss(clips, visual_XLD),
                "comparison": self._comparison_loss(clips, visual_XLD),
            }

        def validate() -> dict[str, float]:
            model.eval()
            with torch.inference_mode():
                found = np.array([self._score(clip) for clip in self.held_out.clips])
            self._set_training()
            return figures(self.held_out.clips, found)

        self._run(phase, step, validate, optimizer, limit_s, self._prefetched(self.grid, (1, 1, 2, 4)))
        model.eval().requires_grad_(True)

    def _set_training(self) -> None:
        """Train all but the pixel encoder's running statistics: small batches would only make them noisier."""
        self.model.train()
        for module in self.model.pixel_encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def _score_losses(self, clips: list[Clip], visual_XLD: torch.Tensor) -> dict[str, torch.Tensor]:
        mos, severities = labels(clips)
        sequences = [self.processor.score_ids(self._segments(visual_XLD))] * len(clips)
        logits = self.model.answer_logits(sequences, visual_XLD.flatten(0, 1), self.processor.level_ids)
        scores = logits.softmax(-1) @ torch.arange(1.0, len(LEVELS) + 1)
        asked = [self.processor.distortion_ids(self._segments(visual_XLD), name) for name in DISTORTIONS]
        severity_logits = self.model.answer_logits(
            asked * len(clips),
            visual_XLD.repeat_interleave(len(DISTORTIONS), 0).flatten(0, 1),
            self.processor.severity_ids,
        )
        wanted = soft_labels(severities.flatten(), 0, len(SEVERITIES))
        return {
            "level": soft_cross_entropy(logits, soft_labels(mos, 1, len(LEVELS))).mean(),
            "linearity": linearity_loss(scores, mos),
            "rank": rank_loss(scores, mos, same_content(clips)),
            "severity": 0.5 * soft_cross_entropy(severity_logits, wanted).mean(),
        }

    def _description_loss(self, clips: list[Clip], visual_XLD: torch.Tensor) -> torch.Tensor:
        prompt = self.processor.describe_ids(self._segments(visual_XLD))
        answers = [[*self.processor.text_ids(clip.description), self.processor.eos_id] for clip in clips]
        ids, mask = pad([prompt + answer for answer in answers], visual_XLD.device)
        targets, _ = pad([[IGNORED_LABEL] * len(prompt) + answer for answer in answers], visual_XLD.device)
        targets = targets.masked_fill(mask == 0, IGNORED_LABEL)
        return self.model(ids, visual_XLD.flatten(0, 1), mask, targets).loss

    def _comparison_loss(self, clips: list[Clip], visual_XLD: torch.Tensor) -> torch.Tensor:
        """Compare each clip with the next of its content and with one of another, in a random order."""
        count = len(clips)
        place = np.arange(count)
        within = place // self.settings.clips * self.settings.clips + (place + 1) % self.settings.clips
        across = (place + self.settings.clips) % count
        first, second = np.concatenate([place, place]), np.concatenate([within, across])
        swap = self.rng.random(2 * count) < 0.5
        first, second = np.where(swap, second, first), np.where(swap, first, second)
        mos, _ = labels(clips)
        wanted = preference(mos[first], mos[second])
        visual = torch.stack([visual_XLD[first], visual_XLD[second]], 1).flatten(0, 2)
        segments = self._segments(visual_XLD)
        sequences = [self.processor.compare_ids(segments, segments)] * (2 * count)
        logits = self.model.answer_logits(sequences, visual, self.processor.order_ids)
        return soft_cross_entropy(logits, torch.stack([wanted, 1 - wanted], 1)).mean()

    def _score(self, clip: Clip) -> float:
        inputs = self._inputs([clip], self.grid, None, segments=2)
        visual = self.model.encode_segments(**inputs)
        sequence = [self.processor.score_ids(len(visual))]
        found = self.model.answer_probabilities(sequence, visual.flatten(0, 1), self.processor.level_ids)
        return float(found[0] @ torch.arange(1.0, len(LEVELS) + 1))

    def _segments(self, visual_XLD: torch.Tensor) -> int:
        return visual_XLD.shape[1] // self.model.config.tokens_per_segment

    def _inputs(
        self, clips: list[Clip], grid: int, rng: np.random.Generator | None, segments: int
    ) -> dict[str, torch.Tensor]:
        samples = [self.store.sample(clip, grid, self.fragment_px, rng, segments) for clip in clips]
        return self.processor(
            np.concatenate([sample.context_NMCHW for sample in samples]),
            np.concatenate([sample.bursts_NTCHW for sample in samples]),
        )

    def _prefetched(self, grid: int, segments: tuple[int, ...]) -> Iterator[tuple[list[Clip], dict[str, torch.Tensor]]]:
        """Cut the next batches in a thread: reading planes never starves the optimizer.

        A batch of longer videos has fewer contents, so that every step costs about the same.
        """
        queue: Queue = Queue(maxsize=4)
        settings = self.settings
        by_length = {n: self.store.batches(max(1, settings.groups // n), settings.clips, self.rng) for n in segments}

        def fill() -> None:
            while True:
                length = int(self.rng.choice(segments))
                clips = next(by_length[length])
                queue.put((clips, self._inputs(clips, grid, self.rng, length)))

        Thread(target=fill, daemon=True).start()
        while True:
            yield queue.get()

    def _run(
        self,
        phase: str,
        step: Callable[[list[Clip], dict[str, torch.Tensor]], dict[str, torch.Tensor]],
        validate: Callable[[], dict[str, float]],
        optimizer: torch.optim.Optimizer,
        limit_s: float,
        batches: Iterator[tuple[list[Clip], dict[str, torch.Tensor]]],
    ) -> None:
        """Step until the time is up, under a learning rate that warms up and falls as a cosine."""
        peaks = [group["lr"] for group in optimizer.param_groups]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        started, totals, count = time.monotonic(), {}, 0
        for clips, inputs in batches:
            elapsed = (time.monotonic() - started) / limit_s
            if elapsed >= 1:
                break
            count += 1
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * min(1, count / 100) * 0.5 * (1 + math.cos(math.pi * elapsed))
            losses = step(clips, inputs)
            loss = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(loss):
                raise FloatingPointError(f"loss {float(loss)} at step {count} on {[c.clip_id for c in clips]}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            totals = {k: totals.get(k, 0.0) + float(v) for k, v in losses.items()}
            if count % self.settings.report_every == 0:
                mean = {key: round(value / self.settings.report_every, 4) for key, value in totals.items()}
                totals = {}
                held_out = validate() if count % (8 * self.settings.report_every) == 0 else {}
                self._report({"phase": phase, "step": count, "elapsed_s": round(elapsed * limit_s), **mean, **held_out})
        self._report({"phase": phase, "step": count, "elapsed_s": round(limit_s), **validate()})

    def _report(self, line: dict) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")


def labels(clips: list[Clip]) -> tuple[torch.Tensor, torch.Tensor]:
    """Give mos (X,) and severities (X, number of distortions)."""
    severities = [[clip.severities[name] for name in DISTORTIONS] for clip in clips]
    return torch.tensor([clip.mos for clip in clips]), torch.tensor(severities)


def same_content(clips: list[Clip]) -> torch.Tensor:
    """Give bool (X, X): which pairs show the same pixels."""
    takes = np.array([clip.clip_id.rsplit(".", 1)[0] for clip in clips])
    return torch.from_numpy(takes[:, None] == takes[None])


def functional_huber(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Give the mean Huber loss with a knee at half a level."""
    return nn.functional.huber_loss(predicted, wanted, delta=0.5)


def figures(clips: list[Clip], found: np.ndarray) -> dict[str, float]:
    """Give SRCC, PLCC, the share of same-content pairs and of adjacent ladder rungs in the right order."""
    mos = np.array([clip.mos for clip in clips])
    same = same_content(clips).numpy() & (mos[:, None] > mos[None] + 0.05)
    right = (found[:, None] > found[None])[same]
    found_agreement = agreement(found, mos)
    rungs = [index for index, clip in enumerate(clips) if clip.ladder]
    steps = [
        found[a] > found[b]
        for a, b in pairwise(rungs)
        if clips[a].clip_id.rsplit(".", 1)[0] == clips[b].clip_id.rsplit(".", 1)[0]
    ]
    return {
        "srcc": round(found_agreement.srcc, 4),
        "plcc": round(found_agreement.plcc, 4),
        "same_content_pairs": round(float(right.mean()), 4),
        "ladder_steps": round(float(np.mean(steps)), 4),
    }
