"""Work on its way through model workers: batched, split where a batch fails, given up after its last attempt.

In: videos or pairs, as Work. Out: each with its answer or its VideoError. Knows nothing of decoding, nor of what is
asked of the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cpllm_model.errors import CPLLMError, InferenceError, VideoError, WorkerLostError

if TYPE_CHECKING:
    from cpllm_dagster.batch.actor_pool import ActorPool, Outcome

#: Videos that a model refuses with an exception, having answered for none, after which it is not the videos.
REFUSALS_WITHOUT_AN_ANSWER = 5


@dataclass(eq=False, slots=True)
class Work:
    """A video or a pair to be answered: its attempt number, and how many attempts failed with it alone."""

    name: str
    attempt: int = 1
    strikes: int = 0

    def fails(self, most_strikes: int, alone: bool) -> bool:
        """Count a failed attempt; tell whether it was the last.

        A batch that fails tells nothing of any one of it, so only what fails alone gets a strike.
        """
        self.strikes += alone
        self.attempt += self.strikes < most_strikes
        return self.strikes >= most_strikes


class ModelStage:
    """Feeds work to model workers in batches, and splits the batches that fail.

    Args:
        pool: the model workers.
        call: calls an actor for a batch.
        batch_size: work a call.
        deadline_s: of one work; a batch has as many times that.
        attempts: how often work is tried alone.
        retry: takes work whose worker was lost; by default it is put to the model again, alone.
    """

    def __init__(
        self,
        pool: ActorPool,
        call: Callable[[list[Any], Any], Any],
        *,
        batch_size: int,
        deadline_s: float,
        attempts: int,
        retry: Callable[[Any], None] | None = None,
    ) -> None:
        self.waiting: deque[Any] = deque()
        self.alone: deque[Any] = deque()
        self._pool, self._call = pool, call
        self._batch_size, self._deadline_s, self._attempts = batch_size, deadline_s, attempts
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
            self._pool.submit(batch, self._deadline_s * len(batch), partial(self._call, batch))

    def take(self, outcome: Outcome) -> list[tuple[Any, Any]]:
        """Give the work that an outcome finishes, with its answer or VideoError."""
        from cpllm_dagster.batch.actor_pool import Answered, Broken, Failed

        if isinstance(outcome, Broken):
            raise outcome.error
        batch = outcome.job
        self._in_flight -= len(batch)
        if isinstance(outcome, Answered):
            self._answers += len(batch)
            return list(zip(batch, outcome.value, strict=True))
        if isinstance(outcome, Failed):
            return self._failed(batch, outcome.error)
        return self._again(batch, WorkerLostError, outcome.cause, self._retry)

    def _failed(self, batch: list[Any], error: Exception) -> list[tuple[Any, Any]]:
        """Try a batch one by one, or a work alone again; but not what the model itself says of a work."""
        if isinstance(error, CPLLMError) and not isinstance(error, VideoError):
            raise error
        if isinstance(error, VideoError) and len(batch) == 1:
            return [(work, type(error)(work.name, error.cause)) for work in batch]
        cause = f"{type(error).__name__}: {error}"
        refused = self._again(batch, InferenceError, cause, self.alone.append)
        self._refusals += len(refused)
        if not self._answers and self._refusals >= REFUSALS_WITHOUT_AN_ANSWER:
            raise error
        return refused

    def _again(
        self, batch: list[Any], error: type[VideoError], cause: str, retry: Callable[[Any], None]
    ) -> list[tuple[Any, Any]]:
        """Try work again; what has failed its last attempt is given with its error."""
        ended = []
        for work in batch:
            if work.fails(self._attempts, alone=len(batch) == 1):
                ended.append((work, error(work.name, cause)))
            else:
                retry(work)
        return ended
