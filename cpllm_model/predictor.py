"""QualityPredictor: videos in; scores, descriptions and comparisons out. The Python API of CP-LLM.

Each video is encoded once; its visual tokens, kept as float16, give every answer. The decoder answers about each
segment; `pooling.py` states how these become the answer about the video. On a CPU the network runs one video at a
time, so that the bits of an answer cannot depend on what else was in the batch.

Shape legend: N segments, L visual tokens of a segment, D decoder width.
"""

from __future__ import annotations

import io
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar, overload

import av
import numpy as np
import torch
from safetensors import SafetensorError

from cpllm_model.answers import (
    Assessment,
    Comparison,
    Description,
    Distortion,
    Rating,
    SegmentTimes,
    ViewedVideo,
    VisualTokens,
)
from cpllm_model.decoding.samples import DecodeLimits, VideoSamples
from cpllm_model.decoding.sandbox import DecodeSandbox
from cpllm_model.errors import (
    CheckpointError,
    ConfigurationError,
    InferenceError,
    ObjectMissingError,
    SourceReadError,
    VideoError,
)
from cpllm_model.network import checkpoint
from cpllm_model.network.config import VERSIONS
from cpllm_model.network.modeling import CPLLMForVideoQuality
from cpllm_model.network.processing import CPLLMProcessor
from cpllm_model.pooling import joined, with_frozen_time, without
from cpllm_model.remote import MOST_BYTES, fetched, is_address
from cpllm_model.scale import (
    DISTORTIONS,
    LEVELS,
    SCENE_FACTS,
    SEVERITY_MAX,
    level_of,
    severity_word,
)
from cpllm_model.score_map import ScoreMap
from cpllm_model.when import sentences

