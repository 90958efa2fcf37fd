"""What the tests share: clips of rendered scenes that no model was trained on, a real S3 server, a real local Ray."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpllm_dagster.demo.embedded_s3 import EmbeddedS3, embedded_s3
from cpllm_model.training.data.encode import write_video
from cpllm_model.training.data.scenes import render_scene

#: Seeds from here on are in no corpus.
UNSEEN_SEED = 100_000
LADDER = (18, 26, 34, 42)
RAY_CPUS = 4

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A job in a shell's background ignores Ctrl-C, and so would all that the tests start and end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ladders(tmp_path_factory) -> list[list[Path]]:
    """Two unseen scenes, each an x264 ladder from the best rung to the worst."""
    folder = tmp_path_factory.mktemp("ladders")
    found = []
    for seed in (UNSEEN_SEED, UNSEEN_SEED + 1):
        frames = render_scene(seed, 480, 270, 24)
        found.append([write_video(frames, folder / f"{seed}-{crf}.mp4", crf=crf, g=12) for crf in LADDER])
    return found


@pytest.fixture(scope="session")
def s3_server() -> Iterator[EmbeddedS3]:
    """The embedded S3 server, with its credentials in the environment."""
    with embedded_s3() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def local_ray(s3_server: EmbeddedS3) -> Iterator[None]:
    """A Ray of its own on this machine, whose workers see the S3 credentials."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # deadlines have to hold on a busy machine, too
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            "local",
            num_cpus=RAY_CPUS,
            include_dashboard=False,
            object_store_memory=256 << 20,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield
        ray.shutdown()
