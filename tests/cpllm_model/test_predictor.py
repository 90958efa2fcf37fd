"""The Python API over the bundled model: answers, their agreement, and their independence of company."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from cpllm_model.decoding.samples import DecodeLimits, Event
from cpllm_model.decoding.sandbox import DecodeSandbox
from cpllm_model.errors import (
    CheckpointError,
    ConfigurationError,
    EmptyFileError,
    NotAVideoError,
    ObjectMissingError,
    VideoError,
)
from cpllm_model.network import checkpoint
from cpllm_model.predictor import QualityPredictor, SegmentTimes, lossless_video, matched
from cpllm_model.scale import DISTORTIONS, LEVELS, level_of
from cpllm_model.training.data.encode import write_video
from cpllm_model.training.data.scenes import render_scene


@pytest.fixture(scope="module")
def predictor():
    return QualityPredictor.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def samples(predictor, ladders, tmp_path_factory):
    """Videos of several sizes, lengths and frame rates, decoded."""
    folder = tmp_path_factory.mktemp("mixed")
    portrait = write_video(render_scene(9, 180, 320, 17), folder / "portrait.mp4", fps=50, crf=30)
    short = write_video(render_scene(8, 640, 360, 9), folder / "short.webm", fps=24, codec="vp9", crf=40)
    found = []
    with DecodeSandbox(DecodeLimits()) as sandbox:
        for path in (ladders[0][0], portrait, ladders[0][3], short, ladders[1][2]):
            with path.open("rb") as file:
                found.append(sandbox.decode(file, str(path), predictor.sampling))
    return found


@pytest.fixture(scope="module")
def viewed(predictor, samples):
    return predictor.encode(samples)


def test_videos_of_any_size_and_length_are_answered(predictor, samples, viewed):
    assert len({(one.info.width_px, one.info.fps, len(one.segment_start_s)) for one in samples}) >= 3
    for one, rating, description in zip(viewed, predictor.rate(viewed), predictor.describe_viewed(viewed), strict=True):
        assert 1 <= rating.score <= 5 and 0 <= rating.score_std <= 2
        assert math.isclose(sum(rating.level_probabilities), 1) and len(rating.level_probabilities) == len(LEVELS)
        mean = sum((index + 1) * p for index, p in enumerate(rating.level_probabilities))
        assert math.isclose(mean, rating.score) and rating.level == level_of(rating.score)
        assert len(rating.segment_score) == len(rating.segment_start_s) == len(one.tokens_NLD)
        assert rating.segment_end_s[:-1] == rating.segment_start_s[1:]
        assert rating.score_worst == min(rating.segment_score) <= rating.score + 1e-9
        assert rating.worst_start_s in rating.segment_start_s and rating.worst_end_s in rating.segment_end_s
        named = {word for word in LEVELS if word in description.text.split()[:12] or f"{word}." in description.text}
        assert description.text.endswith(".") and named <= {rating.level}
        assert {distortion.name for distortion in description.distortions} == set(DISTORTIONS)
        assert all(0 <= d.probability <= 1 and 0 <= d.severity <= 5 for d in description.distortions)
        assert all(d.named == bool(d.stretches) for d in description.distortions)


def test_answers_do_not_depend_on_batch_or_order(predictor, samples, viewed):
    backwards = predictor.encode(samples[::-1])[::-1]
    singly = [predictor.encode([one])[0] for one in samples]
    for one, two, three in zip(viewed, backwards, singly, strict=True):
        assert one.tokens_NLD.tobytes() == two.tokens_NLD.tobytes() == three.tokens_NLD.tobytes()
    assert predictor.rate(viewed) == [predictor.rate([one])[0] for one in singly]
    assert predictor.describe_viewed(viewed[:2]) == predictor.describe_viewed(backwards[1::-1])[::-1]


def test_a_batch_gives_what_one_by_one_gives(predictor, viewed, monkeypatch):
    """How a GPU computes, on the CPU: the same within rounding."""
    tokens, times = [one.tokens_NLD for one in viewed], [one.times for one in viewed]
    pairs = [one.tokens for one in viewed], [one.tokens for one in viewed[1:] + viewed[:1]]
    singly = predictor.rate(viewed), predictor.describe_viewed(viewed), predictor.compare_tokens(*pairs)
    monkeypatch.setattr(predictor, "_batches", lambda items: [items])
    together = predictor.view(tokens, times)
    ratings, descriptions = predictor.rate(together), predictor.describe_viewed(together)
    assert [one.score for one in ratings] == pytest.approx([one.score for one in singly[0]], abs=1e-4)
    assert [one.text for one in descriptions] == [one.text for one in singly[1]]
    for one, other in zip(predictor.compare_tokens(*pairs), singly[2], strict=True):
        assert one.probability_a_better == pytest.approx(other.probability_a_better, abs=1e-4)


def test_the_order_of_segments_changes_no_answer(predictor, viewed):
    tokens = np.concatenate([one.tokens_NLD[:1] for one in viewed])
    times = SegmentTimes(np.arange(5.0), np.arange(1.0, 6), np.ones(5, bool))
    order = [3, 0, 4, 2, 1]
    (forth,), (mixed,) = predictor.view([tokens], [times]), predictor.view([tokens[order]], [times])
    before, after = predictor.rate([forth])[0], predictor.rate([mixed])[0]
    assert before.score == pytest.approx(after.score, abs=1e-5)
    assert [before.segment_score[place] for place in order] == pytest.approx(list(after.segment_score), abs=1e-5)
    assert forth.tokens.tokens_NLD.tobytes() == mixed.tokens.tokens_NLD.tobytes()
    (one,), (other,) = predictor.describe_viewed([forth]), predictor.describe_viewed([mixed])
    assert one.text.split(" From ")[0] == other.text.split(" From ")[0]
    assert [d.probability for d in one.distortions] == pytest.approx([d.probability for d in other.distortions])


def test_segments_without_a_picture_do_not_count(predictor, viewed):
    one = viewed[0]
    tokens = np.concatenate([one.tokens_NLD, viewed[1].tokens_NLD[:1]])
    count = len(tokens)
    has_picture = np.arange(count) < count - 1
    times = SegmentTimes(np.arange(float(count)), np.arange(1.0, count + 1), has_picture)
    without = SegmentTimes(times.start_s[:-1], times.end_s[:-1], has_picture[:-1])
    (rating,), (expected,) = (
        predictor.rate(predictor.view([its], [when])) for its, when in ((tokens, times), (one.tokens_NLD, without))
    )
    assert rating.segment_score[-1] is None
    assert rating.score == pytest.approx(expected.score, abs=1e-5)


def test_names_stand_over_no_time_without_a_picture(predictor, viewed):
    worst = max(viewed, key=lambda one: sum(d.named for d in predictor.describe_viewed([one])[0].distortions))
    end_s = float(worst.times.end_s[-1])

    def named(*events: Event):
        times = replace(worst.times, events=events)
        return [d for d in predictor.describe_viewed([replace(worst, times=times)])[0].distortions if d.named]

    everywhere = named()
    assert everywhere
    black = Event("black", end_s / 4, end_s / 2)
    for one, other in zip(everywhere, named(black, Event("freeze", 0.0, end_s)), strict=True):
        assert one.name == other.name
        assert all(end <= black.start_s or start >= black.end_s for start, end in other.stretches)
    # Of a video of writing alone, the writing is what is rated.
    assert named(Event("credits", 0.0, end_s)) == everywhere


def test_frozen_time_lowers_the_score(predictor, viewed):
    one = viewed[0]
    end_s = float(one.times.end_s[-1])
    frozen = replace(one.times, events=(Event("freeze", end_s / 2, end_s),))
    before, after = predictor.rate([one])[0], predictor.rate([replace(one, times=frozen)])[0]
    assert after.score == pytest.approx(1 + (before.score - 1) / 2)
    assert "The picture freezes from" in predictor.describe_viewed([replace(one, times=frozen)])[0].text


def test_segments_of_two_videos_are_matched_from_the_worst_to_the_best():
    a, b = matched(np.arange(2.0)[:, None, None], np.arange(4.0)[:, None, None])
    assert a.ravel().tolist() == [0, 0, 1, 1] and b.ravel().tolist() == [0, 1, 2, 3]


def test_comparison_is_antisymmetric(predictor, viewed):
    tokens = [one.tokens for one in viewed]
    forth = predictor.compare_tokens(tokens, tokens[1:] + tokens[:1])
    back = predictor.compare_tokens(tokens[1:] + tokens[:1], tokens)
    for ahead, behind in zip(forth, back, strict=True):
        assert ahead.probability_a_better == pytest.approx(1 - behind.probability_a_better, abs=1e-6)
        assert 0 <= ahead.order_gap <= 1
    (itself,) = predictor.compare_tokens(tokens[:1], tokens[:1])
    assert itself.probability_a_better == 0.5


def test_bundled_model_orders_rate_ladders_of_unseen_scenes(predictor, ladders):
    """The promise of the model card, on two scenes; the card has it on the held-out contents."""
    steps, preferred = [], []
    for ladder in ladders:
        scores = [rating.score for rating in predictor.score(ladder)]
        steps += [better > worse for better, worse in pairwise(scores)]
        preferred.append(predictor.compare(ladder[0], ladder[-1]).probability_a_better)
    assert sum(steps) >= 5, steps
    assert min(preferred) > 0.5


def test_a_bad_file_is_an_answer_of_its_own(predictor, ladders, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 100)
    paths = [tmp_path / "empty.mp4", ladders[0][0], tmp_path / "text.mp4", tmp_path / "gone.mp4"]
    found = predictor.score(paths)
    assert [type(one) for one in found if isinstance(one, VideoError)] == [
        EmptyFileError,
        NotAVideoError,
        ObjectMissingError,
    ]
    assert found[1] == predictor.score([ladders[0][0]])[0]
    assert "gone.mp4" in str(found[3])
    with pytest.raises(EmptyFileError, match=r"empty\.mp4"):
        predictor.compare(ladders[0][0], tmp_path / "empty.mp4")


def test_an_assessment_says_all_of_one_video(predictor, ladders):
    one = predictor.assess(ladders[0][0])
    (rating,), (words,) = predictor.score([ladders[0][0]]), predictor.describe([ladders[0][0]])
    assert (one.rating, one.words) == (rating, words)
    assert (one.score, one.uncertainty, one.level) == (rating.score, rating.score_std, rating.level)
    assert json.loads(json.dumps(one.to_dict()))["info"]["codec"] == "h264"
    assert f"{one.score:.2f}" in str(one) and "<table>" in one._repr_html_()


def test_many_paths_give_many_assessments_and_one_bad_path_raises(predictor, ladders, tmp_path):
    (tmp_path / "empty.mp4").touch()
    good, bad = predictor.assess([ladders[0][0], tmp_path / "empty.mp4"])
    assert good == predictor.assess(ladders[0][0]) and isinstance(bad, EmptyFileError)
    with pytest.raises(EmptyFileError, match=r"empty\.mp4"):
        predictor.assess(tmp_path / "empty.mp4")


@pytest.mark.parametrize("method", ["score", "describe"])
def test_one_path_is_not_taken_for_a_list_of_letters(predictor, method):
    with pytest.raises(TypeError, match=r"give a list of paths, not one path: \['a\.mp4'\]"):
        getattr(predictor, method)("a.mp4")


def test_frames_in_memory_score_as_the_same_frames_in_a_file(predictor, tmp_path):
    frames = render_scene(4, 320, 240, 20)
    path = tmp_path / "same.mkv"
    path.write_bytes(lossless_video(frames, 25))
    found = predictor.assess_frames(frames, 25, "render")
    assert found.path == "render" and found.rating == predictor.assess(path).rating
    assert found.cautions == ("The picture is small (320x240): fragments overlap.",)


def test_frames_that_are_none_are_refused(predictor):
    with pytest.raises(ValueError, match=r"expected uint8 \(T, H, W, 3\)"):
        predictor.assess_frames(np.zeros((4, 64, 64), np.uint8), 25)
    with pytest.raises(ValueError, match="frames a second"):
        predictor.assess_frames(np.zeros((4, 64, 64, 3), np.uint8), 0)


def test_half_precision_moves_a_score_by_little(predictor, samples):
    half = QualityPredictor.from_pretrained("tiny", device="cpu", precision="bfloat16")
    (full,), (found,) = (one.rate(one.encode(samples[:1])) for one in (predictor, half))
    assert half.model.dtype == torch.bfloat16 and found.score != full.score
    assert found.score == pytest.approx(full.score, abs=0.1)


def test_a_precision_that_is_none_is_refused():
    with pytest.raises(ConfigurationError, match="there is no precision 'int4'; give one of float32, bfloat16"):
        QualityPredictor.from_pretrained("tiny", precision="int4")


def test_a_damaged_checkpoint_is_named(tmp_path):
    for name in ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint.resolve("tiny") / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        QualityPredictor.from_pretrained(str(tmp_path))
