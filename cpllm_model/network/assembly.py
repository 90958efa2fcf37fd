"""Put a CP-LLM together from published parts: two vision encoders and a language model.

In: hub ids or local folders. Out: a model folder whose projectors and markers are untrained; it must be trained
(`cpllm train`) before its answers mean anything. Parts are read as safetensors, without their remote code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from cpllm_model.errors import CheckpointError, ConfigurationError
from cpllm_model.network.config import HUB_PARTS, VERSIONS, CPLLMConfig, hub_sampling
from cpllm_model.network.modeling import CPLLMForVideoQuality
from cpllm_model.network.processing import CPLLMProcessor

#: Decoder tokens a key frame and a burst of hub-sized encoders are pooled to.
CONTEXT_TOKENS, PIXEL_TOKENS = 8, 32


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
        CheckpointError: a part cannot be had, or is not of the right kind.
    """
    if size not in HUB_PARTS:
        raise ConfigurationError(f"size {size!r} is not one of {', '.join(HUB_PARTS)}")
    names = [given or default for given, default in zip((context, pixel, text), HUB_PARTS[size], strict=True)]
    context_encoder = _load(AutoModel, names[0], _vision_config(_load(AutoConfig, names[0])))
    pixel_encoder = _load(AutoModel, names[1], _vision_config(_load(AutoConfig, names[1])))
    decoder = _load(AutoModelForCausalLM, names[2])
    tokenizer = _load(AutoTokenizer, names[2])
    if not hasattr(pixel_encoder.config, "num_frames"):
        raise CheckpointError(f"{names[1]!r} is no video encoder: its configuration has no num_frames")
    image_px = pixel_encoder.config.image_size
    sampling = hub_sampling(
        context_size_px=_frame_px(context_encoder.config),
        burst_frames=pixel_encoder.config.num_frames,
        mosaic_px=image_px if isinstance(image_px, int) else image_px[0],
    )
    config = CPLLMConfig(
        context_config=context_encoder.config, pixel_config=pixel_encoder.config, text_config=decoder.config,
        context_tokens=CONTEXT_TOKENS, pixel_tokens=PIXEL_TOKENS, sampling=sampling,
        size=size if (context, pixel, text) == (None, None, None) else "custom",
        tie_word_embeddings=bool(decoder.config.tie_word_embeddings), versions=VERSIONS,
    )  # fmt: skip
    torch.manual_seed(0)  # the projectors' first weights
    model = CPLLMForVideoQuality(config)
    model.context_encoder, model.pixel_encoder, model.language_model = context_encoder, pixel_encoder, decoder
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


def _load(auto: Any, name: str, config: PreTrainedConfig | None = None) -> Any:
    options = {} if auto in (AutoConfig, AutoTokenizer) else {"use_safetensors": True, "config": config}
    try:
        return auto.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{name!r} cannot be loaded as a part: {error}") from error
