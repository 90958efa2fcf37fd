"""Statistics of a burst of fragments: what signal processing knows of distortions, computed rather than learned.

Tone, colour, gradients over scales, spectra, block grids, flat areas, local contrast (MSCN, Mittal et al. 2012),
the sharpness of edges, the detail of chroma, combs in the histogram (banding), and what changes from frame to frame.
Each is a few numbers a fragment; over the fragments of a burst their mean and spread are kept. Of the blocks of a
burst, ordered by their contrast, how much fine detail goes with how much contrast: in natural pictures the two go
together, and encoders, blur and noise each part them in their own way. In: YUV codes. Out: one vector a burst, each
number about -5..5 once it is standardised; `statistic_names` has their names and order, `config.VERSIONS` their
version. Knows nothing of what is learned from them.

All bursts are computed at once, in a number of kernels that does not depend on how many they are.

Shape legend: K bursts, F fragments of a burst, N = K * F, B frames, P fragment side, L blocks of a burst, S statistics
of a group.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
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
MSCN_REACH_PX = 3
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
#: How the numbers (K, F, S) of a burst's fragments become one each.
POOLS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda values: values.mean(1),
    "spread": lambda values: values.std(1, correction=0),
    "least": lambda values: values.amin(1),
    "most": lambda values: values.amax(1),
}


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
    bursts_KFB3PP = planes_NB3PP.unflatten(0, (-1, fragments))
    # A CPU takes burst by burst: its planes stay in the caches, and no bit of it depends on another burst.
    parts = bursts_KFB3PP.split(1) if planes_NB3PP.device.type == "cpu" else [bursts_KFB3PP]
    found = torch.cat([torch.cat([*_statistics(part).values()], 1) for part in parts])
    return torch.cat([found, _interval(interval_s_K)], 1)


@functools.cache
def statistic_names(burst_frames: int) -> tuple[str, ...]:
    """Name the statistics of a burst of so many frames, in their order: what is measured, how pooled, which number."""
    # Models are also built on the meta device, which has no numbers to count with.
    with torch.device("cpu"):
        groups = _statistics(torch.zeros(1, 1, burst_frames, 3, 32, 32))
    return (
        *(f"{name} {index}" for name, values in groups.items() for index in range(values.shape[1])),
        "frame interval",
    )


def _interval(interval_s_K: torch.Tensor) -> torch.Tensor:
    """Give the interval as (K, 1), 0 at 25 frames a second; five of these and two hundred are its ends."""
    return torch.log(interval_s_K.float() * NOMINAL_FPS).clamp(-3, 3)[:, None]


def _statistics(planes_KFB3PP: torch.Tensor) -> dict[str, torch.Tensor]:
    """Give the statistics of bursts, (K, S) in groups by name."""
    fragments = planes_KFB3PP.shape[1]
    luma_BNPP = planes_KFB3PP[:, :, :, 0].movedim(2, 0).flatten(1, 2).float()
    chroma_2N2PP = planes_KFB3PP[:, :, :2, 1:].movedim(2, 0).flatten(1, 2).float()
    chroma = chroma_2N2PP[0]
    step_BNPP = luma_BNPP[1:] - luma_BNPP[:-1]
    size_BNPP = step_BNPP.abs()
    # What is asked of several pictures is asked once, of all: a kernel costs more to start than to run.
    pictures = torch.stack([luma_BNPP[-1], luma_BNPP[0], step_BNPP[0], step_BNPP[len(luma_BNPP) // 2 - 1]])
    first, half = pictures[1], functional.avg_pool2d(pictures[1], 2)
    profiles = _profile(pictures[:3])
    histograms = _histogram(torch.stack([first, chroma[:, 0], chroma[:, 1]]))
    last_block_grid, block_grid = _block_grid(profiles[:2])
    last_flatness, flatness = _flatness(pictures[:2])
    contrast, change_contrast = _local_contrast(pictures[1:3])
    power, change_power = _power(pictures[1:3])
    last_edges, edges = _edges(pictures[:2])
    chroma_detail, chroma_change = _chroma_detail(torch.stack([chroma, chroma_2N2PP[1] - chroma]))
    last_grid_steps, grid_steps, change_grid_steps = _grid_steps(profiles)
    last_detail, detail, change_detail, late_change_detail = _detail_by_contrast(_dct_blocks(pictures, fragments))
    by_fragment = {
        "tone": _tone(histograms[0]),
        "colour": _colour(chroma),
        "gradients": _gradients(first),
        "spectrum": _spectrum(power, axes=True),
        "spectrum of change": _spectrum(change_power, axes=False),
        "block grid": block_grid,
        "block grid of last frame": last_block_grid,
        "flatness": flatness,
        "flatness of last frame": last_flatness,
        "local contrast": contrast,
        "local contrast of change": change_contrast,
        "mscn": _mscn(first),
        "mscn of half size": _mscn(half),
        "changes": _changes(luma_BNPP, step_BNPP, size_BNPP),
    }
    local = {
        "edges": edges,
        "edges of last frame": last_edges,
        "edges of half size": _edges(half),
        "chroma detail": chroma_detail,
        "chroma detail of change": chroma_change,
        "persistence": _persistence(luma_BNPP),
        "grid steps": grid_steps,
        "grid steps of last frame": last_grid_steps,
        "grid steps of change": change_grid_steps,
    }
    return {
        **_pooled(by_fragment, fragments, ("mean", "spread")),
        "combs": _comb(histograms.unflatten(1, (-1, fragments)).mean(2)).movedim(0, 1).flatten(1),
        "rhythm": _rhythm(size_BNPP, fragments),
        "detail by contrast": detail,
        "detail by contrast of last frame": last_detail,
        "detail by contrast of change": change_detail,
        "detail by contrast of late change": late_change_detail,
        **_pooled(local, fragments, ("mean", "spread", "least", "most")),
        "pulse": _pulse(luma_BNPP, fragments),
    }


def _pooled(groups: dict[str, torch.Tensor], fragments: int, pools: Iterable[str]) -> dict[str, torch.Tensor]:
    """Pool groups (N, S) over the fragments of each burst: one way for all groups, then the next way."""
    values_KFS = torch.cat([*groups.values()], 1).unflatten(0, (-1, fragments))
    widths = [values.shape[1] for values in groups.values()]
    return {
        f"{name}, {pool}": values
        for pool in pools
        for name, values in zip(groups, POOLS[pool](values_KFS).split(widths, 1), strict=True)
    }


def _log(x: torch.Tensor) -> torch.Tensor:
    """Compress a magnitude; a hundredth of a code still counts."""
    return torch.log(x + 0.01)


def _share(
    comparison: Callable[..., torch.Tensor], values: torch.Tensor, limit: float, axes: tuple[int, ...] = (-2, -1)
) -> torch.Tensor:
    """Give the share over axes for which a comparison (torch.gt, say) with a limit holds."""
    # Where a comparison writes numbers, not booleans, it is vectorised on a CPU: ten times faster.
    return comparison(values, limit, out=torch.empty_like(values)).mean(axes)


def _deviation(values: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Give the standard deviation over axes; `torch.std` takes ten times as long on a CPU."""
    centred = values - values.mean(axes, keepdim=True)
    return torch.linalg.vector_norm(centred, dim=axes) / math.sqrt(math.prod(values.shape[axis] for axis in axes))


