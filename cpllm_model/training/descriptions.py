"""Descriptions written from what is known of a clip: its level, its distortions, and plain facts of its scene.

In: a score, severities, scene facts. Out: two or three sentences in varied wording that never contradict them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cpllm_model.scale import level_of, severity_word

OPENINGS = (
    "The picture quality is {level}.",
    "Overall the quality is {level}.",
    "This video looks {level}.",
    "The quality of this video is {level}.",
)
CLEAN = ("No distortion stands out.", "The picture is clean.", "Nothing disturbs the picture.")
FINDINGS = ("It shows {list}.", "It has {list}.", "The viewer sees {list}.", "It suffers from {list}.")
NOUNS = {
    "compression": ("compression artefacts", "blocking and ringing from compression"),
    "upscaling": ("softness from upscaling", "upscaling blur"),
    "blur": ("blur", "defocus"),
    "noise": ("noise", "grain"),
}
SCENES = ("The scene is {light}, {detail} and {motion}.", "What is shown is {light}, {detail} and {motion}.")
#: Severity from which a distortion is named: it rounds to "slight" or more.
NAMED_FROM = 0.6


@dataclass(frozen=True)
class SceneFacts:
    """Plain measures of a pristine clip.

    Args:
        brightness: mean luma code, 16-235.
        detail: mean absolute horizontal and vertical luma difference between neighbours, codes.
        motion: mean absolute luma difference between consecutive frames, codes.
    """

    brightness: float
    detail: float
    motion: float

    @classmethod
    def measure(cls, luma_THW: np.ndarray) -> SceneFacts:
        """Measure uint8 luma frames (T, H, W)."""
        luma = luma_THW.astype(np.float32)
        detail = np.abs(np.diff(luma, axis=1)).mean() + np.abs(np.diff(luma, axis=2)).mean()
        return cls(float(luma.mean()), float(detail), float(np.abs(np.diff(luma, axis=0)).mean()))

    def words(self) -> dict[str, str]:
        """Give the words for light, detail and motion."""
        light = "dark" if self.brightness < 75 else "bright" if self.brightness > 150 else "evenly lit"
        detail = "plain" if self.detail < 6 else "rich in detail" if self.detail > 16 else "moderately detailed"
        motion = "still" if self.motion < 1.5 else "fast moving" if self.motion > 9 else "gently moving"
        return {"light": light, "detail": detail, "motion": motion}


def describe(score: float, severities: Mapping[str, float], facts: SceneFacts, rng: np.random.Generator) -> str:
    """Write a description.

    Args:
        score: 1-5.
        severities: distortion -> 0-4.
        facts: of the pristine clip.
        rng: chooses the wording.
    """
    found = sorted(((v, k) for k, v in severities.items() if v >= NAMED_FROM), reverse=True)
    phrases = [f"{severity_word(severity)} {rng.choice(NOUNS[name])}" for severity, name in found]
    sentences = [str(rng.choice(OPENINGS)).format(level=level_of(score))]
    if phrases:
        listed = " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))
        sentences.append(str(rng.choice(FINDINGS)).format(list=listed))
    else:
        sentences.append(str(rng.choice(CLEAN)))
    sentences.append(str(rng.choice(SCENES)).format(**facts.words()))
    return " ".join(sentences)
