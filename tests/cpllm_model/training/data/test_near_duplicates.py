"""Near-duplicates by their difference hashes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cpllm_model.training.data.near_duplicates import _components, difference_hash, near_duplicate_groups


def flipped(bits: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    changed = bits.copy()
    changed[rng.choice(256, count, replace=False)] ^= 1
    return changed


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), near=st.integers(0, 40), far=st.integers(41, 80))
def test_pictures_within_40_bits_are_one_and_so_are_their_neighbours(seed: int, near: int, far: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2, 256, np.uint8)
    step = flipped(base, near, rng)
    hashes = [base, rng.integers(0, 2, 256, np.uint8), step, flipped(step, 40, rng), flipped(base, far, rng)]
    first, other, second, third, fourth = _components(np.packbits(hashes, axis=1))
    assert first == second == third == 0 and other == 1
    distances = [int((hashes[4] ^ one).sum()) for one in hashes[:4]]
    assert (fourth == 4) == (min(distances) > 40)


def test_many_hashes_are_compared_in_blocks() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (150, 256), np.uint8)
    assert _components(np.packbits(np.concatenate([bits, bits]), axis=1)) == [*range(150), *range(150)]


def test_a_hash_tells_brighter_from_darker_and_survives_resizing() -> None:
    ramp = np.repeat(np.tile(np.arange(160, dtype=np.uint8), (90, 1))[..., None], 3, -1)
    assert np.unpackbits(difference_hash(ramp)).all()
    assert not np.unpackbits(difference_hash(ramp[:, ::-1].copy())).any()
    small = np.asarray(Image.fromarray(ramp).resize((80, 45)))
    assert (np.unpackbits(difference_hash(small)) != np.unpackbits(difference_hash(ramp))).sum() < 8


def test_a_file_that_is_no_picture_is_a_group_of_its_own(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    files = [tmp_path / name for name in ("a.png", "broken.jpg", "missing.png", "b.jpg")]
    Image.fromarray(noise).save(files[0])
    files[1].write_bytes(b"\xff\xd8\xff broken")
    Image.fromarray(noise).save(files[3], quality=90)
    assert near_duplicate_groups(files) == [0, 1, 2, 0]