def _both_ways(picture: torch.Tensor) -> torch.Tensor:
    """Give pictures beside the same with rows and columns changed, (..., 2, P, P): one code for both ways."""
    return torch.stack([picture, picture.mT], -3)


def _profile(picture: torch.Tensor) -> torch.Tensor:
    """Give the mean size of the steps between neighbours at each place, both ways, (..., 2, P - 1)."""
    ways = _both_ways(picture)
    return (ways[..., 1:] - ways[..., :-1]).abs().mean(-2)


def _histogram(plane: torch.Tensor) -> torch.Tensor:
    """Give the share of each code, (..., 256)."""
    codes = plane.flatten(-2).long().clamp(0, CODES - 1)
    counts = torch.zeros(*codes.shape[:-1], CODES, device=codes.device)
    return counts.scatter_add_(-1, codes, torch.ones_like(codes, dtype=counts.dtype)) / codes.shape[-1]


def _tone(histogram: torch.Tensor) -> torch.Tensor:
    below = histogram.cumsum(1)
    quantiles = [(below < share).sum(1) for share in QUANTILES]
    spread = quantiles[-1] - quantiles[0]
    used = (histogram > 0).sum(1) / (spread + 1)
    clipped = torch.stack([below[:, 18], 1 - below[:, 232]], 1)
    return torch.cat([torch.stack([*quantiles, spread], 1) / 64 - 2, used[:, None], clipped], 1)


