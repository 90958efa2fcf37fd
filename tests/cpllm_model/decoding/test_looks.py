"""What single bursts show, by made-up frames."""

import av
import numpy as np
import pytest

from cpllm_model.decoding.looks import BurstMeter
from cpllm_model.decoding.pixels import FrameConverter
from cpllm_model.decoding.sampling import SamplingSettings

SETTINGS = SamplingSettings(2.5, 8, 1, 48, 8, 2, 32)
HEIGHT, WIDTH, FRAMES = 180, 320, 8
#: 75 % bars by Rec. ITU-R BT.601: Y, U, V of grey, yellow, cyan, green, magenta, red, blue.
BARS = [(180, 128, 128), (162, 44, 142), (131, 156, 44), (112, 72, 58), (84, 184, 198), (65, 100, 212), (35, 212, 114)]


def scene(seed=0, height=HEIGHT, width=WIDTH * 2):
    """Smooth clouds of luma with some detail."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 200, (height // 20 + 2, width // 20 + 2))
    smooth = coarse.repeat(20, 0).repeat(20, 1)[:height, :width]
    for axis in (0, 1):
        smooth = np.mean([np.roll(smooth, shift, axis) for shift in range(-8, 9)], 0)
    return smooth + rng.uniform(-6, 6, smooth.shape)


def look(lumas, chroma=(128, 128), fmt="yuv420p"):
    meter = BurstMeter(FrameConverter(SETTINGS))
    for luma in lumas:
        height, width = luma.shape
        planes = [np.clip(luma, 16, 235)]
        planes += [np.broadcast_to(code, (height // 2, width // 2)) for code in chroma]
        codes = np.concatenate([np.round(plane).astype(np.uint8).reshape(-1, width) for plane in planes])
        meter.add(av.VideoFrame.from_ndarray(codes, format=fmt))
    return meter.look()


def panned(step=2, frames=FRAMES):
    whole = scene()
    return [whole[:, step * n : step * n + WIDTH] for n in range(frames)]


def plain(code, noise=1.0):
    rng = np.random.default_rng(1)
    return [np.full((HEIGHT, WIDTH), code) + rng.uniform(-noise, noise, (HEIGHT, WIDTH)) for _ in range(FRAMES)]


def test_a_moving_picture_is_just_that():
    found = look(panned())
    assert found.blank is None
    assert not (found.is_still or found.is_fading or found.is_flickering or found.repeats or found.combed_share)


@pytest.mark.parametrize(
    ("code", "chroma", "expected"),
    [(16, (128, 128), "black"), (22, (128, 128), "black"), (140, (60, 60), "flat"), (235, (128, 128), "flat")],
)
def test_black_and_flat_colours_are_told(code, chroma, expected):
    found = look(plain(code), chroma)
    assert found.blank == expected


def test_a_dark_scene_is_a_picture():
    dark = [16 + (frame - 16) * 0.15 for frame in panned()]
    assert look(dark).blank is None


@pytest.mark.parametrize("grey_sides", [False, True])
def test_colour_bars_are_told_and_other_stripes_are_not(grey_sides):
    bars = [(104, 128, 128), *BARS, (104, 128, 128)] if grey_sides else BARS
    columns = np.array(bars)[np.arange(WIDTH) * len(bars) // WIDTH]
    luma = np.broadcast_to(columns[:, 0], (HEIGHT, WIDTH)).astype(float)
    u, v = (np.broadcast_to(columns[::2, n], (HEIGHT // 2, WIDTH // 2)) for n in (1, 2))
    assert look([luma] * FRAMES, (u, v)).blank == "bars"
    assert look([luma] * FRAMES, (u[:, ::-1], v[:, ::-1])).blank is None
    assert look([luma] * FRAMES).blank is None


@pytest.mark.parametrize(("ground", "ink"), [(16, 200), (235, 30), (60, 180)])
def test_writing_on_a_flat_ground_is_told(ground, ink):
    card = np.full((HEIGHT, WIDTH), float(ground))
    for row in range(30, 150, 24):
        card[row : row + 10, 60:260:6] = ink
        card[row : row + 10, 61:260:6] = ink
    assert look([card] * FRAMES).blank == "credits"


def test_a_bright_subject_before_black_is_a_picture():
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    inside = (rows - 90) ** 2 / 60**2 + (columns - 160) ** 2 / 40**2 < 1
    assert look([np.where(inside, frame, 16.0) for frame in panned()]).blank is None


def test_standing_still_allows_for_a_picture_that_is_coded_anew():
    frame = scene()[:, :WIDTH]
    anew = frame + np.random.default_rng(2).uniform(-2, 2, frame.shape)
    assert look([frame] * FRAMES).is_still
    assert look([frame] * 4 + [anew] * 4).is_still
    assert not look([frame, anew] * 4).is_still
    moved = frame.copy()
    moved[80:90, 100:130] += 40  # lips
    assert not look([frame, moved] * 4).is_still


@pytest.mark.parametrize(("pattern", "expected"), [("aabbccdd", True), ("aaabbbcc", True), ("abcdefgh", False),
                                                   ("aabcdefg", False), ("aaaaaaaa", False)])  # fmt: skip
def test_frames_that_are_repeated_in_a_pattern_are_told(pattern, expected):
    frames = panned(step=4)
    assert look([frames["abcdefgh".index(letter)] for letter in pattern]).repeats == expected


@pytest.mark.parametrize("target", [16.0, 235.0])
@pytest.mark.parametrize("backwards", [False, True])
def test_fades_to_and_from_black_and_white_are_told(target, backwards):
    frames = [target + (frame - target) * (1 - n / 16) for n, frame in enumerate(panned(step=1))]
    assert look(frames[::-1] if backwards else frames).is_fading


def test_a_pan_into_the_light_is_no_fade():
    whole = scene() * 0.5 + np.linspace(0, 200, WIDTH * 2)
    assert not look([whole[:, 12 * n : 12 * n + WIDTH] for n in range(FRAMES)]).is_fading


def test_flicker_goes_up_and_down():
    assert look([frame + 6 * (n % 2) for n, frame in enumerate(panned())]).is_flickering
    assert not look([frame + 3 * n for n, frame in enumerate(panned())]).is_flickering


def test_a_fine_pattern_that_moves_does_not_flicker():
    # A look takes every second column of such a picture, or row: those have all of one shade in turns.
    stripes = np.where(np.arange(WIDTH + FRAMES) % 2, 60.0, 180.0)[None].repeat(HEIGHT, 0)
    assert not look([stripes[:, n : n + WIDTH] for n in range(FRAMES)]).is_flickering
    assert look([stripes[:, n : n + WIDTH] + 8 * (n % 2) for n in range(FRAMES)]).is_flickering


def test_two_moments_in_one_frame_are_combed_and_fine_stripes_are_not():
    fields = panned(step=6, frames=2 * FRAMES)
    woven = []
    for n in range(FRAMES):
        frame = fields[2 * n].copy()
        frame[1::2] = fields[2 * n + 1][1::2]
        woven.append(frame)
    assert look(woven).combed_share > 0.05
    stripes = [np.where(np.arange(HEIGHT)[:, None] % 2, 60.0, 180.0).repeat(WIDTH, 1)] * FRAMES
    assert look(stripes).combed_share == 0


def test_ten_bit_and_full_range_give_the_same():
    lumas = plain(18)
    codes = [(luma - 16) * 255 / 219 for luma in lumas]
    meter = BurstMeter(FrameConverter(SETTINGS))
    for luma in codes:
        planes = np.concatenate([luma, np.full((HEIGHT // 2, WIDTH), 128.0)])
        frame = av.VideoFrame.from_ndarray(np.clip(planes.round(), 0, 255).astype(np.uint8), format="yuvj420p")
        meter.add(frame)
    assert meter.look().blank == "black"


def test_a_size_that_changes_within_a_burst_is_no_event():
    found = look([scene(0)[:, :320], scene(0, 240)[:, :320], *panned(frames=4)])
    assert not (found.is_still or found.repeats or found.is_fading)
