"""The words and numbers of an answer, defined once: quality levels, severities, distortion names.

Levels are ITU-T P.910 absolute category rating (ACR): 1 bad to 5 excellent, higher is better.
"""

from __future__ import annotations

#: ACR level words; the weight of LEVELS[i] is i + 1.
LEVELS = ("bad", "poor", "fair", "good", "excellent")
SCORE_MIN, SCORE_MAX = 1.0, 5.0

#: Words for a distortion's severity 0-4.
SEVERITIES = ("no", "slight", "moderate", "strong", "severe")

#: Distortions the small model is trained to name.
DISTORTIONS = ("compression", "upscaling", "blur", "noise")


def level_of(score: float) -> str:
    """Give the level word nearest to a score in 1-5."""
    return LEVELS[round(min(max(score, SCORE_MIN), SCORE_MAX)) - 1]


def severity_word(severity: float) -> str:
    """Give the word nearest to a severity in 0-4."""
    return SEVERITIES[round(min(max(severity, 0.0), 4.0))]
