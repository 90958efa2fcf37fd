"""What runs inside the actors: a worker that decodes and one that holds the model.

In: listed objects; decoded samples; visual tokens. Out: samples with a report; answers. A decode worker
imports no torch; a video's bytes meet a decoder only in the sandbox it drives. Knows nothing of retries.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cpllm_dagster.batch.placement import Precision
from cpllm_dagster.catalog.objects import VideoStore
from cpllm_model.decoding.samples import DecodeLimits, VideoSamples
from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.errors import ConfigurationError, VideoError

if TYPE_CHECKING:
    from cpllm_dagster.models.store import RemoteModel
    from cpllm_model.predictor import Comparison, Description, Rating, VisualTokens


@dataclass(frozen=True, slots=True)
class VideoItem:
    """A video to score, as it was listed."""

    video_id: str
    uri: str
    etag: str
    size_bytes: int


@dataclass(frozen=True)
class DecodeReport:
    """How decoding went; `error` says why there are no samples."""

    error: VideoError | None
    sampling_plan: str | None
    damaged_frames: int | None
    decode_s: float


@dataclass(frozen=True)
class VideoAnswer:
    """What the model says of one video; `inference_s` is its share of the batch's time."""

    rating: Rating
    description: Description
    tokens: VisualTokens
    inference_s: float


class DecodeWorker:
    """Fetches videos and decodes them in a sandbox."""

    def __init__(self, store: VideoStore, sampling: SamplingSettings, limits: DecodeLimits) -> None:
        self._store, self._sampling, self._limits = store, sampling, limits

    def prepare(self) -> None:
        """Start the sandbox."""
        from cpllm_model.decoding.sandbox import DecodeSandbox

        self._stack = ExitStack()
        self._sandbox = self._stack.enter_context(DecodeSandbox(self._limits))

    def decode(self, item: VideoItem) -> tuple[DecodeReport, VideoSamples | None]:
        """Fetch and decode one video; what is wrong with the video is in the report, all else is raised."""
        started = time.monotonic()
        samples = error = None
        try:
            with self._store.open(item.uri, item.etag, item.size_bytes, self._limits) as file:
                samples = self._sandbox.decode(file, item.uri, self._sampling)
        except VideoError as found:
            error = type(found)(item.uri, found.cause)
        plan, damaged = (samples.plan, samples.damaged_frames) if samples else (None, None)
        return DecodeReport(error, plan, damaged, time.monotonic() - started), samples

    def decode_each(self, items: Sequence[VideoItem]) -> tuple[VideoSamples | list[DecodeReport] | None, ...]:
        """Decode videos one by one; give the samples of each, and the reports of all at the end."""
        reports, samples = zip(*map(self.decode, items), strict=True)
        return *samples, list(reports)


class ModelWorker:
    """Holds the model.

    Args:
        model: a checkpoint's name or folder, or one of a bucket.
        threads: of torch; stated, so that an answer's bits do not depend on the machine's load.
        device: torch device.
        precision: of weights and activations.
    """

    def __init__(
        self, model: str | RemoteModel, threads: int, device: str, precision: Precision = Precision.float32
    ) -> None:
        self._model, self._threads, self._device = model, threads, device
        self._precision = precision

    def prepare(self) -> None:
        """Import torch and load the model.

        Raises:
            CheckpointError: it cannot be loaded.
            ConfigurationError: Ray gave it a GPU that torch cannot use.
        """
        import torch

        from cpllm_dagster.models.store import local_model
        from cpllm_model.predictor import QualityPredictor

        if self._device == "cuda" and not torch.cuda.is_available():
            raise ConfigurationError(
                f"a model worker has a GPU by Ray, and torch {torch.__version__} can use none on {platform.node()!r}: "
                "install torch for this GPU there, or set CPLLM_MODEL_GPUS=0"
            )
        torch.set_num_threads(self._threads)
        self._predictor = QualityPredictor.from_pretrained(local_model(self._model), self._device, self._precision)

    def score(self, *samples: VideoSamples) -> list[VideoAnswer]:
        """Rate and describe videos, in order."""
        started = time.monotonic()
        viewed = self._predictor.encode(samples)
        tokens = [one.tokens for one in viewed]
        found = [*zip(self._predictor.rate(viewed), self._predictor.describe_viewed(viewed), tokens, strict=True)]
        share_s = (time.monotonic() - started) / len(samples)
        return [VideoAnswer(*answer, inference_s=share_s) for answer in found]

    def compare(self, a: Sequence[VisualTokens], b: Sequence[VisualTokens]) -> list[Comparison]:
        """Compare videos pair by pair, in order."""
        return self._predictor.compare_tokens(a, b)
