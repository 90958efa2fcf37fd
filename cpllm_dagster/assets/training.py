"""The assets of a new model: distortion_corpus, training_run, model_evaluation and promoted_model.

In: pristine pictures and clips, the configuration of a training run, a held-out set. Out: a labelled corpus, a trained
model, the figures of it and of the model it would replace, and, where the check lets it pass, another promoted model.
Each asset finds what the one before it made by what that recorded when it was materialized, so that any of them can be
materialized by itself. How models are trained and measured is cpllm_model's; which is better, model_comparison.py's.
"""

import base64
import dataclasses
import importlib.util
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
from pydantic import Field

from cpllm_dagster.models.comparison import Gain, compare_predictions
from cpllm_dagster.models.promotion import PromotionRecord, PromotionRule, digest
from cpllm_dagster.report.tables import markdown_table, score_histogram
from cpllm_dagster.resources import PromotedModels
from cpllm_model.errors import ConfigurationError, DataSetError, TrainingError
from cpllm_model.network import checkpoint
from cpllm_model.training.data.manifests import MANIFEST_NAME, read_manifest

TRAINING_GROUP = "training"
#: One training at a time; scoring has a pool of its own and goes on.
TRAINING_POOL = "training"
#: What the extra `train` brings and the platform itself does not need.
TRAINING_PACKAGES = ("accelerate", "peft", "tensorboard")
#: Of the plots of an evaluation, those that the UI shows; its report has them all.
PLOTS_SHOWN = ("scores", "ladders")
#: Shown when contents are in training and held out: the first few.
NAMES_SHOWN = 5

_RULE = PromotionRule()


class CorpusConfig(dg.Config):
    """Of what a distortion corpus is made."""

    sources: list[str] = Field(description="Folders of pristine photographs and clips.")
    out: str = Field(description="Folder of the corpus; an unfinished corpus is resumed.")
    clips: int = Field(default=6000, ge=1, description="About how many degraded clips.")
    scenes: int = Field(default=40, ge=0, description="Rendered scenes beside the sources.")
    screens: int = Field(default=60, ge=0, description="Rendered screens, cartoons and games beside the sources.")
    rated: list[str] = Field(default=[], description="Manifests of pictures that people rated.")
    rated_contents: int = Field(default=200, ge=0, description="Most of these pictures to use.")
    seed: int = Field(default=0, description="Random seed.")
    processes: int | None = Field(
        default=None, ge=1, description="Contents processed in parallel; by default one per core."
    )


class TrainingConfig(dg.Config):
    """Which training is run."""

    config: str = Field(description="The YAML file of the training run.")
    out: str | None = Field(
        default=None, description="Folder of the run, instead of the one in the YAML; an unfinished run is resumed."
    )
    with_corpus: bool = Field(default=True, description="Whether distortion_corpus is added to the YAML's data sets.")


class EvaluationConfig(dg.Config):
    """On what the new model is measured, and what it must gain."""

    held_out: list[str] = Field(
        default=[], description="Manifests of the held-out videos, or their folders; by default that of the corpus."
    )
    split: str = Field(default="test", description="Which split of these manifests is held out.")
    least_gain: float = Field(
        default=_RULE.least_gain, description="The interval of the gain in SRCC must lie above this."
    )
    largest_pair_loss: float = Field(
        default=_RULE.largest_pair_loss,
        ge=0,
        description="The interval of the loss in same-content pair accuracy must lie below this.",
    )


@dg.asset(group_name=TRAINING_GROUP, kinds={"ffmpeg", "parquet"}, pool=TRAINING_POOL)
def distortion_corpus(context: dg.AssetExecutionContext, config: CorpusConfig) -> dg.MaterializeResult:
    """Pristine pictures and clips, degraded by real encoders and other known distortions, labelled and split."""
    sources = [_existing(folder) for folder in config.sources]
    from cpllm_model.training.data.corpus import CorpusSettings, make_corpus

    settings = CorpusSettings(
        config.clips, config.scenes, config.seed, config.processes, config.screens, config.rated_contents
    )
    rated = [_existing(path) for path in config.rated]
    manifest = make_corpus(sources, Path(config.out), settings, context.log.info, rated)
    videos = read_manifest(manifest)
    mos = [video.mos for video in videos if video.mos is not None]
    return dg.MaterializeResult(
        metadata={
            "manifest": dg.MetadataValue.path(str(manifest.resolve())),
            "dagster/row_count": len(videos),
            "contents": len({video.content_id for video in videos}),
            "videos_by_split": dict(Counter(video.split for video in videos)),
            "mos_histogram": dg.MetadataValue.md(score_histogram(np.array(mos))),
        }
    )


