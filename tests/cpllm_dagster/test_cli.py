"""The platform's commands: what they print, what they refuse, and with which exit status."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from cpllm_dagster.cli import app
from cpllm_dagster.lake.tables import Lake
from tests.dagster_ui import wait_for

if TYPE_CHECKING:
    from tests.cpllm_dagster.conftest import Bucket

LIBRARY = "fil ms"


def cpllm(*arguments: str) -> Result:
    """Run the command as a person does."""
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is configured but by the command line."""
    for name in ("CATALOG_URI", "LAKE_URI", "MODEL", "S3_ENDPOINT_URL", "RAY_ADDRESS"):
        monkeypatch.delenv(f"CPLLM_{name}", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def fill(lake: Lake) -> None:
    """Publish two scores, one of them failed."""
    row: dict[str, Any] = {"etag": "1", "model_id": "m", "run_id": "r", "scored_at": datetime(2026, 1, 1, tzinfo=UTC)}
    good = row | {"video_id": "a", "uri": 's3://b/a,"1".mp4', "score": 4.25, "score_std": 0.5, "status": "ok"}
    bad = row | {"video_id": "b", "uri": "s3://b/b.mp4", "status": "failed", "error_type": "empty_file"}
    lake.write(
        "scores", LIBRARY, [good | {"level": "good"}, bad | {"error_message": "no bytes"}], run_id="r", model_id="m"
    )
    ranking = {"video_id": "a", "model_id": "m", "rank": 1, "percentile": 100.0, "strength": 0.0, "strength_se": 0.1}
    lake.write("rankings", LIBRARY, [ranking | {"comparisons": 0}], run_id="r", model_id="m")


@pytest.fixture
def lake(tmp_path: Path) -> str:
    """The address of a small lake in a folder."""
    fill(Lake(str(tmp_path / "lake")))
    return str(tmp_path / "lake")


QUESTION = "select library, uri, score, scored_at from scores order by uri"


def test_sql_as_json_csv_and_table(lake: str) -> None:
    lines = cpllm("sql", QUESTION, "--lake", lake, "--format", "json").stdout.splitlines()
    assert json.loads(lines[0]) == {
        "library": LIBRARY, "uri": 's3://b/a,"1".mp4', "score": 4.25, "scored_at": "2026-01-01 00:00:00+00:00",
    }  # fmt: skip
    assert json.loads(lines[1])["score"] is None
    rows = list(csv.reader(io.StringIO(cpllm("sql", QUESTION, "--lake", lake, "--format", "csv").stdout)))
    assert rows[0] == ["library", "uri", "score", "scored_at"] and rows[1][:3] == [LIBRARY, 's3://b/a,"1".mp4', "4.25"]
    assert rows[2][2] == ""
    table = cpllm("sql", QUESTION, "--lake", lake).stdout
    assert "fil ms" in table and "4.25" in table and "┌" in table


def test_sql_from_a_file_and_from_standard_input(lake: str, tmp_path: Path) -> None:
    query = "select count(*) as videos\nfrom scores -- all\n;"
    (tmp_path / "query.sql").write_text(query)
    for arguments, given in ((["-f", str(tmp_path / "query.sql")], None), ([], query), (["-"], query)):
        found = CliRunner().invoke(app, ["sql", *arguments, "--lake", lake, "--format", "csv"], input=given)
        assert (found.exit_code, found.stdout.split()) == (0, ["videos", "2"])
    found = cpllm("sql", "select 1", "-f", str(tmp_path / "query.sql"), "--lake", lake)
    assert found.exit_code == 2 and "not both" in found.stderr
    found = cpllm("sql", "-f", str(tmp_path / "none.sql"), "--lake", lake)
    assert found.exit_code == 2 and "none.sql" in found.stderr and "Traceback" not in found.stderr


def test_sql_describes_the_tables_without_a_lake() -> None:
    found = cpllm("sql", "--describe", "scores")
    assert found.exit_code == 0 and "segment_end_s" in found.stdout and "strength_se" not in found.stdout
    assert "strength_se" in cpllm("sql", "--describe").stdout
    lines = cpllm("sql", "--describe", "rankings", "--format", "json").stdout.splitlines()
    assert json.loads(lines[1])["meaning"].startswith("Id of the video")
    found = cpllm("sql", "--describe", "nothing")
    assert found.exit_code == 2 and "no table is named 'nothing'" in found.stderr


def test_sql_prints_ddl_for_other_engines() -> None:
    found = cpllm("sql", "--ddl", "athena", "--lake", "s3://bucket/lake")
    assert found.exit_code == 0 and "LOCATION 's3://bucket/lake/videos/'" in found.stdout
    assert cpllm("sql", "--ddl", "oracle", "--lake", "s3://bucket/lake").exit_code == 2


def test_parquet_goes_to_a_file(lake: str, tmp_path: Path) -> None:
    found = cpllm("sql", QUESTION, "--lake", lake, "--format", "parquet")
    assert pq.read_table(io.BytesIO(found.stdout_bytes)).column_names == ["library", "uri", "score", "scored_at"]


def test_sql_on_s3(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(Lake(f"{bucket.uri}/lake", bucket.endpoint_url))
    monkeypatch.setenv("CPLLM_LAKE_URI", f"{bucket.uri}/lake")
    monkeypatch.setenv("CPLLM_S3_ENDPOINT_URL", bucket.endpoint_url)
    found = cpllm("sql", "select count(*) as videos, avg(score) as mean from scores", "--format", "json")
    assert json.loads(found.stdout) == {"videos": 2, "mean": 4.25}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select nothing from nowhere", "nowhere"),
        ("selec", "syntax"),
        ("copy (select 1) to '/tmp/cpllm-sql-was-here.csv'", ""),
        ("select * from read_csv('/etc/passwd')", ""),
    ],
)
def test_wrong_or_forbidden_sql_is_told_without_a_trace(lake: str, query: str, message: str) -> None:
    found = cpllm("sql", query, "--lake", lake)
    assert found.exit_code == 2 and found.stdout == ""
    assert found.stderr.startswith("cpllm: ") and message in found.stderr and "Traceback" not in found.stderr
    assert not Path("/tmp/cpllm-sql-was-here.csv").exists()


