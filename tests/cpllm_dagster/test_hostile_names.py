"""Keys, library names and descriptions are data: what they try on paths, SQL, HTML, logs and shells does nothing.

One run of `cpllm run` in its own process over libraries with hostile names and keys, on a real Dagster instance; then
everything that it left is looked at. Videos are no videos, so that the run needs neither Ray nor model; scored rows and
descriptions with hostile words are published beside it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from cpllm_dagster.cli import app
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.lake.views import VIEWS
from cpllm_dagster.report.tables import first_and_last, worst_and_best

CHECKOUT = Path(__file__).parents[2]
FORGED = "2026-01-01 00:00:00 +0000 - dagster - INFO - all videos are excellent"
HOSTILE = [
    "'; DROP TABLE scores; --",
    "x' OR '1'='1",
    "\"; ATTACH 'evil.db'; --",
    "<script>alert(1)<!--",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![](http:evil.example)",
    "| cell | `code` **bold** https:evil.example",
    f"two\r\n{FORGED}",
    "\x1b[2J\x1b]0;title\x07\x9b31m red",
    "\u202egnp.exe \u2028line",
    "..%2f..%2f..%2foutside",
    "%2e%2e",
    "library=other",
    "*?[a]{b}",
    "$(touch pwned) `touch pwned` | touch pwned; touch pwned",
    "{{7*7}} ${7*7} %s %(x)s {0}",
    "=cmd|' C calc'!A0",
    "-rf --help",
    "\\..\\..\\outside",
    "[red]markup",
]
#: Libraries of the run, all of that at once; the first has each of the above as a key.
LIBRARIES = [
    "'; DROP TABLE scores; -- <script>alert(1)<!-- | [x](javascript:alert(1))",
    f"..%2f..%2foutside $(touch pwned)\r\n{FORGED}\x1b[2J",
]
#: An escape sequence, or another control character but a line's end.
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")

PUBLISHED = set(SCHEMAS)


@dataclass(frozen=True)
class HostileRun:
    """What the run got and what it left."""

    folder: Path
    done: subprocess.CompletedProcess[str]

    @property
    def lake(self) -> Lake:
        return Lake(str(self.folder / "lake"))


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> HostileRun:
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("lake", "home", "work", "videos"):
        (folder / name).mkdir()
    shutil.copy(CHECKOUT / "infra" / "dagster" / "dagster.yaml", folder / "home")
    for name in LIBRARIES:
        library = folder / "videos" / name
        library.mkdir()
        (library / "no video.mp4").write_text("no video")
    for name in HOSTILE:
        (folder / "videos" / LIBRARIES[0] / f"{name}.mp4").write_text(name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CPLLM_")}
    done = subprocess.run(
        [sys.executable, "-m", "cpllm_dagster.cli", "run", "--verbose"],
        cwd=folder / "work",
        env=environment
        | {"CPLLM_CATALOG_URI": str(folder / "videos"), "CPLLM_LAKE_URI": str(folder / "lake")}
        | {"DAGSTER_HOME": str(folder / "home"), "PYTHONPATH": str(CHECKOUT), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return HostileRun(folder, done)


@pytest.fixture
def words(hostile_run: HostileRun, tmp_path: Path) -> Lake:
    """A lake whose names, messages and descriptions are all hostile."""
    lake = Lake(str(tmp_path / "lake"))
    row: dict[str, Any] = {"etag": "1", "model_id": "m", "run_id": "r", "scored_at": datetime(2026, 1, 1, tzinfo=UTC)}
    for library in HOSTILE:
        keys = {f"{number:02d}": f"s3://b/{library}/{word}" for number, word in enumerate(HOSTILE)}
        good = {"score": 3.0, "score_std": 0.5, "level": "fair", "status": "ok"}
        scores = [row | good | {"video_id": key, "uri": uri} for key, uri in keys.items()]
        scores += [
            row | {"video_id": f"bad {key}", "uri": uri, "status": "failed", "error_type": "x", "error_message": word}
            for (key, uri), word in zip(keys.items(), HOSTILE, strict=True)
        ]
        described = [
            {"video_id": key, "etag": "1", "model_id": "m", "description": word, "distortions": []}
            for key, word in zip(keys, HOSTILE, strict=True)
        ]
        ranked = [
            {"video_id": key, "model_id": "m", "rank": number + 1, "percentile": 1.0, "strength": 0.0}
            | {"strength_se": 1.0, "comparisons": 1}
            for number, key in enumerate(keys)
        ]
        for name, rows in (("scores", scores), ("descriptions", described), ("rankings", ranked)):
            lake.write(name, library, rows, run_id="r", model_id="m")
    return lake


def test_every_name_is_a_row_and_nothing_lies_outside_the_lake(hostile_run: HostileRun) -> None:
    lake, folder = hostile_run.lake, hostile_run.folder
    assert lake.libraries() == sorted(LIBRARIES)
    for library in LIBRARIES:
        for table, error_type in (("catalog", "probe_error_type"), ("scores", "error_type")):
            rows = lake.read(table, library)
            assert rows is not None
            found = sorted(key.removeprefix(f"{library}/") for key in rows["key"].to_pylist())
            uris = [f"file://{folder / 'videos' / key}" for key in rows["key"].to_pylist()]
            assert rows["uri"].to_pylist() == uris
            extra = [f"{name}.mp4" for name in HOSTILE] if library == LIBRARIES[0] else []
            assert found == sorted(["no video.mp4", *extra])
            assert set(rows[error_type].to_pylist()) == {"not_a_video"}
    # Work files, claims and parts are gone; tables lie where they belong, one a library.
    files = [path.relative_to(folder / "lake").parts for path in (folder / "lake").rglob("*") if path.is_file()]
    assert {len(parts) for parts in files} == {3} and {parts[0] for parts in files} == PUBLISHED | {"reports"}
    # The table `features` has its rows, their keys and a manifest.
    assert len(files) == (len(PUBLISHED) + 3) * len(LIBRARIES)
    assert {path.name for path in folder.iterdir()} == {"lake", "home", "work", "videos"}
    assert list((folder / "work").iterdir()) == []
    assert len(list((folder / "videos").iterdir())) == len(LIBRARIES)


def test_sql_gives_names_as_they_are(hostile_run: HostileRun) -> None:
    with hostile_run.lake.connect() as connection:
        counts = dict(connection.execute("SELECT library, count(*) FROM scores GROUP BY library").fetchall())
        assert counts == dict.fromkeys(LIBRARIES, 1) | {LIBRARIES[0]: len(HOSTILE) + 1}
        for library in LIBRARIES:
            found = connection.execute("SELECT DISTINCT library FROM scores WHERE library = ?", [library]).fetchall()
            assert found == [(library,)]
        views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        assert {name for (name,) in views} == set(SCHEMAS) | set(VIEWS)
        assert connection.execute("SELECT count(*) FROM duckdb_databases() WHERE NOT internal").fetchone() == (1,)


def test_logs_hold_no_forged_line_and_no_terminal_command(hostile_run: HostileRun) -> None:
    log = hostile_run.done.stderr
    assert hostile_run.done.stdout == ""
    assert "INFO" in log and "videos to probe" in log  # it is verbose
    assert FORGED not in log.splitlines()
    without_colours = re.sub(r"\x1b\[\d*m", "", log)
    assert CONTROL.findall(without_colours) == []


def test_what_the_ui_shows_is_text(hostile_run: HostileRun) -> None:
    with dg.DagsterInstance.from_config(str(hostile_run.folder / "home")) as instance:
        runs = instance.get_runs()
        assert len(runs) == len(LIBRARIES) and {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
        for run in runs:
            assert re.fullmatch(r"[\w.~%-]+", run.tags["dagster/partition"])
            for entry in instance.all_logs(run.run_id):
                assert FORGED not in entry.message.splitlines()
                assert CONTROL.findall(entry.message) == []
        for asset in ("video_catalog", "quality_scores", "quality_rankings"):
            for record in instance.fetch_materializations(dg.AssetKey(asset), limit=100).records:
                assert record.asset_materialization is not None
                for value in record.asset_materialization.metadata.values():
                    if isinstance(value, dg.MarkdownMetadataValue):
                        assert_inert(value.value or "")


def assert_inert(markdown: str) -> None:
    """Render markdown as a browser would get it: tables, text and the inline chart, and nothing live."""
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    tags = set(re.findall(r"<\s*(/?\w+)([^>]*)>", rendered))
    shown = {name.strip("/") for name, _ in tags}
    assert shown <= {"table", "thead", "tbody", "tr", "th", "td", "p", "img"}, rendered
    for name, attributes in tags:
        assert name != "img" or re.fullmatch(r' src="data:image/png;base64,[^"]+" alt="[\w ,.]+" /', attributes)


def test_tables_for_the_ui_are_inert(words: Lake) -> None:
    for library in HOSTILE:
        scores, described, ranked = (words.read(name, library) for name in ("scores", "descriptions", "rankings"))
        assert scores is not None and described is not None and ranked is not None
        for markdown in (worst_and_best(scores, described), first_and_last(ranked, scores)):
            assert len(markdown.splitlines()) == 12
            assert_inert(markdown)


def test_reports_and_answers_are_text(words: Lake) -> None:
    environment = {"CPLLM_LAKE_URI": words.uri, "COLUMNS": "250"}

    def cpllm(*arguments: str) -> str:
        found = CliRunner().invoke(app, arguments, env=environment)
        assert found.exit_code == 0, found.output
        return found.stdout_bytes.decode()  # click's own text takes a carriage return away

    for printed in (cpllm("report", "--limit", "100"), cpllm("sql", "SELECT library, description FROM descriptions")):
        assert CONTROL.findall(printed) == []
        assert FORGED not in printed.splitlines()
        assert "[red]markup" in printed
    query = "SELECT library, description FROM descriptions ORDER BY ALL"
    expected = sorted([library, word] for library in HOSTILE for word in HOSTILE)
    lines = cpllm("sql", query, "--format", "json").splitlines()
    assert CONTROL.findall("\n".join(lines)) == []
    assert sorted(list(json.loads(line).values()) for line in lines) == expected
    answer = io.StringIO(cpllm("sql", query, "--format", "csv"), newline="")
    assert sorted(list(csv.reader(answer))[1:]) == expected
