"""Models put together from local folders of SigLIP, SigLIP 2, VideoPrism and Qwen3, at the smallest sizes."""

import shutil
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Qwen3Config,
    Qwen3ForCausalLM,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    VideoPrismVisionConfig,
    VideoPrismVisionModel,
)

from cpllm_model.decoding.samples import VideoInfo, VideoSamples
from cpllm_model.errors import CheckpointError, ConfigurationError, VideoError
from cpllm_model.network.assembly import assemble
from cpllm_model.network.config import CPLLMConfig
from cpllm_model.network.processing import train_tokenizer
from cpllm_model.predictor import QualityPredictor
from cpllm_model.training.data.encode import write_video
from cpllm_model.training.data.manifests import LabelledVideo, write_manifest
from cpllm_model.training.data.scenes import render_scene
from cpllm_model.training.recipe.config import Cache, Data, Lora, Stage, TrainConfig
from cpllm_model.training.recipe.loop import load, train

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    text = SMALL | {"bos_token_id": 0, "eos_token_id": 1, "vocab_size": 64}
    one, two = SMALL | {"image_size": 32, "patch_size": 16}, SMALL | {"num_patches": 16, "patch_size": 8}
    SiglipModel(SiglipConfig(vision_config=one, text_config=text)).save_pretrained(folder / "siglip")
    Siglip2Model(Siglip2Config(vision_config=two, text_config=text)).save_pretrained(folder / "siglip2")
    vision = VideoPrismVisionConfig(
        image_size=64, num_frames=4, tubelet_size=[1, 16, 16], hidden_size=32, intermediate_size=64,
        num_attention_heads=4, num_spatial_layers=1, num_temporal_layers=1,
    )  # fmt: skip
    VideoPrismVisionModel(vision).save_pretrained(folder / "videoprism")
    tokenizer = train_tokenizer(["hello"])
    sizes: dict[str, Any] = SMALL | {"vocab_size": len(tokenizer), "num_key_value_heads": 2, "head_dim": 8}
    qwen = Qwen3Config(**sizes, tie_word_embeddings=True)
    Qwen3ForCausalLM(qwen).save_pretrained(folder / "qwen3")
    tokenizer.save_pretrained(folder / "qwen3")
    return folder


def samples(settings):
    rng = np.random.default_rng(0)
    side, mosaic = settings.context_size_px, settings.mosaic_px
    return VideoSamples(
        info=VideoInfo(2.0, 640, 360, 25.0, "h264", "yuv420p", 0, None, 50),
        plan="keyframe",
        damaged_frames=0,
        segment_start_s=np.array([0.0, 1.0]),
        segment_end_s=np.array([1.0, 2.0]),
        segment_has_picture=np.ones(2, bool),
        events=(),
        burst_interval_s=np.array([0.04, 0.04]),
        context_NMCHW=rng.integers(0, 256, (2, settings.context_frames, 3, side, side), np.uint8),
        bursts_NTCHW=rng.integers(16, 236, (2, settings.burst_frames, 3, mosaic, mosaic), np.uint8),
    )


@pytest.mark.parametrize(
    ("context", "tower"), [("siglip", SiglipModel), ("siglip2", Siglip2Model)], ids=["siglip", "siglip2"]
)
def test_parts_keep_their_weights_and_answer_together(parts, tmp_path, context, tower):
    config = assemble(
        tmp_path, context=str(parts / context), pixel=str(parts / "videoprism"), text=str(parts / "qwen3")
    )
    assert config.size == "custom"
    assert config.sampling_settings.context_size_px == 32
    assert (config.sampling_settings.mosaic_px, config.sampling_settings.burst_frames) == (64, 4)
    predictor = QualityPredictor.from_pretrained(str(tmp_path), device="cpu")
    theirs = tower.from_pretrained(parts / context).vision_model.state_dict()
    ours = predictor.model.context_encoder.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

    viewed = predictor.encode([samples(predictor.sampling)])
    (rating,), (description,) = predictor.rate(viewed), predictor.describe_viewed(viewed)
    assert 1 <= rating.score <= 5 and len(rating.segment_score) == 2
    assert isinstance(description.text, str) and description.distortions
    assert 0 <= predictor.compare_tokens([viewed[0].tokens], [viewed[0].tokens])[0].probability_a_better <= 1


