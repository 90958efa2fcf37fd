"""CPLLMConfig: one nested configuration of encoders, projectors, decoder and sampling.

The three parts are transformers configurations of any type the Auto classes know; `cpllm_pixel` is the
project's own. Sizes are stated here and nowhere else. Knows nothing of weights, frames or files.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from cpllm_model.decoding.sampling import SamplingSettings

#: size -> hub ids of (context encoder, pixel encoder, language decoder).
HUB_PARTS = {
    "base": ("google/siglip2-base-patch16-224", "google/videoprism-base-f16r288", "Qwen/Qwen3-0.6B"),
    "large": ("google/siglip2-so400m-patch14-384", "google/videoprism-large-f8r288", "Qwen/Qwen3-4B"),
}


#: What decides a score beside the weights: which frames and crops are seen, what is computed of them, what is asked. A
#: change of any of these takes a new number here; a model of another number is refused rather than misread.
VERSIONS = {"sampling": 4, "statistics": 2, "prompts": 3}


#: Seconds of video to a look, and most looks, of every size.
LOOKS = {"look_every_s": 2.5, "most_looks": 8}


class EfficientNetLiteConfig(PreTrainedConfig):
    """Configuration of EfficientNet-Lite0, whose tokens are three depths and a grid of cells.

    Args:
        hidden_size: channels of an output token.
        grid: cells a side; 0 is without.
        dropout: share of features that training leaves out at random.
    """

    model_type = "efficientnet_lite"

    hidden_size: int = 192
    grid: int = 2
    dropout: float = 0.1

    @property
    def tokens(self) -> int:
        """Output tokens of a picture."""
        return 3 + self.grid**2


AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig, exist_ok=True)


class CPLLMPixelConfig(PreTrainedConfig):
    """Configuration of this project's pixel encoder.

    Args:
        fragment_px: side of a fragment; statistics are computed fragment by fragment.
        burst_frames: frames in a burst.
        hidden_size: channels of an output token.
        cnn: whether there are tokens of an EfficientNet-Lite0 over the fragments.
        grid: cells a side whose tokens the CNN gives; the mosaic's fragments a side gives each fragment its own.
        statistics: whether there is a token of computed statistics.
        dropout: share of statistics and of what is made of them that training leaves out at random.
        cnn_dropout: the same of the CNN's features.
    """

    model_type = "cpllm_pixel"

    fragment_px: int = 96
    burst_frames: int = 8
    hidden_size: int = 192
    cnn: bool = True
    grid: int = 3
    statistics: bool = True
    dropout: float = 0.3
    cnn_dropout: float = 0.1

    @property
    def tokens(self) -> int:
        """Output tokens of a burst: of the CNN three depths, the cells and what changes; the statistics'."""
        return self.cnn * (3 + self.grid**2 + 1) + self.statistics


AutoConfig.register(CPLLMPixelConfig.model_type, CPLLMPixelConfig, exist_ok=True)


