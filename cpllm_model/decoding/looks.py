"""What one look shows beside the picture's quality: black, flat, bars, writing, standing still, combing and the like.

In: codes of the frames of a burst, 8 bit, limited range (Rec. ITU-R BT.709: black is 16, white 235). Out: a Look, by
stated thresholds. Knows neither files nor times; what holds on beyond the burst is found in `events.py`.

Shapes: T frames; H, W rows and columns of luma, thinned out; h, w of chroma.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
from av.video.frame import VideoFrame

from cpllm_model.decoding.pixels import FrameConverter

#: Rows or columns that are measured of a frame, at most about twice as many.
_LINES = 120
#: Share of the pixels that black and flat hold for.
_ALMOST_ALL = 0.98
#: Luma codes of black and white (Rec. ITU-R BT.709), and the highest that counts as black.
_BLACK_CODE, _WHITE_CODE, _BLACK = 16, 235, 24
#: Codes around the median that a flat colour has, in luma and chroma.
_FLAT = 3
#: The picture stands still: mean difference in codes from frame to frame, and share of pixels that differ by more; but
#: for so many frames, where a key frame codes the same picture anew.
_STILL_CODES, _STIRRED_CODES, _STIRRED_SHARE, _ANEW_CODES, _ANEW = 0.3, 10, 0.0005, 1.6, 2
#: A frame is repeated: it differs so little from the one before, while others differ by so much, so many times more.
_REPEATED_CODES, _MOVED_CODES, _MOVED_TIMES = 0.8, 1.0, 4
#: A ground is almost flat within so many codes, in this share of the pixels; writing stands out from it by so many
#: codes, over such a share, and crosses from ground to writing so often in a line that has some.
_GROUND_CODES, _GROUND_SHARE, _INK_CODES, _INK_SHARE, _STROKES = 10, 0.8, 48, (0.002, 0.2), 10
#: Share of what is no ground that stands out clearly: ink has few codes between.
_CLEAR_SHARE = 0.4
#: Bars fill the picture between these shares of its height; lines there differ by so many codes at most.
_BARS_ROWS, _BARS_CODES = (0.1, 0.5), 3.0
#: A fade: the mean moves one way by so many codes over a burst and in each step, the picture remains alike, and its
#: spread shrinks or grows as the distance of its mean from black or white does, whose logarithms differ by so little.
_FADE_CODES, _FADE_STEP, _FADE_ALIKE, _FADE_GAIN = 6.0, 0.3, 0.9, 0.05
#: Flicker: the mean goes up and down by so many codes, so many times in a row.
_FLICKER_CODES, _FLICKER_TURNS = 1.5, 4
#: Combing: where a line differs from both neighbours, which agree, and the picture moves; share of what moves, and
#: of the frame.
_COMB_CODES, _COMB_ALIKE, _COMB_SHARE, _COMB_LEAST = 12, 8, 0.15, 0.002


@dataclass(frozen=True, eq=False)
class Look:
    """What a burst shows.

    Args:
        blank: "black", "flat", "bars" or "credits" where it shows that and no picture, else None.
        is_still: no frame differs from the one before.
        is_fading: the picture fades in or out.
        is_flickering: the brightness jumps up and down.
        repeats: some frames repeat the one before, and others do not.
        combed_share: of the frame, 0 if not combed.
        luma_HW: uint8, of the first frame.
    """

    blank: str | None
    is_still: bool
    is_fading: bool
    is_flickering: bool
    repeats: bool
    combed_share: float
    luma_HW: np.ndarray


@dataclass
class BurstMeter:
    """Measures the frames of one burst, in order, as they are decoded.

    Args:
        converter: of the video.
    """

    converter: FrameConverter
    _lumas: list[np.ndarray] = field(default_factory=list)
    _lines: list[np.ndarray] = field(default_factory=list)
    _whole_means: list[float] = field(default_factory=list)
    _blank: str | None = None

    def add(self, frame: VideoFrame) -> None:
        """Measure the next frame."""
        down, across = (max(1, side // _LINES) for side in (frame.height, frame.width))
        luma_HW = self.converter.codes(frame, 0, down, across)
        if not self._lumas or self._blank is not None:
            rows_HW = self.converter.codes(frame, 0, down, 1)
            u_hw, v_hw = (self.converter.codes(frame, n, max(1, down // 2), max(1, across // 2)) for n in (1, 2))
            blank = _blank(luma_HW, u_hw, v_hw, rows_HW)
            # Blank is what all frames are alike: a picture may fade in from black.
            self._blank = blank if not self._lumas or blank == self._blank else None
        self._lumas.append(luma_HW)
        # The mean of some pixels leaps, too, where a fine pattern moves over them: from a leap on, all pixels count.
        if self._whole_means or np.ptp([one.mean() for one in self._lumas[-2:]]) >= _FLICKER_CODES:
            self._whole_means.append(float(self.converter.codes(frame, 0, 1, 1).mean()))
        if len(self._lines) < 2:
            self._lines.append(self.converter.codes(frame, 0, 1, across))

    def look(self) -> Look:
        """Give what was seen; at least one frame was."""
        first = self._lumas[0]
        if any(luma.shape != first.shape for luma in self._lumas):
            return Look(self._blank, False, False, False, False, 0.0, first)
        lumas_THW = np.stack(self._lumas).astype(np.int16)
        changes = np.abs(np.diff(lumas_THW, axis=0))
        changes_T = changes.mean((1, 2))
        stirred_T = (changes > _STIRRED_CODES).mean((1, 2))
        are_still = (changes_T <= _STILL_CODES) & (stirred_T <= _STIRRED_SHARE)
        is_anew = (~are_still).sum() <= min(_ANEW, len(are_still) // 3) and changes_T.max(initial=0) <= _ANEW_CODES
        is_still = len(are_still) > 0 and bool(is_anew)
        means_T = lumas_THW.mean((1, 2))
        return Look(
            blank=self._blank,
            is_still=is_still,
            is_fading=_fades(lumas_THW, means_T),
            is_flickering=_flickers(means_T) and _flickers(np.array(self._whole_means)),
            repeats=_repeats(changes_T),
            combed_share=_combed(*self._lines) if len(self._lines) == 2 else 0.0,
            luma_HW=first,
        )


def _blank(luma_HW: np.ndarray, u_hw: np.ndarray, v_hw: np.ndarray, rows_HW: np.ndarray) -> str | None:
    if (luma_HW <= _BLACK).mean() >= _ALMOST_ALL:
        return "black"
    if all(_is_flat(plane) for plane in (luma_HW, u_hw, v_hw)):
        return "flat"
    if _are_bars(luma_HW, u_hw, v_hw):
        return "bars"
    return "credits" if _is_writing(rows_HW, u_hw, v_hw) else None


def _is_flat(plane: np.ndarray) -> bool:
    return bool((np.abs(plane.astype(np.int16) - int(np.median(plane))) <= _FLAT).mean() >= _ALMOST_ALL)


def _are_bars(luma_HW: np.ndarray, u_hw: np.ndarray, v_hw: np.ndarray) -> bool:
    """Tell colour bars (Rec. ITU-R BT.471, SMPTE EG 1, SMPTE RP 219): yellow to blue, side by side in their order."""
    columns = []
    for plane in (luma_HW, u_hw, v_hw):
        upper = plane[slice(*(int(share * len(plane)) for share in _BARS_ROWS))].astype(np.int16)
        if not len(upper):
            return False
        column = np.median(upper, axis=0)
        if np.abs(upper - column).mean() > _BARS_CODES:
            return False
        columns.append(column)
    u, v = columns[1], columns[2]
    hues = (
        (u < 110) & (v > 122) & (v < 165),
        (u > 135) & (v < 90),
        (u < 118) & (v < 118),
        (u > 140) & (v > 140),
        (u < 122) & (v > 165),
        (u > 165) & (v > 90) & (v < 124),
    )
    places = [np.flatnonzero(hue) for hue in hues]
    if any(len(place) < 0.05 * len(u) for place in places):
        return False
    middles = [float(np.median(place)) for place in places]
    return middles == sorted(middles)


def _is_writing(rows_HW: np.ndarray, u_hw: np.ndarray, v_hw: np.ndarray) -> bool:
    """Tell writing on an almost flat ground, as of credits, titles and slides."""
    ground = int(np.bincount(rows_HW.ravel(), minlength=256).argmax())
    off_HW = np.abs(rows_HW.astype(np.int16) - ground)
    if (off_HW <= _GROUND_CODES).mean() < _GROUND_SHARE:
        return False
    if any((np.abs(plane.astype(np.int16) - int(np.median(plane))) <= _GROUND_CODES).mean() < _GROUND_SHARE
           for plane in (u_hw, v_hw)):  # fmt: skip
        return False
    is_ink = off_HW >= _INK_CODES
    share, clear = is_ink.mean(), is_ink.sum() / max(1, (off_HW > _GROUND_CODES).sum())
    if not _INK_SHARE[0] <= share <= _INK_SHARE[1] or clear < _CLEAR_SHARE:
        return False
    strokes = (np.diff(is_ink.astype(np.int8), axis=1) == 1).sum(1)
    return bool(np.median(strokes[strokes > 0]) >= _STROKES)


def _repeats(changes_T: np.ndarray) -> bool:
    """Tell whether frames are repeated in a pattern: every second, third or fourth change of frames, or all but it."""
    is_repeated = changes_T <= _REPEATED_CODES
    if not is_repeated.any() or is_repeated.all():
        return False
    if changes_T[~is_repeated].min() < max(_MOVED_CODES, _MOVED_TIMES * changes_T[is_repeated].max()):
        return False
    periods = [period for period in (2, 3, 4) if 2 * period - 1 <= len(is_repeated)]
    return any((is_repeated[period:] == is_repeated[:-period]).all() for period in periods)


def _fades(lumas_THW: np.ndarray, means_T: np.ndarray) -> bool:
    steps = np.diff(means_T)
    if len(steps) < 2 or abs(means_T[-1] - means_T[0]) < _FADE_CODES:
        return False
    if not ((steps >= _FADE_STEP).all() or (steps <= -_FADE_STEP).all()):
        return False
    # Not of the first frame, which may be black.
    ends = [len(lumas_THW) // 2, -1]
    (mean, last_mean), (one, other) = means_T[ends], (luma - luma.mean() for luma in lumas_THW[ends])
    spreads = float(np.sqrt((one**2).sum())), float(np.sqrt((other**2).sum()))
    if not min(spreads) or float((one * other).sum()) / (spreads[0] * spreads[1]) < _FADE_ALIKE:
        return False
    gain = math.log(spreads[1] / spreads[0])
    distances = ((mean - _BLACK_CODE, last_mean - _BLACK_CODE), (_WHITE_CODE - mean, _WHITE_CODE - last_mean))
    return any(min(pair) > 0 and abs(math.log(pair[1] / pair[0]) - gain) <= _FADE_GAIN for pair in distances)


def _flickers(means_T: np.ndarray) -> bool:
    steps = np.diff(means_T)
    turns = [a * b < 0 and min(abs(a), abs(b)) >= _FLICKER_CODES for a, b in itertools.pairwise(steps)]
    return sum(turns) >= min(_FLICKER_TURNS, max(1, len(turns)))


def _combed(before_HW: np.ndarray, after_HW: np.ndarray) -> float:
    """Share of a frame in which two moments stand interleaved, line by line."""
    if before_HW.shape != after_HW.shape or len(before_HW) < 3:
        return 0.0
    now, then = after_HW.astype(np.int16), before_HW.astype(np.int16)
    above, line, below = now[:-2], now[1:-1], now[2:]
    to_above, to_below = line - above, line - below
    stands_out = (np.minimum(np.abs(to_above), np.abs(to_below)) >= _COMB_CODES) & (
        np.sign(to_above) == np.sign(to_below)
    )
    is_comb = stands_out & (np.abs(above - below) <= _COMB_ALIKE)
    moves = np.abs(line - then[1:-1]) >= _COMB_CODES
    combed, moving = float((is_comb & moves).mean()), float(moves.mean())
    # Each comb stands out in every other line.
    return min(1.0, 2 * combed) if combed >= _COMB_LEAST and combed >= _COMB_SHARE * moving else 0.0
