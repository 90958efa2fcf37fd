"""Statistics of a burst of fragments: what signal processing knows of distortions, computed rather than learned.

Tone, colour, gradients over scales, spectra, block grids, flat areas, local contrast (MSCN, Mittal et al. 2012),
the sharpness of edges, the detail of chroma, combs in the histogram (banding), and what changes from frame to frame.
Each is a few numbers a fragment; over the fragments of a burst their mean and spread are kept. Of the blocks of a
burst, ordered by their contrast, how much fine detail goes with how much contrast: in natural pictures the two go
together, and encoders, blur and noise each part them in their own way. In: YUV codes. Out: one vector a burst, each
number about -5..5 once it is standardised; `statistic_names` has their names and order, `config.VERSIONS` their
version. Knows nothing of what is learned from them.

Shape legend: K bursts, F fragments of a burst, N = K * F, B frames, P fragment side, L blocks. Where a function serves
both, N counts fragments of one burst.
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
#: Edges of bands of a block's discrete cosine transform, distance from its mean; the lowest band is its contrast.
DCT_EDGES = (0.5, 2.1, 4.1, 6.1, 12.0)
CONTRAST_BINS = 6
#: Share of the steps of a fragment, the strongest, that count as edges.
EDGE_SHARE = 0.02
EDGE_SPANS_PX = (3, 5)
CHROMA_SCALES = 3
#: Frame rate at which the interval's statistic is 0.
NOMINAL_FPS = 25.0
#: A frame that repeats the one before differs in fewer pixels than this share.
REPEATED_SHARE = 0.03


@torch.no_grad()
def burst_statistics(planes_NB3PP: torch.Tensor, fragments: int, interval_s_K: torch.Tensor) -> torch.Tensor:
    """Compute the statistics of bursts.

    Args:
        planes_NB3PP: YUV codes 0-255, uint8 or float, fragments of a burst one after the other.
        fragments: of a burst (F).
        interval_s_K: seconds from frame to frame of each burst.

    Returns:
        float32 (K, `len(statistic_names(B))`).
    """
    # Burst by burst: its planes stay in the processor's caches, and no burst's numbers depend on another.
    found = [torch.cat([*_burst(planes.float()).values()]) for planes in planes_NB3PP.split(fragments)]
    return torch.cat([torch.stack(found), _interval(interval_s_K)], 1)


@functools.cache
def statistic_names(burst_frames: int) -> tuple[str, ...]:
    """Name the statistics of a burst of so many frames, in their order: what is measured, how pooled, which number."""
    # Models are also built on the meta device, which has no numbers to count with.
    with torch.device("cpu"):
        groups = _burst(torch.zeros(1, burst_frames, 3, 32, 32))
    return (*(f"{name} {index}" for name, values in groups.items() for index in range(len(values))), "frame interval")


def _interval(interval_s_K: torch.Tensor) -> torch.Tensor:
    """Give the interval as (K, 1), 0 at 25 frames a second; five of these and two hundred are its ends."""
    return torch.log(interval_s_K.float() * NOMINAL_FPS).clamp(-3, 3)[:, None]


def _burst(planes_FB3PP: torch.Tensor) -> dict[str, torch.Tensor]:
    """Give the statistics of one burst, in groups by name."""
    luma_FBPP, chroma_FB2PP = planes_FB3PP[:, :, 0], planes_FB3PP[:, :, 1:]
    first, last, step = luma_FBPP[:, 0], luma_FBPP[:, -1], luma_FBPP[:, 1] - luma_FBPP[:, 0]
    middle = luma_FBPP.shape[1] // 2
    late_step = luma_FBPP[:, middle] - luma_FBPP[:, middle - 1]
    histogram = _histogram(first)
    by_fragment = {
        "tone": _tone(histogram),
        "colour": _colour(chroma_FB2PP[:, 0]),
        "gradients": _gradients(first),
        "spectrum": _spectrum(first, axes=True),
        "spectrum of change": _spectrum(step, axes=False),
        "block grid": _block_grid(first),
        "block grid of last frame": _block_grid(last),
        "flatness": _flatness(first),
        "flatness of last frame": _flatness(last),
        "local contrast": _local_contrast(first),
        "local contrast of change": _local_contrast(step),
        "mscn": _mscn(first),
        "mscn of half size": _mscn(functional.avg_pool2d(first, 2)),
        "changes": _changes(luma_FBPP),
    }
    local = {
        "edges": _edges(first),
        "edges of last frame": _edges(last),
        "edges of half size": _edges(functional.avg_pool2d(first, 2)),
        "chroma detail": _chroma_detail(chroma_FB2PP[:, 0]),
        "chroma detail of change": _chroma_detail(chroma_FB2PP[:, 1] - chroma_FB2PP[:, 0]),
        "persistence": _persistence(luma_FBPP),
        "grid steps": _grid_steps(first),
        "grid steps of last frame": _grid_steps(last),
        "grid steps of change": _grid_steps(step),
    }
    first_blocks, last_blocks = _dct_blocks(first), _dct_blocks(last)
    order, last_order = (_band_energies(blocks)[:, 0].argsort(stable=True) for blocks in (first_blocks, last_blocks))
    histograms = [histogram, *(_histogram(plane) for plane in chroma_FB2PP[:, 0].unbind(1))]
    return {
        **{f"{name}, mean": values.mean(0) for name, values in by_fragment.items()},
        **{f"{name}, spread": values.std(0, correction=0) for name, values in by_fragment.items()},
        "combs": _comb(torch.stack([one.mean(0) for one in histograms])).flatten(),
        "rhythm": _rhythm(luma_FBPP),
        "detail by contrast": _detail_by_contrast(first_blocks, order),
        "detail by contrast of last frame": _detail_by_contrast(last_blocks, last_order),
        # Blocks of differences are ordered by the contrast of what they belong to.
        "detail by contrast of change": _detail_by_contrast(_dct_blocks(step), order),
        "detail by contrast of late change": _detail_by_contrast(_dct_blocks(late_step), order),
        **{f"{name}, mean": values.mean(0) for name, values in local.items()},
        **{f"{name}, spread": values.std(0, correction=0) for name, values in local.items()},
        **{f"{name}, least": values.amin(0) for name, values in local.items()},
        **{f"{name}, most": values.amax(0) for name, values in local.items()},
        "pulse": _pulse(luma_FBPP),
    }


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


def _grid_steps(luma_NPP: torch.Tensor) -> torch.Tensor:
    """Compare how much steps stand out from their neighbours at the best phase of each grid period."""
    found = []
    for luma in (luma_NPP, luma_NPP.transpose(1, 2)):
        size = (luma[..., 1:] - luma[..., :-1]).abs()
        raised = (size[..., 1:-1] - (size[..., :-2] + size[..., 2:]) / 2).mean(1)
        mean = size.mean((1, 2)) + 0.1
        for period in (*GRID_PERIODS_PX, 2 * GRID_PERIODS_PX[-1]):
            # A fragment may be smaller than the longest period: then its last phases are not there.
            phases = functional.pad(raised, (0, -raised.shape[1] % period), value=math.nan)
            top = phases.unflatten(1, (-1, period)).nanmean(1).nan_to_num(0.0).topk(2, 1).values
            found += [top[:, 0] / mean, (top[:, 0] - top[:, 1]) / mean]
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


def _blocks(plane_NPP: torch.Tensor) -> torch.Tensor:
    """Cut planes into whole blocks, (N, rows, columns, BLOCK_PX, BLOCK_PX)."""
    side = plane_NPP.shape[-1] // BLOCK_PX * BLOCK_PX
    return plane_NPP[:, :side, :side].unflatten(2, (-1, BLOCK_PX)).unflatten(1, (-1, BLOCK_PX)).transpose(2, 3)


def _local_contrast(plane_NPP: torch.Tensor) -> torch.Tensor:
    """Give quantiles of the standard deviation in blocks: the lowest ones are the noise floor."""
    deviation = _blocks(plane_NPP).std((3, 4), correction=0).flatten(1).sort(1).values
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


@functools.cache
def _dct_basis() -> torch.Tensor:
    """Give the orthonormal discrete cosine transform, (BLOCK_PX, BLOCK_PX)."""
    order, place = torch.arange(BLOCK_PX)[:, None], torch.arange(BLOCK_PX)[None]
    basis = torch.cos(order * (2 * place + 1) * math.pi / (2 * BLOCK_PX)) * math.sqrt(2 / BLOCK_PX)
    basis[0] /= math.sqrt(2)
    return basis


@functools.cache
def _dct_bands() -> torch.Tensor:
    """Give which coefficients are averaged in which band, (BLOCK_PX ** 2, bands)."""
    radius = torch.hypot(torch.arange(float(BLOCK_PX))[:, None], torch.arange(float(BLOCK_PX))[None]).flatten()
    masks = [((radius >= a) & (radius < b)).float() for a, b in pairwise(DCT_EDGES)]
    return torch.stack([mask / mask.sum() for mask in masks], 1)


def _dct_blocks(plane_NPP: torch.Tensor) -> torch.Tensor:
    """Give the coefficients of all blocks, (L, BLOCK_PX ** 2)."""
    basis = _dct_basis().to(plane_NPP.device)
    return (basis @ _blocks(plane_NPP) @ basis.T).reshape(-1, BLOCK_PX**2)


def _band_energies(blocks: torch.Tensor) -> torch.Tensor:
    return blocks.square() @ _dct_bands().to(blocks.device)


def _detail_by_contrast(blocks: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Describe blocks (L, BLOCK_PX ** 2) in groups as large as each other, in the stated order of contrast.

    Of each group: the mean energy of every band, the spread of all but the lowest, and the share of coefficients that
    are all but zero.
    """
    energies, empty = _log(_band_energies(blocks))[order], (blocks.abs() < 0.5).float().mean(1)[order]
    found = []
    for part, share in zip(energies.tensor_split(CONTRAST_BINS), empty.tensor_split(CONTRAST_BINS), strict=True):
        found += [part.mean(0), part[:, 1:].std(0, correction=0), share.mean(0, keepdim=True)]
    return torch.cat(found)


