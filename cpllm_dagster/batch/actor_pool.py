"""Ray actors of one kind under supervision: one call at a time each, a deadline a call, the dead replaced.

In: a class, and calls of its methods with whatever the caller wants to know them by (a job). Out: an outcome
a call. Ray itself restarts and repeats nothing. An actor that raises what this project does not raise on purpose,
twice in a row, or that runs out of memory, is replaced, too: its GPU may have fallen over, say, and it would be the
first to take, and to fail, whatever comes next. The class has a method `prepare` for what is slow or may fail in its
start; an error of this project's from there is final, all else is tried again. Knows nothing of videos.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.client import ray as ray_client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cpllm_model.errors import ConfigurationError, CPLLMError

log = logging.getLogger(__name__)

#: Deaths in a row while starting, and losses without one answer in between, after which no new start is tried.
START_ATTEMPTS = 3
LOSSES_IN_A_ROW = 30
#: Ray's wait acts on no signal but Ctrl-C before its timeout: a cancelled run is noticed this late.
WAIT_S = 0.5
#: How often Ray's head is asked for a sign of life, and how long it may give none: after 60 s Ray ends our process.
HEAD_ASKED_S = 5.0
HEAD_LOST_S = 20.0


@dataclass(frozen=True)
class Answered:
    """A call returned."""

    job: Any
    value: Any


@dataclass(frozen=True)
class Failed:
    """A call raised; its actor lives, or was replaced: this happened twice, or for want of memory."""

    job: Any
    error: Exception


@dataclass(frozen=True)
class Lost:
    """A call's actor died, or was killed past its deadline; or Ray lost what the call was given."""

    job: Any
    cause: str


@dataclass(frozen=True)
class Broken:
    """No actor of this kind can work; there is no use in going on."""

    error: Exception


Outcome = Answered | Failed | Lost | Broken


@dataclass(eq=False)
class _Worker:
    """One place of the pool: its actor, and the call it is busy with (`prepare` until it is ready)."""

    actor: Any
    call: ray.ObjectRef | None
    deadline: float
    node: str | None
    job: Any = None
    ready: bool = False
    raised: bool = False


@contextlib.contextmanager
def _signals_unwrapped() -> Iterator[None]:
    """Bring out what a signal's handler raised while Ray waited: Ray hides it in a SystemError."""
    try:
        yield
    except SystemError as error:
        raise (error.__cause__ or error) from None


