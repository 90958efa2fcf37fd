"""Videos that would cost too much: each ends at a limit, and leaves nothing behind."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.decoding.sandbox import DecodeSandbox
from cpllm_model.errors import DecodeTimeoutError, LimitExceededError
from cpllm_model.network import checkpoint
from tests.bad_videos.broken_inputs import cued, many_tracks
from tests.bad_videos.files import FRAMES, empty_h264, mp4
from tests.bad_videos.streams import clip, transport_stream

SETTINGS = checkpoint.sampling_settings("tiny")


class Endless(io.RawIOBase):
    """A stream that is never over, of almost the largest size that is allowed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._offset = (0, self._offset, DecodeLimits().max_file_bytes)[whence] + offset
        return self._offset

    def tell(self) -> int:
        return self._offset

    def read(self, length: int = -1) -> bytes:
        start = self._offset % len(self._data)
        self._offset += length
        return (self._data * (length // len(self._data) + 2))[start : start + length]


def decode(sandbox: DecodeSandbox, data: bytes) -> None:
    sandbox.decode(io.BytesIO(data), "video", SETTINGS)


def test_a_stream_without_end_ends_at_the_deadline() -> None:
    with DecodeSandbox(DecodeLimits(wall_s=5.0)) as sandbox:
        sandbox.probe(io.BytesIO(clip()), "clip")
        assert sandbox._child is not None
        process = sandbox._child._process.pid
        endless = cast(BinaryIO, Endless(transport_stream()))
        with pytest.raises(DecodeTimeoutError, match="within 5 s"):
            sandbox.decode(endless, "endless", SETTINGS)
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.mark.parametrize("name", ["video.ts", "video.mp4"])
def test_what_lies_behind_a_video_is_not_read(tmp_path: Path, name: str) -> None:
    """A sparse file of 200 GB, which is within the limit of size, costs no disk."""
    path = tmp_path / name
    path.write_bytes(transport_stream() if name == "video.ts" else clip())
    os.truncate(path, 200 << 30)
    with DecodeSandbox() as sandbox, path.open("rb") as file:
        samples = sandbox.decode(file, name, SETTINGS)
    # The last packet of a transport stream ends where the next begins, or with the file, which is never reached.
    unseen = 1 if name == "video.ts" else 0
    assert samples.segment_end_s[-1] == pytest.approx((FRAMES - unseen) / 25)


def test_a_million_tiny_frames_end_at_the_limit_of_processor_time() -> None:
    coded = empty_h264(192, 128, (192, 128), 1_000_000)
    with DecodeSandbox(DecodeLimits(cpu_s=2, wall_s=200.0)) as sandbox:
        with pytest.raises(LimitExceededError, match="processor time"):
            decode(sandbox, mp4(coded, durations=1))
        decode(sandbox, clip())


def test_cues_in_reverse_end_at_the_limit_of_processor_time() -> None:
    # Each is put before all others: libav takes the square of their number.
    data = cued((40 * n, 500) for n in reversed(range(200_000)))
    with DecodeSandbox(DecodeLimits(cpu_s=2, wall_s=200.0)) as sandbox:
        with pytest.raises(LimitExceededError, match="processor time"):
            decode(sandbox, data)
        decode(sandbox, clip())


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(clip())
    os.truncate(path, DecodeLimits().max_file_bytes + 1)
    with DecodeSandbox() as sandbox, path.open("rb") as file, pytest.raises(LimitExceededError, match="bytes are more"):
        sandbox.decode(file, "video", SETTINGS)


def test_a_film_in_a_hundred_languages_is_not_a_bomb() -> None:
    with DecodeSandbox() as sandbox:
        decode(sandbox, many_tracks(100))
