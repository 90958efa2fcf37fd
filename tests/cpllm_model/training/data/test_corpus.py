"""The corpus: rendered contents through real encoders, labels and words that agree, splits by content."""

import shutil
from pathlib import Path

import ffmpeg
import numpy as np
import pytest

from cpllm_model.errors import DataSetError
from cpllm_model.network.config import CPLLMConfig
from cpllm_model.scale import level_of
from cpllm_model.training.data import corpus as corpora
from cpllm_model.training.data import distortions, encode
from cpllm_model.training.data.corpus import Content, CorpusSettings, find_contents, gather, make_corpus
from cpllm_model.training.data.descriptions import SceneFacts, describe, mentions, named
from cpllm_model.training.data.distortions import KINDS
from cpllm_model.training.data.manifests import (
    LabelledVideo,
    content_split,
    read_manifest,
    some_contents,
    write_manifest,
)
from cpllm_model.training.data.scenes import render_scene
from cpllm_model.training.recipe.config import Cache

SIZE = (320, 180)


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    """A corpus of one rendered scene at the smallest size."""
    out = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "SIZES_PX", (SIZE,))
        patch.setattr(corpora, "LARGE_SHARE", 0)
        patch.setattr(distortions, "LADDER_SHARE", 1)
        make_corpus([], out, CorpusSettings(clips=10, scenes=1, processes=1), report=lambda line: None)
    return out


