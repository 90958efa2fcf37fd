"""QualityPredictor: videos in; scores, descriptions and comparisons out. The Python API of CP-LLM.

Each video is encoded once; its visual tokens, kept as float16, give every answer. On a CPU the network runs
one video at a time, so that the bits of an answer cannot depend on what else was in the batch.

Shape legend: N segments, L visual tokens of a segment, D decoder width.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError

from cpllm_model.decoding.samples import DecodeLimits, VideoSamples
from cpllm_model.decoding.sandbox import DecodeSandbox
from cpllm_model.errors import CheckpointError, InferenceError, ObjectMissingError, SourceReadError, VideoError
from cpllm_model.network import checkpoint
from cpllm_model.network.config import VERSIONS
from cpllm_model.network.modeling import CPLLMForVideoQuality
from cpllm_model.network.processing import CPLLMProcessor
from cpllm_model.scale import DISTORTIONS, LEVELS, SCENE_FACTS, SEVERITY_MAX, level_of, severity_word

Answer = TypeVar("Answer")
#: Probability from which a distortion is named by a model that was not calibrated.
NAMING_THRESHOLD = 0.5
LEVEL_WEIGHTS = np.arange(1, len(LEVELS) + 1)


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """What the decoder sees of one video; enough for every answer.

    Args:
        tokens_NLD: float16.
        segment_start_s: float64 (N,).
    """

    tokens_NLD: np.ndarray
    segment_start_s: np.ndarray


@dataclass(frozen=True)
class Rating:
    """A video's quality on the ACR scale.

    Args:
        score: mean of the distribution over levels, 1 (bad) to 5 (excellent).
        score_std: its uncertainty: the distribution's standard deviation, calibrated on held-out contents, so that 68 %
            of people's ratings lie within one of it.
        level: the level word nearest to the score.
        level_probabilities: bad to excellent, sum 1.
        segment_start_s: start of each segment.
        segment_score: score of each segment seen alone.
        scene: question of scale.SCENE_FACTS -> the most probable answer.
    """

    score: float
    score_std: float
    level: str
    level_probabilities: tuple[float, ...]
    segment_start_s: tuple[float, ...]
    segment_score: tuple[float, ...]
    scene: dict[str, str]


@dataclass(frozen=True)
class Distortion:
    """How strong one distortion is.

    Args:
        name: one of scale.DISTORTIONS.
        severity: mean of the distribution over severities, 0 (none) to 5 (severe).
        probability: that it is visible at all, 0-1.
        named: whether the probability reaches the model's own threshold, so that descriptions name it.
    """

    name: str
    severity: float
    probability: float
    named: bool


@dataclass(frozen=True)
class Description:
    """A video's quality in words, and every known distortion, the most probable first."""

    text: str
    distortions: tuple[Distortion, ...]


@dataclass(frozen=True)
class Comparison:
    """Which of two videos looks better.

    Args:
        probability_a_better: 0-1, the mean of both orders; compare(b, a) is its complement.
        order_gap: how far the two orders disagree, 0-1; large means that the answer leans on the order.
        first_bias: probability given to the video that is shown first, averaged over both orders, less a half.
    """

    probability_a_better: float
    order_gap: float
    first_bias: float


