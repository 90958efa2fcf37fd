"""The core by itself: it scores, compares and ranks without the platform, and what it lacks it names by an install."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import resource
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import cpllm_model
from cpllm_model.training.data.encode import write_video
from cpllm_model.training.data.scenes import render_scene

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
#: What scores one file may cost in processor seconds, everything started anew.
COLD_START_S = 3.5


def names(requirements: list[str]) -> set[str]:
    return {Requirement(one).name for one in requirements}


def test_the_core_is_without_the_platform() -> None:
    core = names(PROJECT["project"]["dependencies"])
    assert {"torch", "transformers", "av", "numpy", "safetensors", "typer", "rich"} <= core
    assert not core & {"dagster", "ray", "boto3", "pyarrow", "duckdb", "matplotlib", "ffmpeg-python", "pydantic"}
    assert {"platform", "train", "report", "demo", "s3"} <= set(EXTRAS)


def test_make_installs_everything() -> None:
    assert "'.[dev]'" in (ROOT / "Makefile").read_text()
    (whole,) = (Requirement(one) for one in EXTRAS["dev"] if one.startswith("cpllm"))
    assert {"dagster", "ray", "boto3", "pyarrow", "ffmpeg-python", "matplotlib"} <= {
        name for extra in [*whole.extras, "platform", "report", "s3"] for name in names(EXTRAS[extra])
    }


def test_every_install_that_is_named_exists() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "infra").rglob("*.md")]
    sources = [path for package in ("cpllm_model", "cpllm_dagster") for path in (ROOT / package).rglob("*.py")]
    named = set()
    for path in [*pages, *sources, ROOT / "infra" / "docker" / "Dockerfile"]:
        for extras in re.findall(r"(?:cpllm|'\.)\[([a-z, ]+)\]", path.read_text()):
            named |= {extra.strip() for extra in extras.split(",")}
        named |= set(re.findall(r'_told_in_a_sentence\("(\w+)"\)', path.read_text()))
    assert {"platform", "train", "demo"} <= named <= set(EXTRAS)


def test_constraints_pin_every_requirement() -> None:
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    asked = {name for group in [PROJECT["project"]["dependencies"], *EXTRAS.values()] for name in names(group)}
    assert {name.lower() for name in asked} - {"cpllm"} <= pinned


def test_the_version_is_one() -> None:
    assert importlib.metadata.version("cpllm") == cpllm_model.__version__
    for package in ("cpllm_model", "cpllm_dagster"):
        assert (ROOT / package / "py.typed").is_file()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(render_scene(100_003, 320, 240, 48), tmp_path_factory.mktemp("clip") / "a.mp4", crf=30)


SCORE = [sys.executable, "-m", "cpllm_dagster.cli", "score", "--json"]
MODULES = """
import os, sys, cpllm_dagster.cli

def end(status, leave=os._exit):
    print(sorted(sys.modules), flush=True)
    leave(status)

os._exit = end
cpllm_dagster.cli.main()
"""
NOT_NEEDED = (
    "accelerate", "boto3", "dagster", "matplotlib", "peft", "pyarrow", "ray", "scipy", "torch.distributed.tensor",
    "torch._dynamo.symbolic_convert", "torch._inductor",
)  # fmt: skip


def test_one_file_imports_what_it_needs_and_scores_as_ever(clip: Path) -> None:
    from cpllm_model.predictor import QualityPredictor

    command = [sys.executable, "-c", MODULES, "score", "--json", clip]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    answer, modules = found.stdout.splitlines()
    assert not [name for name in NOT_NEEDED if repr(name) in modules]
    predictor = QualityPredictor.from_pretrained("tiny")  # in this process, with all of transformers
    one = predictor.assess(clip)
    row = json.loads(answer)
    assert (row["score"], row["score_std"], row["description"]) == (one.score, one.uncertainty, one.description)


@pytest.mark.slow
def test_one_file_from_cold_costs_few_processor_seconds(clip: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    costs = []
    for _ in range(3):  # the first writes byte code
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*SCORE, clip], env=environment, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) <= COLD_START_S, costs


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The commands of a new environment with the core alone, installed as a wheel."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, "torch"], check=True)  # by itself, since an index may have a build of its own
    subprocess.run([*pip, ROOT], check=True)
    yield folder / "bin"


def alone(command: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the new environment with nothing of this one."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([command, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_core_works_in_a_fresh_environment(fresh: Path, clip: Path, tmp_path: Path) -> None:
    listed = alone(fresh / "python", "-m", "pip", "list", "--format", "json").stdout
    installed = {one["name"].lower() for one in json.loads(listed)}
    assert not installed & {"dagster", "ray", "boto3", "matplotlib", "pyarrow", "duckdb", "accelerate"}
    score = alone(fresh / "cpllm", "score", "--json", clip)
    assert score.returncode == 0, score.stderr
    assert (
        json.loads(score.stdout)["score"]
        == json.loads(subprocess.run([*SCORE, clip], capture_output=True, text=True, check=True).stdout)["score"]
    )
    assert alone(fresh / "cpllm", "compare", clip, clip).returncode == 0
    assert alone(fresh / "cpllm", "rank", clip, clip).returncode == 0
    for extra, command in {
        "platform": ["run"],
        "demo": ["demo", "--work", str(tmp_path)],
        "train": ["corpus", "--out", str(tmp_path / "corpus")],
        "s3": ["score", "s3://bucket/a.mp4"],
    }.items():
        refused = alone(fresh / "cpllm", *command)
        assert refused.returncode == 2
        assert f"pip install 'cpllm[{extra}]'" in refused.stderr and "Traceback" not in refused.stderr
    data = 'from importlib.resources import files as f; print(*(p.name for p in f("cpllm_dagster.demo").iterdir()))'
    assert {"dagster.yaml", "workspace.yaml"} <= set(alone(fresh / "python", "-c", data).stdout.split())


def test_the_package_gives_its_public_names_and_imports_no_torch_by_itself():
    code = (
        "import sys, cpllm_model; assert 'torch' not in sys.modules; "
        "from cpllm_model import QualityPredictor; "
        "assert QualityPredictor.__module__ == 'cpllm_model.predictor' and not hasattr(cpllm_model, 'Nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
