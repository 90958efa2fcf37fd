"""Put a CP-LLM together from published parts: two vision encoders and a language model.

In: hub ids or local folders. Out: a model folder whose projectors and markers are untrained; it must be trained
(`cpllm train`) before its answers mean anything. Parts are read as safetensors, without their remote code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from cpllm_model.errors import CheckpointError, ConfigurationError
from cpllm_model.network.config import HUB_PARTS, VERSIONS, CPLLMConfig, hub_sampling
from cpllm_model.network.modeling import CPLLMForVideoQuality
from cpllm_model.network.processing import CPLLMProcessor

#: Decoder tokens a key frame and a burst of hub-sized encoders are pooled to.
CONTEXT_TOKENS, PIXEL_TOKENS = 8, 32
#: Weights that an error names at most.
NAMED_KEYS = 8


def assemble(out: Path, size: str = "base", context: str | None = None, pixel: str | None = None,
             text: str | None = None) -> CPLLMConfig:  # fmt: skip
    """Assemble and save a model.

    Args:
        out: folder to make.
        size: "base" or "large"; names the parts that are not given.
        context: hub id or folder of a SigLIP or SigLIP 2 model (whole, or its vision tower).
        pixel: hub id or folder of a VideoPrism vision encoder.
        text: hub id or folder of a causal language model with its tokenizer.

    Returns:
        the configuration.

    Raises:
        ConfigurationError: the size is unknown.
        CheckpointError: a part cannot be downloaded, is of the wrong kind, or misses weights; names them.
    """
    if size not in HUB_PARTS:
        raise ConfigurationError(f"size {size!r} is not one of {', '.join(HUB_PARTS)}")
    names = [given or default for given, default in zip((context, pixel, text), HUB_PARTS[size], strict=True)]
    context_encoder = _weights(AutoModel, names[0], _vision_config(_load(AutoConfig, names[0])))
    pixel_encoder = _weights(AutoModel, names[1], _vision_config(_load(AutoConfig, names[1])))
    decoder = _weights(AutoModelForCausalLM, names[2], _load(AutoConfig, names[2]))
    tokenizer = _load(AutoTokenizer, names[2])
    if not hasattr(pixel_encoder.config, "num_frames"):
        raise CheckpointError(f"{names[1]!r} is not a video encoder: its configuration has no num_frames")
    image_px = pixel_encoder.config.image_size
    sampling = hub_sampling(
        context_size_px=_frame_px(context_encoder.config),
        burst_frames=pixel_encoder.config.num_frames,
        mosaic_px=image_px if isinstance(image_px, int) else image_px[0],
        patch_px=pixel_encoder.config.tubelet_size[1],
    )
    config = CPLLMConfig(
        context_config=context_encoder.config, pixel_config=pixel_encoder.config, text_config=decoder.config,
        context_tokens=CONTEXT_TOKENS, pixel_tokens=PIXEL_TOKENS, sampling=sampling,
        size=size if (context, pixel, text) == (None, None, None) else "custom",
        tie_word_embeddings=bool(decoder.config.tie_word_embeddings), versions=VERSIONS,
    )  # fmt: skip
    model = _joined(config, context_encoder, pixel_encoder, decoder)
    processor = CPLLMProcessor(
        tokenizer, context_slots=sampling["context_frames"] * CONTEXT_TOKENS, pixel_slots=PIXEL_TOKENS,
        pixel_input="rgb",
    )  # fmt: skip
    _ = processor.rating_answer_ids, processor.order_ids, processor.eos_id
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return config


def _vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Give the vision tower's configuration of a two-tower model, or the configuration itself."""
    return getattr(config, "vision_config", config)


def _frame_px(config: PreTrainedConfig) -> int:
    """Give the side of a key frame; SigLIP 2 with native aspect states a number of patches instead."""
    if config.model_type == "siglip2_vision_model":
        return int(config.num_patches**0.5) * config.patch_size
    return config.image_size


def _joined(config: CPLLMConfig, context: nn.Module, pixel: nn.Module, decoder: nn.Module) -> CPLLMForVideoQuality:
    """Put loaded parts into a model whose other weights are drawn; no part is made twice."""
    with torch.device("meta"):
        model = CPLLMForVideoQuality(config)
    model.context_encoder, model.pixel_encoder, model.language_model = context, pixel, decoder  # pyright: ignore[reportAttributeAccessIssue]
    torch.manual_seed(0)
    for module in (model.context_projector, model.pixel_projector, model.markers):
        module.to_empty(device="cpu")
        for part in module.modules():
            model._init_weights(part)
    return model


def _load(auto: Any, name: str, **options: Any) -> Any:
    try:
        return auto.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{name!r} cannot be loaded as a part: {error}") from error


def _weights(auto: Any, name: str, config: PreTrainedConfig) -> Any:
    """Load a part; transformers would draw missing weights at random, and only warn."""
    options = {"use_safetensors": True, "config": config, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, loading = _load(auto, name, **options)
    for what in ("missing_keys", "mismatched_keys"):
        # Of a mismatched weight the sizes stand beside the name.
        if found := sorted(key if isinstance(key, str) else key[0] for key in loading[what]):
            raise CheckpointError(
                f"{name!r} cannot be loaded as a {type(model).__name__}: {len(found)} weights are "
                f"{what.partition('_')[0]}: {', '.join(found[:NAMED_KEYS])}{', …' if len(found) > NAMED_KEYS else ''}"
            )
    return model
