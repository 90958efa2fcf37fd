"""A new model on its way to promotion, on a real instance: let through, held back, and everything that is refused."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from safetensors.numpy import load_file, save_file

from cpllm_dagster.assets.training import refuse_overlap
from cpllm_dagster.definitions import build_definitions, read_settings
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.local_runs import run_library
from cpllm_dagster.models.promotion import digest, promote, promoted_folder, publish
from cpllm_dagster.resources import QualityModel
from cpllm_model.errors import CheckpointError, ConfigurationError, DataSetError, TrainingError
from cpllm_model.network import checkpoint
from cpllm_model.training.data.encode import write_video
from cpllm_model.training.data.manifests import LabelledVideo, read_manifest, write_manifest
from cpllm_model.training.data.scenes import render_scene
from cpllm_model.training.evaluation import evaluate
from cpllm_model.training.recipe import loop
from cpllm_model.training.recipe.config import Data, TrainConfig

#: Seeds from here on are in no corpus.
UNSEEN_SEED = 200_000
CONTENTS, RUNGS = 8, (18, 34, 46)
CHECK = "better_than_promoted"
RUN_YAML = """
out: {folder}/run
data: [{{path: {folder}/data, weight: 2.0}}]
cache: {{folder: {folder}/cache, segments: 1, views: 1}}
stages: [{{name: all, steps: 2, contents: 1, versions: 2, segments: [1], bf16: false}}]
"""


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of unseen scenes, each at three rates, labelled by their order."""
    folder = tmp_path_factory.mktemp("held out")
    videos = []
    for seed in range(UNSEEN_SEED, UNSEEN_SEED + CONTENTS):
        frames_THW3 = render_scene(seed, 320, 180, 16)
        for rung, crf in enumerate(RUNGS):
            path = write_video(frames_THW3, folder / f"{seed}-{crf}.mp4", crf=crf)
            videos.append(
                LabelledVideo(
                    video_id=path.stem, content_id=f"scene-{seed}", dataset="ladders", split="test", file=path.name,
                    mos=4.8 - 1.7 * rung, ladder=f"scene-{seed}", ladder_rung=rung,
                )
            )  # fmt: skip
    return write_manifest(videos, folder / "manifest.parquet")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, as if it had just been trained."""
    return shutil.copytree(checkpoint.resolve("tiny"), tmp_path_factory.mktemp("good") / "model")


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with its words for levels exchanged, so that it calls the best the worst."""
    from cpllm_model.network.processing import CPLLMProcessor

    folder = shutil.copytree(checkpoint.resolve("tiny"), tmp_path_factory.mktemp("bad") / "model")
    levels = CPLLMProcessor.from_pretrained(folder, local_files_only=True).level_ids
    weights = load_file(folder / "model.safetensors")
    (words,) = (value for name, value in weights.items() if name.endswith("embed_tokens.weight"))
    words[levels] = words[levels[::-1]]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def evaluations(held_out: Path, good: Path, bad: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The evaluation of each model on the held-out set, by the digest of the model."""
    import torch

    folder = tmp_path_factory.mktemp("evaluations")
    torch.set_num_threads(1)  # several threads for so small a model wait for one another on a busy machine
    for model in (good, bad):
        evaluate.evaluate(str(model), [held_out], folder / digest(str(model)), report=lambda _: None)
    return {digest(str(model)): folder / digest(str(model)) for model in (good, bad)}


@pytest.fixture
def evaluated_once(evaluations: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that was made already is not made again."""

    def copy(model: str, data: object, out: Path, split: str, report: object) -> None:
        shutil.copytree(evaluations[digest(model)], out)

    monkeypatch.setattr(evaluate, "evaluate", copy)


@dataclass(frozen=True)
class Training:
    """The platform with a folder of models, and an instance that knows of finished trainings."""

    folder: Path
    models: Path
    instance: dg.DagsterInstance

    @property
    def job(self) -> dg.JobDefinition:
        settings = read_settings(catalog_uri=str(self.folder / "catalogue"), lake=str(self.folder / "lake"))
        return build_definitions(settings).resolve_job_def("train_and_promote")

    def trained(self, model: Path, data: list[Path]) -> None:
        """Record a training as the asset would."""
        metadata = {"model": dg.MetadataValue.path(str(model)), "data": [str(path) for path in data]}
        self.instance.report_runless_asset_event(dg.AssetMaterialization("training_run", metadata=metadata))

    def run(self, *assets: str, **config: dict[str, Any]) -> dg.ExecuteInProcessResult:
        """Materialize assets with their checks."""
        return self.job.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(name) for name in assets],
            run_config={"ops": {name: {"config": values} for name, values in config.items()}},
            raise_on_error=True,
        )

    def evaluate_and_promote(self, held_out: Path) -> dg.ExecuteInProcessResult:
        return self.run("model_evaluation", "promoted_model", model_evaluation={"held_out": [str(held_out)]})

    def check(self) -> dg.AssetCheckEvaluation:
        """What the check found last."""
        key = dg.AssetCheckKey(dg.AssetKey("model_evaluation"), CHECK)
        record = self.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)[0]
        assert record.event and record.event.dagster_event
        return record.event.dagster_event.asset_check_evaluation_data

    def shown(self, asset: str) -> dict[str, Any]:
        """What the UI shows of an asset; nothing if it was never materialized."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(asset))
        if event is None or event.asset_materialization is None:
            return {}
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Training]:
    """A platform on which nothing was trained and nothing promoted."""
    monkeypatch.setenv("CPLLM_MODELS_URI", str(tmp_path / "models"))
    monkeypatch.delenv("CPLLM_MODEL", raising=False)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Training(tmp_path, tmp_path / "models", instance)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The manifest that a model was trained on; its videos are not needed any more."""
    videos = [LabelledVideo(f"v{i}", f"c{i}", "photos", "train", f"{i}.mp4", mos=3.0) for i in range(3)]
    return write_manifest(videos, tmp_path / "corpus" / "manifest.parquet")


