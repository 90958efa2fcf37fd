"""Encoding through ffmpeg changes nothing but what is asked."""

import ffmpeg
import numpy as np

from cpllm_model.training.data import encode


def test_encoding_planes_keeps_their_colours(tmp_path):
    planes = np.full((8, 96, 64), 126, np.uint8)
    planes[:, 64:80], planes[:, 80:] = 90, 200
    clip = encode.encode_planes(planes, tmp_path / "flat.mp4", 25, "x264", 0)
    assert np.abs(encode.read_planes(ffmpeg.input(str(clip)), 64, 64).astype(int) - planes).max() <= 1
