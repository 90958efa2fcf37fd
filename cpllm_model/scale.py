"""The words and numbers of an answer, defined once: quality levels, severities, names of distortions and events.

Levels are ITU-T P.910 absolute category rating (ACR): 1 bad to 5 excellent, higher is better.
"""

from __future__ import annotations

#: ACR level words; the weight of LEVELS[i] is i + 1.
LEVELS: tuple[str, ...] = ("bad", "poor", "fair", "good", "excellent")
SCORE_MIN, SCORE_MAX = 1.0, 5.0

#: Words for a distortion's severity 0-5.
SEVERITIES: tuple[str, ...] = ("no", "faint", "slight", "moderate", "strong", "severe")
SEVERITY_MAX = len(SEVERITIES) - 1.0

#: Families of distortions that a model is asked about. Blur is any lack of sharpness, by lens, motion or enlargement.
DISTORTIONS: tuple[str, ...] = (
    "compression", "blur", "noise", "banding", "exposure", "contrast", "colour", "stutter", "interlacing", "flicker",
    "packet loss",
)  # fmt: skip

#: What is asked about the scene, and the words that may answer; the first words of each question must differ.
SCENE_FACTS: dict[str, tuple[str, ...]] = {
    "light": ("dark", "even", "bright"),
    "detail": ("plain", "moderate", "rich"),
    "motion": ("still", "gentle", "fast"),
    "kind": ("camera", "screen", "animation"),
}

#: What is measured of a video beside its quality, by thresholds (`decoding/events.py`), and what each kind means.
EVENTS: dict[str, str] = {
    "freeze": "The picture stands still while the video moves before or after.",
    "black": "The picture is black.",
    "flat": "The picture is one flat colour.",
    "bars": "The picture is colour bars of a test signal.",
    "credits": "The picture is writing on an almost flat ground.",
    "fade": "The picture fades in or out.",
    "combing": "Lines of two moments of time stand interleaved in one frame.",
    "flicker": "The brightness jumps up and down from frame to frame.",
    "gap": "There are no frames for a time.",
    "repeat": "Frames are shown repeatedly in a pattern, as 25 frames a second in 50.",
    "damage": "The stretch is cut off or does not decode.",
}
#: Those that leave no picture to rate.
BLANK_EVENTS = ("black", "flat", "bars", "credits")


def level_of(score: float) -> str:
    """Give the level word nearest to a score in 1-5."""
    return LEVELS[round(min(max(score, SCORE_MIN), SCORE_MAX)) - 1]


def severity_word(severity: float) -> str:
    """Give the word nearest to a severity in 0-5."""
    return SEVERITIES[round(min(max(severity, 0.0), SEVERITY_MAX))]
