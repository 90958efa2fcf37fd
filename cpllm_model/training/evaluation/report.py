"""The report of an evaluation: `evaluation.json`, and `index.html` that people read.

In: figures and answers. Out: files that open without a server or a network. Names, descriptions and messages are data:
nothing in them can become markup.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cpllm_model.errors import VideoError
from cpllm_model.metrics import Estimate
from cpllm_model.training.evaluation.answers import CLOSE_SCORES, Answer, DataSetAnswers
from cpllm_model.training.evaluation.differences import FEWEST_CONTENTS, Compared
from cpllm_model.training.evaluation.plots import draw_plots

WORST_SHOWN = 8
FAILURES_SHOWN = 20
#: Section -> its heading and its figures: key, words.
FIGURES: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "score": ("Score", (
        ("srcc", "SRCC"), ("krcc", "KRCC"), ("pairs_right", "all pairs in order"),
        ("plcc", "PLCC, as they are"), ("plcc_fitted", "PLCC after the logistic"),
        ("rmse_fitted", "RMSE after the logistic (MOS)"), ("rmse", "RMSE, as they are (MOS)"),
        ("mae", "mean absolute error (MOS)"), ("bias", "mean of score less label (MOS)"),
    )),
    "same_content_pairs": ("Versions of one content, rated", (
        ("right", "pairs that scores put in order"), ("srcc_within", "SRCC within a content, mean"),
    )),
    "unrated": ("Versions of one content, unrated", (
        ("right", "pairs that scores put in order"), ("srcc_within", "SRCC within a content, mean"),
    )),
    "ladders": ("Rate ladders, rated", (
        ("monotone", "ladders fully in order"), ("steps_right", "adjacent rungs in order"),
        ("smallest_step", "smallest label gap told apart (MOS)"),
    )),
    "unrated_ladders": ("Rate ladders, unrated", (
        ("monotone", "ladders fully in order"), ("steps_right", "adjacent rungs in order"),
        ("smallest_step", "smallest gap told apart (4 x share of quality)"),
    )),
    "levels": ("Level", (("right", "the label's level"), ("within_one", "at most one level off"))),
    "calibration": ("Uncertainty", (
        ("within_1_std", "labels within one stated deviation (should be 0.68)"),
        ("within_2_std", "labels within two (should be 0.95)"),
        ("srcc_std_error", "SRCC of stated deviation and absolute error"),
        ("plcc_std_error", "PLCC of the same"),
    )),
    "distortions": ("Distortions", (
        ("mean_auc", "AUC, mean of families"), ("micro_precision", "precision, pooled"),
        ("micro_recall", "recall, pooled"), ("micro_f1", "F1, pooled"),
        ("macro_precision", "precision, mean of families"),
        ("macro_recall", "recall, mean of families"), ("macro_f1", "F1, mean of families"),
        ("exact", "videos with exactly the right names"),
    )),
    "text": ("Words against the other answers", (
        ("says_level", "says the score's level"), ("says_other_level", "says another level"),
        ("mentions_unnamed", "mentions a distortion not named"), ("omits_named", "omits a named distortion"),
        ("says_other_scene", "says another scene word"), ("contradicts", "any of the last four"),
    )),
    "swaps": ("Tokens of another video put in", (
        ("context_shift", "score moves by, context tokens (MOS)"),
        ("pixel_shift", "score moves by, pixel tokens (MOS)"),
        ("score_gap", "both videos' scores are apart by (MOS)"),
    )),
    "self_comparisons": ("Videos compared with themselves", (
        ("order_gap", "gap between both orders, mean (0 is right)"), ("order_gap_median", "its median"),
        ("order_gap_p90", "its 90th percentile"), ("order_gap_max", "its largest"),
        ("first_bias", "leaning to the first (0: none)"),
    )),
}  # fmt: skip
COMPARISONS = (
    ("right", "right"), ("right_by_score", "the same pairs by score"), ("confidence", "mean stated confidence"),
    ("order_gap", "gap between both orders, mean"), ("order_gap_median", "its median"),
    ("order_gap_p90", "its 90th percentile"), ("order_gap_max", "its largest"),
    ("first_bias", "leaning to the first (0: none)"),
)  # fmt: skip
COMPARED = {
    "same_content": "versions of one content",
    "other_content": "different contents",
    "same_content_unrated": "unrated versions of one content",
}
#: Columns of the tables that have a row a part, a family and so on: key, words.
PARTS = (
    ("part", "part"), ("labels", "labels"), ("videos", "videos"), ("contents", "contents"), ("srcc", "SRCC"),
    ("krcc", "KRCC"), ("plcc", "PLCC"), ("rmse", "RMSE"), ("pairs_right", "all pairs in order"),
    ("same_content_right", "pairs of one content in order"), ("same_content_srcc_within", "SRCC within contents"),
    ("within_1_std", "within one stated deviation"), ("within_2_std", "within two"),
)  # fmt: skip
FAMILIES = (
    ("family", "distortion"), ("videos", "videos"), ("auc", "AUC"), ("recall", "recall"), ("precision", "precision"),
)  # fmt: skip
CODECS = (
    ("codec", "codec"), ("ladders", "ladders"), ("monotone", "fully in order"),
    ("steps_right", "adjacent rungs in order"),
)  # fmt: skip
CLOSE = (
    ("labels", "labels"), ("pairs", "pairs"), ("contents", "contents"), ("right", "right by comparison"),
    ("right_by_score", "right by score"), ("gain", "gain"),
)  # fmt: skip
SCENE = (
    ("question", "question"), ("videos", "videos"), ("right", "right"), ("most_frequent", "always the same word"),
)  # fmt: skip
TIMED = (
    ("kind", "stretch"), ("length_s", "s"), ("clips", "clips"), ("found", "found"), ("found_on_clean", "on clean"),
    ("found_newly", "newly"), ("overlap", "overlap"), ("start_off_s", "start off"), ("end_off_s", "end off"),
    ("in_time", "in time"), ("shift", "shift"), ("falls", "falls"), ("called_distorted", "distortion"),
)  # fmt: skip
PUBLISHED = (("method", "method"), ("srcc", "SRCC"), ("plcc", "PLCC"), ("source", "source"))
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; overflow-wrap: anywhere; }
h3 { margin: 1.6rem 0 .4rem; font-size: 1.05rem; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #eee; vertical-align: top;
  overflow-wrap: anywhere; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.groups { display: grid; grid-template-columns: repeat(auto-fit, minmax(27rem, 1fr)); column-gap: 2rem; }
.plots { display: flex; flex-wrap: wrap; column-gap: 2rem; margin-top: 2rem; }
figure { margin: 0 0 2rem; } img { max-width: 100%; } figcaption, .note { color: #555; }
"""