@pytest.mark.usefixtures("evaluated_once")
def test_a_better_model_is_promoted(training: Training, held_out: Path, corpus: Path, good: Path, bad: Path) -> None:
    old = publish(bad, training.models, {})
    promote(old)
    training.trained(good, [corpus])
    assert training.evaluate_and_promote(held_out).success
    found = promoted_folder(training.models)
    assert found is not None and digest(str(found)) == digest(str(good))
    assert old.is_dir()  # to go back to
    check = training.check()
    assert check.passed and check.blocking and "is better than" in (check.description or "")
    shown = training.shown("promoted_model")
    assert (shown["model"], shown["before"]) == (str(found), str(old))
    assert shown["srcc_gain"] > 0 and "| SRCC |" in shown["figures"]
    shown = training.shown("model_evaluation")
    assert shown["held_out_contents"] == CONTENTS and shown["held_out_videos"] == CONTENTS * len(RUNGS)
    assert Path(shown["record"]).is_file()


@pytest.mark.usefixtures("evaluated_once")
def test_a_worse_model_than_the_bundled_one_is_held_back(
    training: Training, held_out: Path, corpus: Path, good: Path, bad: Path
) -> None:
    training.trained(bad, [corpus])
    with pytest.raises(dg.DagsterError, match=CHECK):
        training.evaluate_and_promote(held_out)
    check = training.check()
    assert not check.passed and check.severity is dg.AssetCheckSeverity.ERROR
    assert (check.description or "").startswith("The gain in SRCC is not surely above 0.000: ")
    assert check.metadata["incumbent"].value == checkpoint.model_id("tiny")
    assert check.metadata["srcc_gain"].value < 0  # pyright: ignore[reportOptionalOperand, reportOperatorIssue]
    assert promoted_folder(training.models) is None
    assert training.shown("model_evaluation") and not training.shown("promoted_model")

    # By itself, with no check before it, the asset asks for the rule, too.
    with pytest.raises(TrainingError, match="is not promoted"):
        training.run("promoted_model")
    assert promoted_folder(training.models) is None


@pytest.mark.usefixtures("evaluated_once")
def test_the_same_model_again_is_not_better(training: Training, held_out: Path, corpus: Path, good: Path) -> None:
    training.trained(good, [corpus])
    with pytest.raises(dg.DagsterError, match=CHECK):
        training.evaluate_and_promote(held_out)
    assert "gain +0.000" in (training.check().description or "")