def _colour(chroma_N2PP: torch.Tensor) -> torch.Tensor:
    chroma = (chroma_N2PP - 128) / 16
    saturation = (chroma[:, 0].square() + chroma[:, 1].square()).sqrt().flatten(1)
    return torch.cat(
        [
            chroma.mean((2, 3)),
            _log(_deviation(chroma, (2, 3))),
            _log(saturation.mean(1, True)),
            _log(saturation.amax(1, True)),
        ],
        1,
    )


def _gradients(luma_NPP: torch.Tensor) -> torch.Tensor:
    means, squares = [], []
    for _ in range(SCALES):
        for gradient in (luma_NPP[:, :, 1:] - luma_NPP[:, :, :-1], luma_NPP[:, 1:] - luma_NPP[:, :-1]):
            means.append(gradient.abs().mean((1, 2)))
            squares.append(gradient.square().mean((1, 2)))
        luma_NPP = functional.avg_pool2d(luma_NPP, 2)
    mean, root = _log(torch.stack(means, 1)), _log(torch.stack(squares, 1).sqrt())
    return torch.stack([mean, root - mean], 2).flatten(1)


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


def _power(luma: torch.Tensor) -> torch.Tensor:
    """Give the power of each frequency, (..., side * (side // 2 + 1))."""
    side = luma.shape[-1]
    window = torch.hann_window(side, periodic=False, device=luma.device)
    centred = luma - luma.mean((-2, -1), keepdim=True)
    waves = torch.fft.rfft2(centred * window[:, None] * window)
    return ((waves.real.square() + waves.imag.square()) / side**2).flatten(-2)


def _spectrum(power: torch.Tensor, *, axes: bool) -> torch.Tensor:
    side = math.isqrt(2 * power.shape[-1])
    return _log(power @ _spectral_bins(side, axes=axes).to(power.device))


def _block_grid(profile: torch.Tensor) -> torch.Tensor:
    """Compare the steps at the best phase of each grid period with the mean step."""
    found = []
    for period in GRID_PERIODS_PX:
        length = profile.shape[-1] // period * period
        phases = profile[..., :length].unflatten(-1, (-1, period)).mean(-2)
        first, second = phases.topk(2).values.unbind(-1)
        mean = phases.mean(-1) + 0.1
        found += [torch.log((first + 0.1) / mean), (first - second) / mean]
    return torch.stack(found, -1).flatten(-2)


def _grid_steps(profile: torch.Tensor) -> torch.Tensor:
    """Compare how much steps stand out from their neighbours at the best phase of each grid period."""
    raised = profile[..., 1:-1] - (profile[..., :-2] + profile[..., 2:]) / 2
    mean = profile.mean(-1) + 0.1
    found = []
    for period in (*GRID_PERIODS_PX, 2 * GRID_PERIODS_PX[-1]):
        # A fragment may be smaller than the longest period: then its last phases are not there.
        phases = functional.pad(raised, (0, -raised.shape[-1] % period), value=math.nan)
        first, second = phases.unflatten(-1, (-1, period)).nanmean(-2).nan_to_num(0.0).topk(2).values.unbind(-1)
        found += [first / mean, (first - second) / mean]
    return torch.stack(found, -1).flatten(-2)


def _flatness(luma: torch.Tensor) -> torch.Tensor:
    found = []
    for step in (luma[..., 1:] - luma[..., :-1], luma[..., 1:, :] - luma[..., :-1, :]):
        size = step.abs()
        moved = _share(torch.gt, size, 0)
        # Banding has few steps, but each is high.
        found += [1 - moved, _share(torch.le, size, 1), _log(size.mean((-2, -1)) / (moved + 0.01))]
    bent = luma[..., 2:] - 2 * luma[..., 1:-1] + luma[..., :-2]
    return torch.stack([*found, _share(torch.eq, bent, 0)], -1)


def _blocks(plane: torch.Tensor) -> torch.Tensor:
    """Cut planes into whole blocks, (..., rows, columns, BLOCK_PX, BLOCK_PX)."""
    side = plane.shape[-1] // BLOCK_PX * BLOCK_PX
    return plane[..., :side, :side].unflatten(-1, (-1, BLOCK_PX)).unflatten(-3, (-1, BLOCK_PX)).transpose(-3, -2)


def _local_contrast(plane: torch.Tensor) -> torch.Tensor:
    """Give quantiles of the standard deviation in blocks: the lowest ones are the noise floor."""
    deviation = _deviation(_blocks(plane).flatten(-2), (-1,)).flatten(-2).sort().values
    places = [round(share * (deviation.shape[-1] - 1)) for share in BLOCK_QUANTILES]
    return _log(deviation[..., places])


