"""What a stage minimises: all tasks through the decoder, or the encoders through heads of their own.

In: a batch as `Collator` gives it. Out: the loss and its parts. An objective is a module around the model, so that
every engine (one process, DDP) can wrap it; its state holds what learns and nothing else.

Shape legend: X clips of a batch, N segments, L visual tokens of a segment, D decoder width, K distortions,
R tokens of an encoder, E its width, Q pairs, M context frames, V views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cpllm_model.answers import LEVEL_WEIGHTS
from cpllm_model.errors import ConfigurationError
from cpllm_model.network.modeling import IGNORED_LABEL, CPLLMForVideoQuality, pad
from cpllm_model.network.processing import CPLLMProcessor
from cpllm_model.pooling import pooled_levels
from cpllm_model.scale import DISTORTIONS, LEVELS, SCENE_FACTS, SEVERITIES, level_of, severity_word
from cpllm_model.training.data.clips import Clip, Draw
from cpllm_model.training.data.descriptions import SceneFacts, describe, named
from cpllm_model.training.data.distortions import NAMED_FROM
from cpllm_model.training.data.manifests import LEAST_GAP, LabelledVideo
from cpllm_model.training.recipe.config import Part, Tasks
from cpllm_model.training.recipe.losses import linearity_loss, preference, rank_loss, soft_cross_entropy, soft_labels

#: Part -> beginnings of the names of the model's parameters that belong to it; the longest that fits counts.
PART_PREFIXES: dict[Part, tuple[str, ...]] = {
    "context_encoder": ("context_encoder.",),
    "pixel_encoder": ("pixel_encoder.",),
    "statistics": ("pixel_encoder.statistics_mlp.",),
    "projectors": ("context_projector.", "pixel_projector.", "markers."),
    "decoder": ("language_model.",),
}
Batch = dict[str, Any]
#: Rating that is assumed of a source that nobody rated, only to say how far its versions lie apart: about what people
#: give to a photograph of BIQ2021's best fifth.
NOMINAL_MOS = 4.2
#: Share of pairs that are of one content, where a clip has peers of both kinds.
SAME_CONTENT_SHARE = 0.75
#: Width of a probe's head, and how often it does without one of its streams.
HEAD_WIDTH, STREAM_DROPOUT = 256, 0.15
#: Weights of a probe's losses of order within a content and of ratings: without them the order, of which every pair
#: gives a part, outweighs what people said.
RANK_WEIGHT, MOS_WEIGHT = 0.5, 2.0
#: Share of the pairs of one content that are the nearest in quality: where scores do not tell, comparisons should.
NEAREST_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class FrozenViews:
    """What frozen encoders saw of clips, float16; None for an encoder that learns.

    Args:
        context: (clips, N, M, R, E).
        pixel: (clips, N, R, E), each segment through one of its views.
    """

    context: np.ndarray | None = None
    pixel: np.ndarray | None = None


class Collator:
    """Make a batch of drawn clips.

    Args:
        clips: of the data set.
        processor: of the model.
        frozen: what frozen encoders saw of the clips.
    """

    def __init__(self, clips: Sequence[Clip], processor: CPLLMProcessor, frozen: FrozenViews = FrozenViews()) -> None:
        self.clips, self.processor, self.frozen = clips, processor, frozen

    def __call__(self, read: Sequence[tuple[Draw, dict[str, np.ndarray]]]) -> Batch:
        """Give tensors: `statistics`, `interval_s`, what encoders see or saw, labels; and texts as lists of ids.

        `context` and `bursts` are there for encoders that learn, `context_hidden` and `pixel_hidden` for frozen ones.
        What is not known of a clip is NaN, -1 for a fact of its scene, or an empty list. `order` is what orders a clip
        among those of its content: its mos, or for those of an unrated source what NOMINAL_MOS would leave.
        """
        draws = [draw for draw, _ in read]
        videos = [self.clips[draw.clip].video for draw in draws]
        scenes = [_scene(video, arrays["brightness_detail"]) for video, (_, arrays) in zip(videos, read, strict=True)]
        batch: Batch = {name: torch.from_numpy(np.stack([arrays[name] for _, arrays in read])) for name in read[0][1]}
        if self.frozen.context is not None:
            context = [self.frozen.context[draw.clip, list(draw.segments)] for draw in draws]
            batch["context_hidden"] = torch.from_numpy(np.stack(context))
        if self.frozen.pixel is not None:
            pixel = [self.frozen.pixel[draw.clip, list(draw.segments)] for draw in draws]
            batch["pixel_hidden"] = torch.from_numpy(np.stack(pixel))
        unknown = dict.fromkeys(DISTORTIONS, np.nan)
        severities = [[(video.severities or unknown)[name] for name in DISTORTIONS] for video in videos]
        groups = {key: index for index, key in enumerate(dict.fromkeys((v.dataset, v.content_id) for v in videos))}
        names = {name: index for index, name in enumerate(dict.fromkeys(video.dataset for video in videos))}
        batch["mos"] = torch.tensor([np.nan if video.mos is None else video.mos for video in videos]).float()
        batch["order"] = torch.tensor([order_of(video) for video in videos]).float()
        batch["severities"] = torch.tensor(severities).float()
        batch["scene"] = torch.tensor(
            [[words.index(one[name]) if name in one else -1 for name, words in SCENE_FACTS.items()] for one in scenes]
        )
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
        if due and video.description is not None and video.severities is not None:
            mos, severities, scene, text = video.mos, video.severities, video.scene or {}, video.description
            if mos is None or (draw.seed or 0) % 4 == 0:
                mos, severities, scene, text = _imagined(np.random.default_rng(draw.seed))
            words = {name: severity_word(max(1.0, severities[name])) for name in named(severities)}
            found.append((processor.describe_ids(segments, level_of(mos), words, scene), text))
        if video.dialogue:
            question, answer = video.dialogue[(draw.seed or 0) % len(video.dialogue)]
            found.append((processor.ask_ids(segments, question), answer))
        return [(index, ids, [*processor.text_ids(answer), processor.eos_id]) for ids, answer in found]


def part_of(name: str) -> Part | None:
    """Give the part that a parameter of the model belongs to."""
    fitting: list[tuple[int, Part]] = [
        (len(prefix), part)
        for part, prefixes in PART_PREFIXES.items()
        for prefix in prefixes
        if name.startswith(prefix)
    ]
    return max(fitting)[1] if fitting else None


def _imagined(rng: np.random.Generator) -> tuple[float, dict[str, float], dict[str, str], str]:
    """Make up what was answered of a clip, and describe that.

    Words must follow the answers that the question states; in the data at hand the two go together so well that the
    decoder would not learn which to follow, and rare distortions are too rare to learn their words.
    """
    present = rng.random(len(DISTORTIONS)) < rng.choice([0.05, 0.2, 0.35])
    severities = dict(zip(DISTORTIONS, np.where(present, rng.uniform(1, 5, len(DISTORTIONS)), 0).tolist(), strict=True))
    mos = float(rng.uniform(1, 5))
    scene = {name: str(rng.choice(words)) for name, words in SCENE_FACTS.items()}
    return mos, severities, scene, describe(mos, severities, scene, rng)


def _scene(video: LabelledVideo, brightness_detail: np.ndarray) -> dict[str, str]:
    """Give the known facts of a scene; of a picture nobody labelled, its light and detail as measured."""
    if video.scene is not None:
        return video.scene
    words = SceneFacts(float(brightness_detail[0]), float(brightness_detail[1]), 0.0).words()
    return {name: words[name] for name in ("light", "detail")}


def order_of(video: LabelledVideo) -> float:
    """Give what orders a video among those of its content; NaN where nothing does. See Collator."""
    if video.mos is not None:
        return video.mos
    return np.nan if video.quality_left is None else 1 + (NOMINAL_MOS - 1) * video.quality_left


def _pairs(batch: Batch, draws: Sequence[Draw]) -> np.ndarray:
    """Pair each clip with one of its content or, more rarely, of another, in random order; int64 (Q, 2).

    Of those of its content, half of the time with the nearest in quality.

    Only clips of one data set are paired, since the scales of two say nothing of each other; unrated ones only with
    those of their content.
    """
    rng = np.random.default_rng([draw.seed or 0 for draw in draws])
    content, dataset, order = (batch[name].numpy() for name in ("content", "dataset", "order"))
    ordered, rated = ~np.isnan(order), ~np.isnan(batch["mos"].numpy())
    pairs = []
    for index in np.flatnonzero(ordered):
        peers = ordered & (dataset == dataset[index]) & (np.arange(len(ordered)) != index)
        same = peers & (content == content[index])
        others = peers & rated & (content != content[index]) if rated[index] else np.zeros_like(peers)
        if same.any() and (not others.any() or rng.random() < SAME_CONTENT_SHARE):
            gaps = np.where(same, np.abs(order - order[index]), np.inf)
            gaps[gaps < LEAST_GAP] = np.inf
            takes_nearest = rng.random() < NEAREST_SHARE and np.isfinite(gaps).any()
            others = gaps == gaps.min() if takes_nearest else same
        if others.any():
            peer = int(rng.choice(np.flatnonzero(others)))
            pairs.append([int(index), peer] if rng.random() < 0.5 else [peer, int(index)])
    return np.array(pairs, np.int64).reshape(-1, 2)


class Objective(nn.Module):
    """A model and what is minimised of it; see the module.

    Args:
        model: to train.
        learns: its parts that learn; the others are frozen.
    """

    model: CPLLMForVideoQuality
    #: Whether key frames, and bursts, are looked at: by encoders that learn or, in validation, at all.
    context, pixels = True, True
    sees_context, sees_pixels = True, True

    def __init__(self, model: CPLLMForVideoQuality, learns: Sequence[Part]) -> None:
        super().__init__()
        self.model, self.learns = model, frozenset(learns)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part_of(name) in self.learns)

    def train(self, mode: bool = True) -> Objective:
        """Switch to training; a frozen token of statistics stays as it is at inference, without dropout."""
        super().train(mode)
        statistics = getattr(self.model.pixel_encoder, "statistics_mlp", None)
        if statistics is not None and "statistics" not in self.learns:
            statistics.eval()
        return self

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


class Probe(Objective):
    """The encoders, through a head for the score and for every distortion.

    Args:
        model, processor: of the run.
        learns: encoders that learn; of a pixel encoder that learns, a token of statistics that does not is shown, too.

    Raises:
        ConfigurationError: nothing is there to learn from.
    """

    def __init__(self, model: CPLLMForVideoQuality, processor: CPLLMProcessor, learns: Sequence[Part]) -> None:
        super().__init__(model, learns)
        self.processor = processor
        # The statistics' token is no peer of the learned ones and is not averaged with them.
        self.statistics = bool(getattr(model.config.pixel_config, "statistics", False))
        self.context = self.sees_context = "context_encoder" in learns
        self.pixels = self.sees_pixels = "pixel_encoder" in learns
        if not (self.context or self.pixels or ("statistics" in learns and self.statistics)):
            raise ConfigurationError("a probe needs an encoder that learns, or a pixel encoder's token of statistics")
        learned = self.pixels and getattr(model.config.pixel_config, "cnn", True)
        pixel_width = model.pixel_encoder.config.hidden_size
        widths = {"context": 2 * model.context_encoder.config.hidden_size * self.context,
                  "pixel": 2 * pixel_width * learned,
                  "statistics": pixel_width * self.statistics * (self.pixels or "statistics" in learns)}  # fmt: skip
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name, width in widths.items() if width})
        answers = nn.Linear(HEAD_WIDTH, 1 + 2 * len(DISTORTIONS))
        nn.init.normal_(answers.weight, std=0.02)
        self.head = nn.Sequential(nn.Linear(sum(widths.values()), HEAD_WIDTH), nn.GELU(), answers)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Give the parts of the loss and their sum."""
        mos, order, severities = batch["mos"], batch["order"], batch["severities"]
        predicted, severity, presence = self._predicted(batch)
        rated, ordered, known = ~mos.isnan(), ~order.isnan(), ~severities.isnan()
        same = batch["content"][:, None] == batch["content"][None]
        parts = {"rank": RANK_WEIGHT * rank_loss(predicted[ordered], order[ordered], same[ordered][:, ordered])}
        if rated.any():
            parts["mos"] = MOS_WEIGHT * functional.huber_loss(predicted[rated], mos[rated], delta=0.5)
            parts["linearity"] = linearity_loss(predicted[rated], mos[rated])
        if known.any():
            there = (severities[known] >= NAMED_FROM).float()
            parts["severity"] = 0.3 * functional.huber_loss(severity[known], severities[known], delta=0.5)
            parts["presence"] = 0.3 * functional.binary_cross_entropy_with_logits(presence[known], there)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def answers(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give the predicted mos (X,), no spread, and the probability (X, K) that each distortion is there."""
        score, _, presence = self._predicted(batch)
        return score, torch.zeros_like(score), presence.sigmoid()

    def _predicted(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        clips, segments = batch["statistics"].shape[:2]
        statistics, interval_s = batch["statistics"].flatten(0, 1), batch["interval_s"].flatten()
        seen: dict[str, torch.Tensor] = {}
        if self.context:
            hidden = self.model.see_context(self.processor.context_values(batch["context"].flatten(0, 2)))
            seen["context"] = hidden.unflatten(0, (clips * segments, -1)).flatten(1, 2)
        if self.pixels:
            hidden = self.model.see_pixels(
                self.processor.pixel_values(batch["bursts"].flatten(0, 1)), interval_s, statistics
            )
            seen["pixel"] = hidden[:, : hidden.shape[1] - self.statistics]
            seen["statistics"] = hidden[:, -1]
        elif "statistics" in self.norms:
            seen["statistics"] = self.model.pixel_encoder.statistics_token(statistics)[:, 0]
        pooled = []
        for name, norm in self.norms.items():
            one = seen[name]
            if one.ndim == 3:
                one = torch.cat([one.mean(1), one.std(1, correction=0)], 1)
            one = norm(one)
            if self.training and len(self.norms) > 1:
                # Each stream must be able to judge by itself: now and then one is not there.
                one = one * (torch.rand(len(one), 1, device=one.device) >= STREAM_DROPOUT)
            pooled.append(one)
        found = self.head(torch.cat(pooled, 1)).unflatten(0, (clips, segments)).mean(1).float()
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
        super().__init__(model, learns)
        self.processor, self.tasks = processor, tasks
        self.context, self.pixels = "context_encoder" in learns, bool({"pixel_encoder", "statistics"} & self.learns)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Give the parts of the loss and their weighted sum."""
        visual_XNLD = self._look(batch)
        tasks, parts = self.tasks, {}
        if tasks.score or tasks.distortions:
            parts |= self._rating_losses(batch, visual_XNLD)
        if tasks.description and batch["texts"]:
            parts["description"] = tasks.description * self._text_loss(batch["texts"], visual_XNLD)
        if tasks.comparison and len(batch["pairs"]):
            parts["comparison"] = tasks.comparison * self._comparison_loss(batch, visual_XNLD)
        total = torch.stack(list(parts.values())).sum() if parts else visual_XNLD.sum() * 0
        return {"loss": total, **parts}

    def answers(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give the predicted mos (X,), its spread, and the probability (X, K) that each distortion is there.

        Segments are taken together as at inference: pooled levels, and of each distortion what any shows.
        """
        levels, *others = self._ratings(self._look(batch))
        levels_XNA = levels.softmax(-1).double().cpu().numpy()
        levels_XA = np.stack([pooled_levels(levels_NA, np.ones(len(levels_NA))) for levels_NA in levels_XNA])
        score_X = levels_XA @ LEVEL_WEIGHTS
        std_X = np.sqrt((levels_XA * (LEVEL_WEIGHTS - score_X[:, None]) ** 2).sum(-1))
        there = [1 - logits.softmax(-1)[..., 0].amin(1) for logits in others[: len(DISTORTIONS)]]
        return torch.from_numpy(score_X), torch.from_numpy(std_X), torch.stack(there, 1)

    def _look(self, batch: Batch) -> torch.Tensor:
        """Give the visual tokens (X, N, L, D)."""
        clips, segments = batch["statistics"].shape[:2]
        if "context_hidden" in batch:
            context = batch["context_hidden"].flatten(0, 2).to(self.model.markers.weight.dtype)
        else:
            context = self.model.see_context(self.processor.context_values(batch["context"].flatten(0, 2)))
        if "pixel_hidden" in batch:
            pixel = batch["pixel_hidden"].flatten(0, 1).to(self.model.markers.weight.dtype)
        else:
            bursts = self.processor.pixel_values(batch["bursts"].flatten(0, 1))
            pixel = self.model.see_pixels(bursts, batch["interval_s"].flatten(), batch["statistics"].flatten(0, 1))
        return self.model.project(context, pixel).unflatten(0, (clips, segments))

    def _ratings(self, visual_XNLD: torch.Tensor) -> list[torch.Tensor]:
        """Give the logits (X, N, answers) of each question about each segment."""
        sequence, places = self.processor.rating_ids()
        clips, segments = visual_XNLD.shape[:2]
        count, answers = clips * segments, self.processor.rating_answer_ids
        found = self.model.answer_logits([sequence] * count, visual_XNLD.flatten(0, 2), [places] * count, answers)
        return [logits.unflatten(0, (clips, segments)) for logits in found]

    def _rating_losses(self, batch: Batch, visual_XNLD: torch.Tensor) -> dict[str, torch.Tensor]:
        levels, *others = self._ratings(visual_XNLD)
        severity_logits, scene_logits = others[: len(DISTORTIONS)], others[len(DISTORTIONS) :]
        mos, order, severities, scene = batch["mos"], batch["order"], batch["severities"], batch["scene"]
        rated, ordered, parts = ~mos.isnan(), ~order.isnan(), {}
        if self.tasks.score:
            scores = _expected(levels, 1).mean(1)
            same = (batch["content"][:, None] == batch["content"][None])[ordered][:, ordered]
            found = {"rank": rank_loss(scores[ordered], order[ordered], same)}
            if rated.any():
                wanted = soft_labels(mos[rated], 1, len(LEVELS))[:, None]
                found["level"] = soft_cross_entropy(levels[rated], wanted).mean()
                found["linearity"] = linearity_loss(scores[rated], mos[rated])
            parts |= {name: self.tasks.score * value for name, value in found.items()}
        known = ~severities.isnan()
        if self.tasks.distortions and known.any():
            # The mean is over clips and distortions; most are absent, and each must still be learned.
            lost = _severity_loss(torch.stack(severity_logits, 2), severities)
            parts["severity"] = self.tasks.distortions * 2 * lost[known].mean()
        if self.tasks.scene and (scene >= 0).any():
            lost = [
                functional.cross_entropy(
                    logits[facts >= 0].flatten(0, 1), facts[facts >= 0].repeat_interleave(logits.shape[1])
                )
                for logits, facts in zip(scene_logits, scene.T, strict=True)
                if (facts >= 0).any()
            ]
            parts["scene"] = self.tasks.scene * torch.stack(lost).mean()
        return parts

    def _text_loss(self, texts: list[tuple[int, list[int], list[int]]], visual_XNLD: torch.Tensor) -> torch.Tensor:
        ids, mask = pad([question + answer for _, question, answer in texts], visual_XNLD.device)
        targets, _ = pad([[IGNORED_LABEL] * len(q) + answer for _, q, answer in texts], visual_XNLD.device)
        visual = visual_XNLD[[index for index, _, _ in texts]].flatten(0, 2)
        return self.model(ids, visual, mask, targets.masked_fill(mask == 0, IGNORED_LABEL)).loss

    def _comparison_loss(self, batch: Batch, visual_XNLD: torch.Tensor) -> torch.Tensor:
        """Compare segment with segment, as at inference; a pair's answer is the mean of these."""
        first, second = batch["pairs"].T
        wanted = preference(batch["order"][first], batch["order"][second])
        visual = torch.stack([visual_XNLD[first], visual_XNLD[second]], 2)
        pairs, segments = visual.shape[:2]
        sequence = self.processor.compare_ids()
        count = pairs * segments
        logits = self.model.answer_logits(
            [sequence] * count, visual.flatten(0, 3), [[len(sequence) - 1]] * count, [self.processor.order_ids]
        )[0]
        logits = logits.unflatten(0, (pairs, segments)).mean(1)
        return soft_cross_entropy(logits, torch.stack([wanted, 1 - wanted], 1)).mean()


def _severity_loss(logits_XNKA: torch.Tensor, severities_XK: torch.Tensor) -> torch.Tensor:
    """Give the loss (X, K) of severities that a clip has somewhere.

    What is absent is absent in every segment; of what is there, the segment that shows it most answers, since the
    others may not show it.
    """
    # What is not known is masked by the caller, but its gradient must be finite, too.
    wanted = soft_labels(severities_XK.nan_to_num().flatten(), 0, len(SEVERITIES)).unflatten(0, severities_XK.shape)
    lost_XNK = soft_cross_entropy(logits_XNKA, wanted[:, None])
    most = _expected(logits_XNKA.detach(), 0).argmax(1, keepdim=True)
    shown = lost_XNK.gather(1, most)[:, 0]
    return torch.where(severities_XK > 0, shown, lost_XNK.mean(1))


def _expected(logits: torch.Tensor, lowest: float) -> torch.Tensor:
    """Give the mean answer (...,) of logits (..., A), answers being one apart from `lowest` on."""
    # Not a matrix product: autocast would round it to bfloat16.
    answers = torch.arange(logits.shape[-1], device=logits.device) + lowest
    return (logits.softmax(-1) * answers).sum(-1)
