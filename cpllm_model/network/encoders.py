"""This project's pixel encoder: bursts of native-resolution fragments in, a few tokens a burst out.

Registered with transformers as `cpllm_pixel`. Learned tokens come from a CNN of its own over the burst's first frame
(three depths, and a cell for each fragment) and from what changes between its first and last frame; beside them stands
a token of computed statistics (`statistics.py`), through a small network.

Shape legend: K bursts, B frames of a burst, H W mosaic, F fragments, P fragment side, D token width, S statistics.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from cpllm_model.network.config import CPLLMPixelConfig, EfficientNetLiteConfig
from cpllm_model.network.efficientnet import DEPTHS, EfficientNetLite, mean_and_spread, width_of
from cpllm_model.network.processing import yuv_to_rgb
from cpllm_model.network.statistics import burst_statistics, statistic_names

#: Statistics are cut off so many standard deviations from the training data's mean.
STATISTICS_LIMIT = 3.0


class CPLLMPixelEncoder(PreTrainedModel):
    """Encode bursts; see the module."""

    config_class = CPLLMPixelConfig
    main_input_name = "pixel_values"
    statistics_mean: torch.Tensor
    statistics_std: torch.Tensor

    def __init__(self, config: CPLLMPixelConfig) -> None:
        super().__init__(config)
        if not config.tokens:
            raise ValueError("a pixel encoder needs a token: of a CNN, of statistics, or both")
        if config.cnn:
            cnn = EfficientNetLiteConfig(hidden_size=config.hidden_size, grid=config.grid, dropout=config.cnn_dropout)
            self.cnn = EfficientNetLite(cnn)
            width = 2 * width_of(DEPTHS[0])
            self.change_token = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.hidden_size))
        if config.statistics:
            inputs = len(statistic_names(config.burst_frames))
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

    def forward(
        self, pixel_values: torch.Tensor, interval_s: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> BaseModelOutput:
        """Encode bursts.

        Args:
            pixel_values: (K, B, 3, H, W), YUV codes 0-255, uint8 or float; H and W are multiples of the fragment side.
            interval_s: (K,), seconds from frame to frame.
            statistics: (K, S) as `burst_statistics` gives them, where they are known already.

        Returns:
            `last_hidden_state` (K, `config.tokens`, D): three depths, cells in row-major order, what changes, the
            statistics'.

        Raises:
            ValueError: the bursts do not fit the configuration.
        """
        side = self.config.fragment_px
        if pixel_values.shape[1] != self.config.burst_frames or any(px % side for px in pixel_values.shape[3:]):
            raise ValueError(
                f"bursts of shape {tuple(pixel_values.shape)} do not fit {self.config.burst_frames} frames of "
                f"{side} px fragments"
            )
        tokens = []
        if self.config.cnn:
            tokens += [self.cnn(self._rgb(pixel_values[:, 0])).last_hidden_state, self._change(pixel_values)]
        if self.config.statistics:
            if statistics is None:
                planes, fragments = self._fragments(pixel_values)
                statistics = burst_statistics(planes, fragments, interval_s)
            tokens.append(self.statistics_token(statistics))
        return BaseModelOutput(last_hidden_state=torch.cat(tokens, 1))  # pyright: ignore[reportArgumentType]

    def statistics_token(self, statistics: torch.Tensor) -> torch.Tensor:
        """Give the token (K, 1, D) of statistics (K, S) as `burst_statistics` gives them."""
        standard = (statistics - self.statistics_mean) / self.statistics_std
        limited = standard.clamp(-STATISTICS_LIMIT, STATISTICS_LIMIT)
        return self.statistics_mlp(limited.to(self.dtype))[:, None]

    def _rgb(self, yuv: torch.Tensor) -> torch.Tensor:
        return (yuv_to_rgb(yuv.float()) * 2 - 1).to(self.dtype)

    @torch.no_grad()
    def _shift(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Give how far shallow maps of the middle row of fragments move over the burst; (K, channels * 2)."""
        side = self.config.fragment_px
        top = pixel_values.shape[3] // side // 2 * side
        strips = pixel_values[:, [0, -1], :, top : top + side]
        maps = self.cnn.maps(self._rgb(strips.flatten(0, 1)), DEPTHS[0][-1] + 1)
        shifts = [maps[block].unflatten(0, (-1, 2)) for block in DEPTHS[0]]
        return torch.cat([mean_and_spread((pair[:, 1] - pair[:, 0]).abs()) for pair in shifts], 1)

    def _change(self, pixel_values: torch.Tensor) -> torch.Tensor:
        # The maps are not trained through this token: that would cost as much as the rest of the encoder.
        return self.change_token(self._shift(pixel_values).to(self.dtype))[:, None]

    def _fragments(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, int]:
        side = self.config.fragment_px
        _, frames, channels, height, width = pixel_values.shape
        rows, columns = height // side, width // side
        cut = pixel_values.view(-1, frames, channels, rows, side, columns, side)
        cut = cut.permute(0, 3, 5, 1, 2, 4, 6).reshape(-1, frames, channels, side, side)
        return cut, rows * columns


AutoModel.register(CPLLMPixelConfig, CPLLMPixelEncoder, exist_ok=True)
