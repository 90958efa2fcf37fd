"""Supervised batches on a real local Ray: real workers that exit, hang, stop and raise; real S3, decoder and model.

A video's file name says what its workers do with it: `<stage>-<fault>[-once].mp4`, stage "decode" or "model". The
workers of the fault tests are the real ones but for that, and for a model that answers without torch.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cpllm_dagster.batch import supervisor
from cpllm_dagster.batch.model_stage import REFUSALS_WITHOUT_AN_ANSWER
from cpllm_dagster.batch.supervisor import (
    BatchSettings,
    PairComparer,
    VideoItem,
    VideoResult,
    compare_pairs,
    score_videos,
)
from cpllm_dagster.batch.workers import DecodeReport, DecodeWorker, ModelWorker, VideoAnswer
from cpllm_dagster.catalog.objects import VideoObject, VideoStore
from cpllm_model.decoding.samples import DecodeLimits, VideoSamples
from cpllm_model.errors import (
    CheckpointError,
    ConfigurationError,
    InferenceError,
    NotAVideoError,
    ObjectChangedError,
    ObjectMissingError,
    WorkerLostError,
)
from cpllm_model.network import checkpoint

if TYPE_CHECKING:
    from tests.cpllm_dagster.conftest import Bucket

pytestmark = pytest.mark.usefixtures("local_ray")
#: The limits stand in the command line of a sandbox; a number of our own tells it from others on the machine.
LIMITS = DecodeLimits(max_frames=8_000_000 + os.getpid())
FAST = BatchSettings(model_workers=1, decode_cpus=0.1, model_cpus=0.1, batch_size=3)
SHORT_DEADLINES = dataclasses.replace(FAST, decode_deadline_s=6, model_deadline_s=2)
FAULTS = {
    "exit": lambda: os._exit(1),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(1000),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}


def suffer(stage: str, uri: str) -> None:
    """Do what the video's name says for this stage, each time or once."""
    path = Path(uri.removeprefix("file://"))
    where, _, rest = path.stem.partition("-")
    fault, _, once = rest.partition("-")
    if where != stage:
        return
    if once:
        try:
            path.with_suffix(".done").touch(exist_ok=False)
        except FileExistsError:
            return
    if fault == "raise":
        raise RuntimeError(f"injected into {stage}")
    FAULTS[fault]()


class FaultyDecodeWorker(DecodeWorker):
    def decode(self, item: VideoItem) -> tuple[DecodeReport, VideoSamples | None]:
        suffer("decode", item.uri)
        report, samples = super().decode(item)
        if "torch" in sys.modules:
            raise AssertionError("a decode worker imported torch")
        with (Path(item.uri.removeprefix("file://")).parent / "log").open("a") as log:
            log.write("+")
        return report, samples and dataclasses.replace(samples, plan=item.uri)


class FaultyModelWorker(ModelWorker):
    def prepare(self) -> None:
        pass

    def score(self, *samples: VideoSamples) -> list[VideoAnswer]:
        for one in samples:
            suffer("model", one.plan)
        with (Path(samples[0].plan.removeprefix("file://")).parent / "log").open("a") as log:
            log.write("-" * len(samples))
        answers: list[Any] = [float(one.context_NMCHW.mean()) for one in samples]
        return [VideoAnswer(answer, answer, answer, 0.0) for answer in answers]


class DyingModelWorker(ModelWorker):
    def prepare(self) -> None:
        os._exit(1)


@pytest.fixture
def faulty_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import the tests
    monkeypatch.setattr(supervisor, "DecodeWorker", FaultyDecodeWorker)
    monkeypatch.setattr(supervisor, "ModelWorker", FaultyModelWorker)


@pytest.fixture
def films(tmp_path: Path, clips: list[Path]) -> Any:
    """Makes a library of one clip under many names; gives its store and items."""

    def make(*names: str) -> tuple[VideoStore, list[VideoItem]]:
        (tmp_path / "films").mkdir()
        for name in names:
            shutil.copy(clips[0], tmp_path / "films" / f"{name}.mp4")
        store = VideoStore(str(tmp_path))
        return store, items_of(store, "films")

    return make


def items_of(store: VideoStore, library: str) -> list[VideoItem]:
    return [item_of(found) for found in store.objects(library)]


def item_of(found: VideoObject) -> VideoItem:
    return VideoItem(found.uri.rpartition("/")[2], found.uri, found.etag, found.size_bytes)


