"""Black bars leave no trace in what the model sees, whatever the format of the frame."""

import hypothesis
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from hypothesis import given
from hypothesis import strategies as st

from cpllm_model.decoding.pixels import FrameConverter
from cpllm_model.decoding.sampling import fragment_origins
from cpllm_model.network.processing import yuv_to_rgb
from tests.cpllm_model.decoding.settings import SETTINGS


def frame_of(planes, name="yuv420p", full_range=False):
    """A 4:2:0 frame of the planes' size."""
    frame = VideoFrame(planes[0].shape[1], planes[0].shape[0], name)
    for plane, codes in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(plane), codes.dtype).reshape(plane.height, -1)
        rows[:, : plane.width] = codes
    frame.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
    return frame


def planes_of(height, width, bits, full_range, seed):
    """A picture of noise."""
    rng, scale = np.random.default_rng(seed), 1 << (bits - 8)
    dtype = np.uint8 if bits == 8 else np.uint16
    low, high = (0, 256) if full_range else (16, 236)
    luma = rng.integers(low * scale, high * scale, (height, width), dtype)
    return [luma, *rng.integers(16 * scale, 241 * scale, (2, (height + 1) // 2, (width + 1) // 2), dtype)]


def with_bars(planes, bars, bits=8, full_range=False):
    """The same between black bars of even offsets."""
    scale = 1 << (bits - 8)
    (height, width), (top, bottom, left, right) = planes[0].shape, bars
    black = [0 if full_range else 16 * scale, 128 * scale, 128 * scale]
    size = (top + height + bottom, left + width + right)
    found = []
    for plane, code, step in zip(planes, black, (1, 2, 2), strict=True):
        whole = np.full([-(-side // step) for side in size], code, plane.dtype)
        rows, columns = plane.shape
        whole[top // step : top // step + rows, left // step : left // step + columns] = plane
        found.append(whole)
    return found


@hypothesis.settings(deadline=None, max_examples=60)
@given(
    height=st.integers(32, 150),
    width=st.integers(32, 150),
    bars=st.tuples(*[st.integers(0, 14)] * 4),
    form=st.sampled_from([("yuv420p", 8, False), ("yuvj420p", 8, True), ("yuv420p10le", 10, False),
                          ("yuv420p10le", 10, True), ("yuv420p12le", 12, False)]),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_a_frame_shows_the_same_with_and_without_bars(height, width, bars, form, seed):
    name, bits, full_range = form
    converter = FrameConverter(SETTINGS)
    planes = planes_of(height, width, bits, full_range, seed)
    bare = frame_of(planes, name, full_range)
    barred = frame_of(with_bars(planes, [2 * bar for bar in bars], bits, full_range), name, full_range)
    expected = converter.mosaic(bare, converter.window([bare, bare]))
    np.testing.assert_array_equal(converter.mosaic(barred, converter.window([barred, barred])), expected)
    if height % 2 == 0 and width % 2 == 0:
        difference = np.abs(converter.context(barred).astype(int) - converter.context(bare))
        assert difference.max() <= 1


@pytest.mark.parametrize("name", ["rgb24", "yuv422p", "gray"])
def test_bars_are_cropped_in_other_layouts_too(name):
    rng = np.random.default_rng(0)
    picture = rng.integers(60, 200, (96, 128, 3), np.uint8)
    whole = np.zeros((160, 192, 3), np.uint8)
    whole[32:128, 32:160] = picture
    converter = FrameConverter(SETTINGS)
    bare, barred = (VideoFrame.from_ndarray(one, "rgb24").reformat(format=name) for one in (picture, whole))
    window = converter.window([barred])
    assert (window.top, window.left, window.height, window.width) == (32, 32, 96, 128)
    difference = converter.mosaic(barred, window).astype(int) - converter.mosaic(bare)
    assert np.abs(difference).max() <= 1
    difference = converter.context(barred).astype(int) - converter.context(bare)
    assert np.abs(difference).mean() < 4


def test_a_picture_of_the_size_of_a_fragment_is_not_cropped_below_it():
    planes = with_bars(planes_of(30, 60, 8, False, 0), (8, 8, 20, 20))
    window = FrameConverter(SETTINGS).window([frame_of(planes)])
    assert (window.top, window.height) == (0, 46) and (window.left, window.width) == (20, 60)


#: Saturated colours, R'G'B' in 0-1.
COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [0.5, 0.2, 0.1], [0.6, 0.6, 0.6]])


def codes_by(rgb, red, blue):
    """Limited-range codes of a colour, by the weights of red and blue in luma (Rec. ITU-R BT.601-7, BT.709-6)."""
    luma = rgb @ [red, 1 - red - blue, blue]
    chroma = [224 * (rgb[2] - luma) / (2 - 2 * blue) + 128, 224 * (rgb[0] - luma) / (2 - 2 * red) + 128]
    return np.array([219 * luma + 16, *chroma])


BT_601, BT_709 = (0.299, 0.114), (0.2126, 0.0722)


@pytest.mark.parametrize(
    ("stated", "width", "matrix"),
    [
        (5, 64, BT_601), (6, 1280, BT_601), (2, 64, BT_601), (1, 64, BT_709), (2, 1280, BT_709), (1, 1280, BT_709),
    ],
)  # fmt: skip
@pytest.mark.parametrize("full_range", [False, True])
def test_one_colour_is_the_same_to_the_model_by_either_matrix(stated, width, matrix, full_range):
    """Whether the stream states the matrix (AVColorSpace), or is silent and its size decides."""
    for rgb in COLOURS:
        codes = codes_by(rgb, *matrix)
        if full_range:
            codes = (codes - [16, 128, 128]) * 255 / [219, 224, 224] + [0, 128, 128]
        y, u, v = np.clip(np.round(codes), 0, 255).astype(np.uint8)
        planes = [np.full((64, width), y), np.full((32, width // 2), u), np.full((32, width // 2), v)]
        frame = frame_of(planes, "yuvj420p" if full_range else "yuv420p", full_range)
        frame.colorspace = stated
        seen = FrameConverter(SETTINGS).mosaic(frame)
        np.testing.assert_allclose(seen.reshape(3, -1).T, [codes_by(rgb, *BT_709)] * seen[0].size, atol=1.6)
        shown = yuv_to_rgb(torch.from_numpy(seen.astype(np.float32))).numpy()[:, 0, 0]
        np.testing.assert_allclose(shown, rgb, atol=0.012)
        np.testing.assert_allclose(FrameConverter(SETTINGS).context(frame)[:, 0, 0] / 255, rgb, atol=0.012)


def test_codes_of_bt_709_and_of_rgb_stay_as_they_are():
    planes = planes_of(96, 96, 8, False, 3)
    frame = frame_of(planes)
    frame.colorspace = 1
    row, column = fragment_origins(96, 96, SETTINGS.fragment_grid, SETTINGS.fragment_px)[0]
    seen, px = FrameConverter(SETTINGS).mosaic(frame)[0], SETTINGS.fragment_px
    np.testing.assert_array_equal(seen[:px, :px], planes[0][row : row + px, column : column + px])
    red = VideoFrame.from_ndarray(np.full((64, 64, 3), [255, 0, 0], np.uint8), format="rgb24")
    expected = np.round(codes_by(np.array([1, 0, 0]), *BT_709))
    np.testing.assert_allclose(FrameConverter(SETTINGS).mosaic(red)[:, 0, 0], expected, atol=1)
