"""Evaluate a model on labelled videos, from the files, as a user's videos are answered.

In: a model and manifests. Out: a folder with `evaluation.json` (every figure with its interval), `predictions.parquet`
(a row a video), `pairs.parquet` (a row a compared pair), `index.html` with its images and, where stress tests are
asked for, `stress.parquet` (a row a version), and for tests in time `timed.parquet` (a row a clip). A video without an
answer is a row with its reason and is counted.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpllm_model.errors import DataSetError, VideoError
from cpllm_model.metrics import Bootstrap
from cpllm_model.predictor import QualityPredictor
from cpllm_model.training.data.manifests import SPLITS, LabelledVideo, read_manifest
from cpllm_model.training.evaluation.answers import (
    CLOSE_PAIRS,
    CLOSE_SCORES,
    LEAST_GAP,
    PAIRS,
    DataSetAnswers,
    answer,
    write_tables,
)
from cpllm_model.training.evaluation.differences import Compared, differences, draw_differences
from cpllm_model.training.evaluation.metrics import FITTED_RESAMPLES, figures_of
from cpllm_model.training.evaluation.published import published_on
from cpllm_model.training.evaluation.report import write_matrix, write_report
from cpllm_model.training.evaluation.stress import Row, ask, stress_figures, write_stress_table
from cpllm_model.training.evaluation.stress_rows import ROWS
from cpllm_model.training.evaluation.stress_sources import find_sources
from cpllm_model.training.evaluation.timed import TimedSettings, ask_timed, timed_figures, write_timed_table
from cpllm_model.training.evaluation.timed_clips import SHOTS

BOOTSTRAP = Bootstrap()


@dataclass(frozen=True)
class StressSettings:
    """Which stress tests are made.

    Args:
        sources: clean sources a row.
        folders: of photographs and clips that are clean, beside those of the evaluated data sets.
        rows: the tests.
    """

    sources: int = 12
    folders: tuple[Path, ...] = ()
    rows: tuple[Row, ...] = ROWS


def evaluate(
    model: str,
    data: Sequence[Path],
    out: Path,
    split: str = "test",
    report: Callable[[str], None] = print,
    bootstrap: Bootstrap = BOOTSTRAP,
    stress: StressSettings | None = None,
    timed: TimedSettings | None = None,
) -> dict[str, Any]:
    """Evaluate one model and write its report.

    Args:
        model: bundled name, folder or hub id.
        data: manifests, or folders that hold one.
        out: folder of the report; it may be the model's own.
        split: which contents are asked about.
        report: takes a line of progress.
        bootstrap: makes the intervals.
        stress: which stress tests are made, too; None is none.
        timed: which tests in time are made, too; None is none.

    Returns:
        the content of `evaluation.json`.

    Raises:
        CheckpointError: the model cannot be loaded.
        DataSetError: a data set cannot be read, or has no video of the split.
    """
    data_sets = read_data_sets(data, split)
    predictor = QualityPredictor.from_pretrained(model)
    found = {}
    for name, videos in data_sets.items():
        found[name] = answer(predictor, videos, lambda line, name=name: report(f"{name}: {line}"))
    report("computing the figures")
    result: dict[str, Any] = {
        "model_id": predictor.model_id,
        "split": split,
        "bootstrap": {
            "unit": "content",
            "kind": "percentile",
            **asdict(bootstrap),
            "most_resamples_after_logistic": FITTED_RESAMPLES,
        },
        "pairs_asked": {
            "within contents": PAIRS,
            "across contents": PAIRS,
            "least label gap": LEAST_GAP,
            "close scores": CLOSE_PAIRS,
            "largest score gap of close scores": CLOSE_SCORES,
        },
        "data_sets": {
            name: _summary(one)
            | {"published": [asdict(figure) for figure in published_on((v.dataset for v in one.videos), split)]}
            | figures_of(one, bootstrap)
            for name, one in found.items()
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    write_tables(found, out)
    videos = [video for one in data_sets.values() for video in one]
    if stress is not None:
        sources = find_sources(videos, stress.folders, split, stress.sources)
        stressed = ask(predictor, sources, stress.rows, report)
        write_stress_table(stressed, out / "stress.parquet")
        result["stress"] = stress_figures(stressed, bootstrap)
    if timed is not None:
        # What moves: of a still picture nobody can tell that it is frozen.
        moving = find_sources(videos, timed.folders, split, timed.videos * SHOTS)["moving"]
        answers = ask_timed(predictor, moving, timed, report)
        write_timed_table(answers, out / "timed.parquet")
        result["timed"] = timed_figures(answers, bootstrap)
    return write_report(result, found, out)


def evaluate_models(
    models: Sequence[str],
    data: Sequence[Path],
    out: Path,
    split: str = "test",
    report: Callable[[str], None] = print,
    bootstrap: Bootstrap = BOOTSTRAP,
    stress: StressSettings | None = None,
    timed: TimedSettings | None = None,
) -> list[dict[str, Any]]:
    """Evaluate several models, each into a folder of its own below `out`, and write a page that sets them side by side.

    The page has the paired difference of each other model to the first; `differences.json` has the same.
    Arguments, errors and each result are those of `evaluate`.
    """
    folders = [f"{number}-{re.sub(r'[^A-Za-z0-9]+', '-', Path(model).name)}" for number, model in enumerate(models, 1)]
    results = [
        evaluate(model, data, out / folder, split, report, bootstrap, stress, timed)
        for model, folder in zip(models, folders, strict=True)
    ]
    compared = []
    for result, folder in list(zip(results, folders, strict=True))[1:] if data else []:
        found = differences(out / folders[0], out / folder, bootstrap)
        names = [results[0]["model_id"], result["model_id"]]
        picture = draw_differences(out / folders[0], out / folder, names, found, out / f"{folder}-difference.png")
        compared.append(Compared(names[0], names[1], found, picture))
        for line in compared[-1].lines():
            report(line)
    write_matrix(results, folders, out, compared)
    return results


def read_data_sets(data: Sequence[Path], split: str) -> dict[str, list[LabelledVideo]]:
    """Read a split of each data set; a name that occurs in two places is told apart by its place.

    Raises:
        DataSetError: one cannot be read, there is no such split, or it has no video of it.
    """
    if split not in SPLITS:
        raise DataSetError(f"there is no split {split!r}, only {', '.join(SPLITS)}")
    found: dict[str, list[LabelledVideo]] = {}
    for path in dict.fromkeys(data):
        by_name = defaultdict(list)
        for video in read_manifest(path, (split,)):
            by_name[video.dataset].append(video)
        for name, videos in by_name.items():
            found[name if name not in found else f"{name} ({path})"] = videos
    return found


def _summary(found: DataSetAnswers) -> dict[str, Any]:
    failed = Counter(one.error_type for one in found.outcomes if isinstance(one, VideoError))
    return {
        "videos": len(found.videos),
        "scored": len(found.answers),
        "failed": dict(failed.most_common()),
        "contents": len({one.video.content_id for one in found.answers}),
        "compared_pairs": len(found.pairs) + len(found.close) + len(found.own),
        "failed_pairs": found.failed_pairs,
    }
