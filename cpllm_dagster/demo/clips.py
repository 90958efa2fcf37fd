"""Two libraries of short clips for the demo: rendered scenes, real encoders, known good and bad, and broken files.

In: a folder. Out: `<folder>/<library>/<clip>`, the same bytes each time; what is there already is kept.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cpllm_model.training.data.encode import write_video
from cpllm_model.training.data.scenes import render_scene

FRAMES, FPS = 48, 24.0
#: Seeds of the demo's scenes; the training corpus uses none of them.
FIRST_SEED = 90_000


@dataclass(frozen=True)
class Clip:
    """One rendered clip.

    Args:
        name: file name; the suffix chooses the container.
        scene: number of the scene.
        codec, crf: of `write_video`.
        size_px: width and height.
        source_px: width and height it is scaled down to before it is scaled up again; None leaves it as it is.
    """

    name: str
    scene: int
    codec: str
    crf: int
    size_px: tuple[int, int] = (640, 360)
    source_px: tuple[int, int] | None = None


LIBRARIES = {
    "films": [
        *(
            Clip(f"scene {scene} x264 crf {crf}.mp4", scene, "x264", crf)
            for scene in (1, 2)
            for crf in (18, 26, 34, 42)
        ),
        Clip("scene 3 x265 crf 22.mp4", 3, "x265", 22),
        Clip("scene 3 x265 crf 42.mp4", 3, "x265", 42),
        Clip("scene 4 av1 crf 25.mp4", 4, "av1", 25),
        Clip("scene 4 av1 crf 60.mp4", 4, "av1", 60),
    ],
    "user uploads": [
        *(Clip(f"phone {scene} crf {crf}.mp4", scene, "x264", crf, (360, 640)) for scene in (5, 6) for crf in (20, 38)),
        *(Clip(f"webcam crf {crf}.webm", 7, "vp9", crf, (320, 240)) for crf in (20, 45, 62)),
        *(Clip(f"camcorder q {crf}.avi", 8, "mpeg4", crf, (480, 360)) for crf in (2, 12, 31)),
        # Scene 9 would not do: it is soft, and loses little when it is scaled.
        Clip("upscaled from 160x90.mp4", 10, "x264", 20, source_px=(160, 90)),
        Clip("upscaled from 320x180.mp4", 10, "x264", 20, source_px=(320, 180)),
    ],
}


def render_libraries(folder: Path) -> None:
    """Render the clips that are not there yet."""
    missing = [
        (folder / library / clip.name, clip)
        for library, clips in LIBRARIES.items()
        for clip in clips
        if not (folder / library / clip.name).exists()
    ]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda job: _render(*job), missing))
    for library in LIBRARIES:
        _break_files(folder / library)


def _render(path: Path, clip: Clip) -> None:
    """Render one clip under another name first: a run that breaks off leaves no half clip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames_THW3 = render_scene(FIRST_SEED + clip.scene, *clip.size_px, FRAMES)
    if clip.source_px:
        small = [Image.fromarray(frame).resize(clip.source_px, Image.Resampling.BOX) for frame in frames_THW3]
        frames_THW3 = np.stack([np.asarray(frame.resize(clip.size_px)) for frame in small])
    unfinished = path.with_name(f".{path.name}")
    write_video(frames_THW3, unfinished, FPS, clip.codec, clip.crf)
    unfinished.replace(path)


def _break_files(folder: Path) -> None:
    """Add a file of text and the first half of a clip, whose index lies in the half that is missing."""
    (folder / "broken text.mp4").write_text("this is no video\n" * 100)
    whole = next(path for path in sorted(folder.iterdir()) if path.suffix == ".mp4" and "broken" not in path.name)
    content = whole.read_bytes()
    (folder / "broken half.mp4").write_bytes(content[: len(content) // 2])
