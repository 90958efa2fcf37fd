"""Scoring and comparing many videos on Ray: decode workers feed model workers, no video takes down the rest.

In: listed videos, or pairs of kept tokens. Out: a result for each, as they finish. Decoded videos that wait
for the model are bounded. Workers that die or hang are replaced and what they held is tried again, the videos
of a failed batch one by one. What becomes of an exception:

- a VideoError is that video's result; a video whose workers died `attempts` times gets a WorkerLostError;
- the model raising for one video alone gives an InferenceError, unless it has answered for none so far;
- anything else (storage settings, checkpoint, disk, a fault of decode workers) ends the run, after what has
  finished was handed out.

Ray must be initialised by the caller, and is imported where work begins. Knows nothing of Dagster or tables.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cpllm_dagster.workers import DecodeReport, DecodeWorker, ModelWorker, VideoAnswer, VideoItem
from cpllm_model import checkpoint
from cpllm_model.errors import CPLLMError, InferenceError, VideoError, WorkerLostError

if TYPE_CHECKING:
    from cpllm_dagster.actor_pool import ActorPool, Outcome
    from cpllm_dagster.objects import VideoStore
    from cpllm_model.predictor import Comparison, Description, Rating, VisualTokens
    from cpllm_model.samples import DecodeLimits

__all__ = ["BatchSettings", "PairComparer", "VideoItem", "VideoResult", "compare_pairs", "score_videos"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchSettings:
    """How work is spread; the defaults suit two cores without a GPU.

    Args:
        decode_workers, model_workers: processes of each kind at most; no more are started than have work.
        decode_cpus, model_cpus, model_gpus: what one reserves of the cluster. Keep the sum below what it has:
            a worker that finds no room never starts. A model worker runs max(1, int(model_cpus)) threads.
        batch_size: videos a call of the model.
        pair_batch_size: pairs a call of the model.
        samples_in_memory: videos at most that are being decoded, or are decoded and not answered.
        decode_deadline_s: for fetching and decoding one video; the sandbox's own deadline lies within it.
        model_deadline_s: for one video or pair; a batch has as many times that.
        start_deadline_s: for the first worker of a kind to be ready, a cluster's scaling up included.
        attempts: how often a video is tried alone whose workers die or hang.
    """

    decode_workers: int = 2
    model_workers: int = 1
    decode_cpus: float = 0.5
    model_cpus: float = 0.5
    model_gpus: float = 0.0
    batch_size: int = 4
    pair_batch_size: int = 32
    samples_in_memory: int = 16
    decode_deadline_s: float = 180.0
    model_deadline_s: float = 60.0
    start_deadline_s: float = 300.0
    attempts: int = 3


@dataclass(frozen=True, eq=False)
class VideoResult:
    """A video's answers, or the error in their place, after so many attempts."""

    item: VideoItem
    error: VideoError | None
    rating: Rating | None
    description: Description | None
    tokens: VisualTokens | None
    sampling_plan: str | None
    decode_s: float | None
    inference_s: float | None
    attempts: int


