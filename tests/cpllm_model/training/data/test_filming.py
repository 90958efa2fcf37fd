"""Films: the same content at any moment, rated pictures untouched, bars around and not over the picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpllm_model.network.config import CPLLMConfig
from cpllm_model.training.data import encode, filming
from cpllm_model.training.data.contents import Content
from cpllm_model.training.data.degradation import split
from cpllm_model.training.data.filming import FRAMES, RATED_LEAST, film
from cpllm_model.training.data.scenes import render_scene
from cpllm_model.training.recipe.config import Cache

CLIP = np.arange(FRAMES)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture of 300x200 with detail."""
    path = tmp_path_factory.mktemp("picture") / "a.png"
    Image.fromarray(render_scene(1, 300, 200, 1)[0]).save(path)
    return path


def small(monkeypatch, **shares):
    monkeypatch.setattr(filming, "SIZES_PX", ((192, 128),))
    monkeypatch.setattr(filming, "LARGE_SHARE", 0)
    for name in ("BARS", "MONOCHROME", "SUBTITLE", "SHALLOW", "FAST_PAN"):
        monkeypatch.setattr(filming, f"{name}_SHARE", shares.get(name, 0))


def test_every_third_round_of_takes_is_small():
    widths = [film(Content("scene", "1", "s", take), 4, CLIP[:1]).planes_TJW.shape[2] for take in (0, 3, 6, 9, 12, 15)]
    largest = 1.5 * max(max(size) for size in filming.SMALL_SIZES_PX)
    assert all(width <= largest for width in (widths[2], widths[5]))
    kept_px = CPLLMConfig.tiny().sampling_settings.fragment_px + Cache(Path()).margin_px
    assert min(map(min, filming.SMALL_SIZES_PX)) >= kept_px  # or they could not be trained on


@pytest.mark.parametrize("kind", ["photo", "scene", "nature", "screen"])
def test_other_moments_show_the_same_content(kind, picture, monkeypatch):
    small(monkeypatch)
    content = Content(kind, str(picture) if kind == "photo" else "9", "x")
    clip, longer, sparse = (film(content, 7, times).planes_TJW for times in (CLIP, np.arange(-4, FRAMES), CLIP * 3))
    assert np.array_equal(longer[4:], clip)
    assert np.array_equal(sparse[:5], clip[::3][:5])


def test_a_rated_picture_is_shown_as_people_rated_it(picture, monkeypatch):
    small(monkeypatch, BARS=0, MONOCHROME=1, SUBTITLE=1, SHALLOW=1)
    whole = split(encode.rgb_to_planes(np.asarray(Image.open(picture))[None]))[0][0].astype(int)
    for seed in range(12):
        luma = split(film(Content("photo", str(picture), "x", mos=3.0), seed, CLIP).planes_TJW)[0]
        height, width = luma.shape[1:]
        assert width >= 300 * RATED_LEAST and height >= 200 * RATED_LEAST
        for frame in luma[[0, -1]]:
            # Each frame is a window of the picture, code for code.
            places = [
                (row, column)
                for row in range(200 - height + 1)
                for column in range(300 - width + 1)
                if abs(int(frame[0, 0]) - whole[row, column]) <= 2
                and abs(int(frame[-1, -1]) - whole[row + height - 1, column + width - 1]) <= 2
            ]
            errors = [np.abs(frame - whole[r : r + height, c : c + width]).mean() for r, c in places]
            assert min(errors) < 0.6


def test_bars_are_flat_and_leave_the_picture_alone(picture, monkeypatch):
    small(monkeypatch)
    content = Content("photo", str(picture), "x")
    for seed in range(6):
        monkeypatch.setattr(filming, "BARS_SHARE", 0)
        bare = film(content, seed, CLIP)
        monkeypatch.setattr(filming, "BARS_SHARE", 1)
        barred = film(content, seed, CLIP)
        assert bare.window_px is None and barred.window_px is not None
        left, top, width, height = barred.window_px
        luma, blue, red = (plane.copy() for plane in split(barred.planes_TJW))
        assert (left or top) and (height, width) == split(bare.planes_TJW)[0].shape[1:]
        for plane, inner, by in zip((luma, blue, red), split(bare.planes_TJW), (1, 2, 2), strict=True):
            window = (slice(None), slice(top // by, (top + height) // by), slice(left // by, (left + width) // by))
            assert np.array_equal(plane[window], inner)
            plane[window] = plane[0, 0, 0]
            assert len(np.unique(plane)) == 1


def test_looks_are_drawn(picture, monkeypatch):
    content = Content("photo", str(picture), "x")
    small(monkeypatch)
    plain = film(content, 3, CLIP).planes_TJW
    for look in ("MONOCHROME", "SUBTITLE", "SHALLOW", "FAST_PAN"):
        small(monkeypatch, **{look: 1})
        assert not np.array_equal(film(content, 3, CLIP).planes_TJW, plain), look
    small(monkeypatch, MONOCHROME=1)
    grey = film(content, 3, CLIP).planes_TJW
    assert all((plane == 128).all() for plane in split(grey)[1:])
    assert np.array_equal(split(grey)[0], split(plain)[0])


def test_a_fast_pan_is_blurred_by_its_shutter_alone(picture, monkeypatch):
    small(monkeypatch, FAST_PAN=1)
    content = Content("photo", str(picture), "x")
    blurred = split(film(content, 3, CLIP).planes_TJW)[0].astype(float)
    monkeypatch.setattr(filming, "SHUTTER_MOMENTS", 1)
    sharp = split(film(content, 3, CLIP).planes_TJW)[0].astype(float)
    assert np.abs(np.diff(blurred, axis=2)).mean() < 0.9 * np.abs(np.diff(sharp, axis=2)).mean()


def test_a_clip_that_is_too_short_says_so(tmp_path):
    clip = encode.write_video(render_scene(1, 128, 96, 20), tmp_path / "a.mp4")
    content = Content("clip", str(clip), "x")
    assert len(film(content, 1, CLIP).planes_TJW) == FRAMES
    with pytest.raises(ValueError, match=r"frames .* are needed"):
        film(content, 1, CLIP * 5)