@functools.cache
def _window_counts(side: int, reach: int) -> torch.Tensor:
    """Give how many pixels of a picture lie in the window around each, (side, side)."""
    return _window_sums(torch.ones(side, side), reach)


def _window_sums(plane: torch.Tensor, reach: int) -> torch.Tensor:
    """Sum the pixels up to `reach` to all sides; of whole codes and their squares the sum is exact."""
    found, side = functional.pad(plane, (reach,) * 4), plane.shape[-1]
    for axis in (-1, -2):
        found = functools.reduce(torch.add, (found.narrow(axis, start, side) for start in range(2 * reach + 1)))
    return found


def _window_means(plane: torch.Tensor, reach: int) -> torch.Tensor:
    """Average the pixels up to `reach` to all sides that lie in the picture."""
    return _window_sums(plane, reach) / _window_counts(plane.shape[-1], reach).to(plane.device)


def _mscn(luma_NPP: torch.Tensor) -> torch.Tensor:
    """Describe the distribution of mean-subtracted, contrast-normalised luma and of its neighbours' products."""
    mean, square = _window_means(torch.stack([luma_NPP, luma_NPP.square()]), MSCN_REACH_PX)
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    normal = (luma_NPP - mean) / (deviation + 1)
    size = normal.abs()
    shares = [_share(torch.gt, size, edge) for edge in MSCN_EDGES]
    products = (
        normal[:, :, 1:] * normal[:, :, :-1],
        normal[:, 1:] * normal[:, :-1],
        normal[:, 1:, 1:] * normal[:, :-1, :-1],
    )
    pairs = [moment for product in products for moment in (product.mean((1, 2)), product.abs().mean((1, 2)))]
    return torch.stack([*shares, *pairs, _log(deviation.mean((1, 2)))], 1)


