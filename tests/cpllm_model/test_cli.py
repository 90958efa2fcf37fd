"""The model's commands as a person runs them."""

import base64
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from cpllm_model.cli import Answered, app
from cpllm_model.errors import InferenceError, NotAVideoError
from cpllm_model.predictor import QualityPredictor, Rating
from cpllm_model.training.data.encode import encode_planes
from cpllm_model.training.evaluation.stress_sources import Source
from cpllm_model.training.evaluation.timed_clips import shot

RECORD = {
    "path", "status", "is_still", "score", "score_std", "level", "description", "distortions",
    "segment_start_s", "segment_end_s", "segment_score", "score_worst", "worst_start_s", "worst_end_s", "events",
    "scene", "cautions", "error_type", "error_message",
}  # fmt: skip


@pytest.fixture
def folder(ladders, tmp_path):
    """A folder with two good videos, one in a sub-folder, a broken one, and a file that is no video."""
    (tmp_path / "sub").mkdir()
    shutil.copy(ladders[0][0], tmp_path / "best.mp4")
    shutil.copy(ladders[0][3], tmp_path / "sub" / "worst [red]bold.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    (tmp_path / "notes.txt").write_text("no video")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_score_gives_one_json_object_a_video_and_fails_for_the_broken_one(folder):
    done = run("score", folder, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 1
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows) and len(rows) == 3
    assert all(set(row) == RECORD for row in rows)
    best, broken, worst = rows
    assert best["status"] == worst["status"] == "ok" and best["score"] > worst["score"]
    assert (broken["status"], broken["score"], broken["error_type"]) == ("failed", None, "not_a_video")


def test_score_prints_a_table_and_succeeds_where_all_is_well(folder):
    done = run("score", folder / "sub")
    assert done.exit_code == 0
    assert "worst" in done.stdout and "[red]" in done.stdout and "score" in done.stdout


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_score_writes_what_it_says_to_a_file(folder, ending):
    path = folder / f"answers.{ending}"
    done = run("score", folder, "--json", "-o", path)
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    if ending == "csv":
        with path.open(newline="") as file:
            found = list(csv.DictReader(file))
        assert [row["score"] for row in found] == [
            "" if one["score"] is None else str(one["score"]) for one in expected
        ]
        assert json.loads(found[0]["segment_score"]) == expected[0]["segment_score"]
    else:
        lines = path.read_text().splitlines() if ending == "jsonl" else []
        found = [json.loads(line) for line in lines] or pq.read_table(path).to_pylist()
        assert [(row["path"], row["score"]) for row in found] == [(one["path"], one["score"]) for one in expected]


def test_score_ends_with_1_where_a_score_is_too_low(folder):
    done = run("score", folder / "best.mp4", "--fail-under", 1)
    assert done.exit_code == 0
    done = run("score", folder / "best.mp4", "--fail-under", 5)
    assert done.exit_code == 1 and "best.mp4scores" in "".join(done.stderr.split())


def test_names_come_from_standard_input_and_patterns_are_matched(folder):
    typed = CliRunner().invoke(app, ["score", "-", "--json"], input=f"{folder}/best.mp4\n{folder}/gone.mp4\n")
    rows = [json.loads(line) for line in typed.stdout.splitlines()]
    assert [row["error_type"] for row in rows] == [None, "object_missing"]
    matched = run("score", folder / "b*.mp4", "--json")
    assert [Path(json.loads(line)["path"]).name for line in matched.stdout.splitlines()] == ["best.mp4", "broken.mp4"]


def test_the_same_video_twice_is_no_difference(folder):
    done = run("compare", folder / "best.mp4", folder / "best.mp4")
    assert done.exit_code == 0 and done.stdout.strip() == "no difference"


def test_the_version_is_that_of_the_package():
    assert run("--version").stdout.strip() == f"cpllm {metadata.version('cpllm')}"


def test_score_shows_segments_with_their_times(folder):
    done = run("score", folder / "best.mp4", "--segments")
    (record,) = [json.loads(line) for line in run("score", folder / "best.mp4", "--json").stdout.splitlines()]
    assert done.exit_code == 0 and "0:00 - " in done.stdout
    assert done.stdout.count(" - ") == len(record["segment_score"])
    assert all(f"{score:.2f}" in done.stdout for score in record["segment_score"])


def test_score_says_of_a_picture_that_it_is_a_still(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.jpg")
    done = run("score", tmp_path / "picture.jpg", "--json")
    row = json.loads(done.stdout)
    assert done.exit_code == 0 and row["is_still"] and row["status"] == "ok" and 1 <= row["score"] <= 5
    assert "(still)" in run("score", tmp_path / "picture.jpg").stdout


def test_a_missing_file_is_a_row_and_costs_no_other_one(folder):
    done = run("score", folder / "gone.mp4", folder / "best.mp4", folder / "sub", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 1
    assert [(row["status"], row["error_type"]) for row in rows] == [
        ("failed", "object_missing"), ("ok", None), ("ok", None),
    ]  # fmt: skip
    assert rows[0]["path"] == str(folder / "gone.mp4") and rows[0]["error_message"] == "there is no such file"
    (folder / "sub" / "dangling.mp4").symlink_to("nowhere.mp4")
    (folder / "linked").symlink_to(folder / "sub")
    done = run("score", folder, "--json")
    assert [Path(json.loads(line)["path"]).name for line in done.stdout.splitlines()] == [
        "best.mp4", "broken.mp4", "dangling.mp4", "worst [red]bold.mp4",
    ]  # fmt: skip
    assert "a link to a folder is left out" in done.stderr


def test_a_video_without_a_finite_answer_costs_no_other_one(folder, monkeypatch):
    rate = QualityPredictor.rate

    def rate_once(self, tokens):
        """The first video has no finite answer."""
        monkeypatch.setattr(QualityPredictor, "rate", rate)
        raise InferenceError("video", "the network gave a number that is not finite")

    monkeypatch.setattr(QualityPredictor, "rate", rate_once)
    done = run("score", folder, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["error_type"] for row in rows] == ["inference_failed", "not_a_video", None]
    assert rows[0]["error_message"] == "the network gave a number that is not finite"
    monkeypatch.setattr(QualityPredictor, "rate", rate_once)
    first, second = QualityPredictor.from_pretrained().score([folder / "best.mp4"] * 2)
    assert isinstance(first, InferenceError) and isinstance(second, Rating)


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_rows_come_as_they_are_done_and_stay_after_ctrl_c(folder, form):
    for number in range(200):
        shutil.copy(folder / "best.mp4", folder / f"copy {number:03}.mp4")
    checkout = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", "from cpllm_model.cli import app; app()", "score", folder, *form],
        env=os.environ | {"PYTHONPATH": str(checkout), "COLUMNS": "900", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(3 if form else 5)]
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate()
    lines += rest.splitlines()
    assert process.returncode == 130
    rows = lines if form else [line for line in lines if line.startswith("│")]
    assert 2 <= len(rows) < 200, rows
    if form:
        assert json.loads(rows[0])["path"] == str(folder / "best.mp4")
        assert json.loads(rows[-1])["status"] == "ok"
    else:
        assert lines[0].startswith("┏") and lines[-1].startswith("└")
        assert len({len(line.rstrip()) for line in lines}) == 1
    count = re.fullmatch(r"cpllm: interrupted after (\d+) of 203 videos", said.strip())
    assert count and len(rows) - 1 <= int(count[1]) <= len(rows)


def test_compare_names_the_better_video(folder):
    best, worst = folder / "best.mp4", folder / "sub" / "worst [red]bold.mp4"
    done = run("compare", worst, best, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["probability_a_better"] < 0.5
    failed = run("compare", best, folder / "broken.mp4", "--json")
    assert failed.exit_code == 1 and json.loads(failed.stdout)["error_type"] == "not_a_video"


def test_rank_orders_videos_and_keeps_the_failed_ones(folder):
    done = run("rank", folder, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 1
    assert [row.get("rank") for row in rows] == [1, 2, None]
    assert rows[0]["path"].endswith("best.mp4") and rows[2]["status"] == "failed"


def test_rank_and_compare_count_frozen_time_as_scores_do(tmp_path):
    moving = shot(Source("scene", "200001"), 500)
    clean = encode_planes(moving, tmp_path / "clean.mp4", 25, "x264", 16, preset="veryfast")
    coarse = encode_planes(moving, tmp_path / "coarse.mp4", 25, "x264", 38, preset="veryfast")
    moving[25:-25] = moving[24].copy()
    frozen = encode_planes(moving, tmp_path / "frozen.mp4", 25, "x264", 16, preset="veryfast")

    rows = {row["path"]: row for row in map(json.loads, run("rank", tmp_path, "--json").stdout.splitlines())}
    assert [rows[str(path)]["rank"] for path in (clean, coarse, frozen)] == [1, 2, 3]
    assert min(rows[str(clean)]["score"], rows[str(coarse)]["score"]) > rows[str(frozen)]["score"]
    answer = json.loads(run("compare", frozen, coarse, "--json").stdout)
    assert answer["probability_a_better"] < 0.15


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["score", "/nowhere/at all.mp4"], "does not exist"),
        (["score", "{folder}/best.mp4", "--model", "no-such-model"], "no model 'no-such-model'"),
        (
            ["score", "{folder}/best.mp4", "--model", "promoted"],
            "give its folder here, --model $CPLLM_MODELS_URI/promoted",
        ),
        (["score"], "Missing argument"),
        (["score", "{folder}/best.mp4", "-o", "answers.xlsx"], "must end in .csv"),
        (["init", "--out", "{folder}/model", "--size", "huge"], "'huge' is not one of"),
    ],
)
def test_wrong_use_is_one_sentence_and_status_2(folder, arguments, cause):
    done = run(*(argument.format(folder=folder) for argument in arguments))
    assert done.exit_code == 2
    assert cause in " ".join(done.output.split())


@pytest.mark.parametrize("command", ["score", "rank"])
def test_the_platforms_name_of_a_model_is_no_model_here(folder, command, monkeypatch):
    monkeypatch.setenv("CPLLM_MODEL", "promoted")
    done = run(command, f"{folder}/best.mp4")
    assert done.exit_code == 2
    assert "give its folder here, --model $CPLLM_MODELS_URI/promoted" in " ".join(done.output.split())


def test_a_path_that_is_not_utf8_is_valid_json_and_can_be_had_back():
    raw = b"/films/caf\xe9 \xc3\xa9.mp4"
    line = json.dumps(Answered(os.fsdecode(raw), error=NotAVideoError("v", "why")).record(), ensure_ascii=False)
    row = json.loads(line.encode())
    assert row["path"] == "/films/caf\\xe9 é.mp4" and base64.b64decode(row["path_base64"]) == raw
    assert set(Answered("é.mp4", error=NotAVideoError("v", "why")).record()) == RECORD


def test_an_empty_folder_is_wrong_use(tmp_path):
    done = run("score", tmp_path)
    assert done.exit_code == 2 and "no video in" in done.output


def test_evaluate_without_data_and_without_stress_tests_says_what_it_needs(tmp_path):
    done = run("evaluate", "--out", tmp_path / "report")
    assert done.exit_code == 2 and "--data" in done.stderr and "--stress" in done.stderr
    assert not (tmp_path / "report").exists()
