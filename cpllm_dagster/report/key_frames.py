"""Small pictures of the videos that a report shows: each of one segment, as the model saw it.

In: videos as they were listed, each with a moment. Out: rows of the table `key_frames`, and for each other video why it
has no picture. Videos are decoded in sandboxes, of the listed version only. Knows nothing of the page.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np

from cpllm_dagster.catalog.objects import VideoStore
from cpllm_model.decoding.samples import DecodeLimits, VideoSamples
from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.decoding.sandbox import DecodeSandbox
from cpllm_model.errors import VideoError

LARGEST_SIDE_PX = 160
#: Pictures are an extra: a slow storage must not hold a report up for longer.
BUDGET_S = 90.0
NO_TIME = "the time for pictures was over before its turn"
_WEBP_QUALITY = 70
_SANDBOXES = 2


@dataclass(frozen=True)
class Moment:
    """A segment of a video that a picture is wanted of.

    Args:
        video_id, uri, etag, model_id, size_bytes: as in the tables.
        moment_start_s, moment_end_s: the segment.
    """

    video_id: str
    uri: str
    etag: str
    model_id: str
    size_bytes: int
    moment_start_s: float
    moment_end_s: float


def take_key_frames(
    moments: Sequence[Moment], store: VideoStore, sampling: SamplingSettings, limits: DecodeLimits
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Decode videos and take a small picture of each.

    Args:
        moments: of which videos, and when.
        store: where the videos lie.
        sampling: how the model looks at a video.
        limits: what one video may cost.

    Returns:
        Rows of the table `key_frames`, and by video id why a video has no picture.

    Raises:
        ConfigurationError: the storage of the videos cannot be used at all, or no sandbox starts.
    """
    ends_at = time.monotonic() + BUDGET_S
    with ExitStack() as stack:
        idle: SimpleQueue[DecodeSandbox] = SimpleQueue()
        for _ in range(min(_SANDBOXES, len(moments))):
            idle.put(stack.enter_context(DecodeSandbox(limits)))

        def take(moment: Moment) -> bytes | str:
            sandbox = idle.get()
            try:
                if time.monotonic() > ends_at:
                    return NO_TIME
                with store.open(moment.uri, moment.etag, moment.size_bytes, limits, whole=False) as file:
                    return picture(sandbox.decode(file, moment.uri, sampling), moment)
            except VideoError as error:
                return error.cause
            finally:
                idle.put(sandbox)

        with ThreadPoolExecutor(_SANDBOXES) as threads:
            found = list(zip(moments, threads.map(take, moments), strict=True))
    columns = ("video_id", "etag", "model_id", "moment_start_s", "moment_end_s")
    rows = [
        {name: getattr(moment, name) for name in columns} | {"picture": picture}
        for moment, picture in found
        if isinstance(picture, bytes)
    ]
    return rows, {moment.video_id: why for moment, why in found if isinstance(why, str)}


def picture(samples: VideoSamples, moment: Moment) -> bytes:
    """Give the first context frame of the segment of a moment, at most LARGEST_SIDE_PX wide or high, as WebP.

    Context frames are squares without the black bars of the video; the picture has the video's own shape.

    Args:
        samples: of the whole video.
        moment: whose middle says which segment.
    """
    from PIL import Image  # definitions load without it

    middle_s = (moment.moment_start_s + moment.moment_end_s) / 2
    segment = int(np.searchsorted(samples.segment_start_s, middle_s, side="right")) - 1
    frame_HWC = samples.context_NMCHW[max(segment, 0), 0].transpose(1, 2, 0)
    scale = LARGEST_SIDE_PX / max(samples.info.width_px, samples.info.height_px)
    size = (max(1, round(samples.info.width_px * scale)), max(1, round(samples.info.height_px * scale)))
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame_HWC)).resize(size, Image.Resampling.LANCZOS).save(
        content, "WEBP", quality=_WEBP_QUALITY
    )
    return content.getvalue()
