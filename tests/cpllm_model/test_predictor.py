"""The Python API over the bundled model: answers, their agreement, and their independence of company."""

import math
from itertools import pairwise

import pytest

from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.decoding.sandbox import DecodeSandbox
from cpllm_model.errors import CheckpointError, EmptyFileError, NotAVideoError, ObjectMissingError, VideoError
from cpllm_model.network import checkpoint
from cpllm_model.predictor import QualityPredictor, VisualTokens
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
def tokens(predictor, samples):
    return predictor.encode(samples)


def test_videos_of_any_size_and_length_are_answered(predictor, samples, tokens):
    assert len({(one.info.width_px, one.info.fps, len(one.segment_start_s)) for one in samples}) >= 3
    for one, rating, description in zip(tokens, predictor.rate(tokens), predictor.describe_tokens(tokens), strict=True):
        assert 1 <= rating.score <= 5 and 0 <= rating.score_std <= 2
        assert math.isclose(sum(rating.level_probabilities), 1) and len(rating.level_probabilities) == len(LEVELS)
        mean = sum((index + 1) * p for index, p in enumerate(rating.level_probabilities))
        assert math.isclose(mean, rating.score) and rating.level == level_of(rating.score)
        assert len(rating.segment_score) == len(rating.segment_start_s) == len(one.tokens_NLD)
        named = {word for word in LEVELS if word in description.text.split()[:12] or f"{word}." in description.text}
        assert description.text.endswith(".") and named <= {rating.level}
        assert {distortion.name for distortion in description.distortions} == set(DISTORTIONS)
        assert all(0 <= d.probability <= 1 and 0 <= d.severity <= 5 for d in description.distortions)


def test_answers_do_not_depend_on_batch_or_order(predictor, samples, tokens):
    backwards = predictor.encode(samples[::-1])[::-1]
    singly = [predictor.encode([one])[0] for one in samples]
    for one, two, three in zip(tokens, backwards, singly, strict=True):
        assert one.tokens_NLD.tobytes() == two.tokens_NLD.tobytes() == three.tokens_NLD.tobytes()
    assert predictor.rate(tokens) == [predictor.rate([one])[0] for one in tokens]
    assert predictor.describe_tokens(tokens[:2]) == predictor.describe_tokens(tokens[1::-1])[::-1]


def test_comparison_is_antisymmetric(predictor, tokens):
    forth = predictor.compare_tokens(tokens, tokens[1:] + tokens[:1])
    back = predictor.compare_tokens(tokens[1:] + tokens[:1], tokens)
    for ahead, behind in zip(forth, back, strict=True):
        assert ahead.probability_a_better == pytest.approx(1 - behind.probability_a_better, abs=1e-6)
        assert 0 <= ahead.order_gap <= 1
    (itself,) = predictor.compare_tokens(tokens[:1], tokens[:1])
    assert itself.probability_a_better == 0.5


def test_kept_tokens_give_the_same_answers(predictor, tokens):
    kept = [VisualTokens(one.tokens_NLD.copy(), one.segment_start_s.copy()) for one in tokens]
    assert predictor.rate(kept) == predictor.rate(tokens)
    assert predictor.compare_tokens(kept[:1], kept[1:2]) == predictor.compare_tokens(tokens[:1], tokens[1:2])


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


def test_a_damaged_checkpoint_is_named(tmp_path):
    for name in ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint.resolve("tiny") / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        QualityPredictor.from_pretrained(str(tmp_path))