@pytest.mark.usefixtures("evaluated_once")
def test_what_changed_since_the_evaluation_is_not_promoted(
    training: Training, held_out: Path, corpus: Path, good: Path, bad: Path, tmp_path: Path
) -> None:
    old = publish(bad, training.models, {})
    promote(old)
    candidate = shutil.copytree(good, tmp_path / "candidate")
    training.trained(candidate, [corpus])
    training.run("model_evaluation", model_evaluation={"held_out": [str(held_out)]})
    (candidate / "config.json").write_text((candidate / "config.json").read_text() + " ")
    with pytest.raises(TrainingError, match="no longer the model that was evaluated"):
        training.run("promoted_model")
    promote(publish(candidate, training.models, {}))
    shutil.copyfile(good / "config.json", candidate / "config.json")
    with pytest.raises(TrainingError, match="is replaced: evaluate again"):
        training.run("promoted_model")
    promote(old)
    for _ in range(2):  # and once more, as after a run that died before it could say so
        assert training.run("promoted_model").success
        assert digest(str(promoted_folder(training.models))) == digest(str(good))
    assert training.shown("promoted_model")["before"] == str(old)


def test_an_asset_without_the_one_before_it_says_so(
    training: Training, held_out: Path, corpus: Path, good: Path
) -> None:
    with pytest.raises(TrainingError, match="training_run has not been materialized yet"):
        training.run("model_evaluation", model_evaluation={"held_out": [str(held_out)]})
    with pytest.raises(TrainingError, match="model_evaluation has not been materialized yet"):
        training.run("promoted_model")
    training.trained(good, [corpus])
    with pytest.raises(TrainingError, match="distortion_corpus has not been materialized yet"):
        training.run("model_evaluation")  # the held-out videos of no corpus
    with pytest.raises(ConfigurationError, match="/no/such/manifest"):
        training.run("model_evaluation", model_evaluation={"held_out": ["/no/such/manifest"]})
    with pytest.raises(DataSetError, match="no video of split test"):
        training.run("model_evaluation", model_evaluation={"held_out": [str(corpus)]})


def test_held_out_videos_that_were_trained_on_are_refused(
    training: Training, held_out: Path, corpus: Path, good: Path, tmp_path: Path
) -> None:
    by_content = LabelledVideo("x", f"scene-{UNSEEN_SEED}", "other", "validation", "x.mp4", mos=3.0)
    by_file = LabelledVideo(
        "y", "y", "other", "train", str(held_out.parent / f"{UNSEEN_SEED + 1}-{RUNGS[0]}.mp4"), mos=3.0
    )
    other = write_manifest([by_content, by_file], tmp_path / "other.parquet")
    training.trained(good, [corpus, other])
    sentence = rf"2 held-out contents are trained on \(scene-{UNSEEN_SEED}, scene-{UNSEEN_SEED + 1}\)"
    with pytest.raises(DataSetError, match=sentence):
        training.evaluate_and_promote(held_out)
    assert not training.shown("model_evaluation")
    # A manifest's own test split was not trained on.
    refuse_overlap([corpus, held_out], [held_out], "test")


def test_training_asks_first_for_what_it_needs_at_last(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {"config": str(tmp_path / "run.yaml")}
    with pytest.raises(ConfigurationError, match=r"run\.yaml.* does not exist"):
        training.run("training_run", training_run=run)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find_spec(name))
    with pytest.raises(ConfigurationError, match=r"training needs peft: pip install 'cpllm\[train\]'"):
        training.run("training_run", training_run=run)
    monkeypatch.delenv("CPLLM_MODELS_URI")
    with pytest.raises(ConfigurationError, match="CPLLM_MODELS_URI is not set"):
        training.run("training_run", training_run=run)
    with pytest.raises(ConfigurationError, match="/no/such/photos"):
        training.run("distortion_corpus", distortion_corpus={"sources": ["/no/such/photos"], "out": str(tmp_path)})


