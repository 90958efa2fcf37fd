"""Screens and drawn scenes: the same bytes from a seed, text that is sharp, and movement in some of them."""

import numpy as np
import pytest

from cpllm_model.training.data.screens import LAYOUTS, add_subtitle, is_drawn, render_screen

TIMES = np.arange(12.0)


@pytest.mark.parametrize("seed", range(len(LAYOUTS)))
@pytest.mark.parametrize("size", [(320, 180), (120, 160)])
def test_a_screen_follows_from_its_seed(seed, size):
    found, again = (render_screen(seed, size[0], size[1], TIMES) for _ in range(2))
    assert found.shape == (12, size[1], size[0], 3) and found.dtype == np.uint8
    assert np.array_equal(found, again)
    assert not np.array_equal(found[0], render_screen(seed + len(LAYOUTS), size[0], size[1], TIMES)[0])
    assert np.abs(np.diff(found[0].astype(int), axis=1)).max() > 60  # hard edges
    alone = render_screen(seed, size[0], size[1], TIMES[7:8])
    assert np.array_equal(alone[0], found[7])


def test_some_screens_move_and_some_stand_still():
    moves = {seed: np.ptp(render_screen(seed, 320, 180, TIMES), axis=0).max() > 0 for seed in range(44)}
    assert 0.4 < np.mean(list(moves.values())) < 0.95


def test_cartoons_and_games_are_drawn_and_screens_are_not():
    assert 0.2 < np.mean([is_drawn(seed) for seed in range(len(LAYOUTS))]) < 0.5


def test_a_subtitle_changes_the_foot_of_every_frame_alike():
    frames = np.full((3, 180, 320, 3), 100, np.uint8)
    found = add_subtitle(frames, np.random.default_rng(0))
    assert np.array_equal(found[0], found[2]) and np.array_equal(found[:, :90], frames[:, :90])
    assert (found[:, 120:] != 100).any()
