"""Clips for the benchmarks: a moving test picture with noise through real encoders, as long as asked.

In: a folder. Out: files there; what is there already is kept. A long clip repeats the packets of a short one, so that
it costs no encoding; its key frames are the starts of these.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ffmpeg

from cpllm_model.training.data.encode import ffmpeg_binary

FPS = 25
ENCODED_S = 2
#: Rows of a 16:9 picture -> bit/s of H.264; the other codecs are given `RATE` times that.
BIT_RATES = {360: 800_000, 720: 3_000_000, 1080: 6_000_000, 2160: 20_000_000}
#: Codec -> suffix and the fastest sensible options: what a stream costs to decode hangs on its rate.
CODECS = {
    "h264": (".mp4", {"vcodec": "libx264", "preset": "veryfast"}),
    "hevc": (
        ".mp4",
        {"vcodec": "libx265", "preset": "ultrafast", "x265-params": "log-level=none:pools=none", "tag:v": "hvc1"},
    ),
    "vp9": (".webm", {"vcodec": "libvpx-vp9", "deadline": "realtime", "cpu-used": 8, "row-mt": 1}),
    "av1": (".mp4", {"vcodec": "libsvtav1", "preset": 12}),
}
RATE = {"h264": 1.0, "hevc": 0.6, "vp9": 0.7, "av1": 0.5}


def clip(folder: Path, codec: str, height_px: int, seconds: int, scene: int = 0) -> Path:
    """Make one clip, unless it is there.

    Args:
        folder: where clips lie.
        codec: a key of CODECS.
        height_px: a key of BIT_RATES; the picture is 16:9.
        seconds: its length.
        scene: another number is another picture.
    """
    suffix, options = CODECS[codec]
    folder.mkdir(parents=True, exist_ok=True)
    short = folder / f"{codec} {height_px}p scene {scene}{suffix}"
    if not short.exists():
        size = f"{height_px * 16 // 9}x{height_px}"
        picture = ffmpeg.input(f"testsrc2=size={size}:rate={FPS}:duration={ENCODED_S}", f="lavfi")
        picture = picture.filter("hue", h=37 * scene).filter("noise", alls=8 + scene, allf="t", all_seed=scene)
        rate = round(BIT_RATES[height_px] * RATE[codec])
        rates = {"b:v": rate, "maxrate": rate, "bufsize": rate} if codec == "h264" else {"b:v": rate}
        _write(picture, short, pix_fmt="yuv420p", g=ENCODED_S * FPS, **rates, **options)
    path = folder / f"{short.stem} {seconds} s{suffix}"
    if not path.exists():
        repeated = ffmpeg.input(str(short), stream_loop=-1)
        index = {"cues_to_front": 1} if suffix == ".webm" else {"movflags": "faststart"}
        _write(repeated, path, vcodec="copy", t=seconds, **index)
    return path


def _write(stream: Any, path: Path, **options: object) -> None:
    unfinished = path.with_name(f"{os.getpid()} {path.name}")
    output = stream.output(str(unfinished), **options).global_args("-hide_banner", "-loglevel", "error")
    output.run(cmd=ffmpeg_binary(), overwrite_output=True, quiet=True)
    unfinished.rename(path)
