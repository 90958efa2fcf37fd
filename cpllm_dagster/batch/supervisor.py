"""Scoring and comparing many videos on Ray: decode workers feed model workers, no video takes down the rest.

In: listed videos, or pairs of kept tokens. Out: a result for each, as they finish. Decoded videos that wait
for the model are bounded. Workers that die or hang are replaced and what they held is tried again, the videos
of a failed batch one by one. What becomes of an exception:

- a VideoError is that video's result; a video whose workers died `attempts` times gets a WorkerLostError;
- the model raising `attempts` times for one video alone gives an InferenceError; but a model that answers none,
  and raises for several, ends the run;
- an error of settings (storage, credentials, checkpoint), or a decode worker raising `attempts` times over one
  video (a full disk, a fault of ours), ends the run, after what has finished was handed out.

Ray must be initialised by the caller, and is imported where work begins. Knows nothing of Dagster or tables.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cpllm_dagster.batch.model_stage import ModelStage, Work
from cpllm_dagster.batch.placement import MOST_VIDEOS_A_CALL, Placement, Precision, Workers, cluster_nodes, place
from cpllm_dagster.batch.workers import DecodeReport, DecodeWorker, ModelWorker, VideoAnswer, VideoItem
from cpllm_model.errors import CPLLMError, VideoError, WorkerLostError
from cpllm_model.network import checkpoint

if TYPE_CHECKING:
    from cpllm_dagster.batch.actor_pool import ActorPool, Outcome
    from cpllm_dagster.catalog.objects import VideoStore
    from cpllm_dagster.models.store import RemoteModel
    from cpllm_model.decoding.samples import DecodeLimits
    from cpllm_model.predictor import Comparison, Description, Rating, VisualTokens

__all__ = ["BatchSettings", "PairComparer", "VideoItem", "VideoResult", "compare_pairs", "score_videos"]

log = logging.getLogger(__name__)

#: Work that takes about as long as the start of a model worker; with less for each, fewer are started.
VIDEOS_A_MODEL_WORKER = 16
PAIRS_A_MODEL_WORKER = 128
#: Calls of decode workers a second that one driver makes easily: where workers would ask for more, a call is of several
#: videos. See benchmarks/driver_limit.py.
CALLS_A_SECOND = 100


@dataclass(frozen=True)
class BatchSettings(Workers):
    """How work is spread; numbers of workers are fitted to the cluster, and little work starts fewer.

    Args:
        decode_cpus, model_cpus: what one worker reserves of the cluster. A model worker runs max(1, int(model_cpus))
            threads.
        pair_batch_size: pairs a call of the model.
        samples_in_memory: videos at most that are being decoded, or are decoded and not answered; by default what
            keeps every worker busy.
        decode_deadline_s: for fetching and decoding one video; the sandbox's own deadline lies within it.
        model_deadline_s: for one video or pair; a batch has as many times that.
        start_deadline_s: for the first worker of a kind to be ready, a cluster's scaling up included.
        attempts: how often a video is tried alone whose workers die, hang or raise.
    """

    decode_cpus: float = 0.4
    model_cpus: float = 0.4
    pair_batch_size: int = 32
    samples_in_memory: int | None = None
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
    damaged_frames: int | None
    decode_s: float | None
    inference_s: float | None
    attempts: int


def score_videos(
    items: Sequence[VideoItem],
    *,
    store: VideoStore,
    model: str | RemoteModel,
    settings: BatchSettings,
    limits: DecodeLimits,
) -> Generator[VideoResult]:
    """Score videos; closing the iterator ends every process that was started.

    Args:
        items: the videos, each once.
        store: where they lie.
        model: a checkpoint's name or folder, as the machines of the cluster see it, or one of a bucket.
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
    from cpllm_dagster.batch.actor_pool import wait_for
    from cpllm_dagster.models.store import local_model

    sampling = checkpoint.sampling_settings(local_model(model))

    placement = place(settings, cluster_nodes())
    models = _model_workers(model, placement, len(items) / VIDEOS_A_MODEL_WORKER)
    with models, _decode_workers((store, sampling, limits), placement, len(items)) as decoders:
        scoring = _Scoring(items, decoders, models, placement.settings)
        to_come = [
            (models, _at_most(placement.models_to_come, len(items) / VIDEOS_A_MODEL_WORKER, models)),
            (decoders, _at_most(placement.decoders_to_come, len(items), decoders)),
        ]
        while scoring.unfinished:
            if to_come and models.ready and decoders.ready:
                for pool, count in to_come:
                    pool.grow(count)
                to_come = []
            scoring.feed()
            wait_for(models, decoders)
            for result in _taken((models, scoring.scored), (decoders, scoring.decoded)):
                scoring.unfinished -= 1
                yield result