def _changes(luma_BNPP: torch.Tensor, step_BNPP: torch.Tensor, size_BNPP: torch.Tensor) -> torch.Tensor:
    """Describe what changes from frame to frame, in order and sorted, and how detail pulses over the burst."""
    bent = _log((step_BNPP[1:] - step_BNPP[:-1]).abs_().mean((0, 2, 3)))
    mean, same = _log(size_BNPP.mean((2, 3))).T, _share(torch.lt, size_BNPP, 0.5).T
    over = torch.stack([luma_BNPP[0], luma_BNPP[len(luma_BNPP) // 2], luma_BNPP[-1]])
    start, middle, end = _log((over[..., 1:] - over[..., :-1]).abs_().mean((2, 3)))
    drift = torch.stack([middle - start, end - start], 1)
    return torch.cat(
        [mean, mean.sort(1).values, same, same.sort(1).values, bent[:, None], drift, mean.std(1, keepdim=True)], 1
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


def _dct_blocks(picture: torch.Tensor, fragments: int) -> torch.Tensor:
    """Give the coefficients of all blocks of each burst, (..., K, L, BLOCK_PX ** 2)."""
    basis = _dct_basis().to(picture.device)
    found = basis @ _blocks(picture) @ basis.T
    return found.flatten(-2).unflatten(-4, (-1, fragments)).flatten(-4, -2)


def _detail_by_contrast(blocks_4KLC: torch.Tensor) -> torch.Tensor:
    """Describe the blocks of the last frame, the first, a change and a later one, (4, K, S), by contrast.

    Blocks are taken in groups as large as each other in the order of their contrast; those of changes in the order of
    the first frame's. Of each group: the mean energy of every band, the spread of all but the lowest, and the share of
    coefficients that are all but zero.
    """
    energies = blocks_4KLC.square() @ _dct_bands().to(blocks_4KLC.device)
    last_order, order = energies[:2, ..., 0].argsort(stable=True, dim=-1)
    empty = _share(torch.lt, blocks_4KLC.abs(), 0.5, (-1,))[..., None]
    described = torch.cat([_log(energies), empty], -1)
    orders = torch.stack([last_order, order, order, order])[..., None].expand_as(described)
    found = []
    for part in described.gather(-2, orders).tensor_split(CONTRAST_BINS, -2):
        mean, spread = part.mean(-2), _deviation(part[..., 1:-1], (-2,))
        found += [mean[..., :-1], spread, mean[..., -1:]]
    return torch.cat(found, -1)


def _edges(luma: torch.Tensor) -> torch.Tensor:
    """Tell how much of the rise over a few pixels the steepest steps make: near 1 is sharp, whatever is shown."""
    ways, reach = _both_ways(luma), max(EDGE_SPANS_PX) // 2
    size = (ways[..., 1 + reach : -reach] - ways[..., reach : -1 - reach]).abs_()
    count, width = max(1, round(EDGE_SHARE * size.shape[-1] * size.shape[-2])), size.shape[-1]
    strongest, places = size.flatten(-2).topk(count, sorted=False)
    # Where in the whole picture a strongest step begins.
    places = places // width * ways.shape[-1] + places % width + reach
    codes, found = ways.flatten(-2), []
    for span in EDGE_SPANS_PX:
        start = places - span // 2
        rise = (codes.gather(-1, start + span) - codes.gather(-1, start)).abs_()
        share = (strongest / (rise + 2)).clamp(max=3)
        found += [share.mean(-1), share.sort().values[..., int(0.8 * (count - 1))]]
    return torch.stack([*found, _log(strongest.mean(-1))], -1).flatten(-2)


def _chroma_detail(chroma: torch.Tensor) -> torch.Tensor:
    """Describe the steps of chroma (..., 2, P, P), or of its change, over scales; encoders save there first."""
    # Chroma has half the size of luma and was repeated.
    plane, found = chroma[..., ::2, ::2].contiguous(), []
    for _ in range(CHROMA_SCALES):
        for gradient in (plane[..., 1:] - plane[..., :-1], plane[..., 1:, :] - plane[..., :-1, :]):
            size = gradient.abs()
            found += [_log(size.mean((-2, -1))), _share(torch.lt, size, 0.5)]
        plane = functional.avg_pool2d(plane.flatten(0, -4), 2).unflatten(0, chroma.shape[:-3])
    return torch.cat(found, -1)


def _persistence(luma_BNPP: torch.Tensor) -> torch.Tensor:
    """Correlate the fine detail of frames near and far: texture stays where it is or moves, noise is new each time."""
    last = len(luma_BNPP) - 1
    frames = torch.stack([luma_BNPP[0], luma_BNPP[1], luma_BNPP[(last + 1) // 2], luma_BNPP[last]])
    start, near, middle, end = (frames - _window_means(frames, 1)).flatten(2)
    pairs = ((start, near), (start, middle), (start, end), (near - start, middle - near))
    found = [(one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1) + 1) for one, other in pairs]
    return torch.stack(found, 1)


def _pulse(luma_BNPP: torch.Tensor, fragments: int) -> torch.Tensor:
    """Give the fine detail of each frame against the burst's mean: key frames have more."""
    fine = luma_BNPP[..., 2:] + luma_BNPP[..., :-2] - 2 * luma_BNPP[..., 1:-1]
    level = _log(fine.abs_().mean((2, 3)).unflatten(1, (-1, fragments)).mean(2)).T
    return level - level.mean(1, True)


def _comb(histogram: torch.Tensor) -> torch.Tensor:
    """Find combs in histograms (..., 256): codes that are left out at a regular distance."""
    rough = [(histogram[..., lag:] - histogram[..., :-lag]).abs().sum(-1) for lag in COMB_LAGS]
    used, below = (histogram > 0).sum(-1), histogram.cumsum(-1)
    reach = [(below < share).sum(-1) for share in (0.005, 0.995)]
    spectrum = torch.fft.rfft(histogram).abs()
    bands = [spectrum[..., a:b].amax(-1) for a, b in pairwise(COMB_EDGES)]
    return torch.cat(
        [
            torch.stack([*rough, used / (reach[1] - reach[0] + 1), torch.log1p(used)], -1),
            _log(torch.stack(bands, -1)),
        ],
        -1,
    )


def _rhythm(size_BNPP: torch.Tensor, fragments: int) -> torch.Tensor:
    """Tell which frames of a burst repeat the one before, over all its fragments."""
    changed_KT = _share(torch.gt, size_BNPP, 1).unflatten(1, (-1, fragments)).mean(2).T
    repeated = (changed_KT < REPEATED_SHARE).float()
    switches = repeated.diff().abs().sum(1)
    relative = torch.log((changed_KT + 1e-3) / (changed_KT.amax(1, True) + 1e-3)) / math.log(10)
    return torch.cat([repeated, torch.stack([repeated.sum(1), switches], 1), relative, relative.amin(1, True)], 1)