def test_duckdb_points_at_the_place_of_an_error(lake: str) -> None:
    query = "select library, scre from scores where 'a' = '\x1b[31m\u2028'"
    found = cpllm("sql", query, "--lake", lake)
    lines = found.stderr.splitlines()
    assert found.exit_code == 2 and lines[0].startswith("cpllm: Binder Error") and "\\n" not in found.stderr
    (number,) = (number for number, line in enumerate(lines) if line.startswith("LINE 1: select library, scre"))
    assert lines[number + 1].rstrip().endswith("^")
    assert lines[number].index("scre") == lines[number + 1].index("^")
    assert "\x1b" not in found.stderr and "\u2028" not in found.stderr


def test_report_prints_ranking_and_failures(lake: str) -> None:
    found = cpllm("report", "--lake", lake)
    assert found.exit_code == 0
    assert "fil ms: ranking" in found.stdout and "4.25 ± 0.50" in found.stdout
    assert "fil ms: failures" in found.stdout and "empty_file" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sql", "select 1"], "CPLLM_LAKE_URI is not set"),
        (["report"], "CPLLM_LAKE_URI is not set"),
        (["run"], "CPLLM_CATALOG_URI is not set"),
        (["run", "--catalog", "/no/such/folder", "--lake", "/tmp"], "/no/such/folder"),
        (["run", "--catalog", "/tmp", "--lake", "/tmp", "--model", "no-such-model"], "no-such-model"),
        (["demo", "/no/such/folder", "--work", "WORK"], "/no/such/folder"),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence(arguments: list[str], message: str, tmp_path: Path) -> None:
    found = cpllm(*(str(tmp_path) if argument == "WORK" else argument for argument in arguments))
    assert found.exit_code == 2
    assert message in found.stderr and "Traceback" not in found.stderr


def test_run_goes_through_all_libraries_and_tells_of_each(tmp_path: Path) -> None:
    for library in ("films", "shows"):
        (tmp_path / "videos" / library).mkdir(parents=True)
    where = ["--catalog", str(tmp_path / "videos"), "--lake", str(tmp_path / "lake")]
    found = cpllm("run", *where)
    assert found.exit_code == 0, found.stderr
    assert "films: done in" in found.stderr and "shows: done in" in found.stderr
    assert Lake(str(tmp_path / "lake")).libraries() == ["films", "shows"]
    assert "0" in cpllm("sql", "select count(*) from scores", "--lake", str(tmp_path / "lake")).stdout


