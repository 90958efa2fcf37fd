"""The training recipe: rendered scenes, real encoders, labels, splits, losses, and that a short training learns."""

import ffmpeg
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cpllm_model.scale import DISTORTIONS, level_of
from cpllm_model.training import corpus as corpora
from cpllm_model.training import encode
from cpllm_model.training.clips import ClipStore
from cpllm_model.training.corpus import Content, find_contents, make_corpus
from cpllm_model.training.descriptions import NOUNS, SceneFacts, describe
from cpllm_model.training.distortions import Recipe, draw_recipes
from cpllm_model.training.losses import linearity_loss, preference, rank_loss, soft_cross_entropy, soft_labels
from cpllm_model.training.scenes import render_scene

WIDTH, HEIGHT = 320, 180


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A pristine rendered clip as raw planes."""
    planes = encode.rgb_to_planes(render_scene(5, WIDTH, HEIGHT, 8))
    path = tmp_path_factory.mktemp("reference") / "reference.yuv"
    path.write_bytes(planes.tobytes())
    return path


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    """A corpus of two rendered scenes at the smallest size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "SIZES_PX", ((WIDTH, HEIGHT),))
        out = tmp_path_factory.mktemp("corpus")
        for content in (Content("scene", "0"), Content("scene", "2")):
            for folder in ("planes", "contents"):
                (out / folder).mkdir(exist_ok=True)
            corpora.make_content(content, out, seed=0)
        return out


