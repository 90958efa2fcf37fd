"""The network: shapes, determinism, independence of the batch, saving and loading, and its processor.

Shapes: N segments, M context frames, B burst frames, L tokens of a segment, D decoder width.
"""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModel

from cpllm_model.errors import CheckpointError
from cpllm_model.network.config import CPLLMConfig, CPLLMPixelConfig, EfficientNetLiteConfig
from cpllm_model.network.encoders import CPLLMPixelEncoder
from cpllm_model.network.modeling import CPLLMForVideoQuality
from cpllm_model.network.processing import SLOT, CPLLMProcessor, train_tokenizer, yuv_to_rgb
from cpllm_model.scale import DISTORTIONS, LEVELS, SCENE_FACTS, SEVERITIES


@pytest.fixture(scope="module")
def processor():
    config = CPLLMConfig.tiny()
    tokenizer = train_tokenizer(["The picture quality is good. It shows severe blur."])
    return CPLLMProcessor(tokenizer, config.context_tokens, config.pixel_tokens)


@pytest.fixture(scope="module")
def model(processor):
    torch.manual_seed(0)
    return CPLLMForVideoQuality(CPLLMConfig.tiny(vocab_size=len(processor.tokenizer))).eval()


def inputs(processor, segments, seed=0):
    rng = np.random.default_rng(seed)
    return processor(
        rng.integers(0, 256, (segments, 1, 3, 224, 224), np.uint8),
        rng.integers(16, 236, (segments, 8, 3, 288, 288), np.uint8),
        np.full(segments, 0.04),
    )


@torch.inference_mode()
def test_a_segment_becomes_the_configured_number_of_tokens(model, processor):
    tokens_NLD = model.encode_segments(**inputs(processor, 3))
    assert tokens_NLD.shape == (3, model.config.tokens_per_segment, model.language_model.config.hidden_size)
    assert processor.rating_ids()[0].count(SLOT) == model.config.tokens_per_segment
    assert torch.isfinite(tokens_NLD).all()


@torch.inference_mode()
def test_segments_do_not_see_each_other(model, processor):
    together = inputs(processor, 3)
    alone = {name: value[1:2] for name, value in together.items()}
    torch.testing.assert_close(model.encode_segments(**together)[1:2], model.encode_segments(**alone))


@torch.inference_mode()
def test_answers_do_not_depend_on_padding(model, processor):
    tokens = model.encode_segments(**inputs(processor, 3)).flatten(0, 1)
    ids, places = processor.rating_ids()
    longer = processor.compare_ids() + ids[-5:]
    answers = [processor.level_ids]
    (both,) = model.answer_logits([ids, longer], tokens, [places[:1], places[:1]], answers)
    (alone,) = model.answer_logits([ids], tokens[: model.config.tokens_per_segment], [places[:1]], answers)
    torch.testing.assert_close(both[:1], alone)


@torch.inference_mode()
def test_every_question_has_its_answers(model, processor):
    tokens = model.encode_segments(**inputs(processor, 2)).flatten(0, 1)
    ids, places = processor.rating_ids()
    found = model.answer_logits([ids] * 2, tokens, [places] * 2, processor.rating_answer_ids)
    counts = [len(LEVELS), *[len(SEVERITIES)] * len(DISTORTIONS), *map(len, SCENE_FACTS.values())]
    assert [one.shape for one in found] == [(2, count) for count in counts]


@torch.inference_mode()
def test_no_answer_depends_on_a_question_after_it(model, processor):
    tokens = model.encode_segments(**inputs(processor, 1)).flatten(0, 1)
    ids, places = processor.rating_ids()
    whole = model.answer_logits([ids], tokens, [places[:1]], [processor.level_ids])[0]
    cut = model.answer_logits([ids[: places[0] + 1]], tokens, [places[:1]], [processor.level_ids])[0]
    torch.testing.assert_close(whole, cut)


@torch.inference_mode()
def test_the_whole_and_the_short_way_to_an_answer_agree(model, processor):
    tokens = model.encode_segments(**inputs(processor, 1)).flatten(0, 1)
    sequence, places = processor.rating_ids()
    ids = torch.tensor([sequence])
    whole = model(ids, tokens, torch.ones_like(ids)).logits[0, places[0], processor.level_ids]
    short = model.answer_logits([sequence], tokens, [places[:1]], [processor.level_ids])[0][0]
    torch.testing.assert_close(short, whole)


def test_a_wrong_number_of_visual_tokens_fails_loudly(model, processor):
    sequence, places = processor.rating_ids()
    with pytest.raises(ValueError, match="10 visual tokens for 21 slots"):
        model.answer_logits([sequence], torch.zeros(10, 160), [places[:1]], [processor.level_ids])


@torch.inference_mode()
@pytest.mark.parametrize("stream", ["context_tokens", "pixel_tokens"])
def test_a_stream_may_be_left_out(stream, processor):
    config = CPLLMConfig.tiny(vocab_size=len(processor.tokenizer))
    setattr(config, stream, 0)
    tokens = CPLLMForVideoQuality(config).eval().encode_segments(**inputs(processor, 2))
    assert tokens.shape[:2] == (2, config.tokens_per_segment) and config.tokens_per_segment in (7, 14)


@torch.inference_mode()
def test_folded_batch_norms_change_nothing_but_the_time(model, processor):
    given = inputs(processor, 2)
    before = model.encode_segments(**given)
    folded = copy.deepcopy(model)
    folded.fold()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded.encode_segments(**given), before, atol=1e-3, rtol=1e-3)


