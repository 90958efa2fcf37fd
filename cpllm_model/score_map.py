"""From the model's own scale to that of one's own raters: a monotone map of the score, applied to each segment.

In: the distributions that the network gives for a segment. Out: the same with the distribution over levels moved, so
that its mean is what the raters would say. Everything else that is said of a video follows from that distribution:
segments, the whole, level, uncertainty. Pure arithmetic; `training/score_map_fit.py` fits a map.

Shape legend: N segments, A levels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from cpllm_model.answers import LEVEL_WEIGHTS
from cpllm_model.errors import CheckpointError
from cpllm_model.scale import DISTORTIONS, LEVELS, SCORE_MAX, SCORE_MIN

#: A mapped score keeps so far from both ends, which no distribution over levels reaches.
END_MARGIN = 0.01
#: A probability of less is computed as this much, so that its logarithm is finite.
_LEAST_PROBABILITY = 1e-12
#: The exponent is searched for between these bounds by halving; 60 halvings reach the precision of float64.
_LARGEST_EXPONENT, _HALVINGS = 50.0, 60


@dataclass(frozen=True)
class ScoreMap:
    """What raters say where the model says bad to excellent.

    Args:
        levels: the mapped score of each of LEVELS, rising; linear between two levels.
        per_severity: distortion -> what each step of its severity adds to the score of a segment.
    """

    levels: tuple[float, ...]
    per_severity: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = [*self.levels, *self.per_severity.values()]
        if len(self.levels) != len(LEVELS) or not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"a score map needs {len(LEVELS)} finite levels, not {self.levels}")
        if any(higher < lower for lower, higher in pairwise(self.levels)):
            raise ValueError(f"the levels of a score map must rise: {self.levels}")
        if unknown := set(self.per_severity) - set(DISTORTIONS):
            raise ValueError(f"a score map names unknown distortions: {', '.join(sorted(unknown))}")

    @classmethod
    def from_config(cls, fields: Any) -> ScoreMap | None:
        """Read the map of a model's configuration; None where it has none.

        Raises:
            CheckpointError: the fields are those of no map.
        """
        try:
            return None if fields is None else cls(tuple(fields["levels"]), dict(fields["per_severity"]))
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(f"the model's score_map cannot be used: {error}") from error

    def to_config(self) -> dict[str, Any]:
        """Give plain values for a model's configuration."""
        return {"levels": list(self.levels), "per_severity": dict(self.per_severity)}

    def apply(self, answers: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Move the distributions over levels of a video's segments.

        Args:
            answers: as ViewedVideo holds them.

        Returns:
            the same, with other levels.
        """
        levels_NA, *others = answers
        return [tilted(levels_NA, self._scores(answers)), *others]

    def _scores(self, answers: Sequence[np.ndarray]) -> np.ndarray:
        scores = np.interp(answers[0] @ LEVEL_WEIGHTS, LEVEL_WEIGHTS, self.levels)
        for name, severity_N in zip(DISTORTIONS, severities(answers).T, strict=True):
            scores = scores + self.per_severity.get(name, 0.0) * severity_N
        return np.clip(scores, SCORE_MIN + END_MARGIN, SCORE_MAX - END_MARGIN)


def severities(answers: Sequence[np.ndarray]) -> np.ndarray:
    """Give the mean severity of each distortion in each segment, float64 (N, distortions), 0-5."""
    rows = answers[1 : 1 + len(DISTORTIONS)]
    return np.stack([row_NS @ np.arange(row_NS.shape[1]) for row_NS in rows], 1)


def tilted(levels_NA: np.ndarray, mean_N: np.ndarray) -> np.ndarray:
    """Give each distribution another mean, as near to what it was as can be.

    p'(level) is in proportion to p(level) exp(t level), which of all distributions of that mean has the least relative
    entropy to p (Csiszár, I-divergence geometry, 1975).

    Args:
        levels_NA: distributions over levels.
        mean_N: the means that they get, between the first and the last level.

    Returns:
        float64 (N, A), rows of sum 1.
    """
    weights_A = np.arange(1, levels_NA.shape[1] + 1)
    log_NA = np.log(np.maximum(levels_NA, _LEAST_PROBABILITY))

    def at(exponent_N: np.ndarray) -> np.ndarray:
        raised = log_NA + exponent_N[:, None] * weights_A
        rows = np.exp(raised - raised.max(1, keepdims=True))
        return rows / rows.sum(1, keepdims=True)

    low_N, high_N = np.full(len(mean_N), -_LARGEST_EXPONENT), np.full(len(mean_N), _LARGEST_EXPONENT)
    for _ in range(_HALVINGS):
        middle_N = (low_N + high_N) / 2
        too_low = at(middle_N) @ weights_A < mean_N
        low_N, high_N = np.where(too_low, middle_N, low_N), np.where(too_low, high_N, middle_N)
    return at((low_N + high_N) / 2)
