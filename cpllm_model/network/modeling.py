"""CPLLMForVideoQuality: two vision encoders, two projectors, one language decoder.

In: key frames and bursts, or the visual tokens made of them; and token sequences with visual slots (see
`processing.py`). Out: visual tokens; logits of the decoder; greedy text. What an answer means is the
predictor's. Sizes, losses and prompts are this project's choice; the two-encoder design is arXiv:2505.16025's.

Shape legend: N segments, M context frames, B frames of a burst, S context size, H W mosaic, L visual tokens of
a segment, D decoder width, X sequences, Q tokens of a sequence, A answers, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from cpllm_model.network import encoders  # noqa: F401 (registers cpllm_pixel)
from cpllm_model.network.config import CPLLMConfig
from cpllm_model.network.efficientnet import EfficientNetLite
from cpllm_model.network.processing import MARKERS, SLOT

IGNORED_LABEL = -100


class Projector(nn.Module):
    """Pool an encoder's tokens to a fixed number and bring them into the decoder's width."""

    def __init__(self, encoder_width: int, decoder_width: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.norm = nn.LayerNorm(encoder_width)
        self.mlp = nn.Sequential(
            nn.Linear(encoder_width, decoder_width), nn.GELU(), nn.Linear(decoder_width, decoder_width)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (K, tokens of the encoder, its width) to (K, self.tokens, decoder width)."""
        pooled = nn.functional.adaptive_avg_pool1d(hidden.transpose(1, 2), self.tokens).transpose(1, 2)
        return self.mlp(self.norm(pooled))


