"""Which pictures of a set show nearly the same: one shot of a burst and the next, one scene and its copy.

In: picture files. Out: groups by the distance of difference hashes: 256 bits, each whether a point of the picture
is brighter than its left neighbour. Pictures within 40 bits are near-duplicates, and so are the near-duplicates of
these. Knows nothing of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cpllm_model.decoding.pictures import read_picture
from cpllm_model.errors import VideoError

_ROWS, _COLUMNS = 16, 16
_MOST_BITS = 40
_BLOCK = 64


def near_duplicate_groups(files: Sequence[Path]) -> list[int]:
    """Group pictures; 12,000 take about a minute of one core.

    Args:
        files: of the pictures. One that cannot be read is a group of its own.

    Returns:
        for each picture the index of its group's first one.
    """
    hashes, indexes = [], []
    for index, file in enumerate(files):
        try:
            with file.open("rb") as opened:
                hashes.append(difference_hash(read_picture(opened, str(file))))
        except (VideoError, OSError):
            continue
        indexes.append(index)
    groups = list(range(len(files)))
    for one, first in enumerate(_components(np.array(hashes, np.uint8).reshape(-1, _ROWS * _COLUMNS // 8))):
        groups[indexes[one]] = indexes[first]
    return groups


def difference_hash(rgb_HW3: np.ndarray) -> np.ndarray:
    """Hash a picture by the signs of its horizontal differences.

    Args:
        rgb_HW3: uint8 RGB.

    Returns:
        uint8 (32,), 256 bits.
    """
    grey = Image.fromarray(rgb_HW3).convert("L").resize((_COLUMNS + 1, _ROWS), Image.Resampling.BILINEAR)
    points = np.asarray(grey)
    return np.packbits(points[:, 1:] > points[:, :-1])


def _components(hashes_NB: np.ndarray) -> list[int]:
    """For each hash the first of those it is connected to."""
    words_NW = np.ascontiguousarray(hashes_NB).view(np.uint64)
    firsts = list(range(len(words_NW)))

    def first_of(index: int) -> int:
        while firsts[index] != index:
            firsts[index] = firsts[firsts[index]]
            index = firsts[index]
        return index

    for start in range(0, len(words_NW), _BLOCK):
        block_BW = words_NW[start : start + _BLOCK]
        bits_BN = sum(
            np.bitwise_count(block_BW[:, None, word] ^ words_NW[:, word]).astype(np.uint16) for word in range(4)
        )
        for one, other in np.argwhere(bits_BN <= _MOST_BITS):
            a, b = first_of(start + int(one)), first_of(int(other))
            firsts[max(a, b)] = min(a, b)
    return [first_of(index) for index in range(len(firsts))]
