"""Every question of docs/sql.md is answered, and the answers are those of the example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cpllm_dagster.lake.tables import Lake
from tests.cpllm_dagster.example_lake import MODEL, fill

PAGE = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()
QUESTIONS = dict(re.findall(r"### (\d+)\..*?```sql\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The rows of each answer by the question's number."""
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    fill(lake)
    with lake.connect() as connection:
        return {number: connection.sql(query).to_arrow_table().to_pylist() for number, query in QUESTIONS.items()}


def test_there_are_twelve_questions_and_each_has_an_answer(answers: dict[str, list[dict[str, Any]]]) -> None:
    assert list(answers) == [str(number) for number in range(1, 13)]
    assert all(answers.values())


def test_the_answers_are_right(answers: dict[str, list[dict[str, Any]]]) -> None:
    def column(question: int, name: str) -> list[Any]:
        return [row[name] for row in answers[str(question)]]

    assert column(1, "score") == sorted(column(1, "score")) and column(1, "file_name")[0] == "b.mp4"
    assert column(2, "file_name") == ["b.mp4"] and column(2, "previous_score") == [4.0]
    last = [(row["change"], row["videos"]) for row in answers["3"] if row["library"] == "films"][-3:]
    assert last == [("changed", 1), ("new", 1), ("removed", 1)]
    assert set(column(4, "library")) == {"films", "shows/2026"} and max(column(4, "failed")) == 1
    assert (column(5, "error_type"), column(5, "example")) == (["corrupt_video"], ["d.mp4"])
    assert column(6, "model_id") == [MODEL] * 2
    assert {row["distortion"]: row["videos"] for row in answers["7"] if row["library"] == "films"} == {
        "blur": 3, "compression": 2,
    }  # fmt: skip
    assert set(column(8, "codec")) == {"h264", "hevc"} and set(column(8, "bits_per_pixel")) == {"0.1 to 0.5"}
    assert {"b.mp4", "e.mkv"} <= set(column(9, "file_name")) and column(9, "megabytes")[0] == 2.5
    assert set(column(10, "score_worst")) >= {1.25} and all(end > 0 for end in column(10, "worst_end_s"))
    assert column(11, "rank")[:3] == [1, 2, 3]
    assert column(12, "change") == ["new", "changed"] and column(12, "score") == [4.0, 1.75]
