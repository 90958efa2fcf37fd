"""Descriptions written from what is known of a clip: its level, its distortions, and plain facts of its scene.

In: a score, severities, scene facts. Out: two or three sentences in varied wording that never contradict them.
Also the way back: which distortions a description mentions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cpllm_model.scale import DISTORTIONS, level_of, severity_word
from cpllm_model.training.data.distortions import KINDS, NAMED_FROM

__all__ = ["NAMED_FROM", "SceneFacts", "describe", "mentions", "named"]

OPENINGS = (
    "The picture quality is {level}.",
    "Overall the quality is {level}.",
    "This video looks {level}.",
    "The quality of this video is {level}.",
)
CLEAN = ("No distortion stands out.", "The picture is clean.", "Nothing disturbs the picture.")
FINDINGS = ("It shows {list}.", "It has {list}.", "The viewer sees {list}.", "It suffers from {list}.")
#: Family -> its names; none is part of another family's.
NOUNS: dict[str, tuple[str, ...]] = {
    "compression": ("compression artefacts", "blocking and ringing from compression"),
    "upscaling": ("softness from upscaling", "upscaling artefacts"),
    "blur": ("blur", "lack of sharpness"),
    "noise": ("noise", "grain"),
    "banding": ("banding", "false contours"),
    "exposure": ("wrong exposure",),
    "contrast": ("lack of contrast", "flatness of contrast"),
    "colour": ("wrong colours", "unnatural colours"),
    "stutter": ("stutter", "jerkiness of motion"),
    "packet loss": ("transmission errors", "damage from packet loss"),
}
#: Nouns that say more than the family does, where the kind is known.
KIND_NOUNS: dict[str, tuple[str, ...]] = {
    "overexposure": ("overexposure",),
    "underexposure": ("underexposure",),
    "colour cast": ("colour cast",),
    "oversaturation": ("oversaturation",),
    "desaturation": ("washed-out colours",),
}
SCENES = (
    "The scene is {light}, {detail} and {motion}.",
    "What is shown is {light}, {detail} and {motion}.",
)
RENDERED_SCENES = (
    "The scene is computer-made, {light}, {detail} and {motion}.",
    "What is shown is computer-made, {light}, {detail} and {motion}.",
)


@dataclass(frozen=True)
class SceneFacts:
    """What is known of a scene.

    Args:
        brightness: mean luma code as shown, 16-235.
        detail: mean absolute horizontal and vertical luma difference between neighbours of the pristine clip, codes.
        motion: mean absolute luma difference between consecutive frames of the pristine clip, codes.
        rendered: whether it is computer-made rather than filmed.
    """

    brightness: float
    detail: float
    motion: float
    rendered: bool = False

    @classmethod
    def measure(cls, pristine_THW: np.ndarray, shown_THW: np.ndarray, *, rendered: bool = False) -> SceneFacts:
        """Measure uint8 luma frames (T, H, W), before and after degradation."""
        luma = pristine_THW.astype(np.float32)
        detail = np.abs(np.diff(luma, axis=1)).mean() + np.abs(np.diff(luma, axis=2)).mean()
        motion = np.abs(np.diff(luma, axis=0)).mean()
        return cls(float(shown_THW.mean()), float(detail), float(motion), rendered)

    def words(self) -> dict[str, str]:
        """Give the words for light, detail and motion."""
        light = "dark" if self.brightness < 75 else "bright" if self.brightness > 150 else "evenly lit"
        detail = "plain" if self.detail < 6 else "rich in detail" if self.detail > 16 else "moderately detailed"
        motion = "still" if self.motion < 1.5 else "fast moving" if self.motion > 9 else "gently moving"
        return {"light": light, "detail": detail, "motion": motion}


def named(severities: Mapping[str, float]) -> list[str]:
    """Give the families that a description names, the severest first."""
    return sorted((name for name, value in severities.items() if value >= NAMED_FROM), key=lambda n: -severities[n])


def describe(
    score: float,
    severities: Mapping[str, float],
    facts: SceneFacts,
    rng: np.random.Generator,
    kinds: Mapping[str, str] | None = None,
) -> str:
    """Write a description.

    Args:
        score: 1-5.
        severities: family -> 0-5.
        facts: of the scene.
        rng: chooses the wording.
        kinds: family -> kind, where it is known and says more.
    """
    phrases = []
    for family in named(severities):
        nouns = KIND_NOUNS.get((kinds or {}).get(family, ""), NOUNS[family])
        phrases.append(f"{severity_word(severities[family])} {rng.choice(nouns)}")
    sentences = [str(rng.choice(OPENINGS)).format(level=level_of(score))]
    if phrases:
        listed = " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))
        sentences.append(str(rng.choice(FINDINGS)).format(list=listed))
    else:
        sentences.append(str(rng.choice(CLEAN)))
    scenes = RENDERED_SCENES if facts.rendered else SCENES
    sentences.append(str(rng.choice(scenes)).format(**facts.words()))
    return " ".join(sentences)


def mentions(text: str) -> set[str]:
    """Give the families that a description mentions."""
    nouns = [(noun, family) for family in DISTORTIONS for noun in NOUNS[family]]
    nouns += [(noun, KINDS[kind].family) for kind, words in KIND_NOUNS.items() for noun in words]
    return {family for noun, family in nouns if noun in text}
