"""The compose file's processes, run without containers: PostgreSQL, an S3 server, Ray with a token, Dagster's three.

Commands and variables are those of infra/compose, the instance's configuration is the image's; only addresses, ports
and folders differ. One story, since starting all of it takes minutes: first runs, a killed run, a killed code server
with its run, a daemon that was dead at 02:00.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
import yaml
from dagster._core.scheduler.instigation import ScheduleInstigatorData

from cpllm_dagster.lake.tables import Lake
from cpllm_model.training.data.encode import write_video
from cpllm_model.training.data.scenes import render_scene
from tests.dagster_ui import ask, wait_for
from tests.infra.commands import BIN
from tests.infra.test_compose import services, words_of
from tests.infra.test_docker import shipped_instance

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
LIBRARIES = {"films": 3, "shows": 2}
DAY_S = 86_400
#: A wait goes on as long as runs do anything, however slowly; after so long without a sign of life it fails.
QUIET_S = 1200.0
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process."""
    ps = shutil.which("ps") or "ps"
    listed = subprocess.run(
        [ps, "-axww", "-o", "pid=,ppid=,command="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split(maxsplit=2) for line in listed.splitlines())
    return {int(pid): (int(parent), command) for pid, parent, command in (row for row in rows if len(row) == 3)}


class Topology:
    """The processes, by the names of the compose file's services."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services = services()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.commands: dict[str, list[str]] = {}
        self.ports = {port: free_port() for port in ("3000", "4000", "5432", "6379", "8080", "9000", "9464", "10001")}
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(shipped_instance()))
        shutil.copy(Path(__file__).parents[2] / "infra" / "dagster" / "workspace.yaml", self.home)
        given = self.services["code"]["environment"]
        self.environment = os.environ | {name: self.here(str(value)) for name, value in given.items()}
        self.environment |= {
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_CODE_HOST": "127.0.0.1",
            "DAGSTER_POSTGRES_HOST": "127.0.0.1",
            "CPLLM_MODELS_URI": str(folder / "models"),
            "TMPDIR": str(folder),
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # deadlines have to hold on a busy machine, too
            "NO_PROXY": "127.0.0.1",
        }

    def here(self, text: str) -> str:
        """Give an address, a port or a folder of the containers as it is here."""
        text = text.replace("/opt/dagster", str(self.home)).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        text = re.sub(r"\b(s3|ray-head|code|postgres)(?=:\d)", "127.0.0.1", text)
        return re.sub(r"(?<![\d.])\d{4,5}\b", lambda found: str(self.ports.get(found[0], found[0])), text)

    def start(self, service: str, name: str = "", *more: str) -> None:
        """Start a service's command."""
        program, *arguments = words_of(self.services[service])
        self.commands[name or service] = [str(BIN / program), *map(self.here, arguments), *more]
        self.restart(name or service)

    def restart(self, name: str) -> None:
        """Start a process with the command that it had."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.commands[name],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kill a process and its descendants, as the loss of its container does."""
        everyone = processes()
        process = self.running.pop(name)
        found = [process.pid]
        for parent in found:  # grows while it is gone through
            found += [pid for pid, (of, _) in everyone.items() if of == parent]
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def runs(self) -> list[int]:
        """Give the processes of runs: the code server's children that are Python at work."""
        of = self.running["code"].pid
        return [pid for pid, (parent, command) in processes().items() if parent == of and "spawn_main" in command]

    def healthy(self, service: str) -> bool:
        """Ask as the service's health check does."""
        _, program, *arguments = self.services[service]["healthcheck"]["test"]
        command = [sys.executable if program == "python" else str(BIN / program), *map(self.here, arguments)]
        found = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, check=False)
        return found.returncode == 0

    def until_healthy(self, *names: str) -> None:
        for name in names:
            self.until(lambda name=name: self.healthy(name))

    def until(self, answer: Callable[[], Any]) -> Any:
        """Wait for an answer; processes that have ended are started again, as `restart: unless-stopped` does."""
        last_sign, since = self.sign_of_life(), time.monotonic()
        while not (found := self.answered(answer)):
            for name in [name for name, process in self.running.items() if process.poll() is not None]:
                self.kill(name)
                self.restart(name)
            if (sign := self.sign_of_life()) != last_sign:
                last_sign, since = sign, time.monotonic()
            assert time.monotonic() < since + QUIET_S, "\n".join(map(self.said, self.running))
            time.sleep(2)
        return found

    def sign_of_life(self) -> int:
        """Give what changes when something happens: the code server's log has a line for each event of a run."""
        log = self.folder / "code.log"
        return log.stat().st_size if log.exists() else 0

    def answered(self, answer: Callable[[], Any]) -> Any:
        with suppress(OSError):  # nobody listens yet, or any more
            return answer()
        return None

    def said(self, name: str) -> str:
        """Give the end of a process's log."""
        return f"{name}: {(self.folder / f'{name}.log').read_text()[-2000:]}"

    def end(self) -> None:
        """End everything, Ray's own processes, which know the folder, included."""
        for name in list(self.running):
            self.kill(name)
        for pid, (_, command) in processes().items():
            if str(self.folder) in command and pid != os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """The records in PostgreSQL, as the services see them."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                if name.startswith("DAGSTER_"):
                    patch.setenv(name, value)
            with dg.DagsterInstance.from_config(str(self.home)) as found:
                yield found

    def lake(self) -> Lake:
        return Lake(self.environment["CPLLM_LAKE_URI"], self.environment["CPLLM_S3_ENDPOINT_URL"])


@contextmanager
def postgres(folder: Path, port: int, password: str) -> Iterator[None]:
    """PostgreSQL of the system's packages, as its own user, in a folder of its own."""
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed")
    programs, data = POSTGRES[-1].parent, folder / "postgres"
    data.mkdir(mode=0o700)
    (folder / "password").write_text(password)
    owner: Any = {}
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        shutil.chown(data, "postgres")
        shutil.chown(folder / "password", "postgres")
        owner = {"user": "postgres"}
    initdb = [programs / "initdb", "-D", data, "-U", "dagster", "-A", "scram-sha-256", "--pwfile", folder / "password"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **owner)
    command = [programs / "postgres", "-D", data, "-p", str(port), "-c", f"unix_socket_directories={data}"]
    with (
        (folder / "postgres.log").open("wb") as log,
        subprocess.Popen(command, cwd=folder, stderr=log, **owner) as server,
    ):
        try:
            environment = os.environ | {"PGPASSWORD": password}
            create = [programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "dagster", "dagster"]
            wait_for(
                lambda: not subprocess.run(create, env=environment, capture_output=True, check=False).returncode, 120
            )
            yield
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """Three short videos of one scene, from good to bad."""
    frames_THW3 = render_scene(7, 320, 240, 48)
    return [write_video(frames_THW3, tmp_path / f"crf{crf}.mp4", crf=crf) for crf in (20, 32, 44)]


