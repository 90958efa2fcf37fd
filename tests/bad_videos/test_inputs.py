"""Each bad video through the sandbox, as the model would see it: a typed error, or frames that stand right."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpllm_model.decoding.samples import DecodeLimits, VideoInfo, VideoSamples
from cpllm_model.decoding.sandbox import LONGEST_WAIT, DecodeSandbox
from cpllm_model.errors import VideoError
from cpllm_model.network import checkpoint
from tests.bad_videos.files import FRAMES, QUADRANTS
from tests.bad_videos.inputs import INPUTS
from tests.bad_videos.streams import Input

#: As the bundled model's, but with as many looks as these short clips have room for.
SETTINGS = replace(checkpoint.sampling_settings("tiny"), look_every_s=0.1, most_looks=4)
LIMITS = DecodeLimits()
#: On a busy machine, and with the start of a decoding process.
MOST_S = LONGEST_WAIT * LIMITS.wall_s + 60
#: What a decoding process may hold; its whole address space is limited to twice that.
MEMORY_BYTES = 1 << 30
#: Luma and chroma of RGB codes by BT.601 (Rec. ITU-R BT.601-7, 2.5.1), limited range.
TO_YUV = np.array([(65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214)]) / 255


@pytest.fixture(scope="module")
def sandbox() -> Iterator[DecodeSandbox]:
    with DecodeSandbox(LIMITS) as opened:
        yield opened


def test_there_are_enough_of_them() -> None:
    assert len(INPUTS) >= 60
    contents = [made.make() for made in INPUTS.values()]
    assert len(set(contents)) == len(contents)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "8K" else ()) for name in INPUTS]
)
def test_it_ends_as_said_within_its_limits(sandbox: DecodeSandbox, name: str) -> None:
    expected, data = INPUTS[name], INPUTS[name].make()
    started = time.monotonic()
    try:
        says(sandbox.probe(io.BytesIO(data), name), expected)
    except VideoError:
        assert expected.error is not None
    probed = time.monotonic()
    assert probed - started < MOST_S
    try:
        found = sandbox.decode(io.BytesIO(data), name, SETTINGS)
    except VideoError as error:
        assert (error.error_type, error.name) == (expected.error, name), error
        assert error.cause and error.cause.isprintable()
    else:
        assert expected.error is None, f"scored, and not {expected.error}"
        says(found.info, expected)
        look_at(found, expected)
    assert time.monotonic() - probed < MOST_S
    assert peak_bytes(sandbox) < MEMORY_BYTES


def peak_bytes(sandbox: DecodeSandbox) -> int:
    """The most memory that the decoding process has held; 0 where it is unknown or no longer there."""
    if sandbox._child is None or sys.platform != "linux":
        return 0
    status = Path(f"/proc/{sandbox._child._process.pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def says(info: VideoInfo, expected: Input) -> None:
    """Check how long a video is said to be, and at what frame rate."""
    if expected.duration_s is not None:
        assert info.duration_s == pytest.approx(expected.duration_s, abs=0.09)
    if expected.fps is not None:
        assert info.fps == pytest.approx(expected.fps)
    if expected.duration_s is not None and expected.fps is not None and info.frame_count is not None:
        assert info.frame_count == pytest.approx(expected.duration_s * expected.fps, abs=2)


def look_at(samples: VideoSamples, expected: Input) -> None:
    """Check which way up the frames stand, their colours and, where it is known, their order."""
    assert (samples.damaged_frames > 0) == expected.damaged
    assert (samples.info.width_px, samples.info.height_px) == expected.size_px
    assert samples.info.rotation_deg == expected.rotation_deg
    if expected.quadrants is None:
        return
    wanted_43 = QUADRANTS[list(expected.quadrants)].astype(float)
    if expected.grey:
        wanted_43 = np.repeat(wanted_43 @ (TO_YUV[0] / TO_YUV[0].sum())[:, None], 3, axis=1)

    side = SETTINGS.context_size_px
    places = [(row, column) for row in (side // 4, 3 * side // 4) for column in (side // 4, 3 * side // 4)]
    for context_3SS in samples.context_NMCHW.reshape(-1, 3, side, side):
        found_43 = np.array([context_3SS[:, row, column] for row, column in places], float)
        brighter = (found_43 - wanted_43).mean()
        assert -10 < brighter < FRAMES + 10
        np.testing.assert_allclose(found_43 - brighter, wanted_43, atol=expected.tolerance)

    yuv_43 = wanted_43 @ TO_YUV.T + (16, 128, 128)
    corners = [(row, column) for row in (8, -8) for column in (8, -8)]
    for burst_T3MM in samples.bursts_NTCHW:
        found_43 = np.array([burst_T3MM[0][:, row, column] for row, column in corners], float)
        brighter = (found_43 - yuv_43)[:, 0].mean()
        assert -12 < brighter < FRAMES + 12
        # Its matrix may be BT.709's.
        np.testing.assert_allclose(found_43 - (brighter, 0, 0), yuv_43, atol=expected.tolerance + 10)
    if expected.advances:
        luma_NT = samples.bursts_NTCHW[:, :, 0].mean(axis=(-1, -2))
        assert (np.diff(luma_NT, axis=1) > 0.4).all() and (np.diff(luma_NT, axis=1) < 1.4).all()
        assert samples.segment_start_s[0] == 0 and (np.diff(samples.segment_start_s) > 0).all()
        assert (samples.segment_end_s > samples.segment_start_s).all()