Answer = TypeVar("Answer")
Item = TypeVar("Item")
#: Probability from which a distortion is named by a model that was not calibrated.
NAMING_THRESHOLD = 0.5
#: The worst of the segments that stand for a video, from which a description is written.
DESCRIBED_SEGMENTS = 2
#: What weights and activations may be kept in. Statistics and answers are computed in float32 in any case.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: An answer of less is as good as none.
LEAST_PROBABILITY = 1e-12


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
        self.score_map = ScoreMap.from_config(model.config.score_map)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str = "tiny", device: str | None = None, precision: str | None = None
    ) -> QualityPredictor:
        """Load a checkpoint.

        Args:
            name_or_path: bundled name, folder or hub id.
            device: torch device; default CUDA where there is one, else the CPU.
            precision: of weights and activations, one of PRECISIONS; default bfloat16 on CUDA, else float32.

        Raises:
            CheckpointError: it is missing, incomplete, or may not be loaded.
            ConfigurationError: there is no such precision.
        """
        if precision is not None and precision not in PRECISIONS:
            raise ConfigurationError(f"there is no precision {precision!r}; give one of {', '.join(PRECISIONS)}")
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
        # transformers would draw missing weights at random, and the model would still answer.
        if missing := sorted(loading["missing_keys"]):
            raise CheckpointError(
                f"{folder} has another architecture: {len(missing)} weights are missing, the first is {missing[0]}"
            )
        if model.config.versions != VERSIONS:
            raise CheckpointError(f"{folder} was made for {model.config.versions}, this release has {VERSIONS}")
        model.fold()
        model.to(torch.device(device))
        model.set_precision(PRECISIONS[precision or ("bfloat16" if model.device.type == "cuda" else "float32")])
        return cls(model, processor, checkpoint.model_id(name_or_path))

    @torch.inference_mode()
    def encode(self, samples: Sequence[VideoSamples]) -> list[ViewedVideo]:
        """Look at decoded videos, and answer for every segment.

        Args:
            samples: as decoded with `self.sampling`.

        Returns:
            what was seen of each, in order.

        Raises:
            ValueError: an array does not fit the model.
            InferenceError: the network gave a number that is not finite.
        """
        viewed: list[ViewedVideo] = []
        for batch in self._batches(samples):
            inputs = self.processor(
                np.concatenate([one.context_NMCHW for one in batch]),
                np.concatenate([one.bursts_NTCHW for one in batch]),
                np.concatenate([one.burst_interval_s for one in batch]),
            )
            seen = self.model.encode_segments(**{key: value.to(self.model.device) for key, value in inputs.items()})
            tokens = [
                one.numpy() for one in seen.to(torch.float16).cpu().split([len(one.segment_start_s) for one in batch])
            ]
            times = [
                SegmentTimes(one.segment_start_s, one.segment_end_s, one.segment_has_picture, one.events)
                for one in batch
            ]
            for seen_video, its in zip(self.view(tokens, times), batch, strict=True):
                viewed.append(replace(seen_video, info=its.info, damaged_frames=its.damaged_frames))
        return viewed

    @torch.inference_mode()
    def view(self, tokens: Sequence[np.ndarray], times: Sequence[SegmentTimes]) -> list[ViewedVideo]:
        """Answer for every segment of encoded videos, whose visual tokens (N, L, D) are given.

        A calibrated model's map of scores is applied here, and nowhere else.

        Raises:
            InferenceError: the network gave a number that is not finite.
        """
        sequence, places = self.processor.rating_ids()
        viewed = []
        for batch in self._batches([*zip(tokens, times, strict=True)]):
            counts = [len(one) for one, _ in batch]
            answers = self._answers(
                [sequence] * sum(counts),
                [one for one, _ in batch],
                [places] * sum(counts),
                self.processor.rating_answer_ids,
            )
            parts = zip(*(np.split(one, np.cumsum(counts)[:-1]) for one in answers), strict=True)
            for (one, its), part in zip(batch, parts, strict=True):
                viewed.append(ViewedVideo(one, self.score_map.apply(part) if self.score_map else [*part], its))
        return viewed

    def rate(self, viewed: Sequence[ViewedVideo]) -> list[Rating]:
        """Score videos, whole and segment by segment."""
        return [self._rate(one) for one in viewed]

    @torch.inference_mode()
    def describe_viewed(self, viewed: Sequence[ViewedVideo]) -> list[Description]:
        """Describe videos in words, and name their distortions.

        Words are written from the model's own answers: its level, the distortions that it names and the facts of the
        scene are stated in the question. Decoding is greedy, and of the level words only the score's own may be
        written. Sentences about times follow from the answers alone.
        """
        described = []
        for batch in self._batches(viewed):
            named = [self._distortions(one) for one in batch]
            texts = self._write(batch, named)
            for one, text, found in zip(batch, texts, named, strict=True):
                when = sentences(found, one.times)
                described.append(Description(" ".join([text, *when]), found, one.times.events))
        return described

    def assess_viewed(self, path: str, viewed: ViewedVideo) -> Assessment:
        """Give all answers about a video that `look` or `encode` returned.

        Args:
            path: its name in the assessment.
            viewed: with what its container says.
        """
        assert viewed.info is not None
        (rating,), (words,) = self.rate([viewed]), self.describe_viewed([viewed])
        return Assessment(path, self.model_id, viewed.info, rating, words, viewed.damaged_frames)

    @torch.inference_mode()
    def compare_tokens(self, a: Sequence[VisualTokens], b: Sequence[VisualTokens]) -> list[Comparison]:
        """Compare videos pair by pair, in both orders, segment by segment: the worst with the worst, and so on.

        Frozen time counts as in a score: a frozen moment loses to a moving one, see `pooling.with_frozen_time`.

        Raises:
            ValueError: `a` and `b` differ in length.
            InferenceError: the network gave a number that is not finite.
        """
        comparisons = []
        for batch in self._batches([*zip(a, b, strict=True)]):
            sequence, pairs = (
                self.processor.compare_ids(),
                [matched(one.tokens_NLD, other.tokens_NLD) for one, other in batch],
            )
            shown = [np.stack(order, 1) for one, other in pairs for order in ((one, other), (other, one))]
            rows = sum(map(len, shown))
            flat = [one.reshape(-1, one.shape[-1]) for one in shown]
            found = self._answers([sequence] * rows, flat, [[len(sequence) - 1]] * rows, [self.processor.order_ids])[0]
            log_odds = np.log(np.maximum(found, LEAST_PROBABILITY))
            parts = np.split(log_odds[:, 0] - log_odds[:, 1], np.cumsum([len(one) for one in shown])[:-1])
            first_better = [1 / (1 + math.exp(-float(part.mean()))) for part in parts]
            for (one, other), ahead, behind in zip(batch, first_better[::2], first_better[1::2], strict=True):
                ahead = with_frozen_time(ahead, one.frozen_share, other.frozen_share)
                behind = with_frozen_time(behind, other.frozen_share, one.frozen_share)
                comparisons.append(
                    Comparison(0.5 + (ahead - behind) / 2, abs(ahead + behind - 1), (ahead + behind - 1) / 2)
                )
        return comparisons

    @overload
    def assess(self, paths: str | Path, limits: DecodeLimits | None = None) -> Assessment: ...
    @overload
    def assess(
        self, paths: Iterable[str | Path], limits: DecodeLimits | None = None
    ) -> list[Assessment | VideoError]: ...
    def assess(
        self, paths: str | Path | Iterable[str | Path], limits: DecodeLimits | None = None
    ) -> Assessment | list[Assessment | VideoError]:
        """Give all answers about a video file, or about several.

        Args:
            paths: one file or address, or several.
            limits: what each may cost.

        Returns:
            for one file its assessment; for several, in order, an assessment or an error for each.

        Raises:
            VideoError: the one file cannot be assessed.
        """
        if not isinstance(paths, str | Path):
            names = [str(path) for path in paths]
            looks = zip(names, self.look(names, limits), strict=True)
            return [
                _unless_failed(seen, lambda viewed, name=name: [self.assess_viewed(name, viewed[0])])
                for name, seen in looks
            ]
        answer = self.assess([paths], limits)[0]
        if isinstance(answer, VideoError):
            raise answer
        return answer

    def assess_frames(self, frames_THWC: np.ndarray, fps: float, name: str = "frames") -> Assessment:
        """Give all answers about frames in memory, uint8 RGB, shown at `fps` frames per second.

        They are encoded without loss as 4:2:0 video and decoded like a file.

        Raises:
            VideoError: they cannot be rated, as with a file.
            ValueError: the array has another type or shape.
        """
        with NamedTemporaryFile(suffix=".mkv") as file:
            file.write(lossless_video(frames_THWC, fps))
            file.flush()
            return replace(self.assess(file.name), path=name)

    def score(self, paths: Iterable[str | Path], limits: DecodeLimits | None = None) -> list[Rating | VideoError]:
        """Score video files; give a rating or an error for each, in order.

        Raises:
            TypeError: `paths` is one path; `assess` takes one.
        """
        return [_unless_failed(seen, self.rate) for seen in self.look(paths, limits)]

    def describe(
        self, paths: Iterable[str | Path], limits: DecodeLimits | None = None
    ) -> list[Description | VideoError]:
        """Describe video files; give a description or an error for each, in order."""
        return [_unless_failed(seen, self.describe_viewed) for seen in self.look(paths, limits)]

    def compare(self, a: str | Path, b: str | Path, limits: DecodeLimits | None = None) -> Comparison:
        """Compare two video files.

        Raises:
            VideoError: one of them cannot be decoded.
        """
        seen: list[VisualTokens] = []
        for one in self.look([a, b], limits):
            if isinstance(one, VideoError):
                raise one
            seen.append(one.tokens)
        return self.compare_tokens(seen[:1], seen[1:])[0]

    def look(
        self, paths: Iterable[str | Path], limits: DecodeLimits | None = None
    ) -> Generator[ViewedVideo | VideoError, None, None]:
        """Decode files in a sandbox and encode them, in order; the next is decoded while one is encoded.

        Args:
            paths: video files, or addresses (https, http, s3), which are fetched into temporary files.
            limits: what each may cost.

        Yields:
            what was seen of each file, or why nothing was.
        """
        if isinstance(paths, str | Path):
            raise TypeError(f"give a list of paths, not one path: [{str(paths)!r}]")
        with DecodeSandbox(limits or DecodeLimits()) as sandbox, ThreadPoolExecutor(1) as decoder:
            waiting: deque[Future[VideoSamples | VideoError]] = deque()
            try:
                for path in paths:
                    waiting.append(decoder.submit(self._decode, sandbox, str(path)))
                    if len(waiting) > 1:
                        yield self._seen(waiting.popleft().result())
                while waiting:
                    yield self._seen(waiting.popleft().result())
            finally:
                # A caller that stops early must not wait for the next video.
                decoder.shutdown(wait=False, cancel_futures=True)
                sandbox.interrupt()

    def _decode(self, sandbox: DecodeSandbox, path: str) -> VideoSamples | VideoError:
        try:
            most_bytes = min(MOST_BYTES, sandbox.limits.max_file_bytes)
            with fetched(path, most_bytes) if is_address(path) else Path(path).open("rb") as file:
                return sandbox.decode(file, path, self.sampling)
        except FileNotFoundError:
            return ObjectMissingError(path, "there is no such file")
        except OSError as error:
            return SourceReadError(path, error.strerror or str(error))
        except VideoError as error:
            return error

    def _seen(self, decoded: VideoSamples | VideoError) -> ViewedVideo | VideoError:
        return _unless_failed(decoded, self.encode)

    def _batches(self, items: Sequence[Item]) -> Iterable[Sequence[Item]]:
        """Give what is computed at once: on a CPU one item, so that its bits do not depend on the others."""
        if self.model.device.type == "cpu":
            return ([one] for one in items)
        return [items] if items else []

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

    def _rate(self, viewed: ViewedVideo) -> Rating:
        times, rated = viewed.times, viewed.times.has_picture
        score = viewed.score
        slope, least = self.model.config.std_calibration
        scores = viewed.segment_scores
        worst = int(np.flatnonzero(rated)[scores[rated].argmin()])
        return Rating(
            score=score,
            score_std=math.sqrt(slope**2 * viewed.level_variance + least**2),
            level=level_of(score),
            level_probabilities=tuple(viewed.pooled_levels.tolist()),
            segment_start_s=tuple(times.start_s.tolist()),
            segment_end_s=tuple(times.end_s.tolist()),
            segment_score=tuple(float(one) if has else None for one, has in zip(scores, rated, strict=True)),
            score_worst=float(scores[worst]),
            worst_start_s=float(times.start_s[worst]),
            worst_end_s=float(times.end_s[worst]),
            scene=_scene(viewed),
        )

    def _write(self, viewed: Sequence[ViewedVideo], named: Sequence[Sequence[Distortion]]) -> list[str]:
        levels = dict(zip(LEVELS, self.processor.level_ids, strict=True))
        sequences, visual, forbidden = [], [], []
        for one, found in zip(viewed, named, strict=True):
            level = level_of(one.score)
            strongest = sorted((each for each in found if each.named), key=lambda each: -each.severity)
            words = {each.name: severity_word(max(1.0, each.severity)) for each in strongest}
            shown = one.tokens.tokens_NLD[:DESCRIBED_SEGMENTS]
            sequences.append(self.processor.describe_ids(len(shown), level, words, _scene(one)))
            visual.append(shown.reshape(-1, shown.shape[-1]))
            forbidden.append([token for name, token in levels.items() if name != level])
        tokens = torch.from_numpy(np.concatenate(visual)).to(self.model.device)
        written = self.model.write(sequences, tokens, self.processor.eos_id, forbidden)
        return [self.processor.text(ids) for ids in written]

    def _distortions(self, viewed: ViewedVideo) -> tuple[Distortion, ...]:
        """Name distortions from their distributions over severities, by what any segment shows; likeliest first."""
        thresholds = self.model.config.naming_thresholds or {}
        times, found = viewed.times, []
        rated = np.flatnonzero(times.has_picture)
        for name, rows_NA in zip(DISTORTIONS, viewed.answers[1:], strict=False):
            rows = rows_NA[rated]
            severity = float((rows @ np.arange(rows.shape[1])).max())
            probabilities = np.clip(1 - rows[:, 0], 0, 1)
            shown = rated[probabilities >= thresholds.get(name, NAMING_THRESHOLD)]
            segments = joined([(float(times.start_s[index]), float(times.end_s[index])) for index in shown])
            # Nothing is to be seen of it while there is no picture, unless writing is all that the video shows.
            stretches = without(segments, times.blanks) or segments
            found.append(
                Distortion(name, min(severity, SEVERITY_MAX), float(probabilities.max()), len(shown) > 0, stretches)
            )
        return tuple(sorted(found, key=lambda distortion: -distortion.probability))