@pytest.fixture
def topology(clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Topology]:
    """All services, healthy, over two libraries."""
    folder = Path(tempfile.mkdtemp(prefix="cpllm", dir="/tmp"))  # Ray's sockets want a short path
    folder.chmod(0o755)
    found = Topology(folder)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(found.end)
        password = found.environment["DAGSTER_POSTGRES_PASSWORD"]
        stack.enter_context(postgres(folder, found.ports["5432"], password))
        found.start("s3")
        found.start(
            "ray-head", "", "--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={folder}/r"
        )
        found.until_healthy("s3", "ray-head")
        for number in (1, 2):
            found.ports["8080"] = free_port()
            found.start("ray-worker", f"ray-worker-{number}", "--node-ip-address=127.0.0.1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, found.environment[name])
        client = boto3.client("s3", endpoint_url=found.environment["CPLLM_S3_ENDPOINT_URL"])
        client.create_bucket(Bucket="cpllm-demo")
        for library, count in LIBRARIES.items():
            for clip in clips[:count]:
                client.upload_file(str(clip), "cpllm-demo", f"libraries/{library}/{clip.name}")
        client.put_object(Bucket="cpllm-demo", Key="libraries/films/broken.mp4", Body=b"no video")
        found.start("code")
        found.until_healthy("code")
        for service in ("webserver", "daemon", "metrics"):
            found.start(service)
        found.until_healthy("webserver", "daemon", "metrics")
        yield found


RUNS = """{ runsOrError { ... on Runs { results { runId status parentRunId tags { key value } } } } }"""


def test_the_compose_files_processes_without_containers(topology: Topology) -> None:
    web = f"http://127.0.0.1:{topology.ports['3000']}/graphql"

    def runs() -> list[dict[str, Any]]:
        """Give all runs, the newest first."""
        found = ask(web, RUNS)["runsOrError"]["results"]
        return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def ended(library: str) -> dict[str, Any] | None:
        """Give the newest run of a library once it has succeeded."""
        of = [run for run in runs() if run["tags"].get("dagster/partition") == library]
        return of[0] if of and of[0]["status"] == "SUCCESS" else None

    # The sensor has found both libraries. The process of the first run is killed: the run is tried again.
    first = topology.until(lambda: [run for run in runs() if run["status"] == "STARTED"])[0]
    (process,) = topology.until(topology.runs)[:1]
    os.kill(process, signal.SIGKILL)
    again = topology.until(lambda: [run for run in runs() if run["parentRunId"] == first["runId"]])[0]
    assert again["tags"]["dagster/retry_number"] == "1"

    # The code server dies with the run that it holds, and is started again: run monitoring finds out.
    def started() -> list[dict[str, Any]]:
        alive = {run["runId"] for run in runs() if run["status"] == "STARTED"} - {first["runId"]}
        return [run for run in runs() if run["runId"] in alive] if topology.runs() else []

    lost = topology.until(started)[0]
    topology.kill("code")
    topology.restart("code")
    topology.until_healthy("code")
    topology.until(lambda: [run for run in runs() if run["runId"] == lost["runId"] and run["status"] == "FAILURE"])

    # Both libraries are scored in the end, every video once.
    for library in LIBRARIES:
        topology.until(lambda library=library: ended(library))
    with topology.lake().connect() as tables:
        asked = "select library, status, count(*), count(distinct uri) from scores group by all"
        rows = tables.execute(asked).fetchall()
    assert sorted(rows) == [("films", "failed", 1, 1), ("films", "ok", 3, 3), ("shows", "ok", 2, 2)]

    # The daemon is dead at 02:00; started again, it makes up for the night, which finds nothing to do.
    topology.kill("daemon")
    with topology.instance() as instance:
        (state,) = (one for one in instance.all_instigator_state() if one.name == "nightly")
        data = state.instigator_data
        assert isinstance(data, ScheduleInstigatorData)
        yesterday = ScheduleInstigatorData(data.cron_schedule, time.time() - DAY_S)
        instance.update_instigator_state(state.with_data(yesterday))
    before = {run["runId"] for run in runs()}
    topology.restart("daemon")
    topology.until_healthy("daemon")

    def night() -> list[dict[str, Any]]:
        of = [run for run in runs() if run["runId"] not in before and "dagster/schedule_name" in run["tags"]]
        return of if len(of) == len(LIBRARIES) and all(run["status"] == "SUCCESS" for run in of) else []

    assert {run["tags"]["dagster/partition"] for run in topology.until(night)} == set(LIBRARIES)
    assert {run["tags"]["dagster/schedule_name"] for run in night()} == {"nightly"}

    # What Prometheus is told.
    for part in ("lake", "dagster", "code_location"):
        topology.until(lambda part=part: f'cpllm_up{{part="{part}"}} 1.0' in page(topology))
    assert 'cpllm_videos{library="films",status="ok"} 3.0' in page(topology)

    # Nobody is answered by the cluster without its token.
    address = f"--address=127.0.0.1:{topology.ports['6379']}"
    for token, answered in ((topology.environment["RAY_AUTH_TOKEN"], True), ("x" * 40, False)):
        environment = topology.environment | {"RAY_AUTH_TOKEN": token}
        status = subprocess.run(
            [BIN / "ray", "status", address], env=environment, capture_output=True, text=True, check=False
        )
        assert (status.returncode == 0) is answered
        assert ("AuthenticationError" in status.stderr) is not answered


def page(topology: Topology) -> str:
    """Give the page for Prometheus."""
    with urllib.request.urlopen(f"http://127.0.0.1:{topology.ports['9464']}/metrics", timeout=60) as response:
        return response.read().decode()
