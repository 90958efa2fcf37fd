"""Statistics of a burst of fragments: what signal processing knows of distortions, computed rather than learned.

Tone, colour, gradients over scales, spectra, block grids, flat areas, local contrast (MSCN, Mittal et al. 2012),
combs in the histogram (banding), and what changes from frame to frame. Each is a few numbers a fragment; over the
fragments of a burst their mean and spread are kept. In: YUV codes. Out: one vector a burst, each number about -5..5
once it is standardised. Knows nothing of what is learned from them.

Shape legend: K bursts, F fragments of a burst, N = K * F, B frames, P fragment side. Where a function serves both, N
counts fragments of one burst.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise

import torch
from torch.nn import functional

CODES = 256
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BLOCK_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BLOCK_PX = 8
GRID_PERIODS_PX = (4, 8, 16)
SCALES = 4
RADIAL_BINS, AXIS_BINS = 12, 8
#: Edges of the bands of the histogram's spectrum, cycles in 256 codes: a comb of step s has its peak at 256 / s.
COMB_EDGES = (6, 9, 12, 16, 21, 27, 35, 46, 60, 79, 103, 128)
COMB_LAGS = (1, 2, 3, 5)
MSCN_EDGES = (0.1, 0.3, 0.6, 1.0, 1.5, 2.5)
MSCN_WINDOW_PX = 7
#: A frame that repeats the one before differs in fewer pixels than this share.
REPEATED_SHARE = 0.03


@torch.no_grad()
def burst_statistics(planes_NB3PP: torch.Tensor, fragments: int) -> torch.Tensor:
    """Compute the statistics of bursts.

    Args:
        planes_NB3PP: float32 YUV codes 0-255, fragments of a burst one after the other.
        fragments: of a burst (F).

    Returns:
        float32 (K, `statistics_width(B)`).
    """
    # Burst by burst: its planes stay in the processor's caches, and no burst's numbers depend on another.
    return torch.stack([_burst(planes) for planes in planes_NB3PP.float().split(fragments)])


def _burst(planes_FB3PP: torch.Tensor) -> torch.Tensor:
    """Give the statistics of one burst."""
    luma_FBPP = planes_FB3PP[:, :, 0]
    first, last, step = luma_FBPP[:, 0], luma_FBPP[:, -1], luma_FBPP[:, 1] - luma_FBPP[:, 0]
    histogram = _histogram(first)
    each = torch.cat(
        [
            _tone(histogram),
            _colour(planes_FB3PP[:, 0, 1:]),
            _gradients(first),
            _spectrum(first, axes=True),
            _spectrum(step, axes=False),
            *(_block_grid(frame) for frame in (first, last)),
            *(_flatness(frame) for frame in (first, last)),
            *(_local_contrast(frame) for frame in (first, step)),
            _mscn(first),
            _mscn(functional.avg_pool2d(first, 2)),
            _changes(luma_FBPP),
        ],
        1,
    )
    std, mean = torch.std_mean(each, 0, correction=0)
    histograms = [histogram, *(_histogram(plane) for plane in planes_FB3PP[:, 0, 1:].unbind(1))]
    combs = _comb(torch.stack([one.mean(0) for one in histograms]))
    return torch.cat([mean, std, combs.flatten(), _rhythm(luma_FBPP)])


@functools.cache
def statistics_width(burst_frames: int) -> int:
    """Give the number of statistics of a burst of so many frames."""
    # Models are also built on the meta device, which has no numbers to count with.
    with torch.device("cpu"):
        return burst_statistics(torch.zeros(1, burst_frames, 3, 32, 32), 1).shape[1]


def _log(x: torch.Tensor) -> torch.Tensor:
    """Compress a magnitude; a hundredth of a code still counts."""
    return torch.log(x + 0.01)


def _histogram(plane_NPP: torch.Tensor) -> torch.Tensor:
    """Give the share of each code, (N, 256)."""
    codes = plane_NPP.flatten(1).long().clamp(0, CODES - 1)
    counts = torch.zeros(len(codes), CODES, device=codes.device)
    return counts.scatter_add_(1, codes, torch.ones_like(codes, dtype=counts.dtype)) / codes.shape[1]


def _tone(histogram: torch.Tensor) -> torch.Tensor:
    below = histogram.cumsum(1)
    quantiles = [(below < share).sum(1) for share in QUANTILES]
    spread = quantiles[-1] - quantiles[0]
    used = (histogram > 0).sum(1) / (spread + 1)
    clipped = torch.stack([below[:, 18], 1 - below[:, 232]], 1)
    return torch.cat([torch.stack([*quantiles, spread], 1) / 64 - 2, used[:, None], clipped], 1)


def _colour(chroma_N2PP: torch.Tensor) -> torch.Tensor:
    chroma = (chroma_N2PP - 128) / 16
    std, mean = torch.std_mean(chroma, (2, 3), correction=0)
    saturation = chroma.square().sum(1).sqrt().flatten(1)
    return torch.cat([mean, _log(std), _log(saturation.mean(1, True)), _log(saturation.amax(1, True))], 1)


def _gradients(luma_NPP: torch.Tensor) -> torch.Tensor:
    found = []
    for _ in range(SCALES):
        for gradient in (luma_NPP[:, :, 1:] - luma_NPP[:, :, :-1], luma_NPP[:, 1:] - luma_NPP[:, :-1]):
            mean = gradient.abs().mean((1, 2))
            found += [_log(mean), _log(gradient.square().mean((1, 2)).sqrt()) - _log(mean)]
        luma_NPP = functional.avg_pool2d(luma_NPP, 2)
    return torch.stack(found, 1)


@functools.cache
def _spectral_bins(side: int, *, axes: bool) -> torch.Tensor:
    """Give which frequencies are averaged in which band, (side * (side // 2 + 1), bands)."""
    rows, columns = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
    radius = torch.hypot(rows, columns)
    edges = torch.linspace(1.5 / side, 0.5 + 1e-6, RADIAL_BINS + 1)
    masks = [(radius >= a) & (radius < b) for a, b in pairwise(edges.tolist())]
    if axes:
        edges = torch.linspace(1.5 / side, 0.5 + 1e-6, AXIS_BINS + 1)
        narrow = 2.5 / side
        for along, across in ((rows.abs().expand_as(radius), columns), (columns.expand_as(radius), rows)):
            near = across.abs() <= narrow
            masks += [(along >= a) & (along < b) & near for a, b in pairwise(edges.tolist())]
    return torch.stack([mask.float().flatten() / max(1.0, float(mask.sum())) for mask in masks], 1)


def _spectrum(luma_NPP: torch.Tensor, *, axes: bool) -> torch.Tensor:
    side = luma_NPP.shape[-1]
    window = torch.hann_window(side, periodic=False, device=luma_NPP.device)
    centred = luma_NPP - luma_NPP.mean((1, 2), keepdim=True)
    power = torch.fft.rfft2(centred * window[:, None] * window).abs().square().flatten(1) / side**2
    return _log(power @ _spectral_bins(side, axes=axes).to(power.device))


def _block_grid(luma_NPP: torch.Tensor) -> torch.Tensor:
    """Compare the steps at the best phase of each grid period with the mean step."""
    found = []
    for gradient in ((luma_NPP[:, :, 1:] - luma_NPP[:, :, :-1]).abs().mean(1),
                     (luma_NPP[:, 1:] - luma_NPP[:, :-1]).abs().mean(2)):  # fmt: skip
        for period in GRID_PERIODS_PX:
            length = gradient.shape[1] // period * period
            phases = gradient[:, :length].unflatten(1, (-1, period)).mean(1)
            top = phases.topk(2, 1).values
            mean = phases.mean(1) + 0.1
            found += [torch.log((top[:, 0] + 0.1) / mean), (top[:, 0] - top[:, 1]) / mean]
    return torch.stack(found, 1)


def _flatness(luma_NPP: torch.Tensor) -> torch.Tensor:
    found = []
    for step in (luma_NPP[:, :, 1:] - luma_NPP[:, :, :-1], luma_NPP[:, 1:] - luma_NPP[:, :-1]):
        size = step.abs()
        moved = (size > 0).float().mean((1, 2))
        # Banding has few steps, but each is high.
        found += [1 - moved, (size <= 1).float().mean((1, 2)), _log(size.mean((1, 2)) / (moved + 0.01))]
    bent = luma_NPP[:, :, 2:] - 2 * luma_NPP[:, :, 1:-1] + luma_NPP[:, :, :-2]
    return torch.stack([*found, (bent == 0).float().mean((1, 2))], 1)


def _local_contrast(plane_NPP: torch.Tensor) -> torch.Tensor:
    """Give quantiles of the standard deviation in blocks: the lowest ones are the noise floor."""
    side = plane_NPP.shape[-1] // BLOCK_PX * BLOCK_PX
    blocks = plane_NPP[:, :side, :side].unflatten(2, (-1, BLOCK_PX)).unflatten(1, (-1, BLOCK_PX))
    deviation = blocks.std((2, 4), correction=0).flatten(1).sort(1).values
    places = [round(share * (deviation.shape[1] - 1)) for share in BLOCK_QUANTILES]
    return _log(deviation[:, places])


def _mscn(luma_NPP: torch.Tensor) -> torch.Tensor:
    """Describe the distribution of mean-subtracted, contrast-normalised luma and of its neighbours' products."""
    pad = MSCN_WINDOW_PX // 2
    mean = functional.avg_pool2d(luma_NPP, MSCN_WINDOW_PX, 1, pad, count_include_pad=False)
    square = functional.avg_pool2d(luma_NPP.square(), MSCN_WINDOW_PX, 1, pad, count_include_pad=False)
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    normal = (luma_NPP - mean) / (deviation + 1)
    size = normal.abs()
    shares = [(size > edge).float().mean((1, 2)) for edge in MSCN_EDGES]
    products = (
        normal[:, :, 1:] * normal[:, :, :-1],
        normal[:, 1:] * normal[:, :-1],
        normal[:, 1:, 1:] * normal[:, :-1, :-1],
    )
    pairs = [moment for product in products for moment in (product.mean((1, 2)), product.abs().mean((1, 2)))]
    return torch.stack([*shares, *pairs, _log(deviation.mean((1, 2)))], 1)


def _changes(luma_NBPP: torch.Tensor) -> torch.Tensor:
    """Describe what changes from frame to frame, in order and sorted, and how detail pulses over the burst."""
    step = luma_NBPP[:, 1:] - luma_NBPP[:, :-1]
    size = step.abs()
    mean, same = _log(size.mean((2, 3))), (size < 0.5).float().mean((2, 3))
    bent = (step[:, 1:] - step[:, :-1]).abs().mean((1, 2, 3))
    detail = [
        _log((luma_NBPP[:, index, :, 1:] - luma_NBPP[:, index, :, :-1]).abs().mean((1, 2)))
        for index in (0, luma_NBPP.shape[1] // 2, -1)
    ]
    drift = torch.stack([detail[1] - detail[0], detail[2] - detail[0]], 1)
    return torch.cat(
        [mean, mean.sort(1).values, same, same.sort(1).values, _log(bent)[:, None], drift, mean.std(1, keepdim=True)], 1
    )


def _comb(histogram: torch.Tensor) -> torch.Tensor:
    """Find combs in a histogram (K, 256): codes that are left out at a regular distance."""
    rough = [(histogram[:, lag:] - histogram[:, :-lag]).abs().sum(1) for lag in COMB_LAGS]
    used = (histogram > 0).sum(1)
    reach = [(histogram.cumsum(1) < share).sum(1) for share in (0.005, 0.995)]
    spectrum = torch.fft.rfft(histogram).abs()
    bands = [spectrum[:, a:b].amax(1) for a, b in pairwise(COMB_EDGES)]
    return torch.cat(
        [torch.stack([*rough, used / (reach[1] - reach[0] + 1), torch.log1p(used)], 1), _log(torch.stack(bands, 1))], 1
    )


def _rhythm(luma_FBPP: torch.Tensor) -> torch.Tensor:
    """Tell which frames of a burst repeat the one before, over all its fragments."""
    changed = ((luma_FBPP[:, 1:] - luma_FBPP[:, :-1]).abs() > 1).float().mean((0, 2, 3))
    repeated = (changed < REPEATED_SHARE).float()
    switches = repeated.diff().abs().sum()
    relative = torch.log((changed + 1e-3) / (changed.amax() + 1e-3)) / math.log(10)
    return torch.cat([repeated, torch.stack([repeated.sum(), switches]), relative, relative.amin(0, True)])