def matched(a_NLD: np.ndarray, b_NLD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match the segments of two videos by their places from the worst to the best; both have as many as the longer."""
    count = max(len(a_NLD), len(b_NLD))
    places_a, places_b = ([place * len(one) // count for place in range(count)] for one in (a_NLD, b_NLD))
    return a_NLD[places_a], b_NLD[places_b]


def _scene(viewed: ViewedVideo) -> dict[str, str]:
    """Give the most probable answer to each question about the scene, over all segments with a picture."""
    rated = viewed.times.has_picture
    weights = viewed.times.length_s[rated]
    facts = zip(SCENE_FACTS.items(), viewed.answers[1 + len(DISTORTIONS) :], strict=True)
    return {name: words[int((weights @ rows[rated]).argmax())] for (name, words), rows in facts}


def _unless_failed(seen: Item | VideoError, question: Callable[[Sequence[Item]], list[Answer]]) -> Answer | VideoError:
    if isinstance(seen, VideoError):
        return seen
    try:
        return question([seen])[0]
    except VideoError as error:
        return error


def lossless_video(frames_THWC: np.ndarray, fps: float) -> bytes:
    """Encode uint8 RGB frames as a Matroska file of FFV1 in 4:2:0.

    Raises:
        ValueError: they are no such frames, or `fps` is no rate.
    """
    if frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3 or frames_THWC.dtype != np.uint8 or not len(frames_THWC):
        raise ValueError(f"frames are {frames_THWC.dtype} {frames_THWC.shape}, expected uint8 (T, H, W, 3)")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"{fps!r} frames a second")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
