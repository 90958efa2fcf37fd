"""Runs of the library job that are killed at any stage, taken up again, or cancelled from Dagster."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from cpllm_dagster.assets.catalog import CatalogConfig, probe_videos
from cpllm_dagster.automation import PARTITION_SET
from cpllm_dagster.catalog.objects import VideoStore
from cpllm_dagster.lake.storage import WORK_FOLDER
from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.errors import LakeError
from cpllm_model.network import checkpoint
from tests.dagster_ui import ask, wait_for
from tests.faults.conftest import GONE_S, RUN_S

if TYPE_CHECKING:
    from tests.faults.conftest import Films, Machine, Process

CHECKOUT = Path(__file__).parents[2]
SCORES_PART = rf"{WORK_FOLDER}/parts/library=films/model=tiny-\w+/"
PAIRS_PART = rf"{WORK_FOLDER}/parts/library=films/model=tiny-\w+%20comparisons/"
#: No daemon runs in these tests that would take runs from a queue.
INSTANCE = """
telemetry: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
"""
#: Where a run is killed: the name that is put or removed, how many of such pass, whether that one is done.
STAGES = {
    "a part of the catalogue": ("model=probed/", 3, False),
    "the catalogue": ("^catalog/", 0, False),
    "the catalogue is there, its parts too": ("model=probed/[^/]*part'", 0, False),
    "the first part of the scores": (SCORES_PART, 0, False),
    "a part of the scores": (SCORES_PART, 3, True),
    "the last part of the scores": (SCORES_PART, 8, True),
    "features": ("^features/", 0, False),
    "features, not yet named by their manifest": ("^features/.*parquet$", 0, True),
    "features without descriptions": ("^features/.*_manifest", 0, True),
    "descriptions without scores": ("^descriptions/", 0, True),
    "scores": ("^scores/", 0, True),
    "a part of the comparisons": (PAIRS_PART, 2, True),
    "comparisons": ("^comparisons/", 0, False),
    "comparisons without rankings": ("^comparisons/", 0, True),
    "rankings": ("^rankings/", 0, True),
}


def killed_run(films: Films, machine: Machine, home: Path, hold: tuple[str, int, bool]) -> None:
    """Have a run of the library killed where it is held, and see that nothing of it stays."""
    with films.process(home, hold) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "held\n", process.stderr.read()
        left = machine.at_work(process.pid)
        process.kill()
    machine.assert_gone(one.pid for one in left)


def test_a_killed_run_is_taken_up_by_the_next(films: Films, quiet: Films, machine: Machine, tmp_path: Path) -> None:
    films.take_over(quiet, "catalog")
    killed_run(films, machine, tmp_path, (SCORES_PART, 3, True))
    kept = films.kept()
    assert len(kept) >= 4 * 7  # parts of seven, and what came while one was written
    assert films.run_all().success
    films.assert_same(quiet)
    runs = films.runs()
    assert len({runs[video] for video in kept}) == 1
    assert len({runs[video] for video in set(runs) - kept}) == 1
    assert not {runs[video] for video in kept} & {runs[video] for video in set(runs) - kept}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_is_killed_at_any_stage(
    films: Films, quiet: Films, machine: Machine, tmp_path: Path, stage: str
) -> None:
    killed_run(films, machine, tmp_path, STAGES[stage])
    scored = films.kept() | set(films.runs() if films.lake.read("scores", "films") else ())
    before = {name: films.lake.read(name, "films") for name in ("descriptions", "features", "scores")}
    if before["scores"] is not None:  # a scored row is never there without its companions
        assert all(table is not None and len(table) == 60 for table in before.values())
    assert films.run_all().success
    films.assert_same(quiet)
    runs = films.runs()
    first = {runs[video] for video in scored}
    assert len(first) <= 1 and not first & {runs[video] for video in set(runs) - scored}


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again(films: Films, quiet: Films, machine: Machine, tmp_path: Path) -> None:
    films.take_over(quiet, "catalog")
    kept: set[str] = set()
    for _ in range(4):
        killed_run(films, machine, tmp_path, (SCORES_PART, 1, True))
        assert films.kept() > kept
        kept = films.kept()
    assert films.run_all().success
    films.assert_same(quiet)
    assert len(set(films.runs().values())) == 5


# --- a catalogue that is cancelled -------------------------------------------------------------------------


def test_an_interrupted_catalogue_waits_for_no_video(
    films: Films, library_uri: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = VideoStore(library_uri, films.settings.s3_endpoint_url)
    opened, open_video = itertools.count(1), VideoStore.open

    def strike(*args: Any, **kwargs: Any) -> Any:
        if next(opened) == 10:
            for one in machine.decoders():
                os.kill(one.pid, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGINT)
        return open_video(*args, **kwargs)

    monkeypatch.setattr(VideoStore, "open", strike)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(probe_videos([*store.objects("films")], store, DecodeLimits(wall_s=300.0), CatalogConfig()))
    assert time.monotonic() - started < GONE_S
    machine.assert_nothing_left()


# --- a model that is promoted in between -------------------------------------------------------------------


def test_a_run_that_goes_on_after_a_promotion(films: Films, quiet: Films, tmp_path: Path) -> None:
    films.take_over(quiet, "catalog", "scores", "descriptions", "features", "comparisons")
    promoted = shutil.copytree(checkpoint.resolve("tiny"), tmp_path / "promoted")
    config = json.loads((promoted / "config.json").read_text())
    (promoted / "config.json").write_text(json.dumps(config, indent=4))
    later = dataclasses.replace(films, settings=dataclasses.replace(films.settings, model=str(promoted)))
    assert later.model_id != films.model_id

    # Rankings follow from what was published, by the model that made it.
    assert later.run("quality_rankings").success
    films.assert_same(quiet)
    # Tokens of the older model are nothing that the newer one could compare.
    with pytest.raises(LakeError, match=rf"scores are of {films.model_id} .* {later.model_id}.*quality_scores before"):
        later.run("pairwise_comparisons")
    films.assert_same(quiet)
    # And rankings of two models are none.
    scores = films.table("scores")
    index = scores.column_names.index("model_id")
    other = scores.set_column(index, "model_id", [[later.model_id] * len(scores)]).cast(scores.schema)
    films.lake.write("scores", "films", other, run_id="later", model_id=later.model_id)
    with pytest.raises(LakeError, match="several models"):
        later.run("quality_rankings")
    films.assert_same(quiet, "rankings")


# --- cancelled from Dagster --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class WebServer:
    """Dagster's web server over the library, asked as its UI asks it."""

    pid: int
    port: int

    def ask(self, query: str) -> dict[str, Any]:
        return ask(f"http://127.0.0.1:{self.port}/graphql", query)

    def launch(self) -> str:
        """Launch a run of the library and give its id."""
        answer = self.ask(
            'mutation { launchRun(executionParams: {selector: {repositoryLocationName: "cpllm", repositoryName:'
            ' "__repository__", jobName: "score_library"}, executionMetadata: {tags: [{key: "dagster/partition",'
            ' value: "films"}]}}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError '
            "{ message } } }"
        )["launchRun"]
        return answer["run"]["runId"]

    def terminate(self, run_id: str) -> None:
        answer = self.ask(f'mutation {{ terminateRun(runId: "{run_id}") {{ __typename }} }}')
        assert answer["terminateRun"]["__typename"] == "TerminateRunSuccess"

    def status(self, run_id: str) -> str:
        return self.ask(f'{{ runOrError(runId: "{run_id}") {{ ... on Run {{ status }} }} }}')["runOrError"]["status"]