def test_what_cannot_be_assembled_is_said(parts, tmp_path):
    with pytest.raises(ConfigurationError, match="'huge' is not one of base, large"):
        assemble(tmp_path / "out", size="huge")
    with pytest.raises(CheckpointError, match="not a video encoder"):
        assemble(
            tmp_path / "out", context=str(parts / "siglip"), pixel=str(parts / "siglip"), text=str(parts / "qwen3")
        )
    with pytest.raises(CheckpointError, match="missing"):
        assemble(tmp_path / "out", context=str(parts / "missing"), pixel=str(parts / "videoprism"))
    assert not (tmp_path / "out").exists()


def test_a_part_that_lacks_weights_is_refused_by_name(parts, tmp_path):
    """Transformers would draw them at random and warn."""
    for name, spoil in {
        "missing": lambda weights: {key: value for key, value in weights.items() if "embeddings" not in key},
        "mismatched": lambda weights: {
            key: value[:1].clone() if "patch_embedding" in key or "projection.bias" in key else value
            for key, value in weights.items()
        },
        "missing of another tower": lambda weights: {f"tower.{key}": value for key, value in weights.items()},
    }.items():
        folder = shutil.copytree(parts / "videoprism", tmp_path / name)
        file = folder / "model.safetensors"
        save_file(spoil(load_file(file)), file, metadata={"format": "pt"})
        with pytest.raises(
            CheckpointError, match=rf"VideoPrismVisionModel: \d+ weights are {name.partition(' ')[0]}: \S+"
        ):
            assemble(tmp_path / "out", context=str(parts / "siglip"), pixel=str(folder), text=str(parts / "qwen3"))
    assert not (tmp_path / "out").exists()


def test_the_towers_are_not_made_twice(parts, tmp_path, monkeypatch):
    drawn = []
    for layer in (torch.nn.Linear, torch.nn.Embedding):
        real = layer.reset_parameters

        def counted(module, real=real):
            if module.weight.device.type != "meta":
                drawn.append(module.weight.shape)
            real(module)

        monkeypatch.setattr(layer, "reset_parameters", counted)
    assemble(tmp_path, context=str(parts / "siglip"), pixel=str(parts / "videoprism"), text=str(parts / "qwen3"))
    assert drawn == []
    weights = load(tmp_path)[0].state_dict()
    assert 0.01 < weights["markers.weight"].std() < 0.03  # as words are
    assert (weights["pixel_projector.norm.weight"] == 1).all() and (weights["pixel_projector.mlp.0.bias"] == 0).all()


def test_the_fragments_of_hub_sizes_lie_on_the_patch_grid():
    for config in (CPLLMConfig.base(), CPLLMConfig.large()):
        settings, encoder = config.sampling_settings, cast(Any, config.pixel_config)
        assert (settings.fragment_px, settings.fragment_grid, settings.mosaic_px) == (36, 8, 288)
        assert settings.fragment_px % encoder.tubelet_size[1] == 0 and encoder.image_size == settings.mosaic_px


def test_sizes_name_their_parts():
    assert CPLLMConfig.base().size == "base" and CPLLMConfig.large().size == "large"


def test_an_assembled_model_trains_with_adapters_and_frozen_encoders(parts, tmp_path):
    start = tmp_path / "start"
    assemble(start, context=str(parts / "siglip"), pixel=str(parts / "videoprism"), text=str(parts / "qwen3"))
    clips = [write_video(render_scene(3, 160, 96, 16), tmp_path / f"{crf}.mp4", crf=crf) for crf in (20, 44)]
    videos = [
        LabelledVideo(clip.stem, "scene", "rated", "train", clip.name, mos)
        for clip, mos in zip(clips, (4.5, 2.0), strict=True)
    ]
    stages = (
        Stage("align", 2, learns=("projectors",), contents=1, versions=2, warmup_steps=0),
        Stage("tune", 2, learns=("projectors",), contents=1, versions=2, warmup_steps=0, lora=Lora(rank=2),
              gradient_checkpointing=True, accumulate=2),
    )  # fmt: skip
    data = (Data(write_manifest(videos, tmp_path / "manifest.parquet")),)
    run = TrainConfig(tmp_path / "run", data, Cache(tmp_path / "cache"), stages, model=str(start), workers=0)
    folder = train(run, report=lambda line: None)
    before, after = (load(path)[0].state_dict() for path in (start, folder))
    assert before.keys() == after.keys()
    # A finished model is kept in 16 bit.
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name].half().float(), after[name].float())}
    assert moved == {"language_model", "context_projector", "pixel_projector", "markers"}
    predictor = QualityPredictor.from_pretrained(str(folder), device="cpu")
    (tokens,) = predictor.look(clips[:1])
    assert not isinstance(tokens, VideoError) and 1 <= predictor.rate([tokens])[0].score <= 5
