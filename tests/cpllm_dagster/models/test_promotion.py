"""Promotion is one step: whatever breaks before it leaves the old model in place, and older models stay."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from cpllm_dagster.models import promotion
from cpllm_dagster.models.comparison import Gain, ModelComparison
from cpllm_dagster.models.promotion import (
    PROMOTED,
    PromotionRecord,
    PromotionRule,
    promote,
    promoted_folder,
    publish,
)
from cpllm_model.errors import CheckpointError, ConfigurationError
from cpllm_model.network import checkpoint

COMPARISON = ModelComparison(
    videos=100,
    contents=10,
    unanswered=0,
    srcc=Gain(0.80, 0.85, 0.02, 0.08),
    srcc_of={"a": Gain(0.80, 0.85, 0.02, 0.08)},
    pair_accuracy=Gain(0.90, 0.90, -0.01, 0.01),
)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty folder of models."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    """A copy of the bundled model, beside which a trainer left its own things."""
    folder = shutil.copytree(checkpoint.resolve("tiny"), tmp_path / "run")
    (folder / "steps").mkdir()
    (folder / "steps" / "trainer_state.json").write_text("{}")
    (folder / ".hidden").write_text("")
    return folder


def changed(folder: Path, to: Path) -> Path:
    """Copy a model and change one weight."""
    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] * 1.5
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


def test_a_published_model_is_whole_and_not_yet_promoted(models: Path, candidate: Path) -> None:
    published = publish(candidate, models, {"why": "better"})
    assert published == models / checkpoint.model_id(str(candidate))
    assert promotion.digest(str(published)) == promotion.digest(str(candidate))
    expected = {path.name for path in candidate.iterdir() if path.is_file() and path.name != ".hidden"}
    assert {path.name for path in published.iterdir()} == expected | {"promotion.json"}
    assert json.loads((published / "promotion.json").read_text()) == {"why": "better"}
    assert checkpoint.resolve(str(published)) == published
    assert promoted_folder(models) is None
    assert [path.name for path in models.iterdir()] == [published.name]


def test_the_next_promotion_keeps_the_model_before_it(models: Path, candidate: Path, tmp_path: Path) -> None:
    first = publish(candidate, models, {})
    promote(first)
    assert promoted_folder(models) == first
    second = publish(changed(candidate, tmp_path / "other"), models, {})
    assert promoted_folder(models) == first
    promote(second)
    assert promoted_folder(models) == second and first.is_dir()
    assert str((models / PROMOTED).readlink()) == second.name  # the folder of models can be moved as a whole
    promote(first)
    assert promoted_folder(models) == first


def test_a_model_that_is_there_is_published_no_second_time_but_a_changed_one_is_refused(
    models: Path, candidate: Path
) -> None:
    published = publish(candidate, models, {"first": 1})
    assert publish(candidate, models, {"second": 2}) == published
    assert json.loads((published / "promotion.json").read_text()) == {"first": 1}
    (published / "config.json").write_text((published / "config.json").read_text() + " ")
    with pytest.raises(CheckpointError, match="no longer the model"):
        publish(candidate, models, {})


@pytest.mark.parametrize("killed_at", ["copyfile", "rename", "replace"])
def test_a_promotion_that_is_killed_leaves_the_old_model_and_the_next_one_succeeds(
    models: Path, candidate: Path, tmp_path: Path, killed_at: str
) -> None:
    old = publish(candidate, models, {})
    promote(old)
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    new = changed(candidate, tmp_path / "new")
    program = f"""
        import os, pathlib, shutil, signal
        from cpllm_dagster.models.promotion import promote, publish

        calls = []
        def dying(*arguments):
            calls.append(arguments)
            if len(calls) > ({killed_at!r} == "copyfile"):
                os.kill(os.getpid(), signal.SIGKILL)
            return copyfile(*arguments)

        copyfile = shutil.copyfile
        if {killed_at!r} == "copyfile":
            shutil.copyfile = dying
        else:
            setattr(pathlib.Path, {killed_at!r}, dying)
        promote(publish(pathlib.Path({str(new)!r}), pathlib.Path({str(models)!r}), {{}}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert promoted_folder(models) == old
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert killed_at == "replace" or not (models / checkpoint.model_id(str(new))).exists()

    promote(publish(new, models, {}))
    assert promotion.digest(str(models / PROMOTED)) == promotion.digest(str(new))
    assert not [path for path in models.iterdir() if path.name.startswith(".")]


def test_what_changes_while_it_is_copied_is_not_published(
    models: Path, candidate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = shutil.copyfile

    def damaging(source: Path, target: Path) -> None:
        copyfile(source, target)
        if source.name == "config.json":
            target.write_text(target.read_text() + " ")

    monkeypatch.setattr(shutil, "copyfile", damaging)
    with pytest.raises(CheckpointError, match="changed while it was copied"):
        publish(candidate, models, {})
    assert not (models / checkpoint.model_id(str(candidate))).exists()


def test_what_may_run_code_is_not_published(models: Path, candidate: Path) -> None:
    (candidate / "weights.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"weights\.pt may run code"):
        publish(candidate, models, {})
    assert not list(models.iterdir())


def test_a_link_that_leads_nowhere_or_is_none_is_said(models: Path, candidate: Path) -> None:
    published = publish(candidate, models, {})
    (models / PROMOTED).symlink_to("gone")
    with pytest.raises(CheckpointError, match="promoted does not lead to a folder"):
        promoted_folder(models)
    promote(published)
    assert promoted_folder(models) == published
    (models / PROMOTED).unlink()
    (models / PROMOTED).mkdir()
    with pytest.raises(ConfigurationError, match="is not a link"):
        promote(published)


@pytest.mark.parametrize(
    ("comparison", "objection"),
    [
        (COMPARISON, None),
        (replace(COMPARISON, pair_accuracy=None), None),
        (replace(COMPARISON, unanswered=2), "no score for 2 videos"),
        (replace(COMPARISON, srcc=Gain(0.80, 0.85, -0.01, 0.1)), "SRCC is not surely above 0.000: 0.800 -> 0.850"),
        (replace(COMPARISON, srcc=Gain(0.80, 0.80, 0.0, 0.0)), "SRCC is not surely"),
        (replace(COMPARISON, srcc=Gain(0.80, 0.80, math.nan, 1.0)), "SRCC is not surely"),
        (replace(COMPARISON, pair_accuracy=Gain(0.90, 0.88, -0.03, 0.0)), "Same-content pairs may lose"),
    ],
)
def test_the_rule(comparison: ModelComparison, objection: str | None, tmp_path: Path) -> None:
    record = PromotionRecord("c", "c-1", "tiny", "tiny-2", ("m",), comparison, PromotionRule())
    found = record.objection
    assert found is None if objection is None else objection in (found or "")
    assert str(PromotionRecord.read(record.write(tmp_path / "record.json"))) == str(record)  # NaN equals nothing
    assert PromotionRule(least_gain=0.05).objection(COMPARISON) is not None


def test_a_lost_or_damaged_record_is_said(tmp_path: Path) -> None:
    for content in (None, "{", "[]", '{"candidate": "a"}'):
        if content is not None:
            (tmp_path / "record.json").write_text(content)
        with pytest.raises(CheckpointError, match="is not a record"):
            PromotionRecord.read(tmp_path / "record.json")
