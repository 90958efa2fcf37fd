"""Decode workers and model workers that die, hang, raise or run out of memory while sixty videos are scored.

The workers are the real ones on a real local Ray. What can be done to a process from outside is done to it: SIGKILL,
SIGSTOP, a limit on its memory. What can only come from inside, an exception or an exit, comes from a subclass that does
it once for each file of a trap, and is the real worker otherwise.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cpllm_dagster.assets import quality as quality_module
from cpllm_dagster.assets import rankings as rankings_module
from cpllm_dagster.batch import actor_pool, supervisor
from cpllm_dagster.batch.supervisor import VideoItem
from cpllm_dagster.batch.workers import DecodeReport, DecodeWorker, ModelWorker, VideoAnswer
from cpllm_model.decoding.samples import VideoSamples
from cpllm_model.errors import CheckpointError
from cpllm_model.network import checkpoint
from tests.conftest import RAY_CPUS

if TYPE_CHECKING:
    from tests.faults.conftest import Films, Machine

pytestmark = pytest.mark.usefixtures("local_ray")
KINDS = ("DecodeWorker", "ModelWorker")
BATCH = 2
KNOBS = {"batch_size": BATCH, "samples_in_memory": 8}
#: Results that are there when a fault strikes.
POINTS = (1, 20, 40)
TRAP = Path(os.environ.get("TMPDIR", "/tmp"), f"cpllm-trap-{os.getpid()}")


# --- faults ------------------------------------------------------------------------------------------------


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def starve(pid: int) -> None:
    """Let a process have no more memory than it has."""
    resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, 1 << 20))


def caught(trap: Path) -> None:
    """Do what a trap says, once for each of its files: raise or exit."""
    for path in sorted(trap.glob("*")):
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        if path.name.startswith("exit"):
            os._exit(7)
        raise RuntimeError("injected")


class TrappedDecodeWorker(DecodeWorker):
    trap = TRAP / "DecodeWorker"

    def decode(self, item: VideoItem) -> tuple[DecodeReport, VideoSamples | None]:
        caught(self.trap)
        return super().decode(item)


class TrappedModelWorker(ModelWorker):
    trap = TRAP / "ModelWorker"

    def score(self, *samples: VideoSamples) -> list[VideoAnswer]:
        caught(self.trap)
        return super().score(*samples)


@pytest.fixture
def traps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Puts the trapped workers in the place of the real ones."""
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import the tests
    monkeypatch.setattr(supervisor, "DecodeWorker", TrappedDecodeWorker)
    monkeypatch.setattr(supervisor, "ModelWorker", TrappedModelWorker)
    for kind in KINDS:
        (TRAP / kind).mkdir(parents=True)
    yield TRAP
    shutil.rmtree(TRAP)


@pytest.fixture
def deadlines(quiet: Films) -> dict[str, float]:
    """Of one video, where something hangs, as Ray's own code may for want of memory.

    They follow from what the slowest video has taken without faults, so that only what hangs passes them.
    """
    scores = quiet.table("scores")
    return {
        f"{stage}_deadline_s": 2 + 20 * max(scores[column].to_pylist())
        for stage, column in (("decode", "decode_s"), ("model", "inference_s"))
    }


@dataclass
class Watched:
    """What came out of the batch while faults struck."""

    attempts: dict[str, int]
    struck: int = 0

    @property
    def repeated(self) -> int:
        return sum(self.attempts.values()) - len(self.attempts)


@pytest.fixture
def struck(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, Callable[[], object]]], Watched]:
    """Has faults strike when so many results are there, and records the attempts of every video."""

    def arrange(faults: dict[int, Callable[[], object]]) -> Watched:
        watched = Watched({})
        score_videos = quality_module.score_videos

        def scoring(*args: Any, **kwargs: Any) -> Iterator[Any]:
            for count, result in enumerate(score_videos(*args, **kwargs), start=1):
                assert result.item.video_id not in watched.attempts, "a second result of one video"
                watched.attempts[result.item.video_id] = result.attempts
                if count in faults:
                    faults.pop(count)()  # once, and not in the next run again
                    watched.struck += 1
                yield result

        monkeypatch.setattr(quality_module, "score_videos", scoring)
        return watched

    return arrange


@pytest.fixture
def strike(machine: Machine) -> Callable[[Callable[[int], None], str], Callable[[], None]]:
    """Makes faults that do something to a worker of a kind, to a busy one if there is one."""
    return lambda act, kind: lambda: act(next(one.pid for one in machine.workers(kind) if not one.is_stopped))


# --- while videos are scored -------------------------------------------------------------------------------


def test_a_killed_worker_of_each_kind_costs_nothing(
    catalogued: Films, quiet: Films, struck: Any, strike: Any, machine: Machine
) -> None:
    watched = struck({5: strike(kill, "DecodeWorker"), 20: strike(kill, "ModelWorker")})
    assert catalogued.score(**KNOBS).success
    assert watched.struck == 2 and 1 <= watched.repeated <= 1 + BATCH
    catalogued.assert_same(quiet, "catalog", "scores", "descriptions", "features")
    assert len(set(catalogued.runs().values())) == 1
    machine.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("act", [kill, stop, starve])