@pytest.fixture
def web_server(films: Films, tmp_path: Path) -> Iterator[WebServer]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text(INSTANCE)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions(PARTITION_SET, ["films"])
    environment = os.environ | {
        "DAGSTER_HOME": str(home),
        "CPLLM_CATALOG_URI": films.settings.catalog_uri,
        "CPLLM_LAKE_URI": films.settings.lake_uri,
        "CPLLM_S3_ENDPOINT_URL": films.settings.s3_endpoint_url or "",
        "RAY_worker_niceness": "0",
    }
    command = [sys.executable, "-m", "dagster_webserver", "-w", str(CHECKOUT / "workspace.yaml")]
    command += ["-h", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, env=environment, cwd=CHECKOUT, start_new_session=True) as process:
        server = WebServer(process.pid, port)
        try:
            wait_for(lambda: server.ask("{ version }"), RUN_S)
            yield server
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["scores", "comparisons"])
def test_a_cancelled_run_leaves_no_process(
    web_server: WebServer, films: Films, quiet: Films, machine: Machine, stage: str
) -> None:
    films.take_over(quiet, "catalog", *(("scores", "descriptions", "features") if stage == "comparisons" else ()))
    run_id = web_server.launch()

    def busy() -> list[Process]:
        """What the run has started, once workers are busy."""
        name = {"scores": "ray::DecodeWorker.decode", "comparisons": "ray::ModelWorker.compare"}[stage]
        found = machine.at_work(web_server.pid)
        return found if any(one.command.startswith(name) for one in found) else []

    started = wait_for(busy, RUN_S)
    assert len(started) >= 3  # Ray, its head and a worker
    web_server.terminate(run_id)
    machine.assert_gone(one.pid for one in started)
    assert wait_for(lambda: web_server.status(run_id) == "CANCELED", GONE_S)
    assert not machine.at_work(web_server.pid)
    kept = films.kept()
    assert films.run_all().success
    films.assert_same(quiet)
    assert {films.runs()[video] for video in kept} <= {run_id}
