"""The figures of a model card come from reports and logs, and nothing else of the card is touched."""

import json
from pathlib import Path

import pytest

from cpllm_model.errors import DataSetError
from cpllm_model.training.evaluation.card import BEGIN, END, write_card

SRCC = {"value": 0.81, "low": 0.79, "high": 0.83}
REPORT = {
    "data_sets": {
        "films": {
            "videos": 10,
            "scored": 9,
            "contents": 4,
            "score": {"srcc": SRCC, "plcc": None, "rmse": {"value": 0.5, "low": None, "high": None}},
            "parts": [{"part": "subset a", "videos": 5, "srcc": SRCC, "plcc": SRCC}],
            "distortions": {"by_family": {"blur": {"videos": 3, "auc": SRCC, "precision": SRCC, "recall": SRCC}}},
        }
    },
    "stress": {"blur ladder": {"checks": [{"figure": "in order", "value": SRCC, "bound": 0.9, "holds": False}]}},
}


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    (tmp_path / "evaluation.json").write_text(json.dumps(REPORT))
    return tmp_path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    lines = [{"stage": "vision", "step": 5, "loss": 1.0}] + [
        {"stage": "vision", "step": step, "validation": {"srcc films": step / 20}} for step in (5, 10)
    ]
    path = tmp_path / "train_log.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_figures_are_put_between_the_marks(evaluation: Path, log: Path) -> None:
    card = evaluation / "README.md"
    card.write_text(f"# Card\n\n{BEGIN}\nstale\n{END}\n\n## Limits\n")
    text = write_card(card, [evaluation], [log]).read_text()
    assert text.startswith("# Card\n\n") and text.endswith("\n\n## Limits\n") and "stale" not in text
    assert "| SRCC against the label | 0.810 (0.790 – 0.830) |" in text
    assert "| PLCC; RMSE | –; 0.500 |" in text
    assert "| vision | 10 | 0.500 |" in text
    assert "0 of 1 bounds hold." in text and "| blur ladder | in order | 0.810 (0.790 – 0.830) | 0.9 | misses |" in text
    assert write_card(card, [evaluation], [log]).read_text() == text


def test_a_card_that_is_not_there_is_made(evaluation: Path) -> None:
    text = write_card(evaluation / "new.md", [evaluation], []).read_text()
    assert text.startswith("# Model card: ") and BEGIN in text and "AUC, mean" not in text


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"evaluation\.json cannot be read"):
        write_card(tmp_path / "card.md", [tmp_path], [])
