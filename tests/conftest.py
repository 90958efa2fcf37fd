"""Clips shared by the tests: rendered scenes that no model was trained on, through real encoders."""

from pathlib import Path

import pytest

from cpllm_model.training.encode import write_video
from cpllm_model.training.scenes import render_scene

#: Seeds from here on are in no corpus.
UNSEEN_SEED = 100_000
LADDER = (18, 26, 34, 42)


@pytest.fixture(scope="session")
def ladders(tmp_path_factory) -> list[list[Path]]:
    """Two unseen scenes, each an x264 ladder from the best rung to the worst."""
    folder = tmp_path_factory.mktemp("ladders")
    found = []
    for seed in (UNSEEN_SEED, UNSEEN_SEED + 1):
        frames = render_scene(seed, 480, 270, 24)
        found.append([write_video(frames, folder / f"{seed}-{crf}.mp4", crf=crf, g=12) for crf in LADDER])
    return found