class ActorPool:
    """Actors, all started at once; a context manager, at whose end they are killed.

    Args:
        worker: the class; its module is importable on the cluster, or it pickles by value.
        arguments: of its constructor.
        nodes: an id for each, of the node that it goes to first; None leaves the place to Ray.
        start_deadline_s: how long the first of them may take to be ready, waiting for the cluster included.
        resources: what each reserves, as Ray's options: num_cpus, num_gpus.
    """

    def __init__(
        self,
        worker: type,
        arguments: tuple[Any, ...],
        *,
        nodes: Sequence[str | None],
        start_deadline_s: float,
        resources: dict[str, float],
    ) -> None:
        self._kind = worker.__name__
        self._resources = resources
        actor_class: Any = ray.remote(worker)
        self._launch = lambda node: actor_class.options(
            max_restarts=0, max_task_retries=0, **resources, **_at(node)
        ).remote(*arguments)
        self._start_deadline_s = start_deadline_s
        self._failed_starts = 0
        self._losses_in_a_row = 0
        self._head = _Head()
        self.workers = [self._start(node) for node in nodes]

    def __enter__(self) -> ActorPool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            with contextlib.suppress(Exception):  # Ray itself may be gone, and the others still have to die
                ray.kill(worker.actor)

    def grow(self, count: int) -> None:
        """Start further actors, which Ray places where there is room, sooner or later."""
        self.workers += [self._start(None) for _ in range(count)]

    @property
    def ready(self) -> bool:
        """Whether an actor is ready for calls."""
        return any(worker.ready for worker in self.workers)

    @property
    def idle(self) -> bool:
        """Whether an actor waits for a call."""
        return any(worker.ready and worker.call is None for worker in self.workers)

    @property
    def busy(self) -> int:
        """Number of calls in flight."""
        return sum(worker.ready and worker.call is not None for worker in self.workers)

    def submit(self, job: Any, deadline_s: float, call: Callable[[Any], ray.ObjectRef]) -> None:
        """Make an idle actor's next call.

        Args:
            job: what the outcome will name.
            deadline_s: after which the actor is killed.
            call: makes the call on the actor it is given.
        """
        worker = next(worker for worker in self.workers if worker.ready and worker.call is None)
        worker.job, worker.call = job, call(worker.actor)
        worker.deadline = time.monotonic() + deadline_s

    @_signals_unwrapped()
    def collect(self) -> list[Outcome]:
        """Take in what has happened since the last time; never waits.

        Raises:
            ConfigurationError: Ray's head is lost.
        """
        self._head.ask()
        calls = {worker.call: worker for worker in self.workers if worker.call is not None}
        if not calls:
            return []
        ended, running = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        outcomes = [self._end(calls[call]) for call in ended]
        now = time.monotonic()
        outcomes += [self._expire(calls[call]) for call in running if calls[call].deadline < now]
        return [outcome for outcome in outcomes if outcome is not None]

    def _start(self, node: str | None) -> _Worker:
        self._head.wait()
        actor = self._launch(node)
        return _Worker(actor, actor.prepare.remote(), time.monotonic() + self._start_deadline_s, node)

    def _end(self, worker: _Worker) -> Outcome | None:
        job, call = worker.job, worker.call
        assert call is not None
        try:
            value = ray.get(call)
        except RayTaskError as error:
            cause = error.cause
            if not isinstance(cause, CPLLMError):
                log.warning("a %s raised %s", self._kind, re.sub(r"\x1b\[\d*m", "", str(error)))
            return self._end_of_raised(worker, cause)
        except RayError as error:
            return self._replace(worker, _first_line(error))
        worker.call = worker.job = None
        if not worker.ready:
            worker.ready, self._failed_starts = True, 0
            return None
        worker.raised, self._losses_in_a_row = False, 0
        return Answered(job, value)

    def _end_of_raised(self, worker: _Worker, cause: Exception) -> Outcome | None:
        """Let an actor live whose call raised, unless nothing good is to be expected of it."""
        job, unforeseen = worker.job, not isinstance(cause, CPLLMError | RayError)
        if not worker.ready and isinstance(cause, CPLLMError):
            return Broken(cause)
        if not worker.ready or (unforeseen and (worker.raised or isinstance(cause, MemoryError))):
            ended = self._replace(worker, f"{type(cause).__name__}: {_first_line(cause)}")
            return Failed(job, cause) if isinstance(ended, Lost) else ended
        worker.call = worker.job = None
        worker.raised = unforeseen
        return Lost(job, _first_line(cause)) if isinstance(cause, RayError) else Failed(job, cause)

    def _expire(self, worker: _Worker) -> Outcome | None:
        if worker.ready:
            return self._replace(worker, "it passed its deadline")
        total, free = ray.cluster_resources(), ray.available_resources()
        message = (
            f"no further {self._kind} is ready after {self._start_deadline_s:g} s: one asks for "
            f"{self._resources}, and {free.get('CPU', 0):g} of {total.get('CPU', 0):g} CPUs and "
            f"{free.get('GPU', 0):g} of {total.get('GPU', 0):g} GPUs are free; where that is enough, "
            "the machine is too busy to start it in time"
        )
        if not any(other.ready for other in self.workers):
            return Broken(ConfigurationError(message))
        log.warning("%s; the others go on without it", message)
        worker.deadline = math.inf
        return None

    def _replace(self, worker: _Worker, cause: str) -> Outcome | None:
        """Kill what may be left of an actor and start another in its place."""
        when = "at work" if worker.ready else "while starting"
        log.warning("a %s was lost %s: %s", self._kind, when, cause)
        ray.kill(worker.actor)
        if worker.ready:
            self._losses_in_a_row += 1
        else:
            self._failed_starts += 1
        if self._failed_starts >= START_ATTEMPTS and any(other.ready for other in self.workers if other is not worker):
            log.warning("no further %s can be started; the others go on without it", self._kind)
            self.workers.remove(worker)
            self._failed_starts = 0
            return None
        if self._failed_starts >= START_ATTEMPTS or self._losses_in_a_row >= LOSSES_IN_A_ROW:
            message = f"every {self._kind} is lost {when}; the last one: {cause}"
            return Broken(ConfigurationError(message))
        outcome = Lost(worker.job, cause) if worker.ready else None
        self.workers[self.workers.index(worker)] = self._start(worker.node)
        return outcome


class _Head:
    """The head of the cluster, without which calls to it block, until Ray ends the process that waits."""

    def __init__(self) -> None:
        # A client of a distant cluster has no connection of its own to the head, and is told by Ray when it is lost.
        self._address = "" if ray_client.is_connected() else ray.get_runtime_context().gcs_address
        self._answered_at = time.monotonic()

    def ask(self) -> None:
        """Wait for a sign of life, if there was none for HEAD_ASKED_S."""
        if time.monotonic() - self._answered_at >= HEAD_ASKED_S:
            self.wait()

    def wait(self) -> None:
        """Wait for a sign of life; raises ConfigurationError when there is none for HEAD_LOST_S."""
        host, _, port = self._address.rpartition(":")
        deadline = time.monotonic() + HEAD_LOST_S
        while self._address:
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=HEAD_ASKED_S).close()
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ConfigurationError(f"Ray's head at {self._address} is lost: {error}") from error
                time.sleep(WAIT_S)
        self._answered_at = time.monotonic()


def _at(node: str | None) -> dict[str, Any]:
    """Give Ray's option for a node; where that is gone, another takes its place."""
    return {} if node is None else {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@_signals_unwrapped()
def wait_for(*pools: ActorPool) -> None:
    """Wait until a call of some pool ends or passes its deadline, or WAIT_S have passed."""
    busy = [worker for pool in pools for worker in pool.workers if worker.call is not None]
    remaining_s = min(worker.deadline for worker in busy) - time.monotonic()
    ray.wait([worker.call for worker in busy], num_returns=1, timeout=min(max(0.0, remaining_s), WAIT_S))
