"""What a stage minimises: all tasks through the decoder, or the pixel encoder through heads of its own.

In: a batch as `Collator` gives it. Out: the loss and its parts. An objective is a module around the model, so that
every engine (one process, DDP) can wrap it; its state holds what learns and nothing else.

Shape legend: X clips of a batch, N segments, L visual tokens of a segment, D decoder width, K distortions,
R tokens of the pixel encoder, E its width, Q pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cpllm_model.errors import ConfigurationError
from cpllm_model.network.modeling import IGNORED_LABEL, CPLLMForVideoQuality, pad
from cpllm_model.network.processing import CPLLMProcessor
from cpllm_model.scale import DISTORTIONS, LEVELS, SEVERITIES, level_of, severity_word
from cpllm_model.training.data.clips import Clip, Draw
from cpllm_model.training.data.descriptions import describe, named
from cpllm_model.training.data.distortions import NAMED_FROM
from cpllm_model.training.recipe.config import Part, Tasks
from cpllm_model.training.recipe.losses import linearity_loss, preference, rank_loss, soft_cross_entropy, soft_labels

#: Part -> the model's modules that belong to it.
PART_MODULES: dict[Part, tuple[str, ...]] = {
    "context_encoder": ("context_encoder",),
    "pixel_encoder": ("pixel_encoder",),
    "projectors": ("context_projector", "pixel_projector", "markers"),
    "decoder": ("language_model",),
}
Batch = dict[str, Any]


class Collator:
    """Make a batch of drawn clips.

    Args:
        clips: of the data set.
        processor: of the model.
        pixel_hidden: clip, segment and view -> what a frozen pixel encoder saw, float16 (clips, N, V, R, E).
    """

    def __init__(
        self, clips: Sequence[Clip], processor: CPLLMProcessor, pixel_hidden: np.ndarray | None = None
    ) -> None:
        self.clips, self.processor, self.pixel_hidden = clips, processor, pixel_hidden

    def __call__(self, read: Sequence[tuple[Draw, dict[str, np.ndarray]]]) -> Batch:
        """Give tensors: `context`, `statistics`, `bursts` or `pixel_hidden`, labels, and texts as lists of ids.

        What is not known of a clip is NaN, or an empty list.
        """
        draws = [draw for draw, _ in read]
        videos = [self.clips[draw.clip].video for draw in draws]
        batch: Batch = {name: torch.from_numpy(np.stack([arrays[name] for _, arrays in read])) for name in read[0][1]}
        if self.pixel_hidden is not None:
            seen = [self.pixel_hidden[draw.clip, list(draw.segments), list(draw.views)] for draw in draws]
            batch["pixel_hidden"] = torch.from_numpy(np.stack(seen))
        unknown = dict.fromkeys(DISTORTIONS, np.nan)
        severities = [[(video.severities or unknown)[name] for name in DISTORTIONS] for video in videos]
        groups = {key: index for index, key in enumerate(dict.fromkeys((v.dataset, v.content_id) for v in videos))}
        names = {name: index for index, name in enumerate(dict.fromkeys(video.dataset for video in videos))}
        batch["mos"] = torch.tensor([np.nan if video.mos is None else video.mos for video in videos]).float()
        batch["severities"] = torch.tensor(severities).float()
        batch["content"] = torch.tensor([groups[video.dataset, video.content_id] for video in videos])
        batch["dataset"] = torch.tensor([names[video.dataset] for video in videos])
        batch["texts"] = [text for index, draw in enumerate(draws) for text in self._texts(index, draw)]
        batch["pairs"] = torch.from_numpy(_pairs(batch, draws))
        batch["video_ids"] = [video.video_id for video in videos]
        return batch

    def _texts(self, index: int, draw: Draw) -> list[tuple[int, list[int], list[int]]]:
        """Give (place in the batch, question, answer) of what is written of a clip."""
        video = self.clips[draw.clip].video
        segments, processor, found = len(draw.segments), self.processor, []
        # Sentences are the longest sequences and the first thing to be learned: those of every other clip are enough.
        due = (draw.seed or 0) % 2 == 0
        if due and video.description is not None and video.mos is not None and video.severities is not None:
            mos, severities, text = video.mos, video.severities, video.description
            if (draw.seed or 0) % 4 == 0:
                mos, severities, text = _imagined(video.scene or {}, np.random.default_rng(draw.seed))
            words = {name: severity_word(max(1.0, severities[name])) for name in named(severities)}
            found.append((processor.describe_ids(segments, level_of(mos), words), text))
        if video.dialogue:
            question, answer = video.dialogue[(draw.seed or 0) % len(video.dialogue)]
            found.append((processor.ask_ids(segments, question), answer))
        return [(index, ids, [*processor.text_ids(answer), processor.eos_id]) for ids, answer in found]


def _imagined(scene: Mapping[str, str], rng: np.random.Generator) -> tuple[float, dict[str, float], str]:
    """Make up what was answered of a clip, and describe that, with what is shown as it is.

    Words must follow the answers that the question states; in the data at hand the two go together so well that the
    decoder would not learn which to follow, and rare distortions are too rare to learn their words.
    """
    present = rng.random(len(DISTORTIONS)) < rng.choice([0.05, 0.2, 0.35])
    severities = dict(zip(DISTORTIONS, np.where(present, rng.uniform(1, 5, len(DISTORTIONS)), 0).tolist(), strict=True))
    mos = float(rng.uniform(1, 5))
    return mos, severities, describe(mos, severities, scene, rng)


def _pairs(batch: Batch, draws: Sequence[Draw]) -> np.ndarray:
    """Pair each clip with one of its content or one of another, in random order; int64 (Q, 2).

    Only clips of one data set are paired: the scales of two say nothing of each other.
    """
    rng = np.random.default_rng([draw.seed or 0 for draw in draws])
    content, dataset = batch["content"].numpy(), batch["dataset"].numpy()
    rated = ~np.isnan(batch["mos"].numpy())
    pairs = []
    for index in np.flatnonzero(rated):
        peers = rated & (dataset == dataset[index]) & (np.arange(len(rated)) != index)
        same = content == content[index]
        within_or_across = [others for others in (peers & same, peers & ~same) if others.any()]
        if within_or_across:
            others = within_or_across[rng.integers(len(within_or_across))]
            pair = [int(index), int(rng.choice(np.flatnonzero(others)))]
            pairs.append(pair if rng.random() < 0.5 else pair[::-1])
    return np.array(pairs, np.int64).reshape(-1, 2)


class Objective(nn.Module):
    """A model and what is minimised of it; see the module."""

    model: CPLLMForVideoQuality
    #: Whether batches need bursts; without, it sees their statistics alone.
    pixels = True

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Give what learns, and buffers; frozen weights are in the model that a stage began with.

        Tied weights appear once, as safetensors demands.
        """
        state = super().state_dict(*args, **kwargs)
        learning = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        buffers = {name for name, _ in self.named_buffers()}
        return {name: value for name, value in state.items() if name in learning | buffers}

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Compute activations of every transformer again instead of keeping them; see PreTrainedModel."""
        for module in (self.model.context_encoder, self.model.pixel_encoder, self.model.language_model):
            if getattr(module, "supports_gradient_checkpointing", False):
                module.activation_checkpointing_enable(**kwargs)


class PixelProbe(Objective):
    """The pixel encoder, through a head for the score and for every distortion.

    Args:
        model, processor: of the run.
        fragments: whether fragments are shown, or of this project's own encoder the token of statistics alone learns.

    Raises:
        ConfigurationError: neither is there to learn from.
    """

    def __init__(self, model: CPLLMForVideoQuality, processor: CPLLMProcessor, *, fragments: bool = True) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        self.model.requires_grad_(False)
        self.model.pixel_encoder.requires_grad_(True)
        # Of this project's encoder, the statistics' token is no peer of the fragments' and is not averaged with them.
        self.statistics = bool(getattr(model.config.pixel_config, "statistics", False))
        if not fragments and not self.statistics:
            raise ConfigurationError("a probe of fragments: 0 needs a pixel encoder with a token of statistics")
        self.pixels = fragments
        self.learned = fragments and (not self.statistics or model.config.pixel_config.fragment_tokens > 0)
        width = model.pixel_encoder.config.hidden_size
        inputs = width * (self.learned + self.statistics)
        answers = nn.Linear(width, 1 + 2 * len(DISTORTIONS))
        nn.init.normal_(answers.weight, std=0.02)
        self.head = nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.GELU(), answers)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Give the parts of the loss and their sum."""
        mos, severities = batch["mos"], batch["severities"]
        predicted, severity, presence = self._predicted(batch)
        rated, known = ~mos.isnan(), ~severities.isnan()
        same = batch["content"][:, None] == batch["content"][None]
        parts = {
            "mos": functional.huber_loss(predicted[rated], mos[rated], delta=0.5),
            "linearity": linearity_loss(predicted[rated], mos[rated]),
            "rank": rank_loss(predicted[rated], mos[rated], same[rated][:, rated]),
            "severity": 0.3 * functional.huber_loss(severity[known], severities[known], delta=0.5),
            "presence": 0.3
            * functional.binary_cross_entropy_with_logits(presence[known], (severities[known] >= NAMED_FROM).float()),
        }
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def answers(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the predicted mos (X,) and the probability (X, K) that each distortion is there."""
        score, _, presence = self._predicted(batch)
        return score, presence.sigmoid()

    def _predicted(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        clips, segments = batch["statistics"].shape[:2]
        statistics = batch["statistics"].flatten(0, 1)
        if self.pixels:
            hidden = self.model.see_pixels(self.processor.pixel_values(batch["bursts"].flatten(0, 1)), statistics)
        else:
            hidden = self.model.pixel_encoder.statistics_token(statistics)
        pooled = [hidden[:, : hidden.shape[1] - self.statistics].mean(1)] if self.learned else []
        if self.statistics:
            pooled.append(hidden[:, -1])
        found = self.head(torch.cat(pooled, 1).unflatten(0, (clips, segments)).mean(1)).float()
        score, severity, presence = found.split([1, len(DISTORTIONS), len(DISTORTIONS)], 1)
        return score[:, 0] + 3, severity, presence


class TaskObjective(Objective):
    """Score, distortions, description and comparison through the decoder, weighted.

    Args:
        model, processor: of the run.
        tasks: weights.
        learns: parts that learn.
    """

    def __init__(
        self, model: CPLLMForVideoQuality, processor: CPLLMProcessor, tasks: Tasks, learns: Sequence[Part]
    ) -> None:
        super().__init__()
        self.model, self.processor, self.tasks = model, processor, tasks
        for part, modules in PART_MODULES.items():
            for name in modules:
                getattr(model, name).requires_grad_(part in learns)

    def train(self, mode: bool = True) -> TaskObjective:
        """Train all but batch norms' running statistics: small batches would only make them noisier."""
        super().train(mode)
        for module in self.model.pixel_encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Give the parts of the loss and their weighted sum."""
        visual_XLD = self._look(batch)
        tasks, parts = self.tasks, {}
        if tasks.score or tasks.distortions:
            parts |= self._rating_losses(batch, visual_XLD)
        if tasks.description and batch["texts"]:
            parts["description"] = tasks.description * self._text_loss(batch["texts"], visual_XLD)
        if tasks.comparison and len(batch["pairs"]):
            parts["comparison"] = tasks.comparison * self._comparison_loss(batch, visual_XLD)
        total = torch.stack(list(parts.values())).sum() if parts else visual_XLD.sum() * 0
        return {"loss": total, **parts}

    def answers(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the predicted mos (X,) and the probability (X, K) that each distortion is there."""
        levels, *severities = self._ratings(self._look(batch))
        return _expected(levels, 1), torch.stack([1 - logits.softmax(-1)[:, 0] for logits in severities], 1)

    def _look(self, batch: Batch) -> torch.Tensor:
        """Give the visual tokens (X, N * L, D)."""
        clips, segments = batch["context"].shape[:2]
        context = self.model.see_context(self.processor.context_values(batch["context"].flatten(0, 2)))
        if "pixel_hidden" in batch:
            pixel = batch["pixel_hidden"].flatten(0, 1).to(context.dtype)
        else:
            bursts = self.processor.pixel_values(batch["bursts"].flatten(0, 1))
            pixel = self.model.see_pixels(bursts, batch["statistics"].flatten(0, 1))
        tokens = self.model.project(context, pixel)
        return tokens.reshape(clips, segments * tokens.shape[1], -1)

    def _segments(self, visual_XLD: torch.Tensor) -> int:
        return visual_XLD.shape[1] // self.model.config.tokens_per_segment

    def _ratings(self, visual_XLD: torch.Tensor) -> list[torch.Tensor]:
        sequence, places = self.processor.rating_ids(self._segments(visual_XLD))
        count = len(visual_XLD)
        answers = [self.processor.level_ids] + [self.processor.severity_ids] * len(DISTORTIONS)
        return self.model.answer_logits([sequence] * count, visual_XLD.flatten(0, 1), [places] * count, answers)

    def _rating_losses(self, batch: Batch, visual_XLD: torch.Tensor) -> dict[str, torch.Tensor]:
        levels, *severity_logits = self._ratings(visual_XLD)
        mos, severities = batch["mos"], batch["severities"]
        rated, parts = ~mos.isnan(), {}
        if self.tasks.score and rated.any():
            scores, mos = _expected(levels, 1)[rated], mos[rated]
            same = (batch["content"][:, None] == batch["content"][None])[rated][:, rated]
            parts["level"] = soft_cross_entropy(levels[rated], soft_labels(mos, 1, len(LEVELS))).mean()
            parts["linearity"] = linearity_loss(scores, mos)
            parts["rank"] = rank_loss(scores, mos, same)
            parts = {name: self.tasks.score * value for name, value in parts.items()}
        known = ~severities.isnan()
        if self.tasks.distortions and known.any():
            logits = torch.stack(severity_logits, 1)[known]
            wanted = soft_labels(severities[known], 0, len(SEVERITIES))
            # The mean is over clips and distortions; most are absent, and each must still be learned.
            parts["severity"] = self.tasks.distortions * 2 * soft_cross_entropy(logits, wanted).mean()
        return parts

    def _text_loss(self, texts: list[tuple[int, list[int], list[int]]], visual_XLD: torch.Tensor) -> torch.Tensor:
        ids, mask = pad([question + answer for _, question, answer in texts], visual_XLD.device)
        targets, _ = pad([[IGNORED_LABEL] * len(q) + answer for _, q, answer in texts], visual_XLD.device)
        visual = visual_XLD[[index for index, _, _ in texts]].flatten(0, 1)
        return self.model(ids, visual, mask, targets.masked_fill(mask == 0, IGNORED_LABEL)).loss

    def _comparison_loss(self, batch: Batch, visual_XLD: torch.Tensor) -> torch.Tensor:
        first, second = batch["pairs"].T
        wanted = preference(batch["mos"][first], batch["mos"][second])
        visual = torch.stack([visual_XLD[first], visual_XLD[second]], 1).flatten(0, 2)
        sequence = self.processor.compare_ids(self._segments(visual_XLD), self._segments(visual_XLD))
        count = len(first)
        logits = self.model.answer_logits(
            [sequence] * count, visual, [[len(sequence) - 1]] * count, [self.processor.order_ids]
        )[0]
        return soft_cross_entropy(logits, torch.stack([wanted, 1 - wanted], 1)).mean()


def _expected(logits: torch.Tensor, lowest: float) -> torch.Tensor:
    """Give the mean answer (X,) of logits (X, A), answers being one apart from `lowest` on."""
    # Not a matrix product: autocast would round it to bfloat16.
    answers = torch.arange(logits.shape[1], device=logits.device) + lowest
    return (logits.softmax(-1) * answers).sum(-1)
