"""Pictures of videos for a report: of the right moment and shape, and a reason where there is none."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cpllm_dagster.catalog.objects import VideoStore
from cpllm_dagster.lake.tables import video_id
from cpllm_dagster.report import key_frames
from cpllm_dagster.report.key_frames import NO_TIME, Moment, take_key_frames
from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.network.checkpoint import sampling_settings
from cpllm_model.training.data.encode import write_video

SAMPLING = sampling_settings("tiny")


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoStore, list[Moment]]:
    """A clip that is dark and then bright, at two moments, one that is cut off, and one that is gone."""
    folder = tmp_path_factory.mktemp("videos") / "films"
    folder.mkdir()
    random = np.random.default_rng(0)
    frames_THW3 = random.integers(0, 60, (200, 240, 320, 3), np.uint8)
    frames_THW3[100:] += 150
    clip = write_video(frames_THW3, folder / "clip.mp4", crf=30, g=10)
    (folder / "cut.mp4").write_bytes(clip.read_bytes()[:2000])
    store = VideoStore(str(folder.parent))
    listed = {video.uri: video for video in store.objects("films")}
    duration_s = 200 / 25
    found = []
    for uri, video in sorted(listed.items()):
        for start_s in (0.0, 0.75 * duration_s):
            facts = (video_id(uri), uri, video.etag, "m", video.size_bytes)
            found.append(Moment(*facts, start_s, start_s + duration_s / 4))
    gone = Moment("gone", f"file://{folder}/gone.mp4", "1", "m", 10, 0.0, 1.0)
    return store, [found[0], found[1], found[2], gone]


def test_pictures_are_small_of_the_moment_and_of_the_shape_of_the_video(
    moments: tuple[VideoStore, list[Moment]],
) -> None:
    store, (dark, bright, cut, gone) = moments
    rows, reasons = take_key_frames([dark, bright, cut, gone], store, SAMPLING, DecodeLimits())
    pictures = [Image.open(io.BytesIO(row["picture"])) for row in rows]
    assert len(pictures) == 2, reasons
    assert [(picture.format, picture.size) for picture in pictures] == [("WEBP", (160, 120))] * 2
    means = [float(np.asarray(picture).mean()) for picture in pictures]
    assert means[0] < 80 < 120 < means[1]
    assert [row["moment_start_s"] for row in rows] == [dark.moment_start_s, bright.moment_start_s]
    assert all(len(row["picture"]) < 20_000 for row in rows)
    assert set(reasons) == {cut.video_id, gone.video_id} and all(reasons.values())


def test_another_version_is_not_shown(moments: tuple[VideoStore, list[Moment]]) -> None:
    store, (dark, *_) = moments
    other = replace(dark, etag="another")
    rows, reasons = take_key_frames([other], store, SAMPLING, DecodeLimits())
    assert rows == [] and "listed" in reasons[dark.video_id]


def test_pictures_end_when_their_time_is_over(
    moments: tuple[VideoStore, list[Moment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_frames, "BUDGET_S", -1.0)
    store, (dark, *_) = moments
    assert take_key_frames([dark], store, SAMPLING, DecodeLimits()) == ([], {dark.video_id: NO_TIME})
    assert take_key_frames([], store, SAMPLING, DecodeLimits()) == ([], {})
