"""This project's pixel encoder: bursts of native-resolution fragments in, a few tokens a burst out.

Registered with transformers as `cpllm_pixel`. A token of computed statistics (`statistics.py`), from which a
small network learns what they tell of distortions; and, where the configuration asks for them, tokens of residual 3x3
convolutions, for data sets that teach these more than the statistics know. Convolutions see luma, its signed-log
high-pass (where noise, ringing and blocking live), chroma, and signed-log differences between the burst's frames. Mean
and standard deviation over a fragment keep both how much there is and how uneven it is.

Shape legend: K bursts, B frames of a burst, C channels, H W mosaic, F fragments, P fragment side, D token width,
S statistics.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from cpllm_model.network.config import CPLLMPixelConfig
from cpllm_model.network.statistics import burst_statistics, statistics_width

#: Statistics are cut off so many standard deviations from the training data's mean.
STATISTICS_LIMIT = 3.0


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around an identity path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (K, C, H, W) to the same shape."""
        return torch.relu(x + self.body(x))


class CPLLMPixelEncoder(PreTrainedModel):
    """Encode bursts; see the module."""

    config_class = CPLLMPixelConfig
    main_input_name = "pixel_values"
    statistics_mean: torch.Tensor
    statistics_std: torch.Tensor

    def __init__(self, config: CPLLMPixelConfig) -> None:
        super().__init__(config)
        if not config.tokens:
            raise ValueError("a pixel encoder needs a token: of statistics, of fragments, or both")
        if config.fragment_tokens:
            self.layers = _convolutions(config)
            self.dropout = nn.Dropout(config.dropout)
        if config.statistics:
            inputs = statistics_width(config.burst_frames)
            self.register_buffer("statistics_mean", torch.zeros(inputs))
            self.register_buffer("statistics_std", torch.ones(inputs))
            self.statistics_mlp = nn.Sequential(
                nn.Dropout(config.dropout),
                nn.Linear(inputs, config.hidden_size),
                nn.LayerNorm(config.hidden_size),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden_size, config.hidden_size),
            )
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, statistics: torch.Tensor | None = None) -> BaseModelOutput:
        """Encode bursts.

        Args:
            pixel_values: (K, B, 3, H, W), YUV codes 0-255, uint8 or float; H and W are multiples of the fragment side.
            statistics: (K, S) as `burst_statistics` gives them, where they are known already.

        Returns:
            `last_hidden_state` (K, `config.tokens`, D): of fragments in row-major order, if any, then the statistics'.
        """
        planes, fragments = self._fragments(pixel_values)
        tokens = []
        if self.config.fragment_tokens:
            tokens.append(self._convolved(planes, fragments))
        if self.config.statistics:
            known = burst_statistics(planes, fragments) if statistics is None else statistics
            tokens.append(self.statistics_token(known))
        return BaseModelOutput(last_hidden_state=torch.cat(tokens, 1))  # pyright: ignore[reportArgumentType]

    def statistics_token(self, statistics: torch.Tensor) -> torch.Tensor:
        """Give the token (K, 1, D) of statistics (K, S) as `burst_statistics` gives them."""
        standard = (statistics - self.statistics_mean) / self.statistics_std
        limited = standard.clamp(-STATISTICS_LIMIT, STATISTICS_LIMIT)
        return self.statistics_mlp(limited.to(self.dtype))[:, None]

    def _convolved(self, planes: torch.Tensor, fragments: int) -> torch.Tensor:
        """Give the learned tokens (K, `config.fragment_tokens`, D)."""
        channels = self._channels(planes.float()).to(self.dtype).contiguous(memory_format=torch.channels_last)
        features = self.layers(channels)
        std, mean = torch.std_mean(features.flatten(2).float(), dim=2, correction=0)
        tokens = self.dropout(torch.cat([mean, std], 1)).unflatten(0, (-1, fragments)).transpose(1, 2)
        return nn.functional.adaptive_avg_pool1d(tokens, self.config.fragment_tokens).transpose(1, 2)

    def _fragments(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, int]:
        side = self.config.fragment_px
        bursts, frames, channels, height, width = pixel_values.shape
        if frames != self.config.burst_frames or height % side or width % side:
            raise ValueError(
                f"bursts of shape {tuple(pixel_values.shape)} do not fit {self.config.burst_frames} frames of "
                f"{side} px fragments"
            )
        rows, columns = height // side, width // side
        cut = pixel_values.view(bursts, frames, channels, rows, side, columns, side)
        cut = cut.permute(0, 3, 5, 1, 2, 4, 6).reshape(-1, frames, channels, side, side)
        return cut, rows * columns

    @staticmethod
    def _channels(planes: torch.Tensor) -> torch.Tensor:
        """Give (K * F, 4 + B, P, P): what the convolutions see."""
        luma = planes[:, :, 0]
        high = _signed_log(luma[:, [0, -1]] - _blurred(luma[:, [0, -1]]))
        differences = _signed_log(luma[:, 1:] - luma[:, :-1])
        return torch.cat([luma[:, :1] / 128 - 1, planes[:, 0, 1:] / 128 - 1, high, differences], 1)


def _convolutions(config: CPLLMPixelConfig) -> nn.Sequential:
    channels, width = 4 + config.burst_frames, config.stem_width  # luma, chroma x2, two high-passes, the differences
    layers: list[nn.Module] = [_down(channels, width)]
    stages = zip((*config.stage_widths, config.hidden_size // 2), config.stage_depths, strict=True)
    for index, (next_width, depth) in enumerate(stages):
        layers.append(_down(width, next_width, stride=1 if index == 0 else 2))
        layers += [ResidualBlock(next_width) for _ in range(depth)]
        width = next_width
    return nn.Sequential(*layers)


def _down(channels: int, width: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def _blurred(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _signed_log(x: torch.Tensor) -> torch.Tensor:
    """Compress a difference of codes to about -2..2, keeping its sign: one code still counts."""
    return x.sign() * torch.log1p(x.abs()) * (2 / math.log(256))


AutoModel.register(CPLLMPixelConfig, CPLLMPixelEncoder, exist_ok=True)
