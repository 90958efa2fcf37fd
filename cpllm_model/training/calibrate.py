"""Bring a model to the scale of one's own raters: `cpllm calibrate`.

In: a model, a table of ratings and the folder of its videos. Out: a model folder with the same weights, a score map in
its configuration and with that a model id of its own, `calibration.json` and a card; or why the ratings do not support
it. The network is not trained.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cpllm_model.errors import ConfigurationError, VideoError
from cpllm_model.metrics import Bootstrap
from cpllm_model.network import checkpoint
from cpllm_model.predictor import QualityPredictor
from cpllm_model.scale import LEVELS, SCORE_MAX, SCORE_MIN
from cpllm_model.training.data.manifests import LabelledVideo
from cpllm_model.training.data.rated import collect
from cpllm_model.training.score_map_fit import FOLDS, REPEATS, Fit, RatedView, enough, fit_score_map, in_words

BOOTSTRAP = Bootstrap()
RESULT_NAME = "calibration.json"
#: What a calibrated folder takes over from the model: weights, configurations, tokenizer.
_MODEL_SUFFIXES = {".safetensors", ".json", ".jinja", ".txt", ".model"}
#: Key of the figures -> what it is called.
FIGURES = {
    "rmse": "RMSE", "mae": "mean absolute error", "bias": "score minus rating", "srcc": "SRCC", "plcc": "PLCC",
    "within_1_std": "ratings within one score_std (should be 0.68)",
    "within_2_std": "within two (should be 0.95)",
}  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """A model, ratings, and what they give together.

    Args:
        model_id: of the model.
        scale: worst and best of the ratings, mapped to 1 and 5.
        failed: error type -> how many videos could not be scored.
        fit: the map and its figures.
    """

    model_id: str
    scale: tuple[float, float]
    failed: dict[str, int]
    fit: Fit

    def as_json(self) -> dict[str, Any]:
        """Give all that is known, as plain values."""
        fit = asdict(self.fit)
        return {
            "made_from": self.model_id,
            "scale": list(self.scale),
            "videos": fit.pop("videos"),
            "contents": fit.pop("contents"),
            "failed": self.failed,
            "cross_validation": {"folds": FOLDS, "repeats": REPEATS, "unit": "content"},
            "confidence": BOOTSTRAP.confidence,
            "objection": self.fit.objection,
            **fit,
        }

    def lines(self) -> list[str]:
        """Give the figures in Markdown."""
        fit = self.fit
        rows = [
            f"| {words} | {in_words(fit.before[key])} | {in_words(fit.after[key])} |" for key, words in FIGURES.items()
        ]
        mapped = [
            f"| {level} | {index + 1} | {fit.score_map.levels[index]:.2f} |" for index, level in enumerate(LEVELS)
        ]
        steps = [f"| {name} | {step:+.3f} |" for name, step in fit.score_map.per_severity.items()]
        low, high = self.scale
        return [
            f"Ratings from {low:g} (worst) to {high:g} (best) were mapped linearly to 1 to 5. "
            f"{fit.videos} videos of {fit.contents} contents count.",
            *([f"{sum(self.failed.values())} videos could not be scored."] if self.failed else []),
            "",
            f"| figure | {self.model_id} | calibrated, held-out contents |",
            "|---|---|---|",
            *rows,
            "",
            f"The RMSE falls by {in_words(fit.gain)}. Figures are of {FOLDS}-fold cross-validation over contents, "
            f"{REPEATS} times; brackets are {BOOTSTRAP.confidence:.0%} intervals over contents.",
            "",
            f"| level | model's score | mapped to{', without severities' if steps else ''} |",
            "|---|---|---|",
            *mapped,
            "",
            f"The model's scores of these videos go from {fit.least_score:.2f} to {fit.most_score:.2f}; "
            "beyond them the map goes on without evidence.",
            "",
            f"Adding steps of severity of the distortions lowers the RMSE by another "
            f"{in_words(fit.gain_of_severities)}"
            + (", and is used:" if steps else ". That is not surely above 0, and is left out."),
            *(["", "| distortion | added per step of severity |", "|---|---|", *steps] if steps else []),
        ]


def calibrate(
    predictor: QualityPredictor,
    ratings: Path,
    videos: Path | None = None,
    scale: tuple[float, float] = (SCORE_MIN, SCORE_MAX),
    report: Callable[[str], None] = print,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> Calibration:
    """Fit a score map for a model to ratings.

    Args:
        predictor: the model.
        ratings: a table as `read_ratings` takes it: a name, a mean rating, and where known a content for each video.
        videos: folder below which the videos lie; that of the table by default.
        scale: rating of the worst and of the best imaginable video.
        report: takes a line of progress.
        bootstrap: makes the intervals.

    Raises:
        DataSetError: the table cannot be understood, or there are too few videos.
        ConfigurationError: the model is calibrated already.
    """
    if predictor.score_map is not None:
        raise ConfigurationError(
            f"{predictor.model_id} is calibrated already; calibrate the model that it was made from"
        )
    collected = collect(ratings, videos or ratings.parent, ratings.stem, scale=scale)
    for line in collected.report():
        report(line)
    enough(len(collected.videos), len({one.content_id for one in collected.videos}))
    rated, failed = _view(predictor, collected.videos, report)
    fit = fit_score_map(rated, tuple(predictor.model.config.std_calibration), bootstrap)
    return Calibration(predictor.model_id, scale, failed, fit)


def _view(
    predictor: QualityPredictor, videos: Sequence[LabelledVideo], report: Callable[[str], None]
) -> tuple[list[RatedView], dict[str, int]]:
    """Look at rated videos; give what was seen, and how many failed of which error."""
    rated, failed = [], Counter()
    for number, (video, seen) in enumerate(zip(videos, predictor.look([one.file for one in videos]), strict=True), 1):
        if isinstance(seen, VideoError):
            report(f"failed: {seen} ({seen.error_type})")
            failed[seen.error_type] += 1
        else:
            # The visual tokens, which take most of the memory, are not needed any more.
            slim = replace(seen, tokens_NLD=np.zeros((len(seen.tokens_NLD), 0, 0), np.float16))
            assert video.mos is not None
            rated.append(RatedView(slim, video.mos, video.content_id))
        if number % 25 == 0 or number == len(videos):
            report(f"{number} of {len(videos)} videos")
    return rated, dict(failed)


def write_calibrated(calibration: Calibration, model: str, out: Path) -> str:
    """Write a model folder with the map: a reader finds it whole or not at all.

    Args:
        calibration: without an objection.
        model: bundled name, folder or hub id of the model that was calibrated.
        out: a folder that is not there yet.

    Returns:
        the model id.

    Raises:
        ConfigurationError: the folder is there already, or the ratings do not support the map.
    """
    if calibration.fit.objection:
        raise ConfigurationError(calibration.fit.objection)
    require_new(out)
    source = checkpoint.resolve(model)
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed here
    unfinished.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.suffix in _MODEL_SUFFIXES:
            shutil.copyfile(path, unfinished / path.name)
    config = json.loads((unfinished / "config.json").read_text())
    config["score_map"] = calibration.fit.score_map.to_config()
    config["std_calibration"] = list(calibration.fit.std_calibration)
    (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (unfinished / RESULT_NAME).write_text(json.dumps(calibration.as_json(), indent=2) + "\n")
    card = [
        f"# {out.name}",
        "",
        f"The weights of `{calibration.model_id}`, with its scores mapped to the scale of one group of raters "
        "(`cpllm calibrate`). Its scores mean what these raters said of such videos; they are not comparable with "
        "those of other models.",
        "",
        *calibration.lines(),
        "",
    ]
    (unfinished / "README.md").write_text("\n".join(card))
    unfinished.rename(out)
    return checkpoint.model_id(str(out))


def require_new(out: Path) -> None:
    """Refuse a folder that is there already.

    Raises:
        ConfigurationError: it is.
    """
    if out.exists():
        raise ConfigurationError(f"{out} is there already; give another folder, or remove it")
