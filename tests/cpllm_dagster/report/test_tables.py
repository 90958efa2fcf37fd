"""What the tables say is shown as it is: no name, message or description becomes markup or a terminal command."""

from __future__ import annotations

import base64
import io
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.report.tables import (
    failures_by_type,
    first_and_last,
    markdown_table,
    markdown_text,
    plain,
    print_library,
    score_histogram,
    worst_and_best,
)

HOSTILE = "\x1b[31m<script>alert(1)</script> [x](http://evil) | *b* `c`\n# [red]head[/red]"


def score_row(video: str, score: float | None) -> dict[str, Any]:
    row = {"video_id": video, "uri": f"s3://b/{video}", "etag": "1", "model_id": "m", "run_id": "r"}
    row |= {"scored_at": datetime(2026, 1, 1, tzinfo=UTC), "score": score, "score_std": score and 0.5}
    row |= {"status": "ok" if score else "failed", "level": "fair" if score else None}
    return row | ({} if score else {"error_type": "too_short", "error_message": HOSTILE})


def table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMAS[name])


@given(st.text())
def test_plain_text_is_one_printable_line(text: str) -> None:
    assert plain(text).isprintable() and len(plain(text)) <= 160


@given(st.text(st.characters(codec="ascii"), max_size=30))
def test_markdown_text_holds_no_live_markup(text: str) -> None:
    found = markdown_text(text)
    assert "<" not in found and ">" not in found
    assert not re.search(r"(?<!\\)(\\\\)*[\[\]()`*_|#!]", found)


def test_a_hostile_cell_stays_in_its_cell() -> None:
    lines = markdown_table(["a", "b"], [(HOSTILE, 1.234), ("x", 2)]).splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"\| .* \| 1\.23 \|", lines[2])
    assert len(re.findall(r"(?<!\\)\|", lines[2])) == 3


@pytest.mark.parametrize("scores", [[], [1.0, 5.0], list(np.linspace(1, 5, 500))])
def test_the_histogram_is_an_inline_image(scores: list[float]) -> None:
    markdown = score_histogram(np.array(scores))
    found = re.fullmatch(r"!\[[\w ,.]+\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert found
    image = Image.open(io.BytesIO(base64.b64decode(found[1])))
    assert image.format == "PNG" and image.width > 300
    if scores:  # something is drawn in the bars' colour
        assert (np.asarray(image.convert("RGB")) == (0x4C, 0x72, 0xB0)).all(axis=2).any()


def test_both_ends_are_shown_worst_first() -> None:
    scores = table("scores", [score_row(f"v{i:02d}", 1 + i / 10) for i in range(30)] + [score_row("failed", None)])
    lines = worst_and_best(scores, table("descriptions", [])).splitlines()[2:]
    assert len(lines) == 10
    assert "v00" in lines[0] and "v29" in lines[-1]
    assert len(worst_and_best(table("scores", []), table("descriptions", [])).splitlines()) == 2


def test_first_and_last_of_a_ranking() -> None:
    row = {"model_id": "m", "percentile": 0.0, "strength_se": 0.1, "comparisons": 1}
    rankings = [row | {"video_id": f"v{i}", "rank": i + 1, "strength": -float(i)} for i in range(3)]
    lines = first_and_last(table("rankings", rankings), table("scores", [score_row(f"v{i}", 3.0) for i in range(3)]))
    assert [line.split(" | ")[0] for line in lines.splitlines()[2:]] == ["| 1", "| 2", "| 3"]


def test_failures_are_counted_most_frequent_first() -> None:
    rows = [score_row(str(i), None) | {"error_type": kind} for i, kind in enumerate(["b", "a", "b", "c"])]
    assert failures_by_type(table("scores", rows)) == [("b", 2), ("a", 1), ("c", 1)]


def test_a_library_is_printed_without_terminal_commands(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("scores", HOSTILE, [score_row("good", 3.0), score_row("bad", None)], run_id="r", model_id="m")
    row = {"video_id": "good", "model_id": "m", "rank": 1, "percentile": 100.0, "strength": 0.0}
    lake.write("rankings", HOSTILE, [row | {"strength_se": 0.1, "comparisons": 0}], run_id="r", model_id="m")
    description = {"video_id": "good", "etag": "1", "model_id": "m", "description": HOSTILE, "distortions": []}
    lake.write("descriptions", HOSTILE, [description], run_id="r", model_id="m")
    screen = io.StringIO()
    print_library(lake, HOSTILE, Console(file=screen, force_terminal=True, width=300), limit=5)
    printed = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue().replace("\\x1b[31m", "ESCAPED"))
    assert "\x1b[31m<script>" not in screen.getvalue() and "ESCAPED" in printed
    assert "3.00 ± 0.50" in printed and "too_short" in printed and "[red]head[/red]" in printed