def test_scenes_follow_from_their_seed():
    first, again, other = (render_scene(seed, 160, 96, 4) for seed in (1, 1, 2))
    assert first.shape == (4, 96, 160, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.std() > 10
    assert (first[0] != first[-1]).mean() > 0.1  # it moves


def test_one_scene_in_five_lacks_fine_detail():
    detail = {
        seed: np.abs(np.diff(render_scene(seed, 320, 180, 1)[0].astype(float), axis=1)).mean() for seed in range(20)
    }
    soft = sorted(detail, key=detail.__getitem__)[:4]
    assert set(soft) == {4, 9, 14, 19}


def test_every_third_round_of_takes_is_small():
    rng = np.random.default_rng(0)
    widths = [corpora.film(Content("scene", "1", take), rng, 1).shape[2] for take in (0, 3, 6, 9, 12, 15)]
    assert [width <= 256 for width in widths] == [False, False, True, False, False, True]
    kept_px = CPLLMConfig.tiny().sampling_settings.fragment_px + Cache(Path()).margin_px
    assert min(map(min, corpora.SMALL_SIZES_PX)) >= kept_px  # or they could not be trained on


def test_more_frames_than_the_pipes_hold_pass_through():
    frames = np.zeros((64, 540, 960, 3), np.uint8)
    frames[-1] = 255
    planes = encode.rgb_to_planes(frames)
    assert planes.shape == (64, 810, 960) and planes[0, 0, 0] == 16 and planes[-1, 0, 0] == 235


def test_a_failing_encoder_says_why(tmp_path):
    with pytest.raises(encode.EncodeError, match=r"missing\.mp4"):
        encode.read_planes(ffmpeg.input(str(tmp_path / "missing.mp4")), 64, 64)


def test_rows_agree_with_themselves(small_corpus):
    videos = read_manifest(small_corpus)
    assert len(videos) >= 10 and len({video.video_id for video in videos}) == len(videos)
    assert len({video.file for video in videos}) == len(videos)
    for video in videos:
        assert video.mos is not None and 1 <= video.mos <= 5
        assert video.severities is not None and video.description is not None
        assert level_of(video.mos) in video.description
        assert mentions(video.description) == set(named(video.severities))
        assert video.vmaf_p5 is not None and video.vmaf_mean is not None and video.vmaf_p5 <= video.vmaf_mean + 1e-9
        planes = encode.read_planes(ffmpeg.input(video.file), *SIZE)
        assert len(planes) == corpora.FRAMES


def test_a_severity_is_never_rated_better_than_a_milder_one(small_corpus):
    by_kind: dict[str, list[tuple[float, float]]] = {}
    for video in read_manifest(small_corpus):
        steps = video.recipe_steps()
        if len(steps) == 1 and (KINDS[steps[0]["kind"]].quality is not None or video.ladder):
            by_kind.setdefault(steps[0]["kind"], []).append((steps[0]["severity"], video.mos or 0))
    assert any(len(found) >= 5 for found in by_kind.values())  # the rate ladder
    for found in by_kind.values():
        scores = [mos for _, mos in sorted(found)]
        assert scores == sorted(scores, reverse=True)


def test_a_finished_content_is_not_made_again(small_corpus, monkeypatch):
    monkeypatch.setattr(corpora, "film", lambda *_: pytest.fail("it was made again"))
    assert corpora.make_content(Content("scene", "0"), small_corpus, seed=0) == len(read_manifest(small_corpus))


def test_a_corpus_may_be_moved(small_corpus, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(small_corpus, moved)
    assert all(str(moved) in video.file for video in read_manifest(moved))
    before = [(video.video_id, video.mos) for video in read_manifest(moved)]
    gather(moved)
    assert [(video.video_id, video.mos) for video in read_manifest(moved)] == before


def test_bad_sources_are_reported_and_left_out(tmp_path):
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "broken.png").write_bytes(b"no picture")
    lines = []
    with pytest.raises(DataSetError, match="no content"):
        make_corpus([sources], tmp_path / "out", CorpusSettings(10, scenes=0, processes=1), lines.append)
    assert len(lines) == 1 and "broken.png: left out" in lines[0]
    with pytest.raises(DataSetError, match="no photograph or clip"):
        find_contents([tmp_path / "out"], CorpusSettings(scenes=0))


def test_the_number_of_clips_decides_the_number_of_takes(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    few, many = (find_contents([tmp_path], CorpusSettings(clips, scenes=1)) for clips in (10, 10 * 7))
    assert len(few) == 1 and len(many) == 7 and len({one.content_id for one in many}) == 7
    assert many[0] == few[0]


def test_no_content_is_in_two_splits():
    splits = {}
    for number in range(400):
        takes = {Content("clip", f"/some/folder/clip{number}.mp4", take).split for take in range(6)}
        assert takes == {Content("clip", f"clip{number}.mp4").split} and len(takes) == 1
        splits[number] = takes.pop()
    shares = [list(splits.values()).count(name) / 400 for name in ("train", "validation", "test")]
    assert 0.75 < shares[0] < 0.88 and 0.02 < shares[1] < 0.1 and 0.08 < shares[2] < 0.17
    assert content_split("a") == content_split("a")


@pytest.mark.parametrize("seed", range(30))
def test_descriptions_say_what_is_known_and_no_more(seed):
    rng = np.random.default_rng(seed)
    names = ["compression", "upscaling", "blur", "noise", "banding", "exposure", "contrast", "colour", "stutter"]
    severities = {name: float(rng.uniform(0, 5)) if rng.random() < 0.4 else 0.0 for name in [*names, "packet loss"]}
    kinds = {"exposure": "overexposure", "colour": "desaturation"}
    facts = SceneFacts(float(rng.uniform(16, 235)), float(rng.uniform(0, 30)), float(rng.uniform(0, 20)))
    text = describe(float(rng.uniform(1, 5)), severities, facts, rng, kinds)
    assert mentions(text) == set(named(severities))
    levels = [word for word in ("bad", "poor", "fair", "good", "excellent") if f" {word}." in text]
    assert len(levels) == 1


def test_a_manifest_keeps_what_it_is_given_and_names_what_is_wrong(tmp_path):
    video = LabelledVideo(
        "v", "c", "d", "train", "v.mp4", 3.5, severities={"blur": 1.0}, dialogue=(("Is it sharp?", "No."),)
    )
    path = write_manifest([video], tmp_path / "manifest.parquet")
    (again,) = read_manifest(tmp_path)
    assert again.severities == {"blur": 1.0} and again.dialogue == video.dialogue and again.description is None
    assert again.file == str(tmp_path.resolve() / "v.mp4")
    with pytest.raises(DataSetError, match="no video of split test"):
        read_manifest(path, ("test",))
    (tmp_path / "other.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(DataSetError, match=r"other\.parquet is no manifest"):
        read_manifest(tmp_path / "other.parquet")


def test_some_contents_are_whole_and_fewer_are_among_more():
    videos = [LabelledVideo(f"{c}.{n}", f"c{c}", "d", "train", "v.mp4", 3.0) for c in range(20) for n in range(3)]
    few, more = some_contents(videos, 4), some_contents(videos, 11)
    assert len(few) == 12 and len(more) == 33 and {v.video_id for v in few} < {v.video_id for v in more}
    assert {v.content_id for v in few} != {"c0", "c1", "c2", "c3"}  # no mere beginning
