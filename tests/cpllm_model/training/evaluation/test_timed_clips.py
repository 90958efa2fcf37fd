"""The clips of tests in time: shots, and what a stretch shows, before and after an encoder."""

from __future__ import annotations

from pathlib import Path

import ffmpeg
import numpy as np
import pytest

from cpllm_model.training.data import encode
from cpllm_model.training.data.degradation import split as planes_of
from cpllm_model.training.evaluation.stress_sources import SIZE_PX, Source
from cpllm_model.training.evaluation.timed_clips import (
    BLACK,
    CHANGES,
    CLEAN,
    GREEN,
    HALF,
    SLIDES,
    SWAPPED,
    film,
    make_clips,
    shot,
)

SCENES = [Source("scene", str(200_000 + number)) for number in range(2)]


def test_a_film_has_a_shot_of_each_source_that_moves() -> None:
    planes_TJW, cuts = film(SCENES, 24, np.random.default_rng(0))
    assert planes_TJW.shape == (24, SIZE_PX[1] * 3 // 2, SIZE_PX[0]) and len(cuts) == 1 and 8 <= cuts[0] <= 16
    change_T = np.abs(np.diff(planes_TJW.astype(np.int16), axis=0)).mean((1, 2))
    assert change_T.min() > 0.5 and change_T.argmax() == cuts[0] - 1


def test_a_clip_that_is_too_short_is_played_forth_and_back(tmp_path: Path) -> None:
    planes_TJW = SCENES[0].film(SIZE_PX, 6)
    encode.encode_planes(planes_TJW, tmp_path / "short.mkv", 25, "ffv1", 0)
    shown_TJW = shot(Source("clip", str(tmp_path / "short.mkv")), 9)
    assert np.array_equal(shown_TJW[6], shown_TJW[4]) and np.array_equal(shown_TJW[8], shown_TJW[2])
    assert not np.array_equal(shown_TJW[5], shown_TJW[4])


@pytest.mark.parametrize(("kind", "colour"), [("black", BLACK), ("green", GREEN)])
def test_a_flat_stretch_has_one_colour(kind: str, colour: tuple[int, int, int]) -> None:
    planes_TJW = SCENES[0].film(SIZE_PX, 3)
    changed = CHANGES[kind](planes_TJW, planes_TJW[0], 0)
    assert [np.unique(plane).tolist() for plane in planes_of(np.array(changed))] == [[code] for code in colour]


def test_a_freeze_bars_and_credits_show_what_they_should() -> None:
    planes_TJW = SCENES[0].film(SIZE_PX, 3)
    before_JW = planes_TJW[0].copy()
    frozen, bars, writing = (CHANGES[kind](planes_TJW, before_JW, 5) for kind in ("freeze", "bars", "credits"))
    assert all(np.array_equal(frame, before_JW) for frame in frozen)
    luma_HW = planes_of(np.array(bars))[0][0]
    assert bars.shape == planes_TJW.shape and len(np.unique(luma_HW[60])) >= 6
    luma_HW = planes_of(np.array(writing))[0][0]
    assert writing.shape == planes_TJW.shape and 0.005 < (luma_HW > 100).mean() < 0.2 and (luma_HW == 16).mean() > 0.7


@pytest.mark.slow
def test_a_stretch_differs_from_the_clean_video_and_nothing_else_does(tmp_path: Path) -> None:
    shown, clips = {}, {}
    for clip, path in make_clips(SCENES, 6.0, (1.0, 8.0), tuple(CHANGES), 3, tmp_path):
        shown[clip.kind] = planes_of(encode.read_planes(ffmpeg.input(str(path)), *SIZE_PX))[0].astype(np.int16)
        clips[clip.kind] = clip
    assert len(shown) == len(CHANGES) + 6  # stretches of 8 s do not fit
    off_a_grid = [clips[kind].stretch[0] for kind in CHANGES]
    assert len(set(off_a_grid)) > len(CHANGES) / 2
    for kind in CHANGES:
        first, last = (round(25 * time) for time in clips[kind].stretch)
        off_T = np.abs(shown[kind] - shown[CLEAN]).mean((1, 2))
        assert last - first == 25 and first >= 25 and last <= 125
        outside = np.concatenate([off_T[: first - 1], off_T[last + 1 :]])
        assert np.median(off_T[first + 1 : last]) > 2 * outside.max(), kind
    half_T = np.abs(shown[HALF] - shown[CLEAN]).mean((1, 2))
    assert half_T[:74].min() > 2 * half_T[76:].max()
    assert np.abs(shown[SWAPPED][:75] - shown[HALF][75:]).mean() < 1
    steps_T = np.abs(np.diff(shown[SLIDES], axis=0)).mean((1, 2))
    assert np.sort(steps_T)[-1] > 5 and np.median(steps_T) < 0.3