def write_report(result: dict[str, Any], found: Mapping[str, DataSetAnswers], out: Path) -> dict[str, Any]:
    """Write the JSON, the plots and the page.

    Args:
        result: the evaluation, its figures as `Estimate`s.
        found: the answers of each of its data sets.
        out: folder that exists.

    Returns:
        the evaluation as it stands in `evaluation.json`: an estimate is an object with value, low and high.
    """
    written = as_json(result)
    (out / "evaluation.json").write_text(json.dumps(written, indent=1, allow_nan=False))
    parts = [_summary([result], [None])]
    for number, (name, answers) in enumerate(found.items(), 1):
        prefix = f"{number}_{re.sub(r'[^a-z0-9]+', '_', name.lower())[:30].strip('_')}"
        plots = draw_plots(answers.answers, result["data_sets"][name], out, prefix)
        parts.append(_data_set(name, result["data_sets"][name], answers, plots))
    if "stress" in written:
        parts.append(_stress(written["stress"]))
    if "timed" in written:
        parts.append(_timed(written["timed"]))
    (out / "index.html").write_text(_page(f"Evaluation of {result['model_id']}", parts), encoding="utf-8")
    return written


def write_matrix(
    results: Sequence[dict[str, Any]], folders: Sequence[str], out: Path, compared: Sequence[Compared] = ()
) -> None:
    """Write `evaluations.json` and a page that sets models side by side, each linked to its own report.

    With differences between models, `differences.json` has these.

    Args:
        results: as `write_report` gives them.
        folders: of the models' reports, relative to `out`.
        out: folder that exists.
        compared: the first model with each other one.
    """
    (out / "evaluations.json").write_text(json.dumps(list(results), indent=1, allow_nan=False))
    if compared:
        found = [as_json({"first": one.first, "other": one.other, "data_sets": one.found}) for one in compared]
        (out / "differences.json").write_text(json.dumps(found, indent=1, allow_nan=False))
    page = _page("Evaluation of several models", [_summary(results, folders), *map(_difference, compared)])
    (out / "index.html").write_text(page, encoding="utf-8")


