"""Stress tests: one kind of change at a time, on held-out clean sources, with a bound that each figure should hold.

In: a predictor, clean sources (`stress_sources.py`) and rows (`stress_rows.py`), which say how versions are made, what
is measured and what bound it should hold. Out: each row's figures with intervals over sources, whether the bounds hold,
and what the model said of every version.

Shape legend: T frames, J = H * 3 / 2 rows of a planar yuv420p frame, W width.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cpllm_model.errors import SourceReadError, VideoError
from cpllm_model.metrics import Bootstrap
from cpllm_model.predictor import Description, QualityPredictor, Rating, ViewedVideo
from cpllm_model.training.data import encode
from cpllm_model.training.data.distortions import MEZZANINE_CRF
from cpllm_model.training.evaluation.columns import means
from cpllm_model.training.evaluation.stress_sources import Source

FPS = 25.0
REPORT_EVERY = 100
STRESS = pa.schema(
    [
        pa.field("row", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        ("score", pa.float64()),
        ("score_std", pa.float64()),
        ("named", pa.list_(pa.string())),
        ("error_type", pa.string()),
        ("error_message", pa.string()),
    ]
)


@dataclass(frozen=True)
class Version:
    """One version of a source, to be stored by an encoder; by default as good as lossless."""

    name: str
    planes_TJW: np.ndarray
    codec: str = "x264"
    quality: float = MEZZANINE_CRF
    fps: float = FPS


@dataclass(frozen=True)
class Said:
    """What the model said of a version."""

    version: str
    rating: Rating
    description: Description

    @property
    def score(self) -> float:
        """Give the score."""
        return self.rating.score

    @property
    def named(self) -> list[str]:
        """Give the named distortions."""
        return [one.name for one in self.description.distortions if one.named]


@dataclass(frozen=True)
class Check:
    """A figure and the bound that it should hold.

    Args:
        words: what it is.
        of_source: what was said of a source's versions, in the row's order -> a number; the figure is their mean.
        bound: at least so much, or at most.
        at_least: which of both.
        worst: whether the figure is the largest of all sources and not their mean.
    """

    words: str
    of_source: Callable[[Sequence[Said]], float]
    bound: float
    at_least: bool = True
    worst: bool = False


@dataclass(frozen=True)
class Row:
    """A stress test.

    Args:
        name: of the row.
        make: source, folder for intermediate files -> its versions; the first is the clean one.
        checks: its figures.
        sources: which of `find_sources`'s it is made of.
    """

    name: str
    make: Callable[[Source, Path], list[Version]]
    checks: tuple[Check, ...]
    sources: str = "any"


@dataclass(frozen=True)
class RowAnswers:
    """What a model said in a row: of each source its versions, or why there is no answer."""

    row: Row
    by_source: dict[str, list[Said | tuple[str, VideoError]]]


def ask(
    predictor: QualityPredictor,
    sources: dict[str, list[Source]],
    rows: Sequence[Row],
    report: Callable[[str], None],
) -> list[RowAnswers]:
    """Make every version of every source of every row, and ask a model about it.

    Args:
        predictor: the model.
        sources: as `find_sources` gives them.
        rows: the tests.
        report: takes a line of progress.
    """
    found = [RowAnswers(row, defaultdict(list)) for row in rows]
    with tempfile.TemporaryDirectory() as name:
        made: list[tuple[RowAnswers, Source, str, Path]] = []
        files = _files(found, sources, Path(name), made)
        for number, seen in enumerate(predictor.look(files)):
            answers, source, version, path = made[number]
            path.unlink()
            said = seen if isinstance(seen, VideoError) else said_of(predictor, version, seen)
            known = (version, said) if isinstance(said, VideoError) else said
            answers.by_source[source.content_id].append(known)
            if (number + 1) % REPORT_EVERY == 0:
                report(f"stress: {number + 1} versions, {answers.row.name}")
    return found


def _files(found: Sequence[RowAnswers], sources: dict[str, list[Source]], folder: Path, made: list) -> Iterator[Path]:
    """Encode versions one after the other as they are asked for, and note in `made` what each file is."""
    # All rows of a source follow on one another, so that it is filmed once.
    for source in dict.fromkeys(source for chosen in sources.values() for source in chosen):
        for answers in found:
            if source not in sources[answers.row.sources]:
                continue
            try:
                for version in answers.row.make(source, folder):
                    path = folder / f"{len(made)}{encode.SUFFIXES[version.codec]}"
                    _store(version, path)
                    made.append((answers, source, version.name, path))
                    yield path
            except (encode.EncodeError, OSError, ValueError) as error:
                # One source that cannot be read or encoded costs nothing of what is known of the others.
                failed = SourceReadError(source.name, f"its versions cannot be made: {error}")
                answers.by_source[source.content_id].append(("versions", failed))


def _store(version: Version, path: Path) -> None:
    # The time that a better preset takes is worth nothing at a quality this high.
    options = {"preset": "veryfast"} if version.codec == "x264" and version.quality <= MEZZANINE_CRF else {}
    encode.encode_planes(version.planes_TJW, path, version.fps, version.codec, version.quality, **options)


def said_of(predictor: QualityPredictor, version: str, seen: ViewedVideo) -> Said | VideoError:
    """Give what a model says of a version that it has looked at, or why it has no answer."""
    try:
        return Said(version, predictor.rate([seen])[0], predictor.describe_viewed([seen])[0])
    except VideoError as error:
        return error


def stress_figures(found: Sequence[RowAnswers], bootstrap: Bootstrap) -> dict[str, Any]:
    """Give each row's figures, by its name.

    A source of which one version has no answer is in no figure; its failures are counted.
    """
    rows = {}
    for answers in found:
        outcomes = [one for versions in answers.by_source.values() for one in versions]
        errors = Counter(one[1].error_type for one in outcomes if isinstance(one, tuple))
        whole = {
            source: [one for one in versions if isinstance(one, Said)]
            for source, versions in answers.by_source.items()
            if not any(isinstance(one, tuple) for one in versions)
        }
        rows[answers.row.name] = {
            "sources": len(whole),
            "versions": len(outcomes),
            "failed": dict(errors.most_common()),
            "checks": [_check(check, whole, bootstrap) for check in answers.row.checks] if whole else [],
        }
    return rows


def _check(check: Check, whole: dict[str, list[Said]], bootstrap: Bootstrap) -> dict[str, Any]:
    value_N = np.array([check.of_source(versions) for versions in whole.values()], float)
    value = float(value_N.max())
    figure = value if check.worst else bootstrap.estimate(means(figure=value_N), list(whole))["figure"]
    value = value if check.worst else float(value_N.mean())
    return verdict(check.words, figure, value, check.bound, at_least=check.at_least)


def verdict(words: str, figure: Any, value: float, bound: float, *, at_least: bool) -> dict[str, Any]:
    """Hold a figure against its bound.

    Args:
        words: what the figure is.
        figure: as the report has it, with its interval if it has one.
        value: of the figure.
        bound: at least so much, or at most.
        at_least: which of both.
    """
    holds = value >= bound if at_least else value <= bound
    return {"figure": words, "value": figure, "bound": bound, "at_least": at_least, "holds": holds}


def write_stress_table(found: Sequence[RowAnswers], path: Path) -> None:
    """Write a row a version: what was said of it, or why there is no answer."""
    rows = []
    for answers in found:
        for source, versions in answers.by_source.items():
            for one in versions:
                known = {"row": answers.row.name, "source": source}
                if isinstance(one, Said):
                    said = {"score": one.score, "score_std": one.rating.score_std, "named": one.named}
                    rows.append(known | {"version": one.version, "status": "ok", **said})
                else:
                    version, error = one
                    reason = {"error_type": error.error_type, "error_message": error.cause}
                    rows.append(known | {"version": version, "status": "failed", **reason})
    pq.write_table(pa.Table.from_pylist(rows, STRESS), path, compression="zstd")