def _edges(luma_NPP: torch.Tensor) -> torch.Tensor:
    """Tell how much of the rise over a few pixels the steepest steps make: near 1 is sharp, whatever is shown."""
    found = []
    for luma in (luma_NPP, luma_NPP.transpose(1, 2)):
        step, reach = luma[..., 1:] - luma[..., :-1], max(EDGE_SPANS_PX) // 2
        size = step[..., reach:-reach].abs().flatten(1)
        count = max(1, round(EDGE_SHARE * size.shape[1]))
        strongest, places = size.topk(count, 1)
        for span in EDGE_SPANS_PX:
            trim = reach - span // 2
            rise = (luma[..., span:] - luma[..., :-span])[..., trim : -trim or None]
            share = (strongest / (rise.abs().flatten(1).gather(1, places) + 2)).clamp(max=3)
            found += [share.mean(1), share.sort(1).values[:, int(0.8 * (count - 1))]]
        found.append(_log(strongest.mean(1)))
    return torch.stack(found, 1)


def _chroma_detail(chroma_N2PP: torch.Tensor) -> torch.Tensor:
    """Describe the steps of chroma, or of its change, over scales; encoders save there first."""
    # Chroma has half the size of luma and was repeated.
    plane, found = chroma_N2PP[..., ::2, ::2], []
    for _ in range(CHROMA_SCALES):
        for gradient in (plane[..., 1:] - plane[..., :-1], plane[..., 1:, :] - plane[..., :-1, :]):
            size = gradient.abs()
            found += [_log(size.mean((2, 3))), (size < 0.5).float().mean((2, 3))]
        plane = functional.avg_pool2d(plane, 2)
    return torch.cat(found, 1)


def _persistence(luma_FBPP: torch.Tensor) -> torch.Tensor:
    """Correlate the fine detail of frames near and far: texture stays where it is or moves, noise is new each time."""
    last = luma_FBPP.shape[1] - 1
    fine = [
        luma - functional.avg_pool2d(luma, 3, 1, 1, count_include_pad=False)
        for luma in (luma_FBPP[:, index] for index in (0, 1, (last + 1) // 2, last))
    ]
    pairs = ((fine[0], fine[1]), (fine[0], fine[2]), (fine[0], fine[3]), (fine[1] - fine[0], fine[2] - fine[1]))
    found = []
    for one, other in pairs:
        one, other = one.flatten(1), other.flatten(1)
        found.append((one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1) + 1))
    return torch.stack(found, 1)


def _pulse(luma_FBPP: torch.Tensor) -> torch.Tensor:
    """Give the fine detail of each frame against the burst's mean: key frames have more."""
    fine = luma_FBPP[..., 2:] - 2 * luma_FBPP[..., 1:-1] + luma_FBPP[..., :-2]
    level = _log(fine.abs().mean((0, 2, 3)))
    return level - level.mean()


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
