"""Carry out the distortions of the catalogue on raw frames.

In: frames and a step of a recipe. Out: frames of the same size and number. Pixels are changed by numpy; encodes
and scaling are ffmpeg's. The same step on the same frames gives the same frames.

Shape legend: T frames, J = H * 3 / 2 rows of a planar yuv420p frame, W width; H W rows and columns of one plane.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import ffmpeg
import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.fft import next_fast_len

from cpllm_model.training.data import encode
from cpllm_model.training.data.distortions import KINDS, LOW_FRAME_RATE, MEZZANINE_CRF, Place, Recipe, Step

BLACK, WHITE = 16, 235
CHROMA_MAX = 240
#: Slices a frame of a stream that loses packets: web streams have one, broadcasts and conferences several.
SLICES = (1, 4, 8)
#: Frames between the key frames of such a stream: what is lost stays lost until the next one.
KEY_FRAMES = (50, 120, 250)
#: Frames that come before the clip in such a stream; if there are any, all that is lost is lost in them.
LEADS = (0, 6, 18)
#: Share of a frame that the severest loss takes.
LARGEST_LOSS = KINDS["packet loss"].strengths[-1]
#: Of a slice that loses its tail this much is always there, its header, bytes.
HEADER_BYTES = 12
#: BT.709 codes of limited range by R'G'B' codes of full range, without the offsets.
YUV_OF_RGB = np.array([[0.2126, 0.7152, 0.0722], [-0.1146, -0.3854, 0.5], [0.5, -0.4542, -0.0458]]) * (
    np.array([[219], [224], [224]]) / 255
)
SCALERS = ("bicubic", "bilinear", "lanczos")
#: A distortion that VMAF does not measure must change some plane by so many codes on average to be kept.
LEAST_CHANGE_CODES = 0.5


def degrade(
    planes_TJW: np.ndarray, recipe: Recipe, fps: float, clip: Path, folder: Path, lead: int = 0
) -> tuple[Path, np.ndarray, Recipe]:
    """Carry out a recipe.

    Args:
        planes_TJW: pristine frames.
        recipe: what is done to them.
        fps: frames a second.
        clip: where the result goes, without a suffix; the last encoder chooses that. A single frame becomes a PNG.
        folder: for intermediate files.
        lead: frames at the beginning that only come before the clip, see `lead_of`.

    Returns:
        the encoded clip; the reference that VMAF compares it with, pristine but for the steps that VMAF does not
        measure, (T - lead, J, W); and the recipe without steps that this content does not show.

    Raises:
        EncodeError: an encoder failed.
    """
    degraded, reference, kept = planes_TJW, planes_TJW, []
    last = recipe.steps[-1] if recipe.steps else None
    is_still = len(planes_TJW) - lead == 1
    ends_encoded = not is_still and last is not None and KINDS[last.kind].place is Place.ENCODE
    for step in recipe.steps[:-1] if ends_encoded else recipe.steps:
        if step.kind == LOW_FRAME_RATE:
            # The frames were taken so; see `stride_of`.
            kept.append(step)
            continue
        changed = apply(degraded, step, fps, folder, lead)
        if step.is_edit:
            if not _shows(reference, edited := apply(reference, step, fps, folder)):
                continue
            reference = edited
        elif not _shows(degraded[lead:], changed[lead:], 0.0):
            continue
        degraded = changed
        kept.append(step)
    if is_still:
        clip = encode.write_picture(degraded[-1], clip.with_name(f"{clip.name}.png"))
        return clip, reference[lead:], Recipe(tuple(kept))
    codec, quality = (last.kind, last.strength) if last and ends_encoded else ("x264", MEZZANINE_CRF)
    clip = clip.with_name(clip.name + encode.SUFFIXES[codec])
    encode.encode_planes(degraded[lead:], clip, fps, codec, quality)
    steps = (*kept, last) if last and ends_encoded else tuple(kept)
    return clip, reference[lead:], Recipe(steps, recipe.ladder, recipe.rung)


def lead_of(recipe: Recipe) -> int:
    """Give how many frames before its clip a recipe needs: a loss may have happened before the clip begins."""
    for step in recipe.steps:
        if step.kind == "packet loss" and KINDS[recipe.steps[0].kind].family != "stutter":
            return LEADS[step.seed % len(LEADS)]
    return 0


def stride_of(recipe: Recipe, fps: float) -> int:
    """Give how many frames apart the frames of a recipe are taken: more than one for a low frame rate."""
    rates = [step.strength for step in recipe.steps if step.kind == LOW_FRAME_RATE]
    return max(2, round(fps / rates[0])) if rates else 1


def apply(planes_TJW: np.ndarray, step: Step, fps: float, folder: Path, lead: int = 0) -> np.ndarray:
    """Carry out one step on uint8 (T, J, W); give frames of the same shape."""
    rng = np.random.default_rng(step.seed)
    if KINDS[step.kind].place is Place.ENCODE and step.kind not in EFFECTS:
        return _encoded(planes_TJW, step, fps, folder)
    if step.kind == "packet loss":
        return _lossy(planes_TJW, step.strength, fps, folder, rng, lead)
    if step.kind == "upscaling":
        return _rescaled(planes_TJW, step.strength, str(rng.choice(SCALERS)))
    return EFFECTS[step.kind](planes_TJW, step.strength, rng)


def split(planes_TJW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give views of Y (T, H, W), U and V (T, H / 2, W / 2) of packed yuv420p frames."""
    frames, rows, width = planes_TJW.shape
    height = rows * 2 // 3
    chroma = planes_TJW[:, height:].reshape(frames, 2, height // 2, width // 2)
    return planes_TJW[:, :height], chroma[:, 0], chroma[:, 1]


def join(luma: np.ndarray, blue: np.ndarray, red: np.ndarray) -> np.ndarray:
    """Pack planes of codes, any dtype, into limited-range yuv420p frames, uint8 (T, J, W)."""
    luma = np.clip(np.rint(luma), BLACK, WHITE).astype(np.uint8)
    chroma = np.clip(np.rint(np.stack([blue, red], 1)), BLACK, CHROMA_MAX).astype(np.uint8)
    return np.concatenate([luma, chroma.reshape(len(luma), -1, luma.shape[2])], 1)


def _blurred(planes: np.ndarray, psf: Callable[[float], np.ndarray]) -> np.ndarray:
    """Blur with a point spread function, given by its size relative to luma's pixels: chroma's are twice as large."""
    luma, blue, red = split(planes)
    return join(_convolved(luma, psf(1.0)), _convolved(blue, psf(0.5)), _convolved(red, psf(0.5)))


def _convolved(plane_THW: np.ndarray, psf: np.ndarray) -> np.ndarray:
    psf = psf / psf.sum()
    pad = [side // 2 for side in psf.shape]
    padded = np.pad(plane_THW.astype(np.float32), [(0, 0), *((side, side) for side in pad)], mode="reflect")
    size = [int(next_fast_len(side, real=True) or side) for side in padded.shape[1:]]
    spectrum = np.fft.rfft2(padded, size) * np.fft.rfft2(psf.astype(np.float32), size)
    full = np.fft.irfft2(spectrum, size)
    row, column = (side - 1 - side // 2 + extra for side, extra in zip(psf.shape, pad, strict=True))
    return full[:, row : row + plane_THW.shape[1], column : column + plane_THW.shape[2]]


def _gaussian_blur(planes: np.ndarray, sigma_px: float, rng: np.random.Generator) -> np.ndarray:
    def psf(scale: float) -> np.ndarray:
        steps = np.arange(-(radius := int(np.ceil(3 * sigma_px * scale))), radius + 1)
        line = np.exp(-0.5 * (steps / (sigma_px * scale)) ** 2)
        return np.outer(line, line)

    return _blurred(planes, psf)


def _motion_blur(planes: np.ndarray, length_px: float, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, np.pi)

    def psf(scale: float) -> np.ndarray:
        half = length_px * scale / 2
        centre = int(np.ceil(half)) + 1
        along = np.linspace(-half, half, 64)
        lines = [direction * along + centre for direction in (np.sin(angle), np.cos(angle))]
        # Each point of the path is divided between the four pixels around it.
        spread = [np.clip(1 - np.abs(np.arange(2 * centre + 1)[:, None] - line), 0, 1) for line in lines]
        return spread[0] @ spread[1].T

    return _blurred(planes, psf)


def _defocus(planes: np.ndarray, radius_px: float, rng: np.random.Generator) -> np.ndarray:
    def psf(scale: float) -> np.ndarray:
        steps = np.arange(-(reach := int(np.ceil(radius_px * scale))), reach + 1)
        # The rim is softened over a pixel: a disc of whole pixels would be the same for many radii.
        return np.clip(radius_px * scale + 0.5 - np.hypot(steps[:, None], steps), 0, 1)

    return _blurred(planes, psf)


def _white_noise(planes: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    luma, blue, red = split(planes)
    chroma = [plane + rng.normal(0, sigma / 2, plane.shape).astype(np.float32) for plane in (blue, red)]
    return join(luma + sigma * rng.standard_normal(luma.shape, np.float32), *chroma)


def _film_grain(planes: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    luma, blue, red = split(planes)
    size = rng.uniform(0.6, 1.1)
    grain = ndimage.gaussian_filter(rng.standard_normal(luma.shape, np.float32), (0, size, size))
    # Film has the most grain in the mid-tones.
    tone = 1.15 - ((luma.astype(np.float32) - 126) / 126) ** 2 * 0.7
    return join(luma + grain * (sigma / grain.std()) * tone, blue, red)


def _exposed(planes: np.ndarray, stops: float, rng: np.random.Generator) -> np.ndarray:
    luma, blue, red = split(planes)
    # In linear light by a plain power law of 2.2; chroma follows the gain of the codes.
    gain = 2 ** (stops / 2.2)
    return join((luma - 16.0) * gain + 16, *((plane - 128.0) * gain + 128 for plane in (blue, red)))


def _low_contrast(planes: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    luma, blue, red = split(planes)
    middle = rng.uniform(100, 150)
    return join((luma - middle) * factor + middle, *((plane - 128.0) * factor + 128 for plane in (blue, red)))


def _colour_cast(planes: np.ndarray, stops: float, rng: np.random.Generator) -> np.ndarray:
    """Set a wrong white balance: gains of RGB that differ by so many stops and leave grey as bright as it was."""
    # Mostly warm or cool, as wrong lamps are, else green or magenta.
    way = int(rng.choice([-1, 1]))
    warm, green = (way, float(rng.uniform(-0.4, 0.4))) if rng.random() < 0.65 else (0, way)
    tilt = np.array([warm - green / 2, green, -warm - green / 2]) / 2
    gains = 2 ** (stops * tilt / np.abs(tilt).max() / 2)
    gains *= YUV_OF_RGB[0].sum() / (YUV_OF_RGB[0] @ gains)
    # Gains of codes are one linear map of YUV.
    by_luma, by_blue, by_red = (YUV_OF_RGB @ np.diag(gains) @ np.linalg.inv(YUV_OF_RGB)).T.astype(np.float32)
    luma, blue, red = (plane - np.float32(zero) for plane, zero in zip(split(planes), (16, 128, 128), strict=True))
    small = luma.reshape(len(luma), luma.shape[1] // 2, 2, luma.shape[2] // 2, 2).mean((2, 4))
    tint = (by_blue[0] * blue + by_red[0] * red).repeat(2, 1).repeat(2, 2)
    chroma = [by_luma[row] * small + by_blue[row] * blue + by_red[row] * red + 128 for row in (1, 2)]
    return join(by_luma[0] * luma + tint + 16, *chroma)


def _saturated(planes: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    luma, blue, red = split(planes)
    return join(luma, *((plane - 128.0) * factor + 128 for plane in (blue, red)))


def _banding(planes: np.ndarray, levels: float, rng: np.random.Generator) -> np.ndarray:
    step = (WHITE - BLACK) / (levels - 1)
    luma, *chroma = split(planes)
    chroma = [np.rint((plane - 128.0) / step) * step + 128 for plane in chroma]
    return join(np.rint((luma - 16.0) / step) * step + 16, *chroma)


def _freeze(planes: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    frames = len(planes)
    length = max(1, round(share * frames))
    start = int(rng.random() * (frames - length))
    shown = np.arange(frames)
    shown[start : start + length + 1] = start
    return planes[shown]


def _frame_drops(planes: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    order = rng.permutation(np.arange(1, len(planes)))
    lost = set(order[: max(1, round(share * (len(planes) - 1)))].tolist())
    shown = [0]
    for index in range(1, len(planes)):
        shown.append(shown[-1] if index in lost else index)
    return planes[shown]


def _judder(planes: np.ndarray, times: float, rng: np.random.Generator) -> np.ndarray:
    return planes[(np.floor(np.arange(len(planes)) / times) * times).astype(int)]


def _flicker(planes: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Change the gain from frame to frame: at random, or in waves as under lamps on mains."""
    frames = np.arange(len(planes))
    wave = rng.standard_normal(len(planes))
    if rng.random() < 0.5:
        wave = np.sin(frames * rng.uniform(0.9, 2.9) + rng.uniform(0, 6.28))
    gains = 1 + deviation * (wave - wave.mean()) / wave.std()
    gains_T11 = np.clip(gains, 0.2, None).astype(np.float32)[:, None, None]
    luma, blue, red = split(planes)
    return join(
        (luma - np.float32(16)) * gains_T11 + 16, *((p - np.float32(128)) * gains_T11 + 128 for p in (blue, red))
    )


def _combing(planes: np.ndarray, lag: float, rng: np.random.Generator) -> np.ndarray:
    """Weave fields of two moments into each frame, as an interlaced picture is shown; parts of a frame are blended."""
    frames = np.arange(len(planes), dtype=np.float32) - lag
    before = np.clip(np.floor(frames), 0, None).astype(int)
    after = np.minimum(before + 1, len(planes) - 1)
    share = np.clip(frames - before, 0, 1).astype(np.float32)[:, None, None]
    fields, first = [], int(rng.integers(2))
    for plane in split(planes):
        woven = plane.astype(np.float32)
        rows = plane[:, first::2].astype(np.float32)
        woven[:, first::2] = rows[before] * (1 - share) + rows[after] * share
        fields.append(woven)
    return join(*fields)


def _jpeg(planes: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    stored = []
    for frame_HW3 in encode.planes_to_rgb(planes):
        file = io.BytesIO()
        Image.fromarray(frame_HW3).save(file, "JPEG", quality=round(quality))
        stored.append(np.asarray(Image.open(file)))
    return encode.rgb_to_planes(np.stack(stored))


def _unchanged(planes: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    return planes


Effect = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
#: Kind -> its effect on uint8 (T, J, W) at a strength.
EFFECTS: dict[str, Effect] = {
    "gaussian blur": _gaussian_blur,
    "motion blur": _motion_blur,
    "defocus": _defocus,
    "white noise": _white_noise,
    "film grain": _film_grain,
    "overexposure": _exposed,
    "underexposure": _exposed,
    "low contrast": _low_contrast,
    "colour cast": _colour_cast,
    "oversaturation": _saturated,
    "desaturation": _saturated,
    "banding": _banding,
    "freeze": _freeze,
    "frame drops": _frame_drops,
    "judder": _judder,
    "flicker": _flicker,
    "combing": _combing,
    "jpeg": _jpeg,
    LOW_FRAME_RATE: _unchanged,
}


def _encoded(planes: np.ndarray, step: Step, fps: float, folder: Path) -> np.ndarray:
    clip = folder / f"intermediate{encode.SUFFIXES[step.kind]}"
    encode.encode_planes(planes, clip, fps, step.kind, step.strength)
    return _read_back(ffmpeg.input(str(clip)), planes)


def _rescaled(planes: np.ndarray, factor: float, scaler: str) -> np.ndarray:
    height, width = planes.shape[1] * 2 // 3, planes.shape[2]
    small = [max(4, round(side * factor / 2) * 2) for side in (width, height)]
    source = encode.pipe_input(width, height, 25)
    scaled = source.filter("scale", *small, flags="area").filter("scale", width, height, flags=scaler)
    return encode.read_planes(scaled, width, height, frames=planes)


def _lossy(
    planes: np.ndarray, share: float, fps: float, folder: Path, rng: np.random.Generator, lead: int
) -> np.ndarray:
    """Lose parts of an H.264 stream and let the decoder conceal them, as a receiver does.

    One or two bursts each hit one to three frames in turn, key frames too, in the same place; or they take whole
    frames. A slice that is hit ends after its header, or, if it is a whole frame, where the loss begins: what came
    before can be decoded. A higher share hits the same and more.
    """
    slices, key_frames, whole = int(rng.choice(SLICES)), int(rng.choice(KEY_FRAMES)), rng.random() < 0.2
    bframes = 0 if whole else int(rng.choice([0, 0, 2]))
    params = f"slices={slices}:keyint={key_frames}:bframes={bframes}:scenecut=0"
    stream = folder / "stream.h264"
    encode.encode_planes(planes, stream, fps, "x264", 22, **{"x264-params": params})
    frames: list[list[int]] = []
    units = encode.split_nal_units(stream.read_bytes())
    for index, unit in enumerate(units):
        if (starts := encode.starts_frame(unit)) is not None:
            frames += [[]] if starts else []
            frames[-1].append(index)
    first = rng.random() * (1 - LARGEST_LOSS)
    last = max(1, lead - 1) if lead else len(frames) // 2
    gone: set[int] = set()
    for burst in range(2 if rng.random() < 0.4 else 1):
        # A first frame that is lost whole leaves no picture to conceal anything with.
        start = 0 if burst == 0 and rng.random() < 0.25 and not whole else int(rng.integers(1, last + 1))
        length = int(rng.integers(1, 4))
        if whole:
            gone |= set(range(start, min(len(frames), start + max(1, round(share * 9)))))
            continue
        for frame in frames[start : start + length]:
            for place, index in enumerate(frame):
                keeps = _kept_of_slice(place, len(frame), first, share)
                if keeps < 1:
                    units[index] = units[index][: max(HEADER_BYTES, int(keeps * len(units[index])))]
    lost = {index for frame in gone for index in frames[frame]}
    stream.write_bytes(b"".join(unit for index, unit in enumerate(units) if index not in lost))
    source = ffmpeg.input(str(stream), format="h264", threads=1, err_detect="ignore_err", flags="+output_corrupt")
    # In the place of a frame that is gone the one before it is shown.
    shown = np.cumsum([frame not in gone for frame in range(len(planes))]) - 1
    return _read_back(source, planes[: len(planes) - len(gone)])[shown]


def _kept_of_slice(place: int, slices: int, first: float, share: float) -> float:
    """Give how much of a slice arrives, when of the frame everything from `first` on over `share` is lost, 0-1."""
    top, bottom = place / slices, (place + 1) / slices
    if slices == 1:
        return 1 - share
    return 1.0 if bottom <= first or top >= first + share else max(0.0, first - top) * slices


def _read_back(source: object, planes: np.ndarray) -> np.ndarray:
    found = encode.read_planes(source, planes.shape[2], planes.shape[1] * 2 // 3)
    if len(found) != len(planes):
        raise encode.EncodeError(f"{len(found)} frames came back of {len(planes)}")
    return found


def _shows(before: np.ndarray, after: np.ndarray, least_codes: float = LEAST_CHANGE_CODES) -> bool:
    changes = [np.abs(new.astype(np.int16) - old).mean() for old, new in zip(split(before), split(after), strict=True)]
    return max(changes) > least_codes