def test_scenes_follow_from_their_seed():
    first, again, other = (render_scene(seed, 160, 96, 4) for seed in (1, 1, 2))
    assert first.shape == (4, 96, 160, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.std() > 10
    assert (first[0] != first[-1]).mean() > 0.1  # it moves


@pytest.mark.parametrize("codec", ["x264", "x265", "vp9", "av1", "mpeg4"])
def test_every_encoder_gives_every_frame_and_follows_its_rate(codec, reference, tmp_path):
    start, step = {"x264": (20, 20), "x265": (22, 20), "vp9": (20, 36), "av1": (20, 40), "mpeg4": (2, 24)}[codec]
    sizes = []
    for crf in (start, start + step):
        source = encode.raw_input(reference, WIDTH, HEIGHT, 25)
        clip = encode.encode(source, tmp_path / f"{crf}.mp4", codec, crf)
        planes = encode.read_planes(ffmpeg.input(str(clip)), WIDTH, HEIGHT)
        assert planes.shape == (8, HEIGHT * 3 // 2, WIDTH)
        sizes.append(clip.stat().st_size)
    assert sizes[1] < sizes[0] / 2


@pytest.mark.parametrize("name", ["blur", "noise", "upscaling"])
def test_distortions_are_monotone_in_severity(name, reference, tmp_path):
    def vmaf(severity):
        source = encode.raw_input(reference, WIDTH, HEIGHT, 25)
        degraded = Recipe({name: severity}).filters(source, WIDTH, HEIGHT, seed=1)
        clip = encode.encode(degraded, tmp_path / f"{severity}.mkv", "ffv1", 0)
        return encode.vmaf(ffmpeg.input(str(clip)), encode.raw_input(reference, WIDTH, HEIGHT, 25)).mean()

    found = [vmaf(severity) for severity in (1.0, 2.0, 3.0, 4.0)]
    assert found == sorted(found, reverse=True) and found[0] - found[-1] > 10


def test_more_frames_than_the_pipes_hold_pass_through():
    frames = np.zeros((64, 540, 960, 3), np.uint8)
    frames[-1] = 255
    planes = encode.rgb_to_planes(frames)
    assert planes.shape == (64, 810, 960) and planes[0, 0, 0] == 16 and planes[-1, 0, 0] == 235


def test_recipes_state_what_they_do():
    recipes = draw_recipes(np.random.default_rng(0))
    ladder = [recipe.crf for recipe in recipes if recipe.ladder]
    assert len(ladder) == 4 and ladder == sorted(ladder)
    for recipe in recipes:
        severities = recipe.all_severities()
        assert set(severities) == set(DISTORTIONS)
        assert all(0 <= severity <= 4 for severity in severities.values())


def test_a_failing_encoder_says_why(tmp_path):
    with pytest.raises(encode.EncodeError, match=r"missing\.mp4"):
        encode.read_planes(ffmpeg.input(str(tmp_path / "missing.mp4")), 64, 64)


def test_corpus_rows_agree_with_themselves(small_corpus):
    rows = pq.read_table(sorted((small_corpus / "contents").glob("*.parquet"))).to_pylist()
    assert len(rows) == 2 * 12
    for row in rows:
        assert row["mos"] == pytest.approx(1 + row["vmaf_mean"] / 25) and 1 <= row["mos"] <= 5
        assert level_of(row["mos"]) in row["description"]
        named = {name for name, nouns in NOUNS.items() if any(noun in row["description"] for noun in nouns)}
        # "upscaling blur" holds the word blur too
        expected = {name for name, severity in row["severities"] if severity >= 0.6}
        assert expected <= named and named - expected <= {"blur"}
    for content in {row["content_id"] for row in rows}:
        ladder = [row["mos"] for row in rows if row["content_id"] == content and row["ladder"]]
        assert ladder == sorted(ladder, reverse=True)


def test_a_finished_content_is_not_made_again(small_corpus, monkeypatch):
    monkeypatch.setattr(corpora, "film", lambda *_: pytest.fail("it was made again"))
    assert corpora.make_content(Content("scene", "0"), small_corpus, seed=0) == 12


def test_bad_sources_are_reported_and_left_out(tmp_path):
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "broken.png").write_bytes(b"no picture")
    lines = []
    with pytest.raises(ValueError, match="no content"):
        make_corpus(find_contents([sources], 0), tmp_path / "out", processes=1, report=lines.append)
    assert len(lines) == 1 and "broken.png: left out" in lines[0]


def test_all_takes_of_a_source_share_a_split():
    splits = {}
    for source in (f"clip{number}.mp4" for number in range(200)):
        takes = {Content("clip", source, take).split for take in range(3)}
        assert len(takes) == 1
        splits[source] = takes.pop()
    assert 0.05 < list(splits.values()).count("validation") / 200 < 0.2
    assert Content("photo", "/a/x.png").split == Content("photo", "/b/x.png").split


def test_descriptions_never_contradict_what_they_are_made_from():
    rng = np.random.default_rng(0)
    facts = SceneFacts(brightness=100, detail=10, motion=5)
    severe = describe(1.2, {"blur": 3.8, "noise": 0.1}, facts, rng)
    assert "bad" in severe and "severe" in severe and "noise" not in severe and "grain" not in severe
    clean = describe(4.9, {"blur": 0.0, "noise": 0.3}, facts, rng)
    assert "excellent" in clean and not any(noun in clean for nouns in NOUNS.values() for noun in nouns)


def test_samples_are_deterministic_and_fresh_crops_differ(small_corpus):
    store = ClipStore(small_corpus, "train")
    clip = store.clips[0]
    fixed = [store.sample(clip, 1, 96, None) for _ in range(2)]
    assert fixed[0].bursts_NTCHW.shape == (2, 4, 3, 96, 96)
    assert fixed[0].context_NMCHW.shape == (2, 2, 3, 112, 112)
    assert np.array_equal(fixed[0].bursts_NTCHW, fixed[1].bursts_NTCHW)
    rng = np.random.default_rng(0)
    crops = [store.sample(clip, 1, 96, rng).bursts_NTCHW for _ in range(2)]
    assert not np.array_equal(crops[0], crops[1])
    batch = next(store.batches(2, 3, rng))
    assert len(batch) == 6 and len({one.content_id for one in batch[:3]}) == 1


def test_soft_labels_keep_the_mean():
    values = torch.tensor([1.0, 2.3, 4.9, 5.0])
    labels = soft_labels(values, 1, 5)
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    torch.testing.assert_close(labels @ torch.arange(1.0, 6), values)
    assert soft_cross_entropy(labels.log().clamp(min=-50), labels).max() < 1


def test_losses_fall_towards_the_truth():
    truth = torch.tensor([1.0, 2.0, 3.0, 4.0])
    same = torch.ones(4, 4, dtype=torch.bool)
    assert linearity_loss(truth * 2 + 1, truth) < 1e-6 < linearity_loss(-truth, truth)
    assert rank_loss(truth, truth, same) == 0
    assert rank_loss(truth, truth, torch.zeros(4, 4, dtype=torch.bool)) == 0
    predicted = torch.zeros(4, requires_grad=True)
    rank_loss(predicted, truth, same).backward()
    assert predicted.grad is not None and predicted.grad[0] > 0 > predicted.grad[3]


def test_preference_is_antisymmetric_and_grows_with_the_gap():
    a, b = torch.tensor([4.0, 3.1, 3.0]), torch.tensor([2.0, 3.0, 3.0])
    torch.testing.assert_close(preference(a, b) + preference(b, a), torch.ones(3))
    assert preference(a, b)[0] > 0.99 > preference(a, b)[1] > 0.5 == preference(a, b)[2]