def compare_pairs(
    pairs: Sequence[tuple[str, str]],
    tokens: Mapping[str, VisualTokens],
    *,
    model: str | RemoteModel,
    settings: BatchSettings,
) -> Generator[tuple[str, str, Comparison]]:
    """Compare pairs in one go, as a PairComparer does; without pairs nothing is started."""
    if pairs:
        with PairComparer(model, settings) as comparer:
            yield from comparer.compare(pairs, tokens)


class PairComparer:
    """Model workers that stay for several rounds of comparisons; a context manager.

    Args:
        model: a checkpoint's name or folder, as the machines of the cluster see it, or one of a bucket.
        settings: how the work is spread.
    """

    def __init__(self, model: str | RemoteModel, settings: BatchSettings) -> None:
        from cpllm_dagster.models.store import local_model

        checkpoint.resolve(local_model(model))
        self._model, self._settings = model, settings
        self._pool: ActorPool | None = None

    def __enter__(self) -> PairComparer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.__exit__()

    def compare(
        self, pairs: Sequence[tuple[str, str]], tokens: Mapping[str, VisualTokens]
    ) -> Generator[tuple[str, str, Comparison]]:
        """Compare pairs of videos; to be read to its end. The first round decides how many workers start.

        Args:
            pairs: keys of `tokens`, two by two.
            tokens: as `VideoResult.tokens`.

        Yields:
            the pair's keys and its comparison, in the order in which they finish. A pair for which the model
            gives no answer in `attempts` tries is logged and left out.

        Raises:
            CheckpointError, ConfigurationError, Exception: as `score_videos`.
        """
        from cpllm_dagster.batch.actor_pool import wait_for

        def call(batch: list[_Pair], actor: Any) -> Any:
            return actor.compare.remote([tokens[pair.a] for pair in batch], [tokens[pair.b] for pair in batch])

        if not pairs:
            return
        if self._pool is None:
            placement = place(self._settings, cluster_nodes(), decoding=False)
            most = len(pairs) / PAIRS_A_MODEL_WORKER
            self._pool = _model_workers(self._model, placement, most)
            self._pool.grow(_at_most(placement.models_to_come, most, self._pool))
        if self._pool.busy:
            raise RuntimeError("the comparisons of the round before were not read to their end")
        stage = ModelStage(
            self._pool,
            call,
            batch_size=self._settings.pair_batch_size,
            deadline_s=self._settings.model_deadline_s,
            attempts=self._settings.attempts,
        )
        stage.waiting.extend(_Pair(f"{a}, {b}", a=a, b=b) for a, b in pairs)
        while stage.load:
            stage.feed()
            wait_for(self._pool)
            for pair, answer in _taken((self._pool, stage.take)):
                if isinstance(answer, VideoError):
                    log.error("a pair is left out: %s", answer)
                else:
                    yield pair.a, pair.b, answer


@dataclass(eq=False, kw_only=True, slots=True)
class _Video(Work):
    item: VideoItem
    report: DecodeReport | None = None
    samples: Any = None  # reference to VideoSamples in Ray's object store


@dataclass(eq=False, kw_only=True, slots=True)
class _Pair(Work):
    a: str
    b: str