def test_workers_that_suffer(
    catalogued: Films,
    quiet: Films,
    struck: Any,
    strike: Any,
    machine: Machine,
    deadlines: dict[str, float],
    kind: str,
    act: Callable[[int], None],
) -> None:
    watched = struck(dict.fromkeys(POINTS, strike(act, kind)))
    assert catalogued.score(**KNOBS, **({} if act is kill else deadlines)).success
    most = 1 if kind == "DecodeWorker" else BATCH
    most *= 2 if act is starve else 1  # torch's own error has to come twice until the worker is replaced
    # What a small model has freed may be memory enough for it: then nothing has to be repeated.
    least = 0 if act is starve and kind == "ModelWorker" else 1
    assert watched.struck == len(POINTS) and least <= watched.repeated <= most * len(POINTS)
    catalogued.assert_same(quiet, "catalog", "scores", "descriptions", "features")
    machine.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["raise", "exit"])
def test_workers_that_break(
    catalogued: Films, quiet: Films, struck: Any, machine: Machine, traps: Path, kind: str, how: str
) -> None:
    faults = {count: (traps / kind / f"{how}{count}").touch for count in POINTS}
    watched = struck(faults)
    assert catalogued.score(**KNOBS).success
    most = 1 if kind == "DecodeWorker" else BATCH
    assert watched.struck == len(POINTS) and 1 <= watched.repeated <= most * len(POINTS)
    assert not list((traps / kind).iterdir())
    catalogued.assert_same(quiet, "catalog", "scores", "descriptions", "features")
    machine.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("act", [kill, stop, starve])
def test_model_workers_that_suffer_while_they_compare(
    films: Films,
    quiet: Films,
    monkeypatch: pytest.MonkeyPatch,
    strike: Any,
    machine: Machine,
    deadlines: dict[str, float],
    act: Callable[[int], None],
) -> None:
    films.take_over(quiet, "catalog", "scores", "descriptions", "features")
    compared: list[tuple[str, str]] = []

    class Struck(supervisor.PairComparer):
        def compare(self, pairs: Any, tokens: Any) -> Any:
            for a, b, answer in super().compare(pairs, tokens):
                compared.append((a, b))
                if len(compared) in (1, 50, 120):
                    strike(act, "ModelWorker")()
                yield a, b, answer

    monkeypatch.setattr(rankings_module, "PairComparer", Struck)
    config = {"pair_batch_size": 8} | ({} if act is kill else {"model_deadline_s": deadlines["model_deadline_s"]})
    result = films.run("pairwise_comparisons", "quality_rankings", pairwise_comparisons=config)
    assert result.success and len(compared) > 120
    # The model is asked where the scores do not tell; the others have no gap between two orders.
    table = films.table("comparisons")
    asked = len(table) - table["order_gap"].null_count
    assert len({frozenset(pair) for pair in compared}) == len(compared) == asked
    films.assert_same(quiet)
    machine.assert_nothing_left()


# --- starts that fail --------------------------------------------------------------------------------------


def test_a_bad_checkpoint_ends_the_run_with_its_name(
    catalogued: Films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    broken = shutil.copytree(checkpoint.resolve("tiny"), tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    starts = []
    start = actor_pool.ActorPool._start
    monkeypatch.setattr(
        actor_pool.ActorPool, "_start", lambda pool, *node: starts.append(pool._kind) or start(pool, *node)
    )
    films = replace(catalogued, settings=replace(catalogued.settings, model=str(broken)))
    with pytest.raises(CheckpointError, match=str(broken)):
        films.score(**KNOBS)
    # By default one a CPU: each once, and never again.
    assert 1 <= starts.count("ModelWorker") <= RAY_CPUS
    assert films.lake.read("scores", "films") is None
    machine.assert_nothing_left()


@pytest.mark.slow
def test_a_checkpoint_that_goes_bad_keeps_what_is_finished(
    catalogued: Films, quiet: Films, struck: Any, strike: Any, machine: Machine, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint.resolve("tiny"), tmp_path / "tiny")
    weights = (folder / "model.safetensors").read_bytes()
    films = replace(catalogued, settings=replace(catalogued.settings, model=str(folder)))

    def spoil() -> None:
        (folder / "model.safetensors").write_bytes(weights[:100_000])
        strike(kill, "ModelWorker")()

    watched = struck({25: spoil})
    with pytest.raises(CheckpointError, match=str(folder)):
        films.score(**KNOBS)
    (folder / "model.safetensors").write_bytes(weights)
    finished = set(watched.attempts)
    assert films.kept() == finished and len(finished) >= 25
    assert films.score(**KNOBS).success
    films.assert_same(quiet, "catalog", "scores", "descriptions", "features")
    runs = films.runs()
    assert len({runs[video] for video in finished}) == 1 == len(set(runs.values()) - {runs[next(iter(finished))]})
    machine.assert_nothing_left()