def junk(folder: Path, *names: str) -> None:
    """Files that are no videos, whatever their names say."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_vanished_library_fails_does_not_keep_others_from_running_and_can_be_retired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, lake, home = tmp_path / "videos", Lake(str(tmp_path / "lake")), tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    junk(videos, "films/a.mp4", "films/b.mp4", "films/notes.txt", "shows/c.mp4")
    where = ["--catalog", str(videos), "--lake", lake.uri]
    found = cpllm("run", *where)
    assert found.exit_code == 0, found.stderr
    assert "films: 1 objects are left out: no ending of a video (1: films/notes.txt)" in found.stderr
    assert "shows: " in found.stderr and "shows: 0 objects" not in found.stderr
    (videos / "films").rename(tmp_path / "moved")
    before = lake.read("scores", "films")
    found = cpllm("run", *where)
    assert found.exit_code == 1
    assert "films: failed: library 'films': all 2 videos are no longer there" in found.stderr
    assert "shows: done in" in found.stderr
    assert before is not None and lake.read("scores", "films") == before

    found = cpllm("retire", "films", "--lake", lake.uri)
    assert found.exit_code == 2 and "of 2 videos, would be removed" in " ".join(found.stderr.split())
    assert lake.libraries() == ["films", "shows"]
    found = cpllm("retire", "films", "--lake", lake.uri, "--yes")
    assert found.exit_code == 0 and "rankings, comparisons" in found.stderr and "films: removed nights" in found.stderr
    assert lake.libraries() == ["shows"]
    assert not [path for path in (tmp_path / "lake").rglob("*") if path.is_file() and "films" in str(path)]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_dynamic_partitions("libraries") == ["shows"]
    found = cpllm("retire", "films", "--lake", lake.uri, "--yes")
    assert found.exit_code == 2 and "there is no library 'films'; there are 'shows'" in found.stderr


def test_a_library_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    junk(tmp_path / "videos", "films/a.mp4", "loose.mp4")
    where = ["--catalog", str(tmp_path / "videos"), "--lake", str(tmp_path / "lake")]
    found = cpllm("run", *where, "--library", "films", "--library", "flims")
    assert found.exit_code == 2
    assert "no library 'flims' (did you mean 'films'?); there are 'films', 'videos'" in found.stderr
    assert not (tmp_path / "lake").exists()
    assert cpllm("run", *where, "--allow-shrinking").exit_code == 2
    (tmp_path / "none").mkdir()
    found = cpllm("run", "--catalog", str(tmp_path / "none"), "--lake", str(tmp_path / "lake"))
    assert found.exit_code == 2 and "holds no library and no video" in found.stderr


def test_a_flat_folder_is_a_library(tmp_path: Path) -> None:
    junk(tmp_path / "my videos", *(f"{number:02}.mp4" for number in range(20)))
    found = cpllm("run", "--catalog", str(tmp_path / "my videos"), "--lake", str(tmp_path / "lake"))
    assert found.exit_code == 0 and "my videos: done in" in found.stderr
    scores = Lake(str(tmp_path / "lake")).read("scores", "my videos")
    assert scores is not None and len(scores) == 20


@pytest.mark.parametrize("command", [["report"], ["sql", "select 1"], ["retire", "films", "--yes"]])
def test_a_lake_without_tables_is_a_sentence(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "none"):
        found = cpllm(*command, "--lake", str(tmp_path / name))
        assert (found.exit_code, found.stdout) == (2, "")
        assert "there are no tables under" in found.stderr and str(tmp_path / name) in "".join(found.stderr.split("\n"))


def test_a_page_is_written_to_a_file_with_and_without_the_videos(lake: str, tmp_path: Path) -> None:
    file, videos = tmp_path / "page.html", tmp_path / "videos"
    found = cpllm("report", LIBRARY, "--lake", lake, "--html", str(file))
    assert found.exit_code == 0 and found.stdout == ""
    assert f"<bdi>{LIBRARY}</bdi>" in file.read_text(encoding="utf-8")
    junk(videos, f"{LIBRARY}/a.mp4")
    found = cpllm("report", "--lake", lake, "--html", str(file), "--catalog", str(videos))
    assert found.exit_code == 0, found.stderr
    found = cpllm("report", "--lake", lake, "--html", str(tmp_path / "none" / "page.html"))
    assert found.exit_code == 2 and "cannot be written" in found.stderr
    Lake(lake).write("catalog", "other", [], run_id="r", model_id="m")
    found = cpllm("report", "--lake", lake, "--html", str(file))
    assert found.exit_code == 2 and "a page shows one library" in found.stderr


def test_a_report_on_a_library_that_is_not_there_names_those_that_are(lake: str) -> None:
    found = cpllm("report", "films", "--lake", lake)
    assert (found.exit_code, found.stdout) == (2, "")
    assert "no library 'films' (did you mean 'fil ms'?); there are 'fil ms'" in found.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_what_is_kept(tmp_path: Path, number: signal.Signals) -> None:
    junk(tmp_path / "videos", *(f"films/{number:04}.mp4" for number in range(3000)))
    junk(tmp_path / "videos", "shows/a.mp4")
    command = [sys.executable, "-m", "cpllm_dagster.cli", "run", "--catalog", "videos", "--lake", "lake"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "500"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "films: started\n"
        assert wait_for(lambda: list((tmp_path / "lake" / ".work" / "claims").glob("*")), 60)
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == 130, said
    (line,) = said.splitlines()
    assert line.startswith("films: interrupted after ") and "the next run goes on from them" in line
