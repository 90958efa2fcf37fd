"""The bundled `tiny`: both encoders count, standing still means nothing, an encode that shows nothing costs nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpllm_model.errors import CheckpointError, VideoError
from cpllm_model.network import checkpoint
from cpllm_model.network.config import VERSIONS
from cpllm_model.predictor import QualityPredictor, ViewedVideo
from cpllm_model.scale import SCENE_FACTS
from cpllm_model.training.data.degradation import apply
from cpllm_model.training.data.distortions import Step
from cpllm_model.training.data.encode import encode_planes, rgb_to_planes
from cpllm_model.training.data.scenes import render_scene

SEEDS = (1, 3, 5, 7)
WIDTH_PX, HEIGHT_PX, FRAMES = 480, 360, 16


@pytest.fixture(scope="module")
def tiny() -> QualityPredictor:
    return QualityPredictor.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Still pictures larger than what is shown of them, uint8 RGB."""
    return [render_scene(seed, WIDTH_PX + 40, HEIGHT_PX + 40, 1)[0] for seed in SEEDS]


def seen(tiny: QualityPredictor, path: Path) -> ViewedVideo:
    (viewed,) = tiny.look([path])
    assert not isinstance(viewed, VideoError), viewed
    return viewed


def score(tiny: QualityPredictor, path: Path) -> float:
    return tiny.rate([seen(tiny, path)])[0].score


@pytest.fixture(scope="module")
def shown(tiny: QualityPredictor, pictures: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory):
    """Scores of each picture as a file, as equal frames, panned by whole pixels, and encoded; (pictures, 4)."""
    folder = tmp_path_factory.mktemp("shown")
    rows = []
    for index, picture in enumerate(pictures):
        still = picture[:HEIGHT_PX, :WIDTH_PX]
        equal = rgb_to_planes(np.repeat(still[None], FRAMES, 0))
        panned = np.stack([picture[2 * t : 2 * t + HEIGHT_PX, 2 * t : 2 * t + WIDTH_PX] for t in range(FRAMES)])
        Image.fromarray(still).save(folder / f"{index}.png")
        ways = {"equal": (equal, 1), "panned": (rgb_to_planes(panned), 1), "encoded": (equal, 16)}
        for name, (planes, crf) in ways.items():
            encode_planes(planes, folder / f"{index}-{name}.mp4", 25, "x264", crf)
        paths = [folder / f"{index}.png", *(folder / f"{index}-{name}.mp4" for name in ways)]
        rows.append([score(tiny, path) for path in paths])
    return np.array(rows)


def test_a_still_scores_as_the_same_still_in_a_video(shown: np.ndarray) -> None:
    assert np.abs(shown[:, 1] - shown[:, 0]).max() < 0.25


def test_a_still_scores_as_the_same_still_encoded(shown: np.ndarray) -> None:
    assert np.abs(shown[:, 3] - shown[:, 1]).max() < 0.35


def test_moving_means_neither_good_nor_bad(shown: np.ndarray) -> None:
    moved = shown[:, 2] - shown[:, 1]
    assert abs(moved.mean()) < 0.2 and np.abs(moved).max() < 0.7


@pytest.fixture(scope="module")
def versions(pictures: list[np.ndarray], tiny: QualityPredictor, tmp_path_factory: pytest.TempPathFactory):
    """Each picture, clean and strongly blurred."""
    folder, pairs = tmp_path_factory.mktemp("versions"), []
    for index, picture in enumerate(pictures):
        planes = rgb_to_planes(np.repeat(picture[None, :HEIGHT_PX, :WIDTH_PX], FRAMES, 0))
        blurred = apply(planes, Step("gaussian blur", 5), 25, folder)
        pairs.append(
            [
                seen(tiny, encode_planes(one, folder / f"{index}-{name}.mp4", 25, "x264", 8))
                for name, one in (("clean", planes), ("blurred", blurred))
            ]
        )
    return pairs


@pytest.mark.parametrize("stream", ["context", "pixels"])
def test_a_swap_of_one_stream_moves_the_score(tiny: QualityPredictor, versions, stream: str) -> None:
    config = tiny.model.config
    context = config.sampling_settings.context_frames * config.context_tokens
    place = slice(0, context) if stream == "context" else slice(context, None)
    moved = []
    for clean, blurred in versions:
        swapped = clean.tokens_NLD.copy()
        swapped[:, place] = blurred.tokens_NLD[:, place]
        before, after = tiny.rate([clean, *tiny.view([swapped], [clean.times])])
        moved.append(before.score - after.score)
    assert np.mean(np.abs(moved)) > 0.05


def test_blur_lowers_the_score_and_loses_the_comparison(tiny: QualityPredictor, versions) -> None:
    clean, blurred = zip(*versions, strict=True)
    gaps = [a.score - b.score for a, b in zip(tiny.rate(clean), tiny.rate(blurred), strict=True)]
    assert min(gaps) > 0.5
    pairs = tiny.compare_tokens([one.tokens for one in clean], [one.tokens for one in blurred])
    assert all(one.probability_a_better > 0.8 for one in pairs)


def test_a_video_against_itself_is_a_tie(tiny: QualityPredictor, versions) -> None:
    for one in tiny.compare_tokens(*[[pair[0].tokens for pair in versions]] * 2):
        assert one.probability_a_better == 0.5 and one.order_gap < 0.2


def test_scene_facts_are_answered_and_true(tiny: QualityPredictor, versions) -> None:
    for rating in tiny.rate([clean for clean, _ in versions]):
        assert set(rating.scene) == set(SCENE_FACTS)
        assert rating.scene["motion"] == "still"


@pytest.mark.parametrize("name", VERSIONS)
def test_the_versions_of_what_decides_a_score_are_part_of_the_model_id(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(checkpoint.resolve("tiny"), folder)
    before, path = checkpoint.model_id(str(folder)), folder / "config.json"
    config = json.loads(path.read_text())
    assert config["versions"] == VERSIONS
    config["versions"][name] += 1
    path.write_text(json.dumps(config))
    assert checkpoint.model_id(str(folder)) != before
    with pytest.raises(CheckpointError, match="this release has"):
        QualityPredictor.from_pretrained(str(folder))
