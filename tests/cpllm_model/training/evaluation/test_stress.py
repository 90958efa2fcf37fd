"""Stress tests: figures of made-up answers with known results, what the rows make, and one real run to the page."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cpllm_model.errors import CorruptVideoError, DataSetError
from cpllm_model.metrics import Bootstrap
from cpllm_model.predictor import Description, Distortion, Rating
from cpllm_model.scale import DISTORTIONS, level_of
from cpllm_model.training.data.manifests import LabelledVideo
from cpllm_model.training.evaluation import evaluate, stress, stress_rows
from cpllm_model.training.evaluation.report import as_json, write_report
from cpllm_model.training.evaluation.stress import RowAnswers, Said, stress_figures, write_stress_table
from cpllm_model.training.evaluation.stress_rows import ROWS
from cpllm_model.training.evaluation.stress_sources import FRAMES, SIZE_PX, Source, find_sources, pan

QUICK = Bootstrap(resamples=40)
ROW = {row.name: row for row in ROWS}


def said(score: float, named: Sequence[str] = (), version: str = "v") -> Said:
    """Give what was said of a version."""
    rating = Rating(score, 0.5, level_of(score), (0.2,) * 5, (0.0,), (1.0,), (score,), score, 0.0, 1.0, {})
    distortions = tuple(Distortion(name, 3.0, 0.9, name in named) for name in DISTORTIONS)
    return Said(version, rating, Description("", distortions))


def test_what_is_measured_of_a_source() -> None:
    ladder = [said(4.0), said(3.0, ["blur"]), said(3.5), said(1.0, ["blur", "noise"])]
    assert stress_rows.steps_in_order(ladder) == pytest.approx(2 / 3)
    assert stress_rows.shift(ladder) == pytest.approx(4.5 / 3)
    assert (stress_rows.largest_shift(ladder), stress_rows.spread(ladder)) == (3, 3)
    assert stress_rows.falls(ladder) == 1 and stress_rows.falls([said(3), said(4), said(2)]) == 0.5
    assert stress_rows.naming("blur", ladder) == pytest.approx(2 / 3)
    assert (stress_rows.naming_last("noise", ladder), stress_rows.naming_last("colour", ladder)) == (1, 0)
    assert (stress_rows.first_at_least(4.0, ladder), stress_rows.first_at_least(4.1, ladder)) == (1, 0)
    assert (stress_rows.first_not_below_last(ladder), stress_rows.first_not_below_last(ladder[::-1])) == (1, 0)


def test_bounds_hold_or_do_not_and_failures_are_counted(tmp_path: Path) -> None:
    ladder, still = RowAnswers(ROW["noise ladder"], defaultdict(list)), RowAnswers(ROW["still, moving, encoded"], {})
    for source in "abc":
        ladder.by_source[source] = [said(5.0 - step) for step in range(4)]
    ladder.by_source["d"] = [said(3.0), ("sigma", CorruptVideoError("d", "broken <b>"))]
    still.by_source.update({"a": [said(4.0), said(4.1), said(4.0)], "b": [said(4.0), said(4.0), said(4.9)]})
    none = RowAnswers(ROW["flicker"], {"d": [("clean", CorruptVideoError("d", "broken"))]})
    rows = stress_figures([ladder, still, none], QUICK)
    assert (rows["noise ladder"]["sources"], rows["noise ladder"]["failed"]) == (3, {"corrupt_video": 1})
    (order,) = rows["noise ladder"]["checks"]
    assert order["value"].value == 1 and order["holds"] and order["at_least"]
    mean, largest = rows["still, moving, encoded"]["checks"]
    assert mean["value"].value == pytest.approx(0.25) and not mean["holds"]
    assert largest["value"] == pytest.approx(0.9) and not largest["holds"]
    assert rows["flicker"]["checks"] == []
    write_stress_table([ladder, still, none], tmp_path / "stress.parquet")
    table = pq.read_table(tmp_path / "stress.parquet").to_pylist()
    assert len(table) == 12 + 2 + 6 + 1 and [row["status"] for row in table].count("failed") == 2
    result = {"model_id": "m", "split": "test", "data_sets": {}, "stress": rows}
    result["bootstrap"] = {"confidence": 0.95, "resamples": 40}
    written = write_report(result, {}, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert written["stress"] == as_json(rows) == json.loads((tmp_path / "evaluation.json").read_text())["stress"]
    assert "1 of 3 bounds hold" in page and "does not hold" in page and "no source has all its answers" in page


def test_rows_are_named_once_and_say_their_bounds() -> None:
    assert len(ROW) == len(ROWS) and all(row.checks for row in ROWS)
    for family in ("packet loss", "interlacing", "flicker", "stutter", "colour"):
        assert any(family in check.words for row in ROWS for check in row.checks), family


def test_a_pan_moves_luma_and_chroma_together() -> None:
    rng = np.random.default_rng(0)
    frame_JW = rng.integers(16, 235, (30, 32), dtype=np.uint8)
    assert np.array_equal(pan(frame_JW, 0, 32), frame_JW)
    moved = pan(frame_JW, 4, 16)
    assert np.array_equal(moved[:20], frame_JW[:20, 4:20])
    blue = frame_JW[20:25].reshape(10, 16)
    assert np.array_equal(moved[20:25].reshape(10, 8), blue[:, 2:10])


def test_sources_are_held_out_clean_and_large_enough(tmp_path: Path) -> None:
    videos = []
    for name, size, mos in (("good", (520, 400), 4.5), ("small", (300, 200), 4.5), ("poor", (520, 400), 2.0)):
        Image.new("RGB", size, (90, 120, 60)).save(tmp_path / f"{name}.png")
        videos.append(LabelledVideo(name, name, "d", "test", str(tmp_path / f"{name}.png"), mos))
    found = find_sources(videos, [], "test", 3)
    assert [Path(source.name).stem for source in found["any"]] == ["good", "200000", "200001"]
    assert {source.kind for source in found["large"]} == {"scene"}
    assert {source.kind for source in found["soft"]} == {"scene", "nature"}
    assert all(len(sources) == 3 for sources in found.values())
    assert found["any"][0].film().shape == (FRAMES, SIZE_PX[1] * 3 // 2, SIZE_PX[0])
    for number in range(40):
        Image.new("RGB", (600, 400), (number, 0, 0)).save(tmp_path / f"folder-{number}.png")
    splits = [len(find_sources([], [tmp_path], split, 60)["any"]) for split in ("train", "test")]
    kinds = {
        split: sum(source.kind == "photo" for source in find_sources([], [tmp_path], split, 60)["any"])
        for split in ("train", "test")
    }
    assert splits == [60, 60] and 20 < kinds["train"] < 41 and kinds["test"] < 15
    with pytest.raises(DataSetError, match="is not a folder"):
        find_sources([], [tmp_path / "none"], "test", 1)


def test_a_screen_is_shown_at_its_own_pixels() -> None:
    pixels = Source("screen", "200000").still(*SIZE_PX)
    assert pixels.shape == (SIZE_PX[1], SIZE_PX[0], 3) and len(np.unique(pixels)) > 8


def test_a_source_that_cannot_be_read_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    answers = RowAnswers(ROW["noise ladder"], defaultdict(list))
    sources = {"any": [Source("clip", str(tmp_path / "broken.mp4"))]}
    assert not list(stress._files([answers], sources, tmp_path, []))
    row = stress_figures([answers], QUICK)["noise ladder"]
    assert (row["sources"], row["failed"], row["checks"]) == (0, {"source_read": 1}, [])


@pytest.mark.slow
def test_rows_make_versions_that_differ_from_the_clean_one(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)).resize((900, 700)).save(
        tmp_path / "photo.png"
    )
    photo = Source("photo", str(tmp_path / "photo.png"))
    for row in ROWS:
        if row.sources == "large":
            continue
        source = Source("screen", "200000") if row.sources == "screen" else photo
        clean, *others = row.make(source, tmp_path)
        assert len({version.name for version in (clean, *others)}) == len(others) + 1, row.name
        for version in others:
            same = version.planes_TJW.shape == clean.planes_TJW.shape and np.array_equal(
                version.planes_TJW, clean.planes_TJW
            )
            assert not same or version.quality != clean.quality, f"{row.name}: {version.name}"


@pytest.mark.slow
def test_a_run_goes_from_sources_to_the_page(tmp_path: Path) -> None:
    rows = tuple(ROW[name] for name in ("x264 ladder", "screens"))
    settings = evaluate.StressSettings(1, (), rows)
    result = evaluate.evaluate("tiny", [], tmp_path / "out", report=lambda line: None, bootstrap=QUICK, stress=settings)
    assert {name: row["versions"] for name, row in result["stress"].items()} == {"x264 ladder": 7, "screens": 2}
    assert all(not row["failed"] and row["sources"] == 1 for row in result["stress"].values())
    table = pq.read_table(tmp_path / "out" / "stress.parquet").to_pylist()
    assert len(table) == 9 and all(1 <= row["score"] <= 5 for row in table)
    assert "Stress tests" in (tmp_path / "out" / "index.html").read_text()
