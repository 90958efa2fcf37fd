"""`cpllm calibrate` on real clips: the bundled model brought to the scale of made-up raters."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cpllm_model.cli import app
from cpllm_model.errors import ConfigurationError
from cpllm_model.metrics import Estimate
from cpllm_model.network import checkpoint
from cpllm_model.predictor import QualityPredictor, ViewedVideo
from cpllm_model.score_map import ScoreMap
from cpllm_model.training import calibrate as calibration
from cpllm_model.training.data.encode import write_video
from cpllm_model.training.data.scenes import render_scene
from cpllm_model.training.score_map_fit import Fit
from tests.conftest import UNSEEN_SEED

CRFS = (18, 34, 46)


def rate(folder: Path, contents: int) -> Path:
    """Write versions of scenes, and a table of ratings from 0 to 100 that falls with the quantiser."""
    rng, rows = np.random.default_rng(0), []
    for content in range(contents):
        frames = render_scene(UNSEEN_SEED + content, 320, 180, 12)
        for rung, crf in enumerate(CRFS):
            name = f"{content}-crf{crf}.mp4"
            write_video(frames, folder / name, crf=crf, g=12)
            rows.append((name, f"scene {content}", round(80 - 22 * rung + float(rng.normal(0, 5)), 1)))
    table = folder / "ratings.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("name", "content", "mos"), *rows])
    return table


def calibrate(*arguments):
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


@pytest.mark.slow
def test_a_calibrated_model_scores_as_its_raters_everywhere(tmp_path):
    table, out = rate(tmp_path, 20), tmp_path / "ours"
    (tmp_path / "19-crf18.mp4").write_bytes(b"broken")
    done = calibrate(table, "--scale", 0, 100, "--out", out)
    assert done.exit_code == 0, done.output
    assert "1 videos could not be scored" in done.stdout and "19-crf18.mp4" in done.stderr
    result = json.loads((out / calibration.RESULT_NAME).read_text())
    assert (result["videos"], result["contents"], result["failed"]) == (59, 20, {"not_a_video": 1})
    assert result["gain"]["low"] > 0 and result["made_from"] == checkpoint.model_id("tiny")

    # The weights are the bundled model's; the model is another.
    ours, tiny = QualityPredictor.from_pretrained(str(out), "cpu"), QualityPredictor.from_pretrained("tiny", "cpu")
    assert ours.model_id == f"ours-{ours.model_id[-12:]}" and ours.model_id in done.stdout
    assert ours.model_id[-12:] != tiny.model_id[-12:]
    paths = [tmp_path / f"{content}-crf{crf}.mp4" for content in range(4) for crf in CRFS]
    mapped, before = ours.look(paths), tiny.look(paths)
    assert ours.score_map is not None
    for seen, own in zip(mapped, before, strict=True):
        assert isinstance(seen, ViewedVideo) and isinstance(own, ViewedVideo)
        assert seen.tokens_NLD.tobytes() == own.tokens_NLD.tobytes()
        (rating,) = ours.rate([seen])
        expected = ours.score_map.apply(own.answers)[0] @ np.arange(1, 6)
        assert np.allclose([score for score in rating.segment_score if score is not None], expected) and np.isclose(
            sum(rating.level_probabilities), 1
        )
        assert np.isclose(np.dot(rating.level_probabilities, np.arange(1, 6)), rating.score)
        assert ours.view([seen.tokens_NLD], [seen.times])[0].score == seen.score
    assert ours.score(paths) == ours.score(paths)

    again = calibrate(table, "--scale", 0, 100, "--model", out, "--out", tmp_path / "twice")
    assert again.exit_code == 2 and "calibrated already" in again.stderr
    assert calibrate(table, "--out", out).exit_code == 2  # is there already


def test_a_handful_of_ratings_is_refused_before_anything_is_decoded(tmp_path):
    table = rate(tmp_path, 2)
    done = calibrate(table, "--scale", 0, 100, "--out", tmp_path / "ours")
    assert done.exit_code == 2 and "6 rated videos of 2 contents are too few" in " ".join(done.stderr.split())
    assert not (tmp_path / "ours").exists()


def test_ratings_off_the_stated_scale_are_refused(tmp_path):
    done = calibrate(rate(tmp_path, 1), "--out", tmp_path / "ours")
    assert done.exit_code == 2 and "off the scale of 1 to 5" in " ".join(done.stderr.split())


def test_a_map_that_the_ratings_do_not_support_is_not_written(tmp_path):
    nothing = dict.fromkeys(calibration.FIGURES, Estimate(0.0, -0.1, 0.1))
    fit = Fit(ScoreMap((1.0, 2.0, 3.0, 4.0, 5.0)), (1.0, 0.0), 60, 20, 1.0, 5.0, nothing, nothing,
              gain=Estimate(0.1, -0.1, 0.3), gain_of_severities=Estimate(0.0, -0.1, 0.1))  # fmt: skip
    with pytest.raises(ConfigurationError, match="do not surely rise"):
        calibration.write_calibrated(calibration.Calibration("tiny", (1, 5), {}, fit), "tiny", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
