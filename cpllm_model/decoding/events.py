"""What happens in a video beside its quality: stretches that are black, frozen, faded and the like."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cpllm_model.scale import EVENTS


@dataclass(frozen=True)
class Event:
    """A stretch of a video in which something was measured.

    Args:
        kind: a key of `scale.EVENTS`.
        start_s, end_s: half-open interval of presentation time, seconds since the first frame.
        share: of the frame, 0-1; 1.0 for what concerns all of it.
    """

    kind: str
    start_s: float
    end_s: float
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in EVENTS:
            raise ValueError(f"an event of unknown kind {self.kind!r:.40}")
        if not 0 <= self.start_s < self.end_s < math.inf:
            raise ValueError(f"an event from {self.start_s!r} to {self.end_s!r} s")
        if not 0 < self.share <= 1:
            raise ValueError(f"an event over {self.share!r} of the frame")