def _difference(one: Compared) -> str:
    """Give the differences of two models: a table and a picture."""
    rows = [
        [_text(dataset), words, f"{first:.3f}", f"{other:.3f}", _number(gap)]
        for dataset, words, first, other, gap in one.rows()
    ]
    note = (
        "The difference is paired: both models are asked about the same videos, and share every resample. "
        f"Fewer than {FEWEST_CONTENTS} contents give no interval."
    )
    alt = "Scores of both models against the labels, and the differences with their intervals."
    return (
        f"<h2>{_text(one.other)} compared with {_text(one.first)}</h2><p class=note>{note}</p>"
        + _table(["data set", "figure", "first", "other", "other minus first"], rows)
        + f"<figure>{_image(one.picture, alt)}<figcaption>{alt}</figcaption></figure>"
    )


def _image(path: Path, words: str) -> str:
    return f'<img alt="{words}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def as_json(value: Any) -> Any:
    """Give estimates as objects and undefined numbers as null."""
    if isinstance(value, Estimate):
        return as_json(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): as_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary(results: Sequence[dict[str, Any]], folders: Sequence[str | None]) -> str:
    """Give a row a model, a column a data set, each with SRCC and PLCC, and how many bounds of the other tests hold."""
    tests = {
        "stress tests": [result.get("stress") for result in results],
        "tests in time": [{"": result["timed"]} if "timed" in result else None for result in results],
    }
    tests = {name: rows for name, rows in tests.items() if any(rows)}
    names = list(dict.fromkeys(name for result in results for name in result["data_sets"]))
    rows = []
    for number, (result, folder) in enumerate(zip(results, folders, strict=True)):
        model = _text(result["model_id"])
        cells = [f'<a href="{_text(folder)}/index.html">{model}</a>' if folder else model]
        for name in names:
            score = as_json(result["data_sets"].get(name, {}).get("score"))
            cells.append(f"{_number(score['srcc'])}<br>{_number(score['plcc'])}" if score else "no labels")
        cells += [_bounds_held(found[number] or {}) for found in tests.values()]
        rows.append(cells)
    first = results[0]
    note = (
        f"Split {_text(first['split'])}. SRCC above PLCC; in brackets {first['bootstrap']['confidence']:.0%} intervals "
        f"over contents, {first['bootstrap']['resamples']} bootstrap resamples; "
        "a share of exactly 0 or 1 has no width, as what never happened happens in no resample."
    )
    return f"<p class=note>{note}</p>" + _table(["model", *map(_text, names), *tests], rows)