class QualityPredictor:
    """Answer for videos with one CP-LLM checkpoint.

    Args:
        model: in evaluation mode.
        processor: its processor.
        model_id: name for the tables.
    """

    def __init__(self, model: CPLLMForVideoQuality, processor: CPLLMProcessor, model_id: str) -> None:
        self.model, self.processor, self.model_id = model.eval(), processor, model_id
        self.sampling = model.config.sampling_settings

    @classmethod
    def from_pretrained(cls, name_or_path: str = "tiny", device: str | None = None) -> QualityPredictor:
        """Load a checkpoint.

        Args:
            name_or_path: bundled name, folder or hub id.
            device: torch device; default CUDA where there is one, else the CPU.

        Raises:
            CheckpointError: it is missing, incomplete, or may not be loaded.
        """
        folder = checkpoint.resolve(name_or_path)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            loaded: Any = CPLLMForVideoQuality.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
            processor = CPLLMProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{folder} cannot be loaded: {error}") from error
        model, loading = loaded
        # What a file lacks would be drawn at random, and answer.
        if missing := sorted(loading["missing_keys"]):
            raise CheckpointError(f"{folder} is of another architecture: {len(missing)} weights lack, as {missing[0]}")
        if model.config.versions != VERSIONS:
            raise CheckpointError(f"{folder} was made for {model.config.versions}, this release has {VERSIONS}")
        model.fold()
        model.to(torch.device(device))
        return cls(model, processor, checkpoint.model_id(name_or_path))

    @torch.inference_mode()
    def encode(self, samples: Sequence[VideoSamples]) -> list[VisualTokens]:
        """Look at decoded videos.

        Args:
            samples: as decoded with `self.sampling`.

        Returns:
            tokens of each, in order.

        Raises:
            ValueError: an array does not fit the model.
        """
        tokens: list[VisualTokens] = []
        for batch in self._batches(samples):
            inputs = self.processor(
                np.concatenate([one.context_NMCHW for one in batch]),
                np.concatenate([one.bursts_NTCHW for one in batch]),
                np.concatenate([one.burst_interval_s for one in batch]),
            )
            seen = self.model.encode_segments(**{key: value.to(self.model.device) for key, value in inputs.items()})
            parts = seen.to(torch.float16).cpu().split([len(one.segment_start_s) for one in batch])
            tokens += [VisualTokens(part.numpy(), one.segment_start_s) for part, one in zip(parts, batch, strict=True)]
        return tokens

    @torch.inference_mode()
    def rate(self, tokens: Sequence[VisualTokens]) -> list[Rating]:
        """Score videos, whole and segment by segment.

        Raises:
            InferenceError: the network gave a number that is not finite.
        """
        return [self._rate(one) for one in tokens]

    @torch.inference_mode()
    def describe_tokens(self, tokens: Sequence[VisualTokens]) -> list[Description]:
        """Describe videos in words, and name their distortions.

        Words are written from the model's own answers: its level, the distortions that it names and the facts of the
        scene are stated in the question. Decoding is greedy, and of the level words only the score's own may be
        written.
        """
        descriptions = []
        for one in tokens:
            answers = self._ratings(one.tokens_NLD)
            found = self._distortions(answers[1 : 1 + len(DISTORTIONS)])
            level = level_of(float(answers[0] @ LEVEL_WEIGHTS))
            descriptions.append(Description(self._write(one, level, found, _scene(answers)), found))
        return descriptions

    @torch.inference_mode()
    def compare_tokens(self, a: Sequence[VisualTokens], b: Sequence[VisualTokens]) -> list[Comparison]:
        """Compare videos pair by pair, in both orders.

        Raises:
            ValueError: `a` and `b` differ in length.
            InferenceError: the network gave a number that is not finite.
        """
        comparisons = []
        for one, other in zip(a, b, strict=True):
            ahead, behind = self._first_better(one, other), self._first_better(other, one)
            comparisons.append(
                Comparison(0.5 + (ahead - behind) / 2, abs(ahead + behind - 1), (ahead + behind - 1) / 2)
            )
        return comparisons

    def score(self, paths: Iterable[str | Path], limits: DecodeLimits | None = None) -> list[Rating | VideoError]:
        """Score video files; give a rating, or the reason there is none, for each, in order."""
        return [_unless_failed(seen, self.rate) for seen in self.look(paths, limits)]

    def describe(
        self, paths: Iterable[str | Path], limits: DecodeLimits | None = None
    ) -> list[Description | VideoError]:
        """Describe video files; give a description, or the reason there is none, for each, in order."""
        return [_unless_failed(seen, self.describe_tokens) for seen in self.look(paths, limits)]

    def compare(self, a: str | Path, b: str | Path, limits: DecodeLimits | None = None) -> Comparison:
        """Compare two video files.

        Raises:
            VideoError: one of them cannot be decoded.
        """
        seen: list[VisualTokens] = []
        for one in self.look([a, b], limits):
            if isinstance(one, VideoError):
                raise one
            seen.append(one)
        return self.compare_tokens(seen[:1], seen[1:])[0]

    def look(
        self, paths: Iterable[str | Path], limits: DecodeLimits | None = None
    ) -> Generator[VisualTokens | VideoError, None, None]:
        """Decode files in a sandbox and encode them, in order; the next is decoded while one is encoded.

        Args:
            paths: video files.
            limits: what each may cost.

        Yields:
            each file's visual tokens, or why it has none.
        """
        with DecodeSandbox(limits or DecodeLimits()) as sandbox, ThreadPoolExecutor(1) as decoder:
            waiting: deque[Future[VideoSamples | VideoError]] = deque()
            try:
                for path in paths:
                    waiting.append(decoder.submit(self._decode, sandbox, Path(path)))
                    if len(waiting) > 1:
                        yield self._seen(waiting.popleft().result())
                while waiting:
                    yield self._seen(waiting.popleft().result())
            finally:
                # Who stops in the middle waits for no video.
                decoder.shutdown(wait=False, cancel_futures=True)
                sandbox.interrupt()

    def _decode(self, sandbox: DecodeSandbox, path: Path) -> VideoSamples | VideoError:
        try:
            with path.open("rb") as file:
                return sandbox.decode(file, str(path), self.sampling)
        except FileNotFoundError:
            return ObjectMissingError(str(path), "there is no such file")
        except OSError as error:
            return SourceReadError(str(path), error.strerror or str(error))
        except VideoError as error:
            return error

    def _seen(self, decoded: VideoSamples | VideoError) -> VisualTokens | VideoError:
        return decoded if isinstance(decoded, VideoError) else self.encode([decoded])[0]

    def _batches(self, samples: Sequence[VideoSamples]) -> Iterable[Sequence[VideoSamples]]:
        if self.model.device.type == "cpu":
            return ([one] for one in samples)
        return [samples] if samples else []

    def _answers(
        self,
        sequences: list[list[int]],
        tokens: list[np.ndarray],
        places: list[list[int]],
        answer_ids: list[list[int]],
    ) -> list[np.ndarray]:
        """Give, for each place, float64 (sequences, answers): one distribution a sequence."""
        flat = np.concatenate([part.reshape(-1, part.shape[-1]) for part in tokens])
        visual = torch.from_numpy(flat).to(self.model.device)
        found = [
            logits.double().softmax(-1).cpu().numpy()
            for logits in self.model.answer_logits(sequences, visual, places, answer_ids)
        ]
        if not all(np.isfinite(one).all() for one in found):
            raise InferenceError("video", "the network gave a number that is not finite")
        return found

    def _first_better(self, first: VisualTokens, second: VisualTokens) -> float:
        sequence = self.processor.compare_ids(len(first.tokens_NLD), len(second.tokens_NLD))
        tokens = [first.tokens_NLD, second.tokens_NLD]
        return float(self._answers([sequence], tokens, [[len(sequence) - 1]], [self.processor.order_ids])[0][0, 0])

    def _rate(self, tokens: VisualTokens) -> Rating:
        answers = self._ratings(tokens.tokens_NLD)
        whole, score = answers[0], float(answers[0] @ LEVEL_WEIGHTS)
        parts = self._levels([segment[None] for segment in tokens.tokens_NLD])
        scale, least = self.model.config.std_calibration
        variance = max(0.0, float(whole @ (LEVEL_WEIGHTS - score) ** 2))
        return Rating(
            score=score,
            score_std=math.sqrt(scale**2 * variance + least**2),
            level=level_of(score),
            level_probabilities=tuple(whole.tolist()),
            segment_start_s=tuple(tokens.segment_start_s.tolist()),
            segment_score=tuple((parts @ LEVEL_WEIGHTS).tolist()),
            scene=_scene(answers),
        )

    def _levels(self, tokens: list[np.ndarray]) -> np.ndarray:
        """Give the distributions (X, 5) over levels of videos of equally many segments."""
        # The other questions come after the level's place and cannot change its answer.
        sequence, places = self.processor.rating_ids(len(tokens[0]))
        asked = sequence[: places[0] + 1]
        count = len(tokens)
        return self._answers([asked] * count, tokens, [places[:1]] * count, [self.processor.level_ids])[0]

    def _ratings(self, tokens_NLD: np.ndarray) -> list[np.ndarray]:
        """Give the distributions at the places of `rating_ids` for one video."""
        sequence, places = self.processor.rating_ids(len(tokens_NLD))
        found = self._answers([sequence], [tokens_NLD], [places], self.processor.rating_answer_ids)
        return [one[0] for one in found]

    def _write(
        self, tokens: VisualTokens, level: str, distortions: Iterable[Distortion], scene: Mapping[str, str]
    ) -> str:
        others = [token for name, token in zip(LEVELS, self.processor.level_ids, strict=True) if name != level]
        strongest = sorted((one for one in distortions if one.named), key=lambda one: -one.severity)
        words = {one.name: severity_word(max(1.0, one.severity)) for one in strongest}
        sequence = self.processor.describe_ids(len(tokens.tokens_NLD), level, words, scene)
        visual = torch.from_numpy(tokens.tokens_NLD).flatten(0, 1).to(self.model.device)
        return self.processor.text(self.model.write(sequence, visual, self.processor.eos_id, others))

    def _distortions(self, severities: Iterable[np.ndarray]) -> tuple[Distortion, ...]:
        """Name distortions from their distributions over severities; the most probable first."""
        thresholds = self.model.config.naming_thresholds or {}
        found = []
        for name, row in zip(DISTORTIONS, severities, strict=True):
            severity = float(row @ np.arange(len(row)))
            probability = min(1.0, max(0.0, 1 - float(row[0])))
            named = probability >= thresholds.get(name, NAMING_THRESHOLD)
            found.append(Distortion(name, min(severity, SEVERITY_MAX), probability, named))
        return tuple(sorted(found, key=lambda distortion: -distortion.probability))


def _scene(answers: Sequence[np.ndarray]) -> dict[str, str]:
    """Give the most probable answer to each question about the scene."""
    facts = zip(SCENE_FACTS.items(), answers[1 + len(DISTORTIONS) :], strict=True)
    return {name: words[int(row.argmax())] for (name, words), row in facts}


def _unless_failed(
    seen: VisualTokens | VideoError, question: Callable[[Sequence[VisualTokens]], list[Answer]]
) -> Answer | VideoError:
    if isinstance(seen, VideoError):
        return seen
    try:
        return question([seen])[0]
    except VideoError as error:
        return error