@dg.asset(deps=[distortion_corpus], group_name=TRAINING_GROUP, kinds={"pytorch"}, pool=TRAINING_POOL)
def training_run(
    context: dg.AssetExecutionContext, config: TrainingConfig, models: PromotedModels
) -> dg.MaterializeResult:
    """A model trained as its YAML says; a run that was stopped resumes."""
    models.open()  # what promotion needs is asked for before the first hour of training, not after the last
    missing = [name for name in TRAINING_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(f"training needs {', '.join(missing)}: pip install 'cpllm[train]'")
    from cpllm_model.training.recipe.config import Data, TrainConfig
    from cpllm_model.training.recipe.loop import train

    # What the YAML says is left as it is, so that a run started by hand with the same YAML can be resumed here.
    settings = TrainConfig.from_yaml(_existing(config.config))
    if config.out is not None:
        settings = dataclasses.replace(settings, out=Path(config.out))
    data = [_manifest(one.path) for one in settings.data]
    if config.with_corpus:
        corpus = Path(_recorded(context.instance, distortion_corpus, "manifest"))
        if corpus not in data:
            settings = dataclasses.replace(settings, data=(*settings.data, Data(corpus)))
            data.append(corpus)
    model = train(settings, context.log.info).resolve()
    model_id = checkpoint.model_id(str(model))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(model_id),
        metadata={
            "model": dg.MetadataValue.path(str(model)),
            "model_id": model_id,
            "run_folder": dg.MetadataValue.path(str(settings.out.resolve())),
            "data": [str(path) for path in data],
            "configuration": json.loads(settings.to_json()),
        },
    )


@dg.asset(deps=[training_run], group_name=TRAINING_GROUP, kinds={"pytorch", "parquet"}, pool=TRAINING_POOL)
def model_evaluation(
    context: dg.AssetExecutionContext, config: EvaluationConfig, models: PromotedModels
) -> dg.MaterializeResult:
    """The figures of the trained model and of the one it would replace, on the same held-out videos."""
    from cpllm_model.training.evaluation.evaluate import evaluate

    candidate = str(_recorded(context.instance, training_run, "model"))
    store = models.open()
    incumbent = store.promoted()
    held_out = [_manifest(_existing(path)) for path in config.held_out]
    held_out = held_out or [Path(_recorded(context.instance, distortion_corpus, "manifest"))]
    refuse_overlap([Path(path) for path in _recorded(context.instance, training_run, "data")], held_out, config.split)
    candidate_id = checkpoint.model_id(candidate)
    out = store.work / "evaluations" / candidate_id
    predictions = {}
    for role, model in (("candidate", candidate), ("incumbent", incumbent)):
        context.log.info(f"{role}: {model}")
        shutil.rmtree(out / role, ignore_errors=True)  # of an evaluation on other videos
        evaluate(model, held_out, out / role, config.split, context.log.info)
        predictions[role] = pq.read_table(out / role / "predictions.parquet")
    record = PromotionRecord(
        candidate=candidate,
        candidate_id=candidate_id,
        incumbent=incumbent,
        incumbent_id=checkpoint.model_id(incumbent),
        held_out=tuple(map(str, held_out)),
        comparison=compare_predictions(predictions["candidate"], predictions["incumbent"]),
        rule=PromotionRule(config.least_gain, config.largest_pair_loss),
    )
    path = record.write(out / "comparison.json")
    return dg.MaterializeResult(
        metadata={
            "record": dg.MetadataValue.path(str(path)),
            "report": dg.MetadataValue.path(str(out / "candidate" / "index.html")),
            **comparison_metadata(record),
            **{
                plot.stem: dg.MetadataValue.md(inline_plot(plot))
                for name in PLOTS_SHOWN
                for plot in sorted((out / "candidate").glob(f"*_{name}.png"))
            },
        }
    )


