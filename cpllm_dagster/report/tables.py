"""What a library's tables say, as markdown for the Dagster UI and as tables for a terminal.

In: published tables. Out: text and a chart in which names, messages and descriptions are data: nothing in them can
become markup, a link or a terminal command. Decides nothing.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cpllm_dagster.lake.tables import Lake
from cpllm_model.scale import SCORE_MAX, SCORE_MIN

LONGEST_TEXT = 160
BIN_WIDTH = 0.25
SHOWN_AT_EACH_END = 5


def plain(value: object) -> str:
    """Give a value as one line of printable characters, cut to a readable length."""
    text = printable(str(value))
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def printable(text: str) -> str:
    """Give a text as one line; a character that does not print is shown by its number."""
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)


def markdown_text(value: object) -> str:
    """Give a value as markdown that shows its characters and does nothing else, cut to a readable length."""
    return escaped_markdown(plain(value))


def escaped_markdown(text: str) -> str:
    """Give a line as markdown that shows its characters and does nothing else."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~:@/])", r"\\\1", html.escape(text))


def markdown_table(columns: list[str], rows: Sequence[tuple[object, ...]]) -> str:
    """Give rows as a markdown table; numbers are written with two decimals."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = (f"{cell:.2f}" if isinstance(cell, float) else markdown_text(cell) for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def score_histogram(scores: np.ndarray) -> str:
    """Draw how many videos have which score.

    Args:
        scores: float64 (videos,), 1-5.

    Returns:
        Markdown with the chart as an inline PNG.
    """
    from matplotlib.figure import Figure  # half a second that only a run needs
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.0, 2.4), dpi=96, layout="constrained")
    axes = figure.subplots()
    axes.hist(
        scores, bins=np.arange(SCORE_MIN, SCORE_MAX + BIN_WIDTH, BIN_WIDTH).tolist(), color="#4c72b0", rwidth=0.92
    )
    axes.set_xlim(SCORE_MIN, SCORE_MAX)
    axes.set_xlabel("score (1 bad, 5 excellent)")
    axes.set_ylabel("videos")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    summary = f"{len(scores)} videos, median score {np.median(scores):.2f}" if len(scores) else "no scored video"
    return f"![{summary}](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})"


def worst_and_best(scores: pa.Table, descriptions: pa.Table) -> str:
    """Give the videos with the lowest and the highest scores as a markdown table.

    Args:
        scores: rows of the scores table.
        descriptions: rows of the descriptions table.
    """
    words = dict(zip(descriptions["video_id"].to_pylist(), descriptions["description"].to_pylist(), strict=True))
    scored = scores.filter(pc.field("status") == "ok")
    return markdown_table(
        ["score", "±", "level", "video", "description"],
        [
            (row["score"], row["score_std"], row["level"], row["uri"], words.get(row["video_id"], ""))
            for row in _both_ends(scored, "score")
        ],
    )


def first_and_last(rankings: pa.Table, scores: pa.Table) -> str:
    """Give the first and the last videos of a ranking as a markdown table.

    Args:
        rankings: rows of the rankings table.
        scores: rows of the scores table.
    """
    score_of = {row["video_id"]: row for row in scores.select(["video_id", "uri", "score"]).to_pylist()}
    return markdown_table(
        ["rank", "strength", "±", "score", "video"],
        [
            (
                row["rank"],
                row["strength"],
                row["strength_se"],
                *(score_of[row["video_id"]][c] for c in ("score", "uri")),
            )
            for row in _both_ends(rankings, "rank")
        ],
    )


def _both_ends(table: pa.Table, column: str) -> list[dict[str, Any]]:
    """Give the first and the last rows by a column."""
    ordered = table.sort_by([(column, "ascending"), ("video_id", "ascending")])
    if len(ordered) <= 2 * SHOWN_AT_EACH_END:
        return ordered.to_pylist()
    return ordered[:SHOWN_AT_EACH_END].to_pylist() + ordered[-SHOWN_AT_EACH_END:].to_pylist()


def failures_by_type(table: pa.Table) -> list[tuple[str, int]]:
    """Count the failed rows of the catalog or scores table by their error type, most frequent first."""
    name = "error_type" if "error_type" in table.column_names else "probe_error_type"
    counts = Counter(table[name].drop_null().to_pylist())
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


RANKING_SQL = """
    SELECT r.rank, s.uri, s.score, s.score_std, s.level, r.strength, r.strength_se, d.description
    FROM rankings r JOIN scores s USING (library, video_id) LEFT JOIN descriptions d USING (library, video_id)
    WHERE library = ? ORDER BY r.rank, s.uri
"""
FAILURES_SQL = "SELECT uri, error_type, error_message FROM scores WHERE library = ? AND status = 'failed' ORDER BY uri"


def print_library(lake: Lake, library: str, console: Console, limit: int) -> None:
    """Print a library's ranking, what its first and last video look like, and its failures.

    Args:
        lake: where its tables are.
        library: its true name.
        console: where to print.
        limit: most rows of each table.
    """
    connection = lake.connect()
    ranking = connection.execute(RANKING_SQL, [library]).fetchall()
    failures = connection.execute(FAILURES_SQL, [library]).fetchall()
    rows = [
        (rank, _short(uri), f"{score:.2f} ± {std:.2f}", level, f"{strength:+.2f} ± {error:.2f}")
        for rank, uri, score, std, level, strength, error, _ in ranking
    ]
    print_table(console, f"{library}: ranking", ["rank", "video", "score", "level", "strength"], rows, limit)
    for _, uri, *_, description in [*ranking[:1], *ranking[1:][-1:]]:
        console.print(Text(f"{_short(uri)}: {plain(description)}"))
    if failures:
        rows = [(_short(uri), error_type, message) for uri, error_type, message in failures]
        print_table(console, f"{library}: failures", ["video", "error_type", "error_message"], rows, limit)


def print_table(
    console: Console, title: str | None, columns: Sequence[str], rows: Sequence[tuple[object, ...]], limit: int
) -> None:
    """Print rows whose cells may hold any text; beyond `limit` their number only."""
    table = Table(title=title and Text(plain(title)), title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(Text(plain(column)), overflow="fold")
    for row in rows[:limit]:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console.print(table)
    if len(rows) > limit:
        console.print(Text(f"… and {len(rows) - limit} more"))


def _short(uri: str) -> str:
    """Give the last part of a URI: the file's name."""
    return plain(uri.rstrip("/").rpartition("/")[2])