class CPLLMConfig(PreTrainedConfig):
    """Configuration of CP-LLM.

    Args:
        context_config: vision encoder of the key frames (`siglip_vision_model`, `siglip2_vision_model`, ...).
        pixel_config: encoder of the native-resolution bursts (`cpllm_pixel`, `videoprism_vision_model`).
        text_config: any causal language model.
        context_tokens: decoder tokens a key frame is pooled to; 0 leaves the stream out.
        pixel_tokens: decoder tokens a burst is pooled to; 0 leaves the stream out.
        sampling: the fields of SamplingSettings.
        max_description_tokens: a description is cut there.
        naming_thresholds: distortion -> probability from which it is named, fitted on held-out contents after
            training; 0.5 for those that are not there.
        std_calibration: (a, b) that turn the standard deviation s of the level's distribution into the score's
            uncertainty, the root of (a s)^2 + b^2; fitted on held-out contents after training.
        score_map: the fields of ScoreMap, of a model that `cpllm calibrate` brought to the scale of one's own raters.
        versions: of what decides a score beside the weights; see VERSIONS.
        size: name of the size, for people; "custom" if assembled from other parts.
    """

    model_type = "cpllm"
    sub_configs_defaults = {  # noqa: RUF012 (the name and form are transformers')
        "context_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_vision_model"),
        "pixel_config": SubConfigSpec(config_class=AutoConfig, model_type="cpllm_pixel"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen3"),
    }

    context_config: dict | PreTrainedConfig | None = None
    pixel_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    context_tokens: int = 4
    pixel_tokens: int = 1
    sampling: dict | None = None
    max_description_tokens: int = 96
    naming_thresholds: dict[str, float] | None = None
    std_calibration: list[float] | tuple[float, ...] = (1.0, 0.0)
    score_map: dict | None = None
    versions: dict[str, int] | None = None
    size: str = "custom"
    tie_word_embeddings: bool = False

    @property
    def sampling_settings(self) -> SamplingSettings:
        """The sampling as a value object."""
        return SamplingSettings(**(self.sampling or {}))

    @property
    def tokens_per_segment(self) -> int:
        """Decoder tokens of one segment: its key frames', then its burst's."""
        return self.sampling_settings.context_frames * self.context_tokens + self.pixel_tokens

    @classmethod
    def tiny(cls, vocab_size: int = 1024) -> CPLLMConfig:
        """Give the size this project trains: a few million parameters, for one CPU core."""
        sampling = {**LOOKS, "context_frames": 1, "context_size_px": 224,
                    "burst_frames": 8, "fragment_grid": 3, "fragment_px": 96}  # fmt: skip
        context, pixel = EfficientNetLiteConfig(), CPLLMPixelConfig()
        text = {"model_type": "qwen3", "vocab_size": vocab_size, "hidden_size": 160, "intermediate_size": 480,
                "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 40,
                "max_position_embeddings": 1024, "tie_word_embeddings": True, "bos_token_id": None,
                "eos_token_id": 0, "pad_token_id": 0}  # fmt: skip
        return cls(context_config=context, pixel_config=pixel, text_config=text, context_tokens=context.tokens,
                   pixel_tokens=pixel.tokens, sampling=sampling, size="tiny", tie_word_embeddings=True,
                   versions=VERSIONS)  # fmt: skip

    @classmethod
    def base(cls) -> CPLLMConfig:
        """Give the configuration of SigLIP2-base + VideoPrism-base + Qwen3-0.6B, from their published sizes."""
        context = {"model_type": "siglip_vision_model", "image_size": 224, "vision_use_head": False}
        text = {"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
                "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
                "max_position_embeddings": 40960, "tie_word_embeddings": True,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}  # fmt: skip
        return cls(context_config=context, pixel_config={"model_type": "videoprism_vision_model"},
                   text_config=text, context_tokens=8, pixel_tokens=32, size="base", tie_word_embeddings=True,
                   versions=VERSIONS,
                   sampling=hub_sampling(context_size_px=224, burst_frames=16))  # fmt: skip

    @classmethod
    def large(cls) -> CPLLMConfig:
        """Give the configuration of SigLIP2-so400m + VideoPrism-large + Qwen3-4B, from their published sizes."""
        context = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
                   "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
                   "vision_use_head": False}  # fmt: skip
        pixel = {"model_type": "videoprism_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
                 "num_attention_heads": 16, "num_spatial_layers": 24, "num_frames": 8}  # fmt: skip
        text = {"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728,
                "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
                "max_position_embeddings": 40960, "tie_word_embeddings": True,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}  # fmt: skip
        return cls(context_config=context, pixel_config=pixel, text_config=text, context_tokens=8,
                   pixel_tokens=32, size="large", tie_word_embeddings=True, versions=VERSIONS,
                   sampling=hub_sampling(context_size_px=384, burst_frames=8))  # fmt: skip


AutoConfig.register(CPLLMConfig.model_type, CPLLMConfig, exist_ok=True)


def hub_sampling(context_size_px: int, burst_frames: int, mosaic_px: int = 288, patch_px: int = 18) -> dict[str, Any]:
    """Give the sampling fields that fit encoders of the stated input sizes, with fragments of 2 x 2 patches.

    A seam between fragments then lies between patches (36 px x 8 for VideoPrism's 18 px patches). The fragments and
    the mosaic are FAST-VQA's idea (Wu et al., 2022) at VideoPrism's 288 px.
    """
    fragment_px = 2 * patch_px if mosaic_px % (2 * patch_px) == 0 else mosaic_px
    return {**LOOKS, "context_frames": 3, "context_size_px": context_size_px,
            "burst_frames": burst_frames, "fragment_grid": mosaic_px // fragment_px,
            "fragment_px": fragment_px}  # fmt: skip