@dg.asset(deps=[model_evaluation], group_name=TRAINING_GROUP, kinds={"safetensors"}, pool=TRAINING_POOL)
def promoted_model(context: dg.AssetExecutionContext, models: PromotedModels) -> dg.MaterializeResult:
    """The model that CPLLM_MODEL=promoted names: the trained one, once it is the better one.

    It asks for the rule by itself: materialized alone, no check stands before it.
    """
    store = models.open()
    record = last_evaluation(context.instance)
    if record.objection is not None:
        raise TrainingError(f"{record.candidate_id} is not promoted. {record.objection}")
    if checkpoint.model_id(record.candidate) != record.candidate_id:
        raise TrainingError(f"{record.candidate} is no longer the model that was evaluated: evaluate again")
    # The candidate itself is there where a run died just after it had promoted it.
    now = store.promoted()
    if digest(now) != digest(record.candidate) and checkpoint.model_id(now) != record.incumbent_id:
        raise TrainingError(f"{record.incumbent_id}, which was compared with, is replaced: evaluate again")
    published = store.publish(Path(record.candidate), dataclasses.asdict(record))
    store.promote(published)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(record.candidate_id),
        metadata={
            "model": dg.MetadataValue.path(f"{store.uri}/{published}"),
            "before": record.incumbent,
            **comparison_metadata(record),
        },
    )


def last_evaluation(instance: dg.DagsterInstance) -> PromotionRecord:
    """Give what the last evaluation found.

    Raises:
        TrainingError: there was none.
        CheckpointError: its record is gone.
    """
    return PromotionRecord.read(Path(_recorded(instance, model_evaluation, "record")))


def comparison_metadata(record: PromotionRecord) -> dict[str, Any]:
    """Give what the UI shows of a comparison of models."""
    found = record.comparison
    gains: dict[str, Gain] = {"SRCC": found.srcc}
    if len(found.srcc_of) > 1:
        gains |= {f"SRCC, {dataset}": gain for dataset, gain in found.srcc_of.items()}
    if found.pair_accuracy is not None:
        gains["same-content pairs"] = found.pair_accuracy
    columns = ["figure", "incumbent", "candidate", "gain", "from", "to"]
    rows = [
        (name, *(f"{x:.3f}" for x in (gain.incumbent, gain.candidate, gain.value, gain.low, gain.high)))
        for name, gain in gains.items()
    ]
    return {
        "candidate": record.candidate_id,
        "incumbent": record.incumbent_id,
        "held_out_videos": found.videos,
        "held_out_contents": found.contents,
        "srcc": found.srcc.candidate,
        "srcc_gain": found.srcc.value,
        "figures": dg.MetadataValue.md(markdown_table(columns, rows)),
        "objection": record.objection or "none",
    }


def refuse_overlap(training: Sequence[Path], held_out: Sequence[Path], split: str) -> None:
    """See that no held-out video was trained on: neither its content nor its file.

    The names of contents are compared across data sets, since one video may be in several.

    Raises:
        DataSetError: some were, or there is no held-out video.
    """
    seen = [video for path in training for video in read_manifest(path) if video.split != "test"]
    contents, files = {video.content_id for video in seen}, {video.file for video in seen}
    held = [video for path in held_out for video in read_manifest(path, [split])]
    both = sorted({video.content_id for video in held if video.content_id in contents or video.file in files})
    if both:
        more = ", ..." if len(both) > NAMES_SHOWN else ""
        raise DataSetError(
            f"{len(both)} held-out contents are trained on ({', '.join(both[:NAMES_SHOWN])}{more}): "
            "a gain on them says nothing"
        )


def inline_plot(path: Path) -> str:
    """Give a plot as markdown that holds the picture itself."""
    return f"![{path.stem}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})"


def _recorded(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, name: str) -> Any:
    """Give what an asset recorded when it was last materialized.

    Raises:
        TrainingError: it never was.
    """
    event = instance.get_latest_materialization_event(asset.key)
    if event is None or event.asset_materialization is None:
        raise TrainingError(f"{asset.key.to_user_string()} has not been materialized yet: materialize it first")
    return event.asset_materialization.metadata[name].value


def _manifest(data: Path) -> Path:
    """Give the absolute path of a manifest, which may be named by its folder."""
    return (data / MANIFEST_NAME if data.is_dir() else data).resolve()


def _existing(path: str) -> Path:
    if not Path(path).exists():
        raise ConfigurationError(f"{path!r} does not exist")
    return Path(path)
