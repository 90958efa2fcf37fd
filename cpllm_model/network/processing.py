"""CPLLMProcessor: samples of a video to tensors, questions to token ids, and answers' words to token ids.

A sequence holds negative ids where the decoder sees the video instead of a word: SLOT for a visual token,
the others for the learned markers around each stream. They lie outside every vocabulary, so any tokenizer
fits. Knows nothing of weights.

Shape legend: N segments, M context frames, B frames of a burst, 3 RGB or YUV, S context size, H W mosaic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, ProcessorMixin

from cpllm_model.errors import CheckpointError
from cpllm_model.scale import DISTORTIONS, LEVELS, SCENE_FACTS, SEVERITIES

SLOT, CONTEXT_START, CONTEXT_END, PIXEL_START, PIXEL_END = -1, -2, -3, -4, -5
MARKERS = (CONTEXT_START, CONTEXT_END, PIXEL_START, PIXEL_END)

SCORE_QUESTION = "\nHow good does the video look, and what is wrong with it?\nquality:"
#: Asks for the severity of a distortion, or for a fact of the scene.
NAMED_QUESTION = "\n{name}:"
DESCRIBE_QUESTION = "\nDescribe the quality of the video: {level}, with {distortions}; {scene}.\n"
FIRST, SECOND = "First video:\n", "\nSecond video:\n"
COMPARE_QUESTION = "\nWhich video looks better?\nThe"
COMPARE_ANSWERS = ("first", "second")
END = "<|end|>"


@dataclass(frozen=True)
class SegmentLayout:
    """How many slots each stream of a segment has.

    Args:
        context: slots of all key frames of a segment.
        pixel: slots of its burst.
    """

    context: int
    pixel: int

    def ids(self, segments: int) -> list[int]:
        """Give the ids of a video of so many segments."""
        one = [
            CONTEXT_START,
            *[SLOT] * self.context,
            CONTEXT_END,
            PIXEL_START,
            *[SLOT] * self.pixel,
            PIXEL_END,
        ]
        return one * segments


class CPLLMProcessor(ProcessorMixin):
    """Turn samples and questions into what CPLLMForVideoQuality takes.

    Args:
        tokenizer: the decoder's.
        context_slots: visual tokens of a segment's key frames.
        pixel_slots: visual tokens of a segment's burst.
        pixel_input: "yuv" if the pixel encoder takes the codes as decoded, "rgb" if it takes RGB in 0-1.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        context_slots: int = 8,
        pixel_slots: int = 1,
        pixel_input: str = "yuv",
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, **kwargs)
        self.tokenizer = tokenizer
        self.context_slots, self.pixel_slots, self.pixel_input = context_slots, pixel_slots, pixel_input
        self.layout = SegmentLayout(context_slots, pixel_slots)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context_NMCHW: np.ndarray, bursts_NTCHW: np.ndarray, burst_interval_s: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """Make the encoders' inputs.

        Args:
            context_NMCHW: uint8 RGB key frames.
            bursts_NTCHW: uint8 limited-range YUV 4:4:4 mosaics.
            burst_interval_s: (N,), seconds from frame to frame of each burst.

        Returns:
            `context_values` float32 (N, M, 3, S, S) in -1..1, as SigLIP and EfficientNet-Lite take them, `pixel_values`
            (N, B, 3, H, W), uint8 YUV codes or float32 RGB in 0-1, and `interval_s` float32 (N,).
        """
        return {
            "context_values": self.context_values(torch.from_numpy(context_NMCHW)),
            "pixel_values": self.pixel_values(torch.from_numpy(bursts_NTCHW)),
            "interval_s": torch.from_numpy(burst_interval_s.astype(np.float32)),
        }

    def context_values(self, context: torch.Tensor) -> torch.Tensor:
        """Give uint8 RGB (..., 3, S, S) as float32 in -1..1, as SigLIP takes it."""
        return context.float() / 127.5 - 1

    def pixel_values(self, bursts: torch.Tensor) -> torch.Tensor:
        """Give uint8 YUV (..., 3, H, W) as the codes they are, or as float32 RGB in 0-1."""
        return bursts if self.pixel_input == "yuv" else yuv_to_rgb(bursts.float())

    def text_ids(self, text: str) -> list[int]:
        """Tokenize text without special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def text(self, ids: Sequence[int]) -> str:
        """Give the text of generated tokens."""
        return str(self._tokenizer.decode(list(ids))).strip()

    def rating_ids(self) -> tuple[list[int], list[int]]:
        """Give the sequence that asks for a segment's level, the severity of every distortion and facts of the scene.

        All is asked in one sequence; no answer is written into it, so none depends on another.

        Returns:
            ids, and the places of the answers, which those of `rating_answer_ids` may answer.
        """
        ids = self.layout.ids(1)
        places = []
        names = (*DISTORTIONS, *SCENE_FACTS)
        for question in (SCORE_QUESTION, *(NAMED_QUESTION.format(name=name) for name in names)):
            ids = ids + self.text_ids(question)
            places.append(len(ids) - 1)
        return ids, places

    @property
    def rating_answer_ids(self) -> list[list[int]]:
        """What may answer at each place of `rating_ids`: levels, severities of each distortion, words of each fact."""
        scene = [self._answer_ids(words) for words in SCENE_FACTS.values()]
        return [self.level_ids, *[self.severity_ids] * len(DISTORTIONS), *scene]

    def describe_ids(
        self, segments: int, level: str, distortions: Mapping[str, str], scene: Mapping[str, str]
    ) -> list[int]:
        """Give the sequence that asks for a description.

        It states what was answered before, so that words and numbers agree.

        Args:
            segments: of the video.
            level: one of LEVELS.
            distortions: the named ones, the severest first, each with its word of SEVERITIES.
            scene: question of SCENE_FACTS -> its answer; what is not known is missing.
        """
        listed = ", ".join(f"{severity} {name}" for name, severity in distortions.items()) or "no distortion"
        facts = ", ".join(f"{scene[name]} {name}" for name in SCENE_FACTS if name in scene) or "no scene"
        question = DESCRIBE_QUESTION.format(level=level, distortions=listed, scene=facts)
        return self.layout.ids(segments) + self.text_ids(question)

    def ask_ids(self, segments: int, question: str) -> list[int]:
        """Give the sequence that asks a question in free words (instruction sets)."""
        return self.layout.ids(segments) + self.text_ids(f"\n{question}\n")

    def compare_ids(self) -> list[int]:
        """Give the sequence that asks which of two segments looks better; `order_ids` may answer."""
        segment = self.layout.ids(1)
        first, second, question = map(self.text_ids, (FIRST, SECOND, COMPARE_QUESTION))
        return first + segment + second + segment + question

    @property
    def level_ids(self) -> list[int]:
        """Token of each ACR level word, bad to excellent."""
        return self._answer_ids(LEVELS)

    @property
    def severity_ids(self) -> list[int]:
        """Token of each severity word, none to severe."""
        return self._answer_ids(SEVERITIES)

    @property
    def order_ids(self) -> list[int]:
        """Tokens of "first" and "second"."""
        return self._answer_ids(COMPARE_ANSWERS)

    @property
    def eos_id(self) -> int:
        """Token that ends a description."""
        token = self._tokenizer.eos_token_id
        if not isinstance(token, int):
            raise CheckpointError("the tokenizer has no end-of-text token")
        return token

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise CheckpointError("the processor has no tokenizer")
        return self.tokenizer

    def _answer_ids(self, words: Sequence[str]) -> list[int]:
        """Give the first token of each word; they must differ, since they are told apart by it alone."""
        first = [self.text_ids(f" {word}")[0] for word in words]
        if len(set(first)) != len(words):
            raise CheckpointError(f"the tokenizer gives some of {', '.join(words)} the same first token")
        return first


def yuv_to_rgb(yuv: torch.Tensor) -> torch.Tensor:
    """Convert limited-range BT.709 YUV codes (..., 3, H, W) to RGB in 0-1 (ITU-R BT.709-6)."""
    y, u, v = (yuv - yuv.new_tensor([16, 128, 128])[:, None, None]).unbind(-3)
    luma = y * (255 / 219)
    rgb = torch.stack([luma + 1.7927 * v, luma - 0.2132 * u - 0.5329 * v, luma + 2.1124 * u], -3)
    return (rgb / 255).clamp(0, 1)


def train_tokenizer(texts: Sequence[str], vocab_size: int = 1024) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer that keeps every answer word whole.

    Args:
        texts: what the decoder will write.
        vocab_size: at most so many tokens.
    """
    bpe = ByteLevelBPETokenizer()
    # The byte alphabet keeps every text encodable; answers are repeated until they are merged into one token.
    words = [word for words in SCENE_FACTS.values() for word in words]
    answers = [f" {word}" for word in (*LEVELS, *SEVERITIES, *COMPARE_ANSWERS, *words)] * 1000
    questions = [SCORE_QUESTION, FIRST, SECOND, COMPARE_QUESTION, DESCRIBE_QUESTION]
    questions += [NAMED_QUESTION.format(name=name) for name in (*DISTORTIONS, *SCENE_FACTS)]
    bpe.train_from_iterator(
        [*texts, *questions * 50, *answers],
        vocab_size=vocab_size,
        special_tokens=[END],
        show_progress=False,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )
