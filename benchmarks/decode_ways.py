"""Ways to the frames of a video, for decode_speed.py: the sampling plan in use, and what else one would do.

Each way takes an open file, or the path where its library takes no file, and sees as many frames as the plan does: as
many looks as it takes at a video of that length, each at a burst of consecutive frames, of which the first is seen as a
whole, too. One decoding thread each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, BinaryIO

import av
from av.video.frame import VideoFrame
from clips import FPS

from cpllm_model.decoding import video
from cpllm_model.decoding.pixels import FrameConverter
from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.decoding.sandbox import DecodeSandbox
from cpllm_model.network import checkpoint

SETTINGS = checkpoint.sampling_settings("tiny")
#: Wide enough for 4K; the platform's own are tighter.
LIMITS = DecodeLimits(wall_s=600.0, cpu_s=600)
IN_USE = "the plan, sandboxed (in use)"


@dataclass(frozen=True)
class Way:
    """One way.

    Args:
        prepared: gives what sees a video, for the length of a `with` block.
        is_plan: this project's own.
        whole: whether an object on S3 is downloaded first, where the platform would do so.
        library: what has to be importable.
        takes_file: rather than a path; the others are not measured on S3.
    """

    prepared: Callable[[], Any]
    is_plan: bool = False
    whole: bool = True
    library: str = "av"
    takes_file: bool = True

    @property
    def is_installed(self) -> bool:
        return find_spec(self.library) is not None


def runs(frames: int) -> list[int]:
    """Give the first frame of each burst, in order: the plan, had it no eye for key frames and for packets."""
    looks = SETTINGS.looks(frames / FPS, frames)
    return [(2 * look + 1) * frames // (2 * looks) for look in range(looks)]


@contextmanager
def _sandboxed() -> Iterator[Callable[[BinaryIO], Any]]:
    with DecodeSandbox(LIMITS) as sandbox:
        yield lambda file: sandbox.decode(file, "clip", SETTINGS)


def _plan() -> Any:
    return nullcontext(lambda file: video.decode(file, "clip", SETTINGS, LIMITS))


def _pyav(see: Callable[[Any, Any, int], Iterator[tuple[VideoFrame, int]]]) -> Callable[[], Any]:
    """Make a way of what gives frames, each with its number in its burst, from container, stream and frame count."""

    def seen(file: BinaryIO) -> None:
        converter = FrameConverter(SETTINGS)
        with av.open(file, "r") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            seconds = (stream.duration or 0) * float(stream.time_base or 0) or (container.duration or 0) / 1e6
            for frame, number in see(container, stream, round(seconds * float(stream.average_rate or FPS))):
                if not number:
                    converter.context(frame)
                converter.mosaic(frame, converter.window([frame]))

    return lambda: nullcontext(seen)


def _all_frames(container: Any, stream: Any, frames: int) -> Iterator[tuple[VideoFrame, int]]:
    wanted = {first + n: n for first in runs(frames) for n in range(SETTINGS.burst_frames)}
    for number, frame in enumerate(container.decode(stream)):
        if number in wanted:
            yield frame, wanted[number]


def _exact_seeks(container: Any, stream: Any, frames: int, exact: bool = True) -> Iterator[tuple[VideoFrame, int]]:
    for first in runs(frames):
        tick = (stream.start_time or 0) + round(first / float(stream.average_rate * stream.time_base))
        container.seek(tick, stream=stream)
        taken = 0
        for frame in container.decode(stream):
            if not exact or frame.pts >= tick:
                yield frame, taken
                taken += 1
                if taken == SETTINGS.burst_frames:
                    break


def _key_frames(container: Any, stream: Any, frames: int) -> Iterator[tuple[VideoFrame, int]]:
    return _exact_seeks(container, stream, frames, exact=False)


def _opencv() -> Any:
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"
    import cv2  # pyright: ignore[reportMissingImports]

    cv2.setNumThreads(1)

    def seen(path: str) -> None:
        capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        for first in runs(int(capture.get(cv2.CAP_PROP_FRAME_COUNT))):
            capture.set(cv2.CAP_PROP_POS_FRAMES, first)
            if not all(capture.read()[0] for _ in range(SETTINGS.burst_frames)):
                raise ValueError("no frame")
        capture.release()

    return nullcontext(seen)


def _decord() -> Any:
    import decord  # pyright: ignore[reportMissingImports]

    def seen(path: str) -> None:
        reader = decord.VideoReader(path, num_threads=1)
        reader.get_batch([first + n for first in runs(len(reader)) for n in range(SETTINGS.burst_frames)]).asnumpy()

    return nullcontext(seen)


WAYS = {
    IN_USE: Way(_sandboxed, is_plan=True),
    "the plan by ranges, sandboxed": Way(_sandboxed, is_plan=True, whole=False),
    "the plan, this process": Way(_plan, is_plan=True),
    "nearest key frames, PyAV": Way(_pyav(_key_frames), whole=False),
    "exact seeks, PyAV": Way(_pyav(_exact_seeks), whole=False),
    "all frames, PyAV": Way(_pyav(_all_frames)),
    "exact seeks, OpenCV": Way(_opencv, library="cv2", takes_file=False),
    "exact seeks, decord": Way(_decord, library="decord", takes_file=False),
}
