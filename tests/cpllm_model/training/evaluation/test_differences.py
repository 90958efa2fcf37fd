"""Paired differences of two models, from made-up predictions."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cpllm_model.metrics import Bootstrap
from cpllm_model.training.evaluation.answers import PREDICTIONS
from cpllm_model.training.evaluation.differences import Compared, differences, draw_differences
from cpllm_model.training.evaluation.report import write_matrix

BOOTSTRAP = Bootstrap(resamples=200)


def predictions(folder: Path, noise: float, contents: int = 30, seed: int = 0, *, rated: bool = True) -> Path:
    """Write what a model says of three versions of each content; noise of a content is the same for every model."""
    labels, errors, rows = np.random.default_rng(1), np.random.default_rng(seed), []
    for content in range(contents):
        base, hard = labels.uniform(2, 5), labels.normal(0, 0.3)
        for version in range(3):
            label = base - 0.5 * version
            rows.append({
                "dataset": "ours", "video_id": f"{content}-{version}", "content_id": f"c{content}", "status": "ok",
                "mos": label if rated else None, "quality_left": None if rated else (label - 1) / 4,
                "score": label + hard + errors.normal(0, noise),
            })  # fmt: skip
    rows.append({"dataset": "ours", "video_id": f"gone {seed}", "content_id": "gone", "status": "failed", "mos": 3.0})
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, PREDICTIONS), folder / "predictions.parquet")
    return folder


def test_a_better_model_is_surely_better_in_every_figure(tmp_path: Path) -> None:
    worse, better = predictions(tmp_path / "a", 0.8, seed=2), predictions(tmp_path / "b", 0.1, seed=3)
    found = differences(worse, better, BOOTSTRAP)["ours"]
    assert (found["videos"], found["contents"]) == (90, 30)
    for name, sign in (("srcc", 1), ("plcc", 1), ("rmse", -1), ("pairs_right", 1)):
        gap = found[name]["difference"]
        assert gap.value == pytest.approx(found[name]["other"] - found[name]["first"])
        assert sign * gap.low > 0 and sign * gap.high > 0
    back = differences(better, worse, BOOTSTRAP)["ours"]
    assert back["srcc"]["difference"].value == pytest.approx(-found["srcc"]["difference"].value)


def test_a_model_differs_from_itself_by_nothing(tmp_path: Path) -> None:
    one = predictions(tmp_path / "a", 0.5)
    for figure in ("srcc", "plcc", "rmse", "pairs_right"):
        gap = differences(one, one, BOOTSTRAP)["ours"][figure]["difference"]
        assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_unrated_videos_have_pairs_alone_and_few_contents_no_interval(tmp_path: Path) -> None:
    first, other = (predictions(tmp_path / name, 0.5, 5, seed, rated=False) for seed, name in enumerate("ab"))
    found = differences(first, other, BOOTSTRAP)["ours"]
    assert "srcc" not in found and np.isnan(found["pairs_right"]["difference"].low)
    (line,) = Compared("a", "b", {"ours": found}, tmp_path).lines()
    assert line.startswith("ours: pairs of one content in order 0.") and "(" not in line


def test_both_are_drawn_and_set_side_by_side(tmp_path: Path) -> None:
    first, other = predictions(tmp_path / "a", 0.8, seed=2), predictions(tmp_path / "b", 0.1, seed=3)
    found = differences(first, other, BOOTSTRAP)
    path = draw_differences(first, other, ["a $x$", "b é"], found, tmp_path / "both.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000

    settings = {"split": "test", "bootstrap": {"confidence": 0.95, "resamples": 200}, "data_sets": {}}
    results = [settings | {"model_id": name} for name in ("a", "b <i>")]
    write_matrix(results, ["1-a", "2-b"], tmp_path, [Compared("a", "b <i>", found, path)])
    page = (tmp_path / "index.html").read_text()
    assert "b &lt;i&gt; compared with a" in page and page.count("data:image/png") == 1 and "<td>SRCC" in page
    (written,) = json.loads((tmp_path / "differences.json").read_text())
    assert written["data_sets"]["ours"]["srcc"]["difference"]["low"] == found["ours"]["srcc"]["difference"].low