def test_every_part_learns(model, processor):
    tokens = model.encode_segments(**inputs(processor, 2)).flatten(0, 1)
    question = processor.describe_ids(2, "good", {"blur": "slight"}, {"light": "dark"})
    ids = torch.tensor([question + processor.text_ids("The picture quality is good.")])
    model(ids, tokens, torch.ones_like(ids), ids.clamp(min=0)).loss.backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    model.zero_grad()
    # A softmax does not change when all its keys are shifted alike: the bias of the keys never learns.
    assert {name for name in idle if not name.endswith("k_proj.bias")} == set()


@torch.inference_mode()
def test_saving_and_loading_keeps_every_bit(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    again, its_processor = AutoModel.from_pretrained(tmp_path).eval(), CPLLMProcessor.from_pretrained(tmp_path)
    assert isinstance(again, CPLLMForVideoQuality)
    assert (its_processor.layout, its_processor.pixel_input) == (processor.layout, processor.pixel_input)
    assert its_processor.compare_ids() == processor.compare_ids()
    given = inputs(processor, 2)
    assert torch.equal(again.encode_segments(**given), model.encode_segments(**given))


@torch.inference_mode()
def test_greedy_text_is_the_same_every_time(model, processor):
    tokens = model.encode_segments(**inputs(processor, 1)).flatten(0, 1)
    question = processor.describe_ids(1, "good", {}, {})
    texts = [model.write([question], tokens, processor.eos_id, [[]])[0] for _ in range(2)]
    assert texts[0] == texts[1] and 0 < len(texts[0]) <= model.config.max_description_tokens
    assert texts[0][0] not in model.write([question], tokens, processor.eos_id, [[texts[0][0]]])[0]


@torch.inference_mode()
def test_texts_of_a_batch_are_those_written_one_by_one(model, processor):
    tokens = model.encode_segments(**inputs(processor, 3))
    asked = [
        (processor.describe_ids(1, "good", {}, {}), tokens[:1], []),
        (processor.describe_ids(2, "poor", {"blur": "severe", "noise": "slight"}, {"light": "dark"}), tokens[1:], [7]),
    ]
    questions, seen, forbidden = zip(*asked, strict=True)
    together = model.write([*questions], torch.cat(seen).flatten(0, 1), processor.eos_id, [*forbidden])
    singly = [model.write([one], its.flatten(0, 1), processor.eos_id, [never])[0] for one, its, never in asked]
    assert together == singly


@pytest.mark.parametrize("size", ["base", "large"])
def test_published_sizes_are_consistent(size):
    config = getattr(CPLLMConfig, size)()
    settings = config.sampling_settings
    assert settings.context_size_px == config.context_config.image_size
    assert settings.mosaic_px == config.pixel_config.image_size
    assert settings.burst_frames == config.pixel_config.num_frames
    with torch.device("meta"):
        model = CPLLMForVideoQuality(config)
    billions = sum(p.numel() for p in model.parameters()) / 1e9
    assert {"base": 0.7, "large": 4.4}[size] < billions < {"base": 0.9, "large": 5.0}[size]


def test_tiny_is_a_few_million_parameters(model):
    assert 5e6 < sum(p.numel() for p in model.parameters()) < 10e6


@torch.inference_mode()
def test_the_pixel_encoder_gives_depths_cells_change_and_statistics():
    encoder = CPLLMPixelEncoder(CPLLMPixelConfig()).eval()
    bursts, interval_s = random_bursts(), torch.tensor([0.04])
    before = encoder(bursts, interval_s).last_hidden_state
    assert before.shape == (1, 3 + 9 + 1 + 1, encoder.config.hidden_size)
    later = bursts.clone()
    later[:, -1] = bursts[:, 0]  # what changes from the first frame to the last, and the statistics
    changed = (encoder(later, interval_s).last_hidden_state != before).any(-1)[0]
    assert changed.tolist() == [False] * 12 + [True, True]
    slower = (encoder(bursts, 4 * interval_s).last_hidden_state != before).any(-1)[0]
    assert slower.tolist() == [False] * 13 + [True]
    with pytest.raises(ValueError, match="do not fit"):
        encoder(bursts[:, :3], interval_s)


@torch.inference_mode()
def test_statistics_are_a_token_of_every_fragment():
    encoder = CPLLMPixelEncoder(CPLLMPixelConfig(cnn=False)).eval()
    bursts, interval_s = random_bursts(), torch.tensor([0.04])
    before = encoder(bursts, interval_s).last_hidden_state
    assert before.shape == (1, 1, encoder.config.hidden_size)
    for row in range(0, 288, 96):
        for column in range(0, 288, 96):
            other = bursts.clone()
            other[..., row : row + 96, column : column + 96] = 128
            assert not torch.equal(encoder(other, interval_s).last_hidden_state, before)


def test_a_pixel_encoder_without_tokens_is_refused():
    with pytest.raises(ValueError, match="needs a token"):
        CPLLMPixelEncoder(CPLLMPixelConfig(cnn=False, statistics=False))


def random_bursts():
    return torch.from_numpy(np.random.default_rng(0).integers(16, 236, (1, 8, 3, 288, 288))).float()


def test_colours_convert_by_bt709():
    # Codes of 75 % bars: white, red and blue, limited range (ITU-R BT.709-6).
    yuv = torch.tensor([[180.0, 128, 128], [51, 109, 212], [28, 212, 120]])[..., None, None]
    rgb = yuv_to_rgb(yuv)[..., 0, 0]
    torch.testing.assert_close(rgb, 0.75 * torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 1]]), atol=0.01, rtol=0)


def test_answers_that_share_a_token_are_refused(processor):
    with pytest.raises(CheckpointError, match="same first token"):
        processor._answer_ids(["good", "good"])


def test_sub_models_come_from_the_auto_classes():
    config = CPLLMConfig.tiny()
    assert isinstance(config.context_config, EfficientNetLiteConfig)
    assert isinstance(config.pixel_config, CPLLMPixelConfig)
    again = CPLLMConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
