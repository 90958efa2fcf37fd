"""The image's recipe: linted, pinned, without root, and built from what is there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.infra.commands import BIN

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
STEPS = [line for line in DOCKERFILE.read_text().replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def test_hadolint_has_nothing_to_say() -> None:
    command = [BIN / "hadolint", "--failure-threshold", "warning", "--no-color", DOCKERFILE]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_there_are_two_targets_and_neither_runs_as_root() -> None:
    stages = {step.split()[3]: step.split()[1] for step in STEPS if step.startswith("FROM")}
    assert stages["cpu"] == stages["cuda"] == "runtime"
    assert [step for step in STEPS if step.startswith("FROM")][-1].endswith("AS cpu")  # the default target
    after_runtime = STEPS[STEPS.index(next(step for step in STEPS if step.endswith("AS runtime"))) :]
    assert [step for step in after_runtime if step.startswith("USER")] == ["USER 10001"]
    assert all(":" in stages[name] for name in ("packages", "runtime"))  # a tag, never "latest"
    assert ":latest" not in DOCKERFILE.read_text()


def test_packages_are_those_of_the_constraints() -> None:
    assert "PIP_CONSTRAINT=/source/constraints.txt" in DOCKERFILE.read_text()
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert all(" torch" in step or "'.[" in step or step.endswith(" .") for step in STEPS if "pip install" in step)


def test_both_targets_are_built_alike_but_for_torch() -> None:
    text = DOCKERFILE.read_text()
    cpu, cuda = (
        re.search(rf"AS {name}\n(.*?)\n\n", text, re.DOTALL)[1].splitlines()  # pyright: ignore
        for name in ("built-cpu", "built-cuda")
    )
    assert cpu[1:] == cuda[1:]
    assert "torch" in cpu[0] and "torch" in cuda[0]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    sources = [
        word for step in STEPS if step.startswith("COPY ") and "--from" not in step for word in step.split()[1:-1]
    ]
    assert len(sources) >= 6
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    for source in sources:
        assert (ROOT / source).exists()
        assert any(Path(source).is_relative_to(folder) for folder in allowed)


def test_the_image_ships_the_instance_of_infra() -> None:
    (line,) = (step for step in STEPS if "dagster.yaml" in step)
    assert re.search(r"cat \S+/dagster/dagster.yaml \S+/dagster/postgres.yaml > /opt/dagster/dagster.yaml", line)
    assert "DAGSTER_HOME=/opt/dagster" in DOCKERFILE.read_text()


def shipped_instance() -> dict:
    """The instance's configuration as the image has it."""
    folder = ROOT / "infra" / "dagster"
    return yaml.safe_load((folder / "dagster.yaml").read_text() + (folder / "postgres.yaml").read_text())


def test_dagster_accepts_the_instance_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.instance.config import dagster_instance_config

    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(shipped_instance()))
    config, custom_class = dagster_instance_config(str(tmp_path))
    assert custom_class is None
    # The driver is named, and it is installed.
    assert config["storage"]["postgres"]["postgres_db"]["scheme"] == "postgresql+psycopg2"
    assert importlib.util.find_spec("psycopg2")
    assert config["run_monitoring"]["enabled"]
    assert config["run_launcher"] == {"module": "cpllm_dagster.run_launcher", "class": "CheckedRunLauncher"}