def test_the_corpus_joins_the_data_sets_of_the_yaml(
    training: Training, corpus: Path, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[TrainConfig] = []

    def train(config: TrainConfig, report: object) -> Path:
        trained.append(config)
        return good

    monkeypatch.setattr(loop, "train", train)
    (tmp_path / "data").mkdir()
    (tmp_path / "run.yaml").write_text(RUN_YAML.format(folder=tmp_path))
    run = {"config": str(tmp_path / "run.yaml")}
    with pytest.raises(TrainingError, match="distortion_corpus has not been materialized yet"):
        training.run("training_run", training_run=run)
    own, there = Data(tmp_path / "data", weight=2.0), tmp_path / "data" / "manifest.parquet"
    for manifest, expected in ((corpus, (own, Data(corpus))), (there, (own,))):
        metadata = {"manifest": dg.MetadataValue.path(str(manifest))}
        training.instance.report_runless_asset_event(dg.AssetMaterialization("distortion_corpus", metadata=metadata))
        training.run("training_run", training_run=run)
        assert trained[-1].data == expected
        assert training.shown("training_run")["data"] == [str(there), *([str(corpus)] if len(expected) > 1 else [])]
    training.run("training_run", training_run=run | {"with_corpus": False, "out": str(tmp_path / "elsewhere")})
    assert trained[-1].data == (own,) and trained[-1].out == tmp_path / "elsewhere"


def test_a_run_keeps_to_the_model_that_was_promoted_when_it_began(tmp_path: Path, good: Path, bad: Path) -> None:
    first, second = (publish(folder, tmp_path, {}) for folder in (good, bad))
    promote(first)
    names: list[str] = []

    @dg.asset
    def early(model: QualityModel) -> None:
        names.append(model.name)
        promote(second)

    @dg.asset(deps=[early])
    def late(model: QualityModel) -> None:
        names.append(model.name)

    model = QualityModel(reference="promoted", models_uri=str(tmp_path))
    for _ in range(2):
        with dg.DagsterInstance.ephemeral() as instance:
            job = dg.Definitions(
                [early, late],
                jobs=[dg.define_asset_job("both")],
                resources={"model": model},
                executor=dg.in_process_executor,
            ).resolve_job_def("both")
            assert job.execute_in_process(instance=instance).success
    assert names == [str(first), str(first), str(second), str(second)]


@pytest.mark.usefixtures("local_ray")
def test_a_library_is_scored_by_the_promoted_model(
    training: Training, bad: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (training.folder / "videos" / "films").mkdir(parents=True)
    shutil.copyfile(clips[0], training.folder / "videos" / "films" / "a.mp4")
    monkeypatch.setenv("CPLLM_MODEL", "promoted")
    lake = str(training.folder / "lake")
    definitions = build_definitions(read_settings(catalog_uri=str(training.folder / "videos"), lake=lake))
    with pytest.raises(CheckpointError, match="no model has been promoted"):
        run_library(definitions, "films", training.instance)
    promote(publish(bad, training.models, {}))
    assert run_library(definitions, "films", training.instance).success
    table = Lake(lake).read("scores", "films")
    assert table is not None
    assert table["model_id"].to_pylist()[0].endswith(digest(str(bad))) and table["status"].to_pylist() == ["ok"]


@pytest.mark.slow
def test_a_corpus_a_training_and_the_judgement_on_it(training: Training, held_out: Path, tmp_path: Path) -> None:
    made = training.run("distortion_corpus", distortion_corpus={
        "sources": [], "out": str(tmp_path / "corpus"), "clips": 1, "scenes": 1, "processes": 1,
    })  # fmt: skip
    shown = training.shown("distortion_corpus")
    assert made.success and shown["contents"] == 1 and shown["dagster/row_count"] > 5
    assert shown["mos_histogram"].startswith("![")

    # One content is in one split, and a training needs two of them.
    videos = read_manifest(Path(shown["manifest"]))
    both = [
        replace(video, split=split, content_id=f"{split}-{video.content_id}")
        for split in ("train", "validation")
        for video in videos
    ]
    write_manifest(both, tmp_path / "data" / "manifest.parquet")
    (tmp_path / "run.yaml").write_text(RUN_YAML.format(folder=tmp_path))
    run = {"config": str(tmp_path / "run.yaml"), "with_corpus": False}
    assert training.run("training_run", training_run=run).success
    shown = training.shown("training_run")
    model = Path(shown["model"])
    assert checkpoint.model_id(str(model)) == shown["model_id"]
    assert shown["configuration"]["stages"][0]["name"] == "all"
    assert shown["data"] == [str(tmp_path / "data" / "manifest.parquet")]

    promote(publish(model, training.models, {}))
    config = {"training_run": run, "model_evaluation": {"held_out": [str(held_out)]}}
    with pytest.raises(dg.DagsterError, match=CHECK):  # the same model again
        training.run("training_run", "model_evaluation", "promoted_model", **config)
    assert "gain +0.000" in (training.check().description or "")
    shown = training.shown("model_evaluation")
    assert Path(shown["report"]).is_file()
    assert any(isinstance(value, str) and "image/png" in value for value in shown.values())