def score_videos(
    items: Sequence[VideoItem],
    *,
    store: VideoStore,
    model: str,
    settings: BatchSettings,
    limits: DecodeLimits,
) -> Generator[VideoResult]:
    """Score videos; closing the iterator ends every process that was started.

    Args:
        items: the videos, each once.
        store: where they lie.
        model: a checkpoint's name or folder, as the machines of the cluster see it.
        settings: how the work is spread.
        limits: what one video may cost.

    Yields:
        one result a video, in the order in which they finish.

    Raises:
        CheckpointError: the model cannot be loaded.
        ConfigurationError: the storage refuses, or workers cannot be started.
        Exception: see the module's text.
    """
    if not items:
        return
    sampling = checkpoint.sampling_settings(model)
    from cpllm_dagster.actor_pool import wait_for

    models = _model_workers(model, settings, -(-len(items) // settings.batch_size))
    with models, _decode_workers((store, sampling, limits), settings, len(items)) as decoders:
        scoring = _Scoring(items, decoders, models, settings)
        while scoring.unfinished:
            scoring.feed()
            wait_for(models, decoders)
            for result in _taken((models, scoring.scored), (decoders, scoring.decoded)):
                scoring.unfinished -= 1
                yield result


def compare_pairs(
    pairs: Sequence[tuple[str, str]],
    tokens: Mapping[str, VisualTokens],
    *,
    model: str,
    settings: BatchSettings,
) -> Generator[tuple[str, str, Comparison]]:
    """Compare pairs in one go, as a PairComparer does; without pairs nothing is started."""
    if pairs:
        with PairComparer(model, settings) as comparer:
            yield from comparer.compare(pairs, tokens)


class PairComparer:
    """Model workers that stay for several rounds of comparisons; a context manager.

    Args:
        model: a checkpoint's name or folder, as the machines of the cluster see it.
        settings: how the work is spread.
    """

    def __init__(self, model: str, settings: BatchSettings) -> None:
        checkpoint.resolve(model)
        self._settings = settings
        self._pool = _model_workers(model, settings, settings.model_workers)

    def __enter__(self) -> PairComparer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.__exit__()

    def compare(
        self, pairs: Sequence[tuple[str, str]], tokens: Mapping[str, VisualTokens]
    ) -> Generator[tuple[str, str, Comparison]]:
        """Compare pairs of videos; to be read to its end.

        Args:
            pairs: keys of `tokens`, two by two.
            tokens: as `VideoResult.tokens`.

        Yields:
            the pair's keys and its comparison, in the order in which they finish. A pair for which the model
            gives no answer, or whose workers died `attempts` times, is logged and left out.

        Raises:
            CheckpointError, ConfigurationError, Exception: as `score_videos`.
        """
        from cpllm_dagster.actor_pool import wait_for

        def call(batch: list[_Pair], actor: Any) -> Any:
            return actor.compare.remote([tokens[pair.a] for pair in batch], [tokens[pair.b] for pair in batch])

        if self._pool.busy:
            raise RuntimeError("the comparisons of the round before were not read to their end")
        stage = _ModelStage(self._pool, call, self._settings.pair_batch_size, self._settings)
        stage.waiting.extend(_Pair(f"{a}, {b}", a=a, b=b) for a, b in pairs)
        while stage.load:
            stage.feed()
            wait_for(self._pool)
            for pair, answer in _taken((self._pool, stage.take)):
                if isinstance(answer, VideoError):
                    log.error("a pair is left out: %s", answer)
                else:
                    yield pair.a, pair.b, answer


@dataclass(eq=False, slots=True)
class _Work:
    """A video or a pair on its way: how many workers were lost with it, and how many with it alone."""

    name: str
    losses: int = 0
    losses_alone: int = 0


@dataclass(eq=False, kw_only=True, slots=True)
class _Video(_Work):
    item: VideoItem
    report: DecodeReport | None = None
    samples: Any = None  # reference to VideoSamples in Ray's object store


@dataclass(eq=False, kw_only=True, slots=True)
class _Pair(_Work):
    a: str
    b: str


class _ModelStage:
    """Feeds work to model workers in batches, and splits the batches that fail.

    Args:
        pool: the model workers.
        call: calls an actor for a batch.
        batch_size: work a call.
        settings: deadline and attempts.
        retry: takes work whose worker was lost; by default it is put to the model again, alone.
    """

    def __init__(
        self,
        pool: ActorPool,
        call: Callable[[list[Any], Any], Any],
        batch_size: int,
        settings: BatchSettings,
        retry: Callable[[Any], None] | None = None,
    ) -> None:
        self.waiting: deque[Any] = deque()
        self.alone: deque[Any] = deque()
        self._pool, self._call, self._batch_size, self._settings = pool, call, batch_size, settings
        self._retry = retry or self.alone.append
        self._in_flight = 0
        self._answers = 0
        self._refusals = 0

    @property
    def load(self) -> int:
        """Work that waits or is in flight."""
        return len(self.waiting) + len(self.alone) + self._in_flight

    def feed(self) -> None:
        """Give every idle worker a batch; work that has to be alone comes when nothing else waits."""
        while self._pool.idle and (self.waiting or self.alone):
            size = min(self._batch_size, len(self.waiting))
            batch = [self.waiting.popleft() for _ in range(size)] or [self.alone.popleft()]
            self._in_flight += len(batch)
            deadline_s = self._settings.model_deadline_s * len(batch)
            self._pool.submit(batch, deadline_s, partial(self._call, batch))

    def take(self, outcome: Outcome) -> list[tuple[Any, Any]]:
        """Give the work that an outcome finishes, with its answer or VideoError."""
        from cpllm_dagster.actor_pool import Answered, Broken, Failed

        if isinstance(outcome, Broken):
            raise outcome.error
        batch = outcome.job
        self._in_flight -= len(batch)
        if isinstance(outcome, Answered):
            self._answers += len(batch)
            return list(zip(batch, outcome.value, strict=True))
        if isinstance(outcome, Failed):
            return self._failed(batch, outcome.error)
        lost = ((work, _loss(work, outcome.cause, self._settings, self._retry, len(batch) == 1)) for work in batch)
        return [(work, error) for work, error in lost if error]

    def _failed(self, batch: list[Any], error: Exception) -> list[tuple[Any, Any]]:
        if isinstance(error, CPLLMError) and not isinstance(error, VideoError):
            raise error
        if len(batch) > 1:
            self.alone.extend(batch)
            return []
        (work,) = batch
        self._refusals += 1
        if isinstance(error, VideoError):
            return [(work, type(error)(work.name, error.cause))]
        if not self._answers and self._refusals >= self._settings.attempts:
            raise error  # it is not the videos
        return [(work, InferenceError(work.name, f"{type(error).__name__}: {error}"))]


class _Scoring:
    """The videos of one `score_videos`: which wait, which are where, and what has become of them."""

    def __init__(
        self, items: Sequence[VideoItem], decoders: ActorPool, models: ActorPool, settings: BatchSettings
    ) -> None:
        self.unfinished = len(items)
        self._queue = deque(_Video(item.uri, item=item) for item in items)
        self._decoders = decoders
        self._settings = settings
        self._model = _ModelStage(models, _call_score, settings.batch_size, settings, self._queue.append)

    def feed(self) -> None:
        """Give every idle worker work, as far as the samples in memory allow."""
        self._model.feed()
        room = self._settings.samples_in_memory - self._model.load - self._decoders.busy
        while self._decoders.idle and self._queue and room > 0:
            video = self._queue.popleft()
            self._decoders.submit(video, self._settings.decode_deadline_s, partial(_call_decode, video))
            room -= 1

    def decoded(self, outcome: Outcome) -> list[VideoResult]:
        """Give the video that an outcome of a decode worker finishes, if it does."""
        from cpllm_dagster.actor_pool import Answered, Lost

        if isinstance(outcome, Lost):
            error = _loss(outcome.job, outcome.cause, self._settings, self._queue.append)
            return [_result(outcome.job, error)] if error else []
        if not isinstance(outcome, Answered):
            raise outcome.error
        video: _Video = outcome.job
        video.report = outcome.value
        if outcome.value.error:
            return [_result(video, outcome.value.error)]
        (self._model.alone if video.losses else self._model.waiting).append(video)
        return []

    def scored(self, outcome: Outcome) -> list[VideoResult]:
        """Give the videos that an outcome of a model worker finishes."""
        return [_result(video, answer) for video, answer in self._model.take(outcome)]


def _taken(*sources: tuple[ActorPool, Callable[[Outcome], list[Any]]]) -> Iterator[Any]:
    """Yield what the pools' outcomes finish; an error is raised after all that."""
    errors: list[Exception] = []
    for pool, take in sources:
        for outcome in pool.collect():
            try:
                finished = take(outcome)
            except Exception as error:
                errors.append(error)
            else:
                yield from finished
    if errors:
        raise errors[0]


def _loss(
    work: _Work, cause: str, settings: BatchSettings, retry: Callable[[Any], None], alone: bool = True
) -> VideoError | None:
    """Note the loss of a worker; try its work again, or give the error that ends it.

    A worker lost with a batch tells nothing of any one of it, so only those lost with one work alone count.
    """
    work.losses += 1
    work.losses_alone += alone
    if work.losses_alone < settings.attempts:
        retry(work)
        return None
    return WorkerLostError(work.name, f"{work.losses_alone} workers were lost over it; the last: {cause}")


def _result(video: _Video, answer: VideoAnswer | VideoError) -> VideoResult:
    failed = isinstance(answer, VideoError)
    return VideoResult(
        item=video.item,
        error=answer if failed else None,
        rating=None if failed else answer.rating,
        description=None if failed else answer.description,
        tokens=None if failed else answer.tokens,
        sampling_plan=video.report.sampling_plan if video.report else None,
        decode_s=video.report.decode_s if video.report else None,
        inference_s=None if failed else answer.inference_s,
        attempts=video.losses + (not isinstance(answer, WorkerLostError)),
    )


def _call_decode(video: _Video, actor: Any) -> Any:
    report, video.samples = actor.decode.options(num_returns=2).remote(video.item)
    return report


def _call_score(batch: list[_Video], actor: Any) -> Any:
    return actor.score.remote(*(video.samples for video in batch))


def _decode_workers(arguments: tuple[Any, ...], settings: BatchSettings, work: int) -> ActorPool:
    from cpllm_dagster.actor_pool import ActorPool

    return ActorPool(
        DecodeWorker,
        arguments,
        size=min(settings.decode_workers, work),
        start_deadline_s=settings.start_deadline_s,
        resources={"num_cpus": settings.decode_cpus},
    )


def _model_workers(model: str, settings: BatchSettings, work: int) -> ActorPool:
    from cpllm_dagster.actor_pool import ActorPool

    return ActorPool(
        ModelWorker,
        (model, max(1, int(settings.model_cpus)), "cuda" if settings.model_gpus else "cpu"),
        size=min(settings.model_workers, work),
        start_deadline_s=settings.start_deadline_s,
        resources={"num_cpus": settings.model_cpus, "num_gpus": settings.model_gpus},
    )
