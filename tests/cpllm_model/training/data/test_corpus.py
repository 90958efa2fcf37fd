"""The corpus: rendered and rated contents through real encoders, labels and words that agree, splits by content."""

import shutil
from pathlib import Path

import ffmpeg
import numpy as np
import pytest
from PIL import Image

from cpllm_model.errors import DataSetError
from cpllm_model.scale import DISTORTIONS, SCENE_FACTS, level_of
from cpllm_model.training.data import corpus as corpora
from cpllm_model.training.data import degradation, distortions, encode, filming
from cpllm_model.training.data.contents import Content
from cpllm_model.training.data.corpus import CorpusSettings, gather, make_corpus
from cpllm_model.training.data.descriptions import describe, mentions, named, scene_mentions
from cpllm_model.training.data.distortions import Recipe, Step, mos_of
from cpllm_model.training.data.manifests import (
    LabelledVideo,
    read_manifest,
    some_contents,
    write_manifest,
)
from cpllm_model.training.data.scenes import render_scene

SIZE = (320, 180)


RATING = 3.9


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    """A corpus of one rendered scene at the smallest size and one rated picture."""
    out = tmp_path_factory.mktemp("corpus")
    picture = Image.fromarray(render_scene(3, *SIZE, 1)[0])
    picture.save(out / "rated.png")
    rated = LabelledVideo("rated.png", "group", "ours", "validation", "rated.png", mos=RATING)
    write_manifest([rated], out / "rated.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filming, "SIZES_PX", (SIZE,))
        patch.setattr(filming, "LARGE_SHARE", 0)
        patch.setattr(filming, "BARS_SHARE", 0)
        patch.setattr(distortions, "LADDER_SHARE", 1)
        settings = CorpusSettings(clips=20, scenes=1, processes=1, screens=0, rated_contents=1)
        make_corpus([], out, settings, lambda line: None, [out / "rated.parquet"])
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
    assert len({video.content_id for video in videos}) == 2
    assert len(videos) >= 18 and len({video.video_id for video in videos}) == len(videos)
    assert len({video.file for video in videos}) == len(videos)
    for video in videos:
        assert video.quality_left is not None and 0 <= video.quality_left <= 1
        assert video.severities is not None and set(video.severities) == set(DISTORTIONS)
        assert video.description is not None and video.scene is not None
        assert mentions(video.description) == set(named(video.severities))
        assert scene_mentions(video.description) == video.scene
        assert all(answer in SCENE_FACTS[name] for name, answer in video.scene.items())
        assert video.vmaf_p5 is not None and video.vmaf_mean is not None and video.vmaf_p5 <= video.vmaf_mean + 1e-9
        width, height, _ = encode.probe_own(video.file)
        assert len(encode.read_planes(ffmpeg.input(video.file), width, height)) == filming.FRAMES


def test_the_rating_of_the_source_decides_the_scale(small_corpus):
    for video in read_manifest(small_corpus):
        if video.content_id.startswith("rated-"):
            assert video.mos is not None and video.mos == pytest.approx(mos_of(RATING, video.quality_left or 0))
            assert level_of(video.mos) in (video.description or "") and video.split == "validation"
        else:
            assert video.mos is None
            assert not any(f" {word}." in (video.description or "") for word in ("bad", "poor", "fair", "good"))


def test_still_versions_are_pictures_of_what_a_still_can_have(tmp_path):
    picture = Image.fromarray(render_scene(3, 192, 128, 1)[0])
    picture.save(tmp_path / "rated.png")
    rated = LabelledVideo("rated.png", "group", "ours", "validation", "rated.png", mos=RATING)
    write_manifest([rated], tmp_path / "rated.parquet")
    settings = CorpusSettings(clips=1, scenes=0, processes=1, screens=0, rated_contents=0, stills=1)
    make_corpus([], tmp_path, settings, lambda line: None, [tmp_path / "rated.parquet"])
    videos = read_manifest(tmp_path)
    assert len(videos) == 4 and {video.content_id for video in videos} == {videos[0].content_id}
    for video in videos:
        assert video.dataset == corpora.STILLS and video.split == "validation"
        with Image.open(video.file) as shown:
            assert shown.format == "PNG" and min(shown.size) >= 84
        assert video.mos is not None and video.mos == pytest.approx(mos_of(RATING, video.quality_left or 0))
        assert video.severities is not None and all(video.severities[name] == 0 for name in corpora.TIMED)
        assert video.scene is not None and "motion" not in video.scene  # it is shown standing and panned
        kinds = {step["kind"] for step in video.recipe_steps()}
        assert kinds and not any(distortions.KINDS[kind].family in corpora.TIMED for kind in kinds)


def test_a_stronger_jpeg_is_smaller_and_further_from_its_original():
    planes = encode.rgb_to_planes(render_scene(3, 192, 128, 1))
    mild, strong = (degradation.apply(planes, Step("jpeg", severity), 25, Path()) for severity in (1, 5))
    errors = [np.abs(one.astype(int) - planes).mean() for one in (mild, strong)]
    assert mild.shape == planes.shape and 0 < errors[0] < errors[1] / 2
    flat = encode.rgb_to_planes(np.full((1, 64, 64, 3), (200, 60, 40), np.uint8))
    assert np.array_equal(encode.rgb_to_planes(encode.planes_to_rgb(flat)), flat)


def test_a_severity_is_never_rated_better_than_a_milder_one(small_corpus):
    by_kind: dict[str, list[tuple[float, float, float]]] = {}
    for video in read_manifest(small_corpus):
        steps = video.recipe_steps()
        if len(steps) == 1:
            place = (steps[0]["severity"], steps[0]["beyond"])
            key = f"{video.content_id} {steps[0]['kind']}"
            by_kind.setdefault(key, []).append((*place, video.quality_left or 0))
    assert any(len(found) >= 5 for found in by_kind.values())  # the rate ladder
    for found in by_kind.values():
        scores = [left for *_, left in sorted(found)]
        assert scores == sorted(scores, reverse=True)


def test_a_milder_version_that_measured_worse_bounds_the_severer_one():
    def clip(severity, left, beyond=0.0):
        recipe = Recipe((Step("white noise", severity, 1, beyond),)).to_json()
        return LabelledVideo(f"{severity}+{beyond}", "c", "d", "train", "v", 1 + 3 * left, left, recipe=recipe)

    found = corpora._never_better_when_worse([clip(5, 0.6), clip(5, 0.3, 0.5), clip(1, 0.5)])
    assert [video.quality_left for video in found] == [0.5, 0.3, 0.5]
    assert [video.mos for video in found] == [2.5, 1 + 3 * 0.3, 2.5]


def test_of_a_source_that_is_rated_low_nobody_knows_what_it_has():
    severities = dict.fromkeys(DISTORTIONS, 0.0) | {"blur": 2.0}
    known = corpora._known(severities, source_mos=2.0)
    assert known["blur"] == 2.0 and np.isnan(known["noise"]) and known["stutter"] == 0
    assert corpora._known(severities, None) == corpora._known(severities, 4.5) == severities
    text = describe(2.0, known | {"blur": 0.0}, {}, np.random.default_rng(0))
    assert mentions(text) == set() and len(text.split(". ")) == 1  # not a word of a clean picture


def test_black_and_white_has_no_colour_that_could_be_wrong():
    grey = np.full((16, 270, 320), 128, np.uint8)
    grey[:, :180] = np.random.default_rng(0).integers(16, 235, (16, 180, 320))
    usable = corpora._usable_kinds(grey)
    assert not {"colour cast", "oversaturation", "desaturation"} & set(usable)
    assert {"combing", "low frame rate", "judder"} <= set(usable)
    still = np.repeat(grey[:1], 16, 0)
    assert not {"combing", "low frame rate", "judder", "freeze"} & set(corpora._usable_kinds(still))


@pytest.mark.parametrize("kind", ["low frame rate", "packet loss"])
def test_what_needs_other_moments_is_filmed_again(kind, tmp_path):
    (tmp_path / "clips").mkdir()
    # A seed that asks for frames before the clip.
    source = corpora._Source(Content("scene", "2", "scene-2"), 5, 60.0)
    pristine = source.film()
    recipe = Recipe((Step(kind, 5, 2),))
    made = corpora._make_clip(source, pristine, "v", recipe, tmp_path)
    assert made is not None and made.severities is not None and max(made.severities.values()) > 1
    assert encode.probe_own(tmp_path / "clips" / "v.mp4")[2] == filming.FRAMES
    assert made.quality_left is not None and made.quality_left < 0.9


def test_a_finished_content_is_not_made_again(small_corpus, monkeypatch):
    monkeypatch.setattr(corpora, "film", lambda *_: pytest.fail("it was made again"))
    made = corpora.make_content(Content("scene", "0", "scene-0"), small_corpus, seed=0)
    assert made == sum(video.content_id == "scene-0.0" for video in read_manifest(small_corpus))


def test_a_corpus_may_be_moved(small_corpus, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(small_corpus, moved)
    assert all(str(moved) in video.file for video in read_manifest(moved))
    before = [(video.video_id, video.quality_left) for video in read_manifest(moved)]
    gather(moved)
    assert [(video.video_id, video.quality_left) for video in read_manifest(moved)] == before


def test_bad_sources_are_reported_and_left_out(tmp_path):
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "broken.png").write_bytes(b"no picture")
    lines = []
    with pytest.raises(DataSetError, match="no content"):
        make_corpus([sources], tmp_path / "out", CorpusSettings(10, 0, processes=1, screens=0), lines.append)
    assert len(lines) == 1 and "broken.png: left out" in lines[0]


@pytest.mark.parametrize("seed", range(30))
def test_descriptions_say_what_is_known_and_no_more(seed):
    rng = np.random.default_rng(seed)
    severities = {name: float(rng.uniform(0, 5)) if rng.random() < 0.4 else 0.0 for name in DISTORTIONS}
    kinds = {"exposure": "overexposure", "colour": "desaturation", "blur": "upscaling"}
    scene = {name: str(rng.choice(answers)) for name, answers in SCENE_FACTS.items() if rng.random() < 0.7}
    score = None if seed % 5 == 0 else float(rng.uniform(1, 5))
    text = describe(score, severities, scene, rng, kinds)
    assert mentions(text) == set(named(severities))
    assert scene_mentions(text) == scene
    levels = [word for word in ("bad", "poor", "fair", "good", "excellent") if f" {word}." in text]
    assert levels == ([] if score is None else [level_of(score)])


def test_a_description_that_contradicts_itself_states_no_fact():
    assert scene_mentions("The scene is dark and still; it is bright.") == {"motion": "still"}
    assert scene_mentions("It shows strong flicker.") == {}


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
    with pytest.raises(DataSetError, match=r"other\.parquet is not a manifest"):
        read_manifest(tmp_path / "other.parquet")


def test_some_contents_are_whole_and_fewer_are_among_more():
    videos = [LabelledVideo(f"{c}.{n}", f"c{c}", "d", "train", "v.mp4", 3.0) for c in range(20) for n in range(3)]
    few, more = some_contents(videos, 4), some_contents(videos, 11)
    assert len(few) == 12 and len(more) == 33 and {v.video_id for v in few} < {v.video_id for v in more}
    assert {v.content_id for v in few} != {"c0", "c1", "c2", "c3"}  # no mere beginning
