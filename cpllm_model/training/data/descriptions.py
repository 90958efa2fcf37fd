"""Descriptions written from what is known of a clip: its level, its distortions, and plain facts of its scene.

In: a score, severities, facts of the scene. Out: up to three sentences in varied wording that never contradict them.
Also the way back: which distortions and which facts a description mentions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cpllm_model.scale import DISTORTIONS, SCENE_FACTS, level_of, severity_word
from cpllm_model.training.data.distortions import KINDS, NAMED_FROM

__all__ = ["NAMED_FROM", "SceneFacts", "describe", "mentions", "named", "scene_mentions"]

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
    "blur": ("blur", "lack of sharpness"),
    "noise": ("noise", "grain"),
    "banding": ("banding", "false contours"),
    "exposure": ("wrong exposure",),
    "contrast": ("lack of contrast", "flatness of contrast"),
    "colour": ("wrong colours", "unnatural colours"),
    "stutter": ("stutter", "jerkiness of motion"),
    "interlacing": ("combing from interlacing", "interlaced lines"),
    "flicker": ("flicker", "pumping of brightness"),
    "packet loss": ("transmission errors", "damage from packet loss"),
}
#: Nouns that say more than the family does, where the kind is known.
KIND_NOUNS: dict[str, tuple[str, ...]] = {
    "upscaling": ("softness from upscaling",),
    "defocus": ("lack of focus",),
    "motion blur": ("motion blur",),
    "overexposure": ("overexposure",),
    "underexposure": ("underexposure",),
    "colour cast": ("colour cast",),
    "oversaturation": ("oversaturation",),
    "desaturation": ("washed-out colours",),
}
#: Question of SCENE_FACTS -> answer -> its phrases; no phrase is part of another answer's.
SCENE_PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "light": {"dark": ("dark", "dimly lit"), "even": ("evenly lit",), "bright": ("bright", "full of light")},
    "detail": {
        "plain": ("plain", "low in detail"),
        "moderate": ("moderately detailed",),
        "rich": ("rich in detail", "full of detail"),
    },
    "motion": {
        "still": ("still", "without movement"),
        "gentle": ("gently moving", "moving gently"),
        "fast": ("fast moving", "moving fast"),
    },
    "kind": {
        "camera": ("was filmed with a camera", "comes from a camera"),
        "screen": ("shows a screen", "is a recording of a screen"),
        "animation": ("is an animation", "is animated"),
    },
}
#: Height to which frames are shrunk before a scene is measured, so that neither size nor noise counts, px.
SCENE_HEIGHT_PX = 72


@dataclass(frozen=True)
class SceneFacts:
    """What is measured of a scene, on the video as it is shown.

    Args:
        brightness: mean luma code, 16-235.
        detail: mean absolute horizontal plus vertical luma difference between neighbours of shrunk frames, codes.
        motion: mean absolute luma difference between consecutive shrunk frames of equal mean, codes.
    """

    brightness: float
    detail: float
    motion: float

    @classmethod
    def measure(cls, shown_THW: np.ndarray) -> SceneFacts:
        """Measure uint8 luma frames (T, H, W) of limited range."""
        factor = max(1, round(min(shown_THW.shape[1:]) / SCENE_HEIGHT_PX))
        frames, height, width = (side // by for side, by in zip(shown_THW.shape, (1, factor, factor), strict=True))
        blocks = shown_THW[:, : height * factor, : width * factor].reshape(frames, height, factor, width, factor)
        small = blocks.mean((2, 4), dtype=np.float32)
        detail = np.abs(np.diff(small, axis=1)).mean() + np.abs(np.diff(small, axis=2)).mean()
        # Flicker is no movement.
        level = small - small.mean((1, 2), keepdims=True)
        motion = np.abs(np.diff(level, axis=0)).mean() if frames > 1 else 0.0
        return cls(float(shown_THW.mean()), float(detail), float(motion))

    def words(self) -> dict[str, str]:
        """Give the answers of SCENE_FACTS for light, detail and motion."""
        light = "dark" if self.brightness < 75 else "bright" if self.brightness > 150 else "even"
        detail = "plain" if self.detail < 7 else "rich" if self.detail > 20 else "moderate"
        motion = "still" if self.motion < 0.7 else "fast" if self.motion > 5 else "gentle"
        return {"light": light, "detail": detail, "motion": motion}


def named(severities: Mapping[str, float]) -> list[str]:
    """Give the families that a description names, the severest first."""
    return sorted((name for name, value in severities.items() if value >= NAMED_FROM), key=lambda n: -severities[n])


def describe(
    score: float | None,
    severities: Mapping[str, float],
    scene: Mapping[str, str],
    rng: np.random.Generator,
    kinds: Mapping[str, str] | None = None,
) -> str:
    """Write a description of what is known; what is not known is not spoken of.

    Args:
        score: 1-5, or None.
        severities: family -> 0-5; NaN where it is not known.
        scene: question of SCENE_FACTS -> its answer.
        rng: chooses the wording.
        kinds: family -> kind, where it is known and says more.

    Returns:
        up to three sentences: the level, the distortions, and last the scene.
    """
    phrases = []
    for family in named(severities):
        nouns = KIND_NOUNS.get((kinds or {}).get(family, ""), NOUNS[family])
        phrases.append(f"{severity_word(severities[family])} {rng.choice(nouns)}")
    sentences = [] if score is None else [str(rng.choice(OPENINGS)).format(level=level_of(score))]
    if phrases:
        sentences.append(str(rng.choice(FINDINGS)).format(list=_listed(phrases)))
    elif not any(np.isnan(value) for value in severities.values()):
        sentences.append(str(rng.choice(CLEAN)))
    said = {name: str(rng.choice(SCENE_PHRASES[name][answer])) for name, answer in scene.items()}
    parts = [said.pop("kind")] if "kind" in said else []
    if said:
        parts.insert(0, f"is {_listed([said[name] for name in SCENE_FACTS if name in said])}")
    if parts:
        sentences.append(f"The scene {'; it '.join(parts)}.")
    return " ".join(sentences)


def _listed(phrases: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]]))


def mentions(text: str) -> set[str]:
    """Give the families that a description mentions."""
    nouns = [(noun, family) for family in DISTORTIONS for noun in NOUNS[family]]
    nouns += [(noun, KINDS[kind].family) for kind, words in KIND_NOUNS.items() for noun in words]
    return {family for noun, family in nouns if noun in text}


def scene_mentions(text: str) -> dict[str, str]:
    """Give the answers of SCENE_FACTS that a description states; a question that it answers twice is left out."""
    found = {}
    for name, answers in SCENE_PHRASES.items():
        stated = [answer for answer, phrases in answers.items() if any(_states(text, phrase) for phrase in phrases)]
        if len(stated) == 1:
            found[name] = stated[0]
    return found


def _states(text: str, phrase: str) -> bool:
    return re.search(rf"\b{phrase}\b", text) is not None