class CPLLMForVideoQuality(PreTrainedModel):
    """CP-LLM; see the module."""

    config_class = CPLLMConfig
    base_model_prefix = "cpllm"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: CPLLMConfig) -> None:
        super().__init__(config)
        self.context_encoder = AutoModel.from_config(config.context_config)
        self.pixel_encoder = AutoModel.from_config(config.pixel_config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        width = self.language_model.config.hidden_size
        context_width, pixel_width = (
            self.context_encoder.config.hidden_size,
            self.pixel_encoder.config.hidden_size,
        )
        self.context_projector = Projector(context_width, width, config.context_tokens)
        self.pixel_projector = Projector(pixel_width, width, config.pixel_tokens)
        self.markers = nn.Embedding(len(MARKERS), width)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Give the decoder's word embeddings."""
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Give the decoder's output layer."""
        return self.language_model.get_output_embeddings()

    def fold(self) -> None:
        """Merge batch norms into convolutions, for inference: the same function, in less time."""
        for module in self.modules():
            if isinstance(module, EfficientNetLite):
                module.fold()

    def set_precision(self, dtype: torch.dtype) -> None:
        """Keep weights in another type; buffers (statistics' scales, rotary tables) stay as they are."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)

    def encode_segments(
        self, context_values: torch.Tensor, pixel_values: torch.Tensor, interval_s: torch.Tensor
    ) -> torch.Tensor:
        """Look at segments.

        Args:
            context_values: (N, M, 3, S, S) as CPLLMProcessor gives them.
            pixel_values: (N, B, 3, H, W) as CPLLMProcessor gives them.
            interval_s: (N,), seconds from frame to frame of each burst.

        Returns:
            (N, L, D): a segment's key frames, then its burst.
        """
        return self.project(self.see_context(context_values.flatten(0, 1)), self.see_pixels(pixel_values, interval_s))

    def project(self, context_hidden: torch.Tensor, pixel_hidden: torch.Tensor) -> torch.Tensor:
        """Bring what both encoders saw of segments into the decoder's width; see encode_segments.

        Args:
            context_hidden: (N * M, tokens, width), what see_context gave.
            pixel_hidden: (N, tokens, width), what see_pixels gave.
        """
        streams = []
        if self.config.context_tokens:
            context = self.context_projector(context_hidden)
            streams.append(context.unflatten(0, (len(pixel_hidden), -1)).flatten(1, 2))
        if self.config.pixel_tokens:
            streams.append(self.pixel_projector(pixel_hidden))
        return torch.cat(streams, 1)

    def forward(
        self,
        input_ids: torch.Tensor,
        visual_tokens: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the decoder over sequences of words and visual tokens.

        Args:
            input_ids: int64 (X, Q), with negative ids for visual slots and markers.
            visual_tokens: (any, D): what fills the slots, in order of sequence and place.
            attention_mask: int64 (X, Q), 0 where padded; padding is on the right.
            labels: int64 (X, Q), IGNORED_LABEL where no word is learned; shifted inside.

        Returns:
            the decoder's CausalLMOutputWithPast: `logits` (X, Q, V) and, with labels, `loss`.

        Raises:
            ValueError: the number of visual tokens is not the number of slots.
        """
        embeds = self.embed(input_ids, visual_tokens)
        return self.language_model(inputs_embeds=embeds, attention_mask=attention_mask, labels=labels, **kwargs)

    def embed(self, input_ids: torch.Tensor, visual_tokens: torch.Tensor) -> torch.Tensor:
        """Give the decoder's input (X, Q, D); see forward."""
        slots = input_ids == SLOT
        if int(slots.sum()) != len(visual_tokens):
            raise ValueError(f"{len(visual_tokens)} visual tokens for {int(slots.sum())} slots")
        embeds = self.get_input_embeddings()(input_ids.clamp(min=0))
        markers = self.markers((-2 - input_ids).clamp(0, len(MARKERS) - 1)).to(embeds.dtype)
        embeds = torch.where((input_ids < SLOT)[..., None], markers, embeds)
        return embeds.masked_scatter(slots[..., None], visual_tokens.to(embeds.dtype))

    def answer_logits(
        self,
        sequences: list[list[int]],
        visual_tokens: torch.Tensor,
        places: list[list[int]],
        answer_ids: Sequence[list[int]],
    ) -> list[torch.Tensor]:
        """Give the logits of the allowed answers at places of sequences.

        Args:
            sequences: X lists of ids.
            visual_tokens: what fills their slots, in order.
            places: for each sequence the Q indices of the tokens that the answers follow.
            answer_ids: for each of the Q places the A tokens that may answer there.

        Returns:
            for each place float32 (X, A).
        """
        input_ids, mask = pad(sequences, self.device)
        decoder = self.language_model.get_decoder()
        hidden = decoder(inputs_embeds=self.embed(input_ids, visual_tokens), attention_mask=mask).last_hidden_state
        at = torch.tensor(places, device=hidden.device)
        states = hidden[torch.arange(len(sequences), device=hidden.device)[:, None], at]
        # Only the rows of the allowed answers are needed of the whole output layer.
        weight: Any = self.get_output_embeddings().weight
        return [states[:, q].float() @ weight[ids].float().T for q, ids in enumerate(answer_ids)]

    @torch.no_grad()
    def write(
        self, sequences: list[list[int]], visual_tokens: torch.Tensor, eos_id: int, forbidden_ids: list[list[int]]
    ) -> list[list[int]]:
        """Continue sequences greedily to the end token or the configured length.

        Args:
            sequences: ids of the questions.
            visual_tokens: what fills their slots, in order.
            eos_id: ends a text.
            forbidden_ids: for each sequence the tokens that are never written.

        Returns:
            the new ids of each, without the end token.
        """
        input_ids, mask = pad(sequences, self.device, left=True)
        generated = self.language_model.generate(
            inputs_embeds=self.embed(input_ids, visual_tokens),
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=self.config.max_description_tokens,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
            logits_processor=LogitsProcessorList([_Forbidden(forbidden_ids, self.device)]),
        ).tolist()
        return [[*itertools.takewhile(lambda token: token != eos_id, row)] for row in generated]

    def see_context(self, frames: torch.Tensor) -> torch.Tensor:
        """Encode (K, 3, S, S) frames to (K, patches, width); to nothing (K, 0) where the model has no such tokens."""
        if not self.config.context_tokens:
            return frames.new_zeros(len(frames), 0)
        frames = frames.to(self.context_encoder.dtype)
        if self.config.context_config.model_type != "siglip2_vision_model":
            return self.context_encoder(pixel_values=frames).last_hidden_state
        # SigLIP 2 with native aspect (NaFlex) takes flat patches, channels last.
        side = self.config.context_config.patch_size
        patches = frames.unfold(2, side, side).unfold(3, side, side)
        rows, columns = patches.shape[2:4]
        patches = patches.permute(0, 2, 3, 4, 5, 1).reshape(len(frames), rows * columns, -1)
        return self.context_encoder(
            pixel_values=patches,
            pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=frames.device),
            spatial_shapes=torch.tensor([[rows, columns]] * len(frames), device=frames.device),
        ).last_hidden_state

    def see_pixels(
        self, bursts: torch.Tensor, interval_s: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Encode (K, B, 3, H, W) bursts to (K, tokens, width); `statistics` as CPLLMPixelEncoder takes them."""
        if not self.config.pixel_tokens:
            return torch.zeros(len(bursts), 0, device=bursts.device)
        if self.config.pixel_config.model_type == "cpllm_pixel":
            hidden = self.pixel_encoder(bursts, interval_s, statistics).last_hidden_state
        else:
            hidden = self.pixel_encoder(pixel_values_videos=bursts.to(self.pixel_encoder.dtype)).last_hidden_state
        return hidden.to(self.pixel_projector.norm.weight.dtype)


class _Forbidden(LogitsProcessor):
    """Keeps tokens from being written, others in each sequence."""

    def __init__(self, forbidden_ids: list[list[int]], device: torch.device) -> None:
        pairs = [(row, token) for row, tokens in enumerate(forbidden_ids) for token in tokens]
        self._rows, self._tokens = torch.tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2).T

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # pyright: ignore
        scores[self._rows, self._tokens] = -torch.inf
        return scores


def pad(sequences: list[list[int]], device: torch.device, *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad lists of ids, on the right or on the left; give ids and mask, int64 (X, Q)."""
    length = max(map(len, sequences))
    ids = torch.zeros(len(sequences), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        place = slice(length - len(sequence), length) if left else slice(len(sequence))
        ids[row, place] = torch.tensor(sequence)
        mask[row, place] = 1
    return ids.to(device), mask.to(device)


AutoModel.register(CPLLMConfig, CPLLMForVideoQuality, exist_ok=True)