def score(store: VideoStore, items: list[VideoItem], settings: BatchSettings) -> Generator[VideoResult]:
    return score_videos(items, store=store, model="tiny", settings=settings, limits=LIMITS)


def processes(name: str) -> list[str]:
    """Command lines of this machine's living processes that hold a name."""
    command = ["ps", "-axww", "-o", "stat,command"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if name in line and not line.startswith("Z")]


def wait_until_gone(*names: str, limit_s: float = 15) -> None:
    deadline = time.monotonic() + limit_s
    while left := [line for name in names for line in processes(name)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


WORKER_PROCESSES = ("ray::FaultyDecodeWorker", "ray::FaultyModelWorker", f'"max_frames": {LIMITS.max_frames}')


# --- faults ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("faulty_workers")
@pytest.mark.parametrize("calls_a_second", [supervisor.CALLS_A_SECOND, 0.01])
def test_a_fault_costs_only_its_video(films: Any, calls_a_second: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a decode worker gets one video at once or, since the driver is to make few calls, several."""
    monkeypatch.setattr(supervisor, "CALLS_A_SECOND", calls_a_second)
    expected = {
        "decode-exit": WorkerLostError,
        "decode-hang-once": None,
        "decode-kill-once": None,
        "decode-raise-once": None,
        "decode-stop-once": None,
        "model-exit": WorkerLostError,
        "model-exit-once": None,
        "model-hang-once": None,
        "model-raise": InferenceError,
        "model-raise-once": None,
    } | {f"quiet{number}": None for number in range(6)}
    store, items = films(*expected)
    results = list(score(store, items, SHORT_DEADLINES))

    outcomes = {result.item.video_id.removesuffix(".mp4"): result for result in results}
    assert len(results) == len(items)
    errors = {name: type(result.error) if result.error else None for name, result in outcomes.items()}
    assert errors == expected
    assert len({result.rating for result in results if not result.error}) == 1  # one clip, one answer
    for name, result in outcomes.items():
        assert (result.rating is None) == bool(result.error)
        assert result.error is None or result.error.name == result.item.uri
        assert result.attempts > 1 or name.startswith("quiet")
    wait_until_gone(*WORKER_PROCESSES)


@pytest.mark.usefixtures("faulty_workers")
def test_an_error_of_a_decode_worker_ends_the_run_after_what_finished(films: Any) -> None:
    store, items = films("a", "b", "c", "decode-raise")
    found = []
    with pytest.raises(RuntimeError, match="injected into decode"):
        for result in score(store, items, dataclasses.replace(FAST, decode_workers=1)):
            found.append(result.item.video_id)
    assert found and set(found) <= {"a.mp4", "b.mp4", "c.mp4"}
    wait_until_gone(*WORKER_PROCESSES)


@pytest.mark.usefixtures("faulty_workers")
def test_a_model_that_answers_nothing_ends_the_run(films: Any) -> None:
    store, (item,) = films("model-raise")
    with pytest.raises(RuntimeError, match="injected into model"):
        list(score(store, [item] * REFUSALS_WITHOUT_AN_ANSWER, dataclasses.replace(FAST, attempts=1)))


@pytest.mark.usefixtures("faulty_workers")
def test_decoded_videos_that_wait_are_bounded(films: Any, tmp_path: Path) -> None:
    store, items = films(*(f"quiet{number}" for number in range(16)))
    list(score(store, items, dataclasses.replace(FAST, samples_in_memory=4, batch_size=2)))
    steps = [{"+": 1, "-": -1}[step] for step in (tmp_path / "films" / "log").read_text()]
    held = [sum(steps[: stop + 1]) for stop in range(len(steps))]
    assert held[-1] == 0 and 1 <= max(held) <= 4


class Cancelled(BaseException):
    """What a signal's handler raises, as Dagster's does for a cancelled run."""


@pytest.mark.usefixtures("faulty_workers")
@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_the_end_of_a_run_is_the_end_of_its_processes(films: Any, how: str) -> None:
    store, items = films("a", "decode-hang", "model-hang")
    results = score(store, items, dataclasses.replace(FAST, batch_size=1))
    assert next(results).item.video_id == "a.mp4"
    for name in WORKER_PROCESSES:
        assert processes(name), name
    if how == "closed":
        results.close()
    else:
        before = signal.signal(signal.SIGUSR1, cancel)
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(Cancelled):
            next(results)
        signal.signal(signal.SIGUSR1, before)
    wait_until_gone(*WORKER_PROCESSES)


def cancel(*_: object) -> None:
    raise Cancelled


# --- starts that fail --------------------------------------------------------------------------------------


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    store = VideoStore(str(tmp_path / "none"))
    settings = BatchSettings()
    assert list(score_videos([], store=store, model="none", settings=settings, limits=LIMITS)) == []
    assert list(compare_pairs([], {}, model="none", settings=settings)) == []


def test_a_worker_that_always_dies_at_its_start(films: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(supervisor, "ModelWorker", DyingModelWorker)
    store, items = films("a")
    with pytest.raises(ConfigurationError, match="every DyingModelWorker is lost while starting"):
        list(score(store, items, FAST))


class OnlyOne:
    """Of these one can start, and no other."""

    def __init__(self, place: str) -> None:
        self._place = place

    def prepare(self) -> None:
        try:
            Path(self._place).mkdir()
        except FileExistsError:
            os._exit(1)

    def answer(self) -> str:
        return "here"


def test_workers_go_on_without_one_that_always_dies_at_its_start(tmp_path: Path) -> None:
    import ray.cloudpickle

    from cpllm_dagster.batch.actor_pool import ActorPool, Answered, wait_for

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    place = str(tmp_path / "place")
    with ActorPool(OnlyOne, (place,), nodes=[None, None], start_deadline_s=60, resources={"num_cpus": 0.1}) as pool:
        while len(pool.workers) == 2:
            wait_for(pool)
            assert pool.collect() == []
        pool.submit("job", 30, lambda actor: actor.answer.remote())
        wait_for(pool)
        assert pool.collect() == [Answered("job", "here")]


@pytest.mark.usefixtures("faulty_workers")
def test_workers_for_which_there_is_no_room(films: Any) -> None:
    store, items = films("a")
    settings = dataclasses.replace(FAST, model_cpus=100, start_deadline_s=3)
    with pytest.raises(ConfigurationError, match=r"num_cpus.*100.* of 4 CPUs"):
        list(score(store, items, settings))


def test_a_checkpoint_that_cannot_be_loaded(films: Any, tmp_path: Path) -> None:
    store, items = films("a")
    with pytest.raises(CheckpointError, match="nowhere"):
        list(score_videos(items, store=store, model="nowhere", settings=FAST, limits=LIMITS))
    broken = shutil.copytree(checkpoint.resolve("tiny"), tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="broken"):
        list(score_videos(items, store=store, model=str(broken), settings=FAST, limits=LIMITS))


# --- the whole, with the real model ------------------------------------------------------------------------


def test_scores_and_compares_a_bucket(bucket: Bucket, clips: list[Path]) -> None:
    for clip in clips:
        bucket.put(f"videos/films/{clip.name}", clip.read_bytes())
    for name in ("deleted", "replaced", "text"):
        bucket.put(f"videos/films/{name}.mp4", b"first of all this is no video" * 100)
    store = VideoStore(f"{bucket.uri}/videos", bucket.endpoint_url)
    items = items_of(store, "films")
    bucket.client.delete_object(Bucket=bucket.name, Key="videos/films/deleted.mp4")
    bucket.put("videos/films/replaced.mp4", clips[0].read_bytes())

    results = {result.item.video_id: result for result in score(store, items, BatchSettings(batch_size=2))}
    failed = {name: type(result.error) for name, result in results.items() if result.error}
    assert failed == {
        "deleted.mp4": ObjectMissingError,
        "replaced.mp4": ObjectChangedError,
        "text.mp4": NotAVideoError,
    }
    good = [results[clip.name] for clip in clips]
    assert [result.rating.level for result in good if result.rating]
    scores = [result.rating.score for result in good if result.rating]
    assert len(scores) == 3 and scores[0] > scores[2]
    assert all(result.description and result.description.text and result.tokens for result in good)

    tokens = {result.item.video_id: result.tokens for result in good if result.tokens}
    first, middle, last = tokens
    with PairComparer("tiny", BatchSettings(pair_batch_size=1)) as comparer:
        (forward,) = comparer.compare([(first, last)], tokens)
        rest = {found[:2]: found[2] for found in comparer.compare([(last, first), (first, middle)], tokens)}
    assert forward[:2] == (first, last)
    assert forward[2].probability_a_better + rest[last, first].probability_a_better == pytest.approx(1, abs=1e-6)
    assert set(rest) == {(last, first), (first, middle)}