def _data_set(name: str, figures: dict[str, Any], found: DataSetAnswers, plots: Sequence[tuple[Path, str]]) -> str:
    counts = (
        f"{figures['scored']} of {figures['videos']} videos scored, of {figures['contents']} contents; "
        f"{figures['compared_pairs']} pairs compared, {figures['failed_pairs']} could not be."
    )
    groups = [
        f"<div><h3>{heading}</h3>{_figure_table(figures[section], entries)}</div>"
        for section, (heading, entries) in FIGURES.items()
        if section in figures
    ]
    for kind, one in figures.get("comparisons", {}).items():
        heading = f"Comparisons, {COMPARED[kind]} ({one['pairs']} pairs)"
        groups.append(f"<div><h3>{heading}</h3>{_figure_table(one, COMPARISONS)}</div>")
    images = "".join(f"<figure>{_image(path, words)}<figcaption>{words}</figcaption></figure>" for path, words in plots)
    return (
        f"<h2>{_text(name)}</h2><p>{counts}</p>{_failures(found)}"
        f'<div class="groups">{"".join(groups)}</div>{_row_tables(figures)}'
        f'<div class="plots">{images}</div>{_worst(found.answers)}'
    )


def _stress(rows: Mapping[str, Any]) -> str:
    """Give a line a figure of the stress tests, with its bound and whether it holds."""
    cells = []
    for name, row in rows.items():
        failed = ", ".join(f"{count} {reason}" for reason, count in row["failed"].items())
        about = f"{row['sources']} sources, {row['versions']} versions" + (f"; failed: {failed}" if failed else "")
        for check in row["checks"] or [{"figure": "no source has all its answers"}]:
            cells.append([_text(name), _text(about), *_check(check)])
    return (
        f"<h2>Stress tests</h2><p>{_bounds_held(rows)}. "
        "Versions of clean sources, each row by itself; figures are means over sources, with intervals over them.</p>"
        + _table(["test", "made of", "figure", "value", "bound", ""], cells)
    )


def _timed(found: Mapping[str, Any]) -> str:
    """Give the bounds of the tests in time, and a line a kind and length of stretch."""
    failed = "".join(f"; failed: {count} {_text(reason)}" for reason, count in found["failed"].items())
    bounds = [[words, str(check["clips"]), *rest] for check in found["checks"] for words, *rest in [_check(check)]]
    return (
        f"<h2>Tests in time</h2><p>{_bounds_held({'': found})}. "
        f"{found['clips']} clips of {found['videos']} clean videos{failed}. One stretch of each differs. It is found "
        "where at least half of the shorter of both lies in a worse segment, a named distortion or an event. "
        "Intervals are over videos.</p>"
        + _table(["figure", "clips", "value", "bound", ""], bounds)
        + "<p class=note>On clean: share found at the same place of the clean video; newly: found where that is not. "
        "Start and end off in s; in time: found with both ends within 0.5 s. Shift and falls: of the whole score "
        "against the clean video, MOS. Distortion: one is named over the stretch.</p>"
        + _row_table([{**row, "length_s": _length(row["length_s"])} for row in found["stretches"]], TIMED)
    )


def _length(length_s: float | None) -> str:
    return "" if length_s is None else f"{length_s:g}"


def _check(check: Mapping[str, Any]) -> list[str]:
    """Give the cells of a figure: its words, value, bound, and whether it holds."""
    words = {True: "holds", False: "<b>does not hold</b>", None: ""}[check.get("holds")]
    return [_text(check["figure"]), _number(check.get("value")), bound_words(check), words]


def bound_words(check: Mapping[str, Any]) -> str:
    """Say the bound of a figure, and which side of it holds; nothing where it has none."""
    if "bound" not in check:
        return ""
    side = {True: "at least ", False: "at most ", None: ""}[check.get("at_least")]
    return f"{side}{check['bound']:g}"


def _bounds_held(rows: Mapping[str, Any]) -> str:
    holds = [check["holds"] for row in rows.values() for check in row["checks"]]
    return f"{sum(holds)} of {len(holds)} bounds hold"


