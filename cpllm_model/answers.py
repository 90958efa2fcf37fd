"""What the model says of a video: score, distortions, words, comparison; and what was seen that it says it of.

Plain values with numpy arrays; torch is not imported.

Shape legend: N segments, L visual tokens of a segment, D decoder width.
"""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cpllm_model.decoding.samples import Event, VideoInfo
from cpllm_model.pooling import Stretch, by_score, frozen_share, pooled_levels
from cpllm_model.scale import BLANK_EVENTS, LEVELS, SCORE_MAX, SCORE_MIN

LEVEL_WEIGHTS = np.arange(1, len(LEVELS) + 1)
#: Segments that stand for a video in a comparison.
KEPT_SEGMENTS = 4
#: Pictures with a shorter side are smaller than what the model looks at in full size, px.
SMALL_PX = 288
#: A description of motion needs so many frames a second.
SLOW_FPS = 10.0


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """What a video is compared by: some segments that stand for the whole, as the decoder sees them, and frozen time.

    Args:
        tokens_NLD: float16, of at most KEPT_SEGMENTS segments, the worst first; see pooling.by_score.
        segment_start_s: float64 (N,), when these begin.
        frozen_share: share of the time during which the video is frozen, 0-1.
    """

    tokens_NLD: np.ndarray
    segment_start_s: np.ndarray
    frozen_share: float = 0.0


@dataclass(frozen=True, eq=False)
class SegmentTimes:
    """When the segments of a video are, and what was measured of them.

    Args:
        start_s, end_s: float64 (N,), half-open intervals that cover the video.
        has_picture: bool (N,), False where there is no picture to rate (black, flat colour, bars, credits).
        events: what was measured to happen in time.
    """

    start_s: np.ndarray
    end_s: np.ndarray
    has_picture: np.ndarray
    events: tuple[Event, ...] = ()

    @property
    def length_s(self) -> np.ndarray:
        """Lengths, float64 (N,)."""
        return self.end_s - self.start_s

    @property
    def blanks(self) -> list[Stretch]:
        """When there is no picture to rate, by what was measured; segments are longer as a rule."""
        return [(event.start_s, event.end_s) for event in self.events if event.kind in BLANK_EVENTS]

    @property
    def frozen_share(self) -> float:
        """Share of the time during which the video is frozen, 0-1."""
        freezes = [(event.start_s, event.end_s) for event in self.events if event.kind == "freeze"]
        return frozen_share(freezes, float(self.length_s.sum()))


@dataclass(frozen=True, eq=False)
class ViewedVideo:
    """A video that both encoders and the decoder have looked at.

    Args:
        tokens_NLD: float16, visual tokens of every segment, in order of time.
        answers: for each question of CPLLMProcessor.rating_ids float64 (N, answers): a distribution a segment.
        times: of the segments.
        info: what the container says; None where tokens were given without it.
        damaged_frames: as of VideoSamples.
    """

    tokens_NLD: np.ndarray
    answers: list[np.ndarray]
    times: SegmentTimes
    info: VideoInfo | None = None
    damaged_frames: int = 0

    @property
    def segment_scores(self) -> np.ndarray:
        """Mean level of each segment, float64 (N,), also of those without a picture."""
        return self.answers[0] @ LEVEL_WEIGHTS

    @cached_property
    def pooled_levels(self) -> np.ndarray:
        """Distribution over levels of the whole, float64 (levels,)."""
        rated = self.times.has_picture
        return pooled_levels(self.answers[0][rated], self.times.length_s[rated], self.times.frozen_share)

    @property
    def score(self) -> float:
        """Mean level of the whole."""
        return min(max(float(self.pooled_levels @ LEVEL_WEIGHTS), SCORE_MIN), SCORE_MAX)

    @property
    def level_variance(self) -> float:
        """Variance of the distribution over levels of the whole."""
        return max(0.0, float(self.pooled_levels @ (LEVEL_WEIGHTS - self.score) ** 2))

    @property
    def tokens(self) -> VisualTokens:
        """The tokens of the segments that stand for the whole."""
        rated = np.flatnonzero(self.times.has_picture)
        kept = rated[by_score(self.segment_scores[rated], KEPT_SEGMENTS)]
        return VisualTokens(self.tokens_NLD[kept], self.times.start_s[kept], self.times.frozen_share)


