"""A model card's figures, written from what the evaluation and the training log say.

In: evaluation reports (`evaluation.json`) and training logs. Out: Markdown, put between two marks in the card, so that
no figure is copied by hand; the rest of a card is written by people. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cpllm_model.errors import DataSetError
from cpllm_model.training.evaluation.report import bound_words

BEGIN, END = "<!-- figures: written by cpllm card -->", "<!-- end of figures -->"
#: Label of a row -> where its figures stand in a data set's results; what is not there has no row.
ROWS: dict[str, tuple[str, ...]] = {
    "SRCC against the label": ("score.srcc",),
    "PLCC; RMSE": ("score.plcc", "score.rmse"),
    "labels within one `score_std`; within two": ("calibration.within_1_std", "calibration.within_2_std"),
    "pairs of one content in order, rated; unrated": ("same_content_pairs.right", "unrated.right"),
    "ladders of five rungs in order, rated; unrated": ("ladders.monotone", "unrated_ladders.monotone"),
    "AV1 ladders in order, rated; unrated": ("ladders.by_codec.av1.monotone", "unrated_ladders.by_codec.av1.monotone"),
    "AUC, mean of the families": ("distortions.mean_auc",),
    "named set exactly right": ("distortions.exact",),
    "close pairs (rated), right by comparison; by score": (
        "close_pairs.rated.right", "close_pairs.rated.right_by_score",
    ),
    "close pairs, comparison less score, rated; unrated": ("close_pairs.rated.gain", "close_pairs.unrated.gain"),
    "gap between the orders, median; 90th percentile": (
        "comparisons.same_content.order_gap_median", "comparisons.same_content.order_gap_p90",
    ),
    "another video's context moves the score by; its pixels by": ("swaps.context_shift", "swaps.pixel_shift"),
    "descriptions that leave out a named distortion; mention another": ("text.omits_named", "text.mentions_unnamed"),
}  # fmt: skip


def write_card(card: Path, evaluations: Sequence[Path], logs: Sequence[Path]) -> Path:
    """Put figures into a model card.

    Args:
        card: Markdown; made with a heading if it is not there, figures are appended where it has no marks.
        evaluations: folders that `cpllm evaluate` wrote.
        logs: `train_log.jsonl` files, in the order of training.

    Returns:
        the card.

    Raises:
        DataSetError: a report or a log cannot be read.
    """
    lines = [BEGIN, *_stages(logs)]
    for folder in evaluations:
        lines += _report(_read(folder / "evaluation.json"))
    figures = "\n".join([*lines, END])
    text = card.read_text() if card.exists() else f"# Model card: {card.parent.name}\n"
    if BEGIN in text and END in text:
        before, _, rest = text.partition(BEGIN)
        text = before + figures + rest.partition(END)[2]
    else:
        text = f"{text.rstrip()}\n\n{figures}\n"
    card.write_text(text)
    return card


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataSetError(f"{path} cannot be read: {error}") from error


def _stages(logs: Sequence[Path]) -> Iterator[str]:
    """Give the last validation of each stage."""
    last: dict[tuple[Path, str], tuple[int, dict[str, float]]] = {}
    for path in logs:
        try:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise DataSetError(f"{path} cannot be read: {error}") from error
        for row in rows:
            if "validation" in row:
                last[path, row["stage"]] = row["step"], row["validation"]
    if not last:
        return
    names = list(dict.fromkeys(name for _, figures in last.values() for name in figures))
    yield from (
        "### Stages",
        "",
        "Figures of the validation contents at the end of each stage, of the running weights.",
        "",
    )
    yield from _table(
        ["stage", "steps", *(name.replace("_", " ") for name in names)],
        [
            [stage, str(step), *(_number(figures.get(name)) for name in names)]
            for (_, stage), (step, figures) in last.items()
        ],
    )


def _report(result: dict[str, Any]) -> Iterator[str]:
    for name, found in result["data_sets"].items():
        yield from (
            f"### {name}",
            "",
            f"{found['scored']} of {found['videos']} videos scored, {found['contents']} contents.",
            "",
        )
        rows = [(label, [_at(found, path) for path in paths]) for label, paths in ROWS.items()]
        yield from _table(
            ["figure", "value"],
            [[label, "; ".join(map(_figure, values))] for label, values in rows if any(v is not None for v in values)],
        )
        parts = [part for part in found.get("parts", []) if "srcc" in part]
        yield from _table(
            ["part", "videos", "SRCC", "PLCC"],
            [[part["part"], str(part["videos"]), _figure(part["srcc"]), _figure(part["plcc"])] for part in parts],
        )
        families = found.get("distortions", {}).get("by_family", {})
        yield from _table(
            ["family", "videos with it", "AUC", "precision", "recall"],
            [[name, str(one["videos"]), *(_figure(one[key]) for key in ("auc", "precision", "recall"))]
             for name, one in families.items()],
        )  # fmt: skip
        facts = {name: one for name, one in found.get("scene", {}).items() if one.get("videos")}
        yield from _table(
            ["scene", "right", "commonest word"],
            [[name, _figure(one["right"]), _figure(one["most_frequent"])] for name, one in facts.items()],
        )
    for key, title in (("stress", "Stress tests"), ("timed", "Tests in time")):
        if key in result:
            yield from _bounds(title, result[key])


def _bounds(title: str, found: Any) -> Iterator[str]:
    checks = [(row, one) for row, rows in _checked(found, title.lower()) for one in rows]
    held = sum(bool(one["holds"]) for _, one in checks)
    yield from (f"### {title}", "", f"{held} of {len(checks)} bounds hold.", "")
    yield from _table(
        ["row", "figure", "value", "bound", ""],
        [
            [row, str(one.get("figure", one.get("name", ""))), _figure(one["value"]), bound_words(one),
             "holds" if one["holds"] else "misses"]
            for row, one in checks
        ],
    )  # fmt: skip


def _checked(found: Any, name: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Give the rows of a report that have checks, wherever they stand."""
    if isinstance(found, dict):
        if isinstance(found.get("checks"), list):
            yield name, found["checks"]
        for key, value in found.items():
            if key != "checks":
                yield from _checked(value, str(key))


def _at(found: Any, path: str) -> Any:
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _figure(figure: Any) -> str:
    """Write a figure with its interval, where it has one."""
    if not isinstance(figure, dict):
        return _number(figure)
    value = _number(figure.get("value"))
    if figure.get("low") is None or figure.get("value") is None:
        return value
    return f"{value} ({_number(figure['low'])} – {_number(figure['high'])})"


def _number(value: Any) -> str:
    return "–" if not isinstance(value, int | float) or value != value else f"{value:.3f}"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        yield f"| {' | '.join(names)} |"
        yield f"|{'---|' * len(names)}"
        yield from (f"| {' | '.join(row)} |" for row in rows)
        yield ""