def _row_tables(figures: dict[str, Any]) -> str:
    """Give the tables that set parts, methods, families and so on side by side."""
    ladders = [
        {"codec": f"{codec}{words}", **one}
        for section, words in (("ladders", ""), ("unrated_ladders", ", unrated"))
        for codec, one in figures.get(section, {}).get("by_codec", {}).items()
    ]
    others = figures.get("published", [])
    ours = [{"method": "this model", "source": "this evaluation", **figures.get("score", {})}] if others else []
    families = figures.get("distortions", {}).get("by_family", {})
    return "".join(
        f"<h3>{heading}</h3>{_row_table(rows, columns)}"
        for heading, rows, columns in (
            ("Parts", figures.get("parts", []), PARTS),
            ("Published on the same split", [*ours, *others], PUBLISHED),
            ("Distortions by family", [{"family": name, **one} for name, one in families.items()], FAMILIES),
            ("Rate ladders by codec", ladders, CODECS),
            (
                f"Pairs of one content with scores at most {CLOSE_SCORES:g} apart",
                [{"labels": name, **one} for name, one in figures.get("close_pairs", {}).items()],
                CLOSE,
            ),
            ("Scene", [{"question": name, **one} for name, one in figures.get("scene", {}).items()], SCENE),
        )
        if rows
    )


def _row_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]]) -> str:
    """Give a table with a row each, of the columns that some row has."""
    columns = [(key, words) for key, words in columns if any(row.get(key) is not None for row in rows)]
    return _table([words for _, words in columns], [[_cell(row.get(key)) for key, _ in columns] for row in rows])


def _cell(value: Any) -> str:
    return _text(value) if isinstance(value, (str, int)) else _number(value)


def _figure_table(figures: dict[str, Any], entries: Sequence[tuple[str, str]]) -> str:
    return _table([], [[words, _number(figures[key])] for key, words in entries if key in figures], numbers=True)


def _failures(found: DataSetAnswers) -> str:
    failed = [
        (video.video_id, outcome)
        for video, outcome in zip(found.videos, found.outcomes, strict=True)
        if isinstance(outcome, VideoError)
    ]
    if not failed:
        return ""
    rows = [[_text(name), _text(error.error_type), _text(error.cause)] for name, error in failed[:FAILURES_SHOWN]]
    more = f" The first {FAILURES_SHOWN}; predictions.parquet has all." if len(failed) > FAILURES_SHOWN else ""
    return f"<h3>{len(failed)} videos failed</h3><p class=note>They are in no figure.{more}</p>" + _table(
        ["video", "reason", "in words"], rows
    )


def _worst(answers: Sequence[Answer]) -> str:
    rated = [(abs(one.rating.score - one.video.mos), one) for one in answers if one.video.mos is not None]
    worst = sorted(rated, key=lambda pair: -pair[0])[:WORST_SHOWN]
    if not worst:
        return ""
    rows = [
        [f"{one.video.mos:.2f}", f"{one.rating.score:.2f}", _text(one.video.video_id), _text(one.description.text)]
        for _, one in worst
    ]
    return "<h3>Farthest from their labels</h3>" + _table(["label", "score", "video", "description"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """Give a table of cells that are markup already; with `numbers` the last column is of numbers."""
    head = f"<tr>{''.join(f'<th>{cell}</th>' for cell in header)}</tr>" if header else ""
    kinds = ["", " class=number"]
    body = "".join(
        f"<tr>{''.join(f'<td{kinds[numbers and cell is row[-1]]}>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table>{head}{body}</table>"


def _number(figure: Any) -> str:
    """Give an estimate, as `Estimate` or as it stands in JSON, or a plain number, with its interval."""
    figure = as_json(figure)
    if not isinstance(figure, dict):
        return "–" if figure is None else f"{figure:.2f}"
    if figure["value"] is None:
        return "–"
    interval = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
    return f"{figure['value']:.3f}{interval}"


def _text(value: object) -> str:
    """Give a value as text of a page: markup escaped, what cannot be printed spelled out."""
    shown = "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in str(value))
    return html.escape(shown)


def _page(title: str, parts: Sequence[str]) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title><style>{STYLE}</style>'
        f"<h1>{_text(title)}</h1>{''.join(parts)}</html>\n"
    )
