"""Statistics of bursts: what is done to pixels moves the number that is meant to show it."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cpllm_model.network.statistics import _comb, _histogram, _statistics, burst_statistics, statistic_names
from cpllm_model.training.data.degradation import apply, split
from cpllm_model.training.data.distortions import KINDS, LOW_FRAME_RATE, Place, Step
from cpllm_model.training.data.encode import rgb_to_planes
from cpllm_model.training.data.scenes import render_scene

FRAGMENTS = 4
INTERVAL_S = 0.04


def statistics(planes):
    """Statistics of bursts of FRAGMENTS fragments at 25 frames a second."""
    return burst_statistics(planes, FRAGMENTS, torch.full((len(planes) // FRAGMENTS,), INTERVAL_S))


@pytest.fixture(scope="module")
def pristine():
    return rgb_to_planes(render_scene(11, 320, 240, 8))


def bursts(planes_TJW):
    """One burst of 2 x 2 fragments, float (4, 8, 3, 96, 96)."""
    luma, *chroma = split(planes_TJW)
    frames = np.stack([luma, *(plane.repeat(2, 1).repeat(2, 2) for plane in chroma)], 1)
    cut = [frames[:, :, y : y + 96, x : x + 96] for y in (20, 130) for x in (30, 200)]
    return torch.from_numpy(np.stack(cut)).float()


def test_there_is_one_finite_vector_a_burst(pristine):
    both = torch.cat([bursts(pristine), torch.full((FRAGMENTS, 8, 3, 96, 96), 128.0)])
    found = statistics(both)
    assert found.shape == (2, len(statistic_names(8))) and found.dtype == torch.float32
    assert found.isfinite().all()


def test_every_statistic_has_a_name_of_its_own():
    names = statistic_names(8)
    assert len(set(names)) == len(names)
    assert names[0] == "tone, mean 0" and names[-1] == "frame interval"


def test_the_frame_interval_is_a_statistic(pristine):
    slow, nominal, fast = (
        burst_statistics(bursts(pristine), FRAGMENTS, torch.tensor([interval_s])) for interval_s in (0.2, 0.04, 0.02)
    )
    assert slow[0, -1] > nominal[0, -1] == 0 > fast[0, -1]
    assert torch.equal(slow[:, :-1], fast[:, :-1])


@pytest.fixture(scope="module")
def three_bursts(pristine):
    return torch.cat([bursts(planes).byte() for planes in (pristine, pristine[::-1], 255 - pristine)])


def test_on_a_cpu_no_bit_depends_on_the_batch(three_bursts):
    together = statistics(three_bursts)
    for index, alone in enumerate(three_bursts.split(FRAGMENTS)):
        assert torch.equal(together[index], statistics(alone)[0])
    assert torch.equal(statistics(three_bursts.float()), together)


def test_bursts_at_once_are_as_one_by_one(three_bursts):
    at_once = torch.cat([*_statistics(three_bursts.unflatten(0, (-1, FRAGMENTS))).values()], 1)
    torch.testing.assert_close(at_once, statistics(three_bursts)[:, :-1], atol=1e-5, rtol=1e-5)


def test_off_the_cpu_the_number_of_kernels_does_not_grow_with_the_bursts():
    class Kernels(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += 1
            return func(*args, **(kwargs or {}))

    statistics(torch.zeros(FRAGMENTS, 8, 3, 96, 96))  # what is made once, for all calls, is made here
    counts = []
    for number in (2, 50):
        planes = torch.zeros(number * FRAGMENTS, 8, 3, 96, 96, dtype=torch.uint8, device="meta")
        with Kernels() as kernels:
            found = burst_statistics(planes, FRAGMENTS, torch.zeros(number, device="meta"))
        assert found.shape == (number, len(statistic_names(8)))
        counts.append(kernels.count)
    assert counts[0] == counts[1] < 1500


# A low frame rate is filmed, not made of frames that are there.
@pytest.mark.parametrize(
    "kind", [name for name, kind in KINDS.items() if kind.place is not Place.ENCODE and name != LOW_FRAME_RATE]
)
def test_every_distortion_moves_some_statistic_in_order_of_severity(kind, pristine, tmp_path):
    steps = [apply(pristine, Step(kind, severity, 2), 25, tmp_path) for severity in (1, 3, 5)]
    found = torch.cat([statistics(bursts(planes)) for planes in (pristine, *steps)])
    moves = found.diff(dim=0)
    ordered = ((moves > 1e-3).all(0) | (moves < -1e-3).all(0)).sum()
    assert ordered >= (1 if KINDS[kind].family in ("stutter", "packet loss") else 5)


def test_a_comb_in_the_histogram_is_found():
    rng = np.random.default_rng(0)
    smooth = torch.from_numpy(rng.normal(120, 30, (1, 96, 96)).round().clip(0, 255)).float()
    banded = (smooth / 12).round() * 12
    combs = [_comb(_histogram(plane)) for plane in (smooth, banded)]
    band = 4 + 2 + 4  # after the lags and the used codes: 21-27 cycles, where 256 / 12 lies
    assert combs[1][0, band] > combs[0][0, band] + 1
    assert combs[1][0, 4] < combs[0][0, 4] / 5  # far fewer codes are used