class _Scoring:
    """The videos of one `score_videos`: which wait, which are where, and what has become of them."""

    def __init__(
        self, items: Sequence[VideoItem], decoders: ActorPool, models: ActorPool, settings: BatchSettings
    ) -> None:
        self.unfinished = len(items)
        self._new = deque(items)
        self._again: deque[_Video] = deque()
        self._decoders = decoders
        self._decoding = self._reports = 0
        self._decode_s = 0.0
        self._settings = settings
        self._model = ModelStage(
            models,
            _call_score,
            batch_size=settings.batch_size or 1,
            deadline_s=settings.model_deadline_s,
            attempts=settings.attempts,
            retry=self._decode_again,
        )

    def feed(self) -> None:
        """Give every idle worker work, as far as the samples in memory allow."""
        self._model.feed()
        room = (self._settings.samples_in_memory or 1) - self._model.load - self._decoding
        while room > 0 and self._decoders.idle and (videos := self._next(min(room, self._videos_a_call()))):
            deadline_s = self._settings.decode_deadline_s * len(videos)
            self._decoders.submit(videos, deadline_s, partial(_call_decode, videos))
            self._decoding += len(videos)
            room -= len(videos)

    def _next(self, most: int) -> list[_Video]:
        """Give what to decode next: new videos, at last one that is to be decoded again, alone."""
        items = [self._new.popleft() for _ in range(min(most, len(self._new)))]
        videos = [_Video(item.uri, item=item) for item in items]
        return videos or ([self._again.popleft()] if self._again else [])

    def _videos_a_call(self) -> int:
        """Give how many videos a decode worker gets at once: one, unless that would be more calls than we can make."""
        if not self._reports:
            return 1
        workers = len(self._decoders.workers)
        seconds_a_call = workers / CALLS_A_SECOND
        wanted = seconds_a_call * self._reports / max(self._decode_s, 1e-6)
        fair = len(self._new) / (2 * workers)
        roomy = (self._settings.samples_in_memory or 1) / workers
        return max(1, int(min(wanted, fair, roomy, MOST_VIDEOS_A_CALL)))

    def decoded(self, outcome: Outcome) -> list[VideoResult]:
        """Give the videos that an outcome of a decode worker finishes."""
        from cpllm_dagster.batch.actor_pool import Answered, Broken, Failed

        if isinstance(outcome, Broken):
            raise outcome.error
        videos: list[_Video] = outcome.job
        self._decoding -= len(videos)
        if isinstance(outcome, Answered):
            reported = zip(videos, outcome.value, strict=True)
            return [result for video, report in reported for result in self._reported(video, report)]
        if isinstance(outcome, Failed) and isinstance(outcome.error, CPLLMError):
            raise outcome.error
        given_up = []
        for video in videos:
            if not video.fails(self._settings.attempts, alone=len(videos) == 1):
                self._decode_again(video)
            elif isinstance(outcome, Failed):
                raise outcome.error
            else:
                given_up.append(_result(video, WorkerLostError(video.name, outcome.cause)))
        return given_up

    def _reported(self, video: _Video, report: DecodeReport) -> list[VideoResult]:
        """Take the report of a video, and give the video if that finishes it."""
        video.report = report
        self._reports += 1
        self._decode_s += report.decode_s
        if report.error:
            return [_result(video, report.error)]
        (self._model.alone if video.attempt > 1 else self._model.waiting).append(video)
        return []

    def scored(self, outcome: Outcome) -> list[VideoResult]:
        """Give the videos that an outcome of a model worker finishes."""
        return [_result(video, answer) for video, answer in self._model.take(outcome)]

    def _decode_again(self, video: _Video) -> None:
        video.samples = None
        self._again.append(video)


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


def _result(video: _Video, answer: VideoAnswer | VideoError) -> VideoResult:
    failed = isinstance(answer, VideoError)
    return VideoResult(
        item=video.item,
        error=answer if failed else None,
        rating=None if failed else answer.rating,
        description=None if failed else answer.description,
        tokens=None if failed else answer.tokens,
        sampling_plan=video.report.sampling_plan if video.report else None,
        damaged_frames=video.report.damaged_frames if video.report else None,
        decode_s=video.report.decode_s if video.report else None,
        inference_s=None if failed else answer.inference_s,
        attempts=video.attempt,
    )


def _call_decode(videos: list[_Video], actor: Any) -> Any:
    call = actor.decode_each.options(num_returns=len(videos) + 1)
    *samples, reports = call.remote([video.item for video in videos])
    for video, reference in zip(videos, samples, strict=True):
        video.samples = reference
    return reports


def _call_score(batch: list[_Video], actor: Any) -> Any:
    return actor.score.remote(*(video.samples for video in batch))


def _at_most(to_come: int, most_workers: float, pool: ActorPool) -> int:
    """Give how many further workers the work is worth."""
    return max(0, min(to_come, math.ceil(most_workers) - len(pool.workers)))


def _decode_workers(arguments: tuple[Any, ...], placement: Placement, work: int) -> ActorPool:
    from cpllm_dagster.batch.actor_pool import ActorPool

    return ActorPool(
        DecodeWorker,
        arguments,
        nodes=placement.decode_nodes[:work],
        start_deadline_s=placement.settings.start_deadline_s,
        resources={"num_cpus": placement.settings.decode_cpus},
    )


def _model_workers(model: str | RemoteModel, placement: Placement, most_workers: float) -> ActorPool:
    from cpllm_dagster.batch.actor_pool import ActorPool

    settings = placement.settings
    return ActorPool(
        ModelWorker,
        (
            model,
            max(1, int(settings.model_cpus)),
            "cuda" if settings.model_gpus else "cpu",
            settings.precision or Precision.float32,
        ),
        nodes=placement.model_nodes[: max(1, math.ceil(most_workers))],
        start_deadline_s=settings.start_deadline_s,
        resources={"num_cpus": settings.model_cpus, "num_gpus": settings.model_gpus or 0.0},
    )