@dataclass(frozen=True)
class Rating:
    """A video's quality on the ACR scale.

    Args:
        score: mean of the distribution over levels, 1 (bad) to 5 (excellent).
        score_std: its uncertainty: the distribution's standard deviation, calibrated on held-out contents, so that 68 %
            of people's ratings lie within one of it.
        level: the level word nearest to the score.
        level_probabilities: bad to excellent, sum 1: those of the segments, pooled as pooling.py states.
        segment_start_s, segment_end_s: half-open intervals that cover the video.
        segment_score: score of each segment; None where it shows no picture to rate.
        score_worst, worst_start_s, worst_end_s: of the segment with the lowest score.
        scene: question of scale.SCENE_FACTS -> the most probable answer.
    """

    score: float
    score_std: float
    level: str
    level_probabilities: tuple[float, ...]
    segment_start_s: tuple[float, ...]
    segment_end_s: tuple[float, ...]
    segment_score: tuple[float | None, ...]
    score_worst: float
    worst_start_s: float
    worst_end_s: float
    scene: dict[str, str]


@dataclass(frozen=True)
class Distortion:
    """How strong one distortion is.

    Args:
        name: one of scale.DISTORTIONS.
        severity: mean of the distribution over severities, 0 (none) to 5 (severe), of the segment that shows it most.
        probability: that it is visible at all, 0-1, in that segment.
        named: whether the probability reaches the model's own threshold, so that descriptions name it.
        stretches: (start_s, end_s) of the segments in which it does.
    """

    name: str
    severity: float
    probability: float
    named: bool
    stretches: tuple[Stretch, ...] = ()


@dataclass(frozen=True)
class Description:
    """A video's quality in words, every known distortion, the most probable first, and what was measured in time."""

    text: str
    distortions: tuple[Distortion, ...]
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Which of two videos looks better.

    Args:
        probability_a_better: 0-1, the mean of both orders; compare(b, a) is its complement.
        order_gap: how far the two orders disagree, 0-1; large means that the answer leans on the order.
        first_bias: probability given to the video that is shown first, averaged over both orders, less a half.
    """

    probability_a_better: float
    order_gap: float
    first_bias: float


@dataclass(frozen=True)
class Assessment:
    """All that the model says of one video.

    Args:
        path: of the video.
        model_id: who says it.
        info: what the container says.
        rating: score, uncertainty, level, segments.
        words: description, distortions, events.
        damaged_frames: as of VideoSamples.
    """

    path: str
    model_id: str
    info: VideoInfo
    rating: Rating
    words: Description
    damaged_frames: int = 0

    @property
    def score(self) -> float:
        """Quality from 1 (bad) to 5 (excellent)."""
        return self.rating.score

    @property
    def uncertainty(self) -> float:
        """Standard deviation that people's ratings are expected to have around the score."""
        return self.rating.score_std

    @property
    def level(self) -> str:
        """Level word nearest to the score."""
        return self.rating.level

    @property
    def description(self) -> str:
        """The video's quality in words."""
        return self.words.text

    @property
    def distortions(self) -> tuple[Distortion, ...]:
        """The distortions that the model names, the likeliest first."""
        return tuple(one for one in self.words.distortions if one.named)

    @property
    def cautions(self) -> tuple[str, ...]:
        """Why the score should be trusted less, in sentences; see docs/scores.md."""
        info, found = self.info, []
        if min(info.width_px, info.height_px) < SMALL_PX:
            found.append(f"The picture is small ({info.width_px}x{info.height_px}): fragments overlap.")
        if info.fps < SLOW_FPS and (info.frame_count or 0) > 1:
            found.append(f"The frame rate is low ({info.fps:.3g} a second).")
        if unrated := sum(score is None for score in self.rating.segment_score):
            found.append(f"{unrated} of {len(self.rating.segment_score)} segments show no picture to rate.")
        if self.damaged_frames:
            found.append(f"{self.damaged_frames} frames are damaged or missing.")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values, ready for JSON."""
        return {
            "path": self.path,
            "model_id": self.model_id,
            **asdict(self.rating),
            "description": self.words.text,
            "distortions": [asdict(one) for one in self.words.distortions],
            "events": [asdict(one) for one in self.words.events],
            "cautions": list(self.cautions),
            "damaged_frames": self.damaged_frames,
            "info": asdict(self.info),
        }

    def __str__(self) -> str:
        return f"{self.path}: {self.score:.2f} ± {self.uncertainty:.2f} ({self.level}). {self.description}"

    def _repr_html_(self) -> str:
        """Give the same for a notebook."""
        named = ", ".join(f"{one.name} {one.severity:.1f}" for one in self.distortions) or "none"
        rows = [
            ("video", self.path),
            ("score", f"{self.score:.2f} ± {self.uncertainty:.2f} ({self.level})"),
            ("worst segment", f"{self.rating.score_worst:.2f} at {self.rating.worst_start_s:.1f} s"),
            ("distortions", named),
            ("description", self.description),
            *(("caution", one) for one in self.cautions),
        ]
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
        return f"<table>{cells}</table>"
