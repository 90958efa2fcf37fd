"""How many videos a decode worker gets at once, and what becomes of them: the loop's own books, without workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from cpllm_dagster.batch.actor_pool import ActorPool, Answered, Lost
from cpllm_dagster.batch.placement import MOST_VIDEOS_A_CALL
from cpllm_dagster.batch.supervisor import BatchSettings, VideoItem, VideoResult, _Scoring
from cpllm_dagster.batch.workers import DecodeReport, VideoAnswer
from cpllm_model.errors import WorkerLostError

DEADLINE_S = 7.0
NOTHING: Any = None


class Calls:
    """Stands for a pool: keeps the calls that are made."""

    def __init__(self, workers: int) -> None:
        self.workers = [None] * workers
        self.made: list[tuple[list[Any], float]] = []

    @property
    def idle(self) -> bool:
        return len(self.made) < len(self.workers)

    def submit(self, job: list[Any], deadline_s: float, call: Callable[[Any], Any]) -> None:
        self.made.append((job, deadline_s))

    def take(self) -> list[list[Any]]:
        taken, self.made = self.made, []
        return [job for job, _ in taken]


class Run:
    """A run over videos of which each takes as long to decode as is said, at any number of workers."""

    def __init__(self, videos: int, workers: int, decode_s: float, samples_in_memory: int) -> None:
        items = [VideoItem(str(number), str(number), "1", 1) for number in range(videos)]
        settings = BatchSettings(
            batch_size=16, samples_in_memory=samples_in_memory, decode_deadline_s=DEADLINE_S, attempts=2
        )
        self.decoders, self.models, self.decode_s = Calls(workers), Calls(2), decode_s
        self.scoring = _Scoring(items, cast(ActorPool, self.decoders), cast(ActorPool, self.models), settings)
        self.sizes: list[int] = []
        self.results: list[VideoResult] = []
        self.most_in_memory = 0

    def go(self, dies: Callable[[list[str]], bool] = lambda names: False) -> None:
        """Run to the end; a worker dies of the videos for which `dies` says so."""
        while len(self.results) < self.scoring.unfinished:
            self.scoring.feed()
            assert all(deadline_s == DEADLINE_S * len(job) for job, deadline_s in self.decoders.made)
            in_memory = self.scoring._model.load + sum(len(job) for job, _ in self.decoders.made)
            self.most_in_memory = max(self.most_in_memory, in_memory)
            for job in self.decoders.take():
                self.sizes.append(len(job))
                reports = [DecodeReport(None, "keyframe", 0, self.decode_s) for _ in job]
                died = dies([video.item.uri for video in job])
                self.results += self.scoring.decoded(Lost(job, "it died") if died else Answered(job, reports))
            for job in self.models.take():
                answers = [VideoAnswer(NOTHING, NOTHING, NOTHING, 0.0) for _ in job]
                self.results += self.scoring.scored(Answered(job, answers))


@pytest.mark.parametrize(
    ("workers", "decode_s", "most"),
    [(4, 0.3, 1), (16, 0.3, 1), (64, 0.3, 2), (64, 0.01, MOST_VIDEOS_A_CALL), (2, 0.0, MOST_VIDEOS_A_CALL)],
)
def test_calls_are_of_several_videos_only_where_one_driver_would_be_the_limit(
    workers: int, decode_s: float, most: int
) -> None:
    run = Run(5000, workers, decode_s, samples_in_memory=workers * 10)
    run.go()
    assert max(run.sizes) == most
    assert sorted(int(result.item.uri) for result in run.results) == list(range(5000))
    assert run.most_in_memory <= workers * 10
    assert run.sizes[:workers] == [1] * workers and run.sizes[-1] == 1  # nothing is known yet; the end is spread


def test_little_memory_makes_small_calls() -> None:
    run = Run(1000, workers=8, decode_s=0.0, samples_in_memory=16)
    run.go()
    assert max(run.sizes) == 2 and run.most_in_memory <= 16


def test_of_a_call_of_several_only_the_one_that_does_it_alone_is_given_up() -> None:
    run = Run(600, workers=4, decode_s=0.0, samples_in_memory=64)
    run.go(lambda names: "300" in names)
    assert max(run.sizes) == MOST_VIDEOS_A_CALL and len(run.results) == 600
    failed = [result for result in run.results if result.error]
    assert [result.item.uri for result in failed] == ["300"] and isinstance(failed[0].error, WorkerLostError)
    assert failed[0].attempts == 2 + 1  # once among others, twice alone
    neighbours = [result for result in run.results if result.attempts > 1 and not result.error]
    assert 1 <= len(neighbours) < MOST_VIDEOS_A_CALL
