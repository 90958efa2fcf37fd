"""Moving pictures from still ones: procedural scenes, and a camera that moves over any picture.

In: a seed, or a photograph. Out: RGB frames. Rendered scenes have the 1/f spectrum of natural images
(Field 1987), hard edges, fine detail and a moving foreground, so that encoders treat them as they treat film. One in
five is soft by nature, as a sky, a fog or a wall out of focus is: a picture may lack fine detail and lack nothing.
Knows nothing of files, encoders or labels.

Shape legend: T frames, H height, W width, 3 RGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

MOTIONS = ("static", "pan", "zoom", "handheld")
#: Scenes of every so many seeds are soft.
SOFT_EVERY = 5


@dataclass(frozen=True)
class CameraPath:
    """A smooth sub-pixel camera motion.

    Args:
        motion: one of MOTIONS.
        speed_px: mean displacement per frame, in output pixels.
        angle_rad: direction of a pan.
    """

    motion: str
    speed_px: float
    angle_rad: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> CameraPath:
        """Draw a motion, a speed of 0.2-4 px a frame (log-uniform) and a direction."""
        speed_px = float(np.exp(rng.uniform(np.log(0.2), np.log(4.0))))
        return cls(str(rng.choice(MOTIONS)), speed_px, float(rng.uniform(0, 2 * np.pi)))

    def positions(self, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Give the camera's offset and magnification at each frame.

        Returns:
            offsets in output pixels, float64 (frames, 2) as (x, y); magnification, float64 (frames,).
        """
        steps = np.arange(frames, dtype=np.float64)
        offsets, zoom = np.zeros((frames, 2)), np.ones(frames)
        if self.motion == "pan":
            offsets = np.outer(steps * self.speed_px, [np.cos(self.angle_rad), np.sin(self.angle_rad)])
        elif self.motion == "zoom":
            zoom = 1.0 + steps * self.speed_px * 1e-3 * np.sign(np.cos(self.angle_rad))
        elif self.motion == "handheld":
            # A random walk smoothed over a third of a second looks like a hand, not like vibration.
            kernel = np.hanning(11) / np.hanning(11).sum()
            walk = rng.normal(size=(frames + 10, 2)).cumsum(0) * self.speed_px
            offsets = np.stack([np.convolve(walk[:, axis], kernel, "valid") for axis in (0, 1)], 1)
        return offsets - offsets.mean(0), zoom


def animate(
    picture: Image.Image, camera: CameraPath, frames: int, size_px: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Film a still picture.

    Args:
        picture: RGB, any size; scaled so that the frame with its margin covers it.
        camera: the motion.
        frames: how many.
        size_px: (width, height) of the result.
        rng: drives the hand-held walk and the place of the frame within the picture.

    Returns:
        uint8 (T, H, W, 3) RGB.
    """
    width, height = size_px
    offsets, zoom = camera.positions(frames, rng)
    margin = np.ceil(np.abs(offsets).max(0) + 0.1 * np.array([width, height]) + 4)
    scale = max((width + 2 * margin[0]) / picture.width, (height + 2 * margin[1]) / picture.height)
    if scale < 1:
        # Not always the whole picture: a random magnification keeps several scales of detail in the corpus.
        scale = float(np.exp(rng.uniform(np.log(scale), np.log(min(1.0, scale * 2)))))
    canvas = picture.resize(
        (int(np.ceil(picture.width * scale)), int(np.ceil(picture.height * scale))),
        Image.Resampling.LANCZOS,
    )
    room = np.maximum(np.array([canvas.width - width, canvas.height - height]) / 2 - margin, 0)
    centre = np.array([canvas.width, canvas.height]) / 2 + rng.uniform(-1, 1, 2) * room
    result_THW3 = np.empty((frames, height, width, 3), np.uint8)
    for index in range(frames):
        step = 1 / zoom[index]
        left, top = centre + offsets[index] - np.array([width, height]) * step / 2
        window = (step, 0, left, 0, step, top)
        result_THW3[index] = np.asarray(
            canvas.transform(size_px, Image.Transform.AFFINE, window, Image.Resampling.BICUBIC)
        )
    return result_THW3


def render_scene(seed: int, width_px: int, height_px: int, frames: int) -> np.ndarray:
    """Render a procedural scene with camera motion and, unless it is soft, one moving object.

    Args:
        seed: decides everything; the same seed gives the same bytes.
        width_px, height_px: frame size.
        frames: how many.

    Returns:
        uint8 (T, H, W, 3) RGB.
    """
    rng = np.random.default_rng(seed)
    is_soft = seed % SOFT_EVERY == SOFT_EVERY - 1
    still = (_soft_still if is_soft else _still)(rng, int(width_px * 1.5), int(height_px * 1.5))
    frames_THW3 = animate(still, CameraPath.draw(rng), frames, (width_px, height_px), rng)
    if is_soft:
        return frames_THW3
    patch_size = max(16, height_px // 4)
    patch = np.asarray(_still(rng, patch_size, patch_size))
    rows, columns = np.mgrid[:patch_size, :patch_size] - (patch_size - 1) / 2
    disc = (np.hypot(rows, columns) < patch_size / 2)[..., None]
    place = rng.uniform(0, [height_px - patch_size, width_px - patch_size])
    speed = rng.uniform(-4, 4, 2)
    for index in range(frames):
        row, column = np.clip(place + speed * index, 0, [height_px - patch_size, width_px - patch_size])
        window = frames_THW3[index, int(row) : int(row) + patch_size, int(column) : int(column) + patch_size]
        np.copyto(window, patch, where=disc)
    return frames_THW3


def _still(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw layers of 1/f texture, each inside its own polygon."""
    image = Image.fromarray(_texture(rng, width, height))
    for _ in range(int(rng.integers(4, 10))):
        mask = Image.new("L", (width, height))
        corners = rng.uniform([0, 0], [width, height]) + rng.normal(size=(5, 2)) * [width / 4, height / 4]
        ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in corners], fill=255)
        image.paste(Image.fromarray(_texture(rng, width, height)), mask=mask)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(10, 40))):
        x, y = rng.uniform([0, 0], [width, height])
        dx, dy = rng.normal(size=2) * height / 6
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        draw.line((x, y, x + dx, y + dy), fill=colour, width=int(rng.integers(1, 4)))
    return image


def _soft_still(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw fields of colour that run into each other, and at most a few specks that are sharp."""
    vividness = float(rng.uniform(6, 50))
    image = Image.fromarray(_texture(rng, width, height, (1.8, 3.0), vividness))
    for _ in range(int(rng.integers(2, 6))):
        mask = Image.new("L", (width, height))
        centre, size = rng.uniform([0, 0], [width, height]), rng.uniform(0.1, 0.4, 2) * height
        ImageDraw.Draw(mask).ellipse([*(centre - size).tolist(), *(centre + size).tolist()], fill=255)
        mask = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.005, 0.06)) * height))
        image.paste(Image.fromarray(_texture(rng, width, height, (1.8, 3.0), vividness)), mask=mask)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 30))):
        x, y = rng.uniform([0, 0], [width, height])
        radius = float(rng.uniform(0.6, 2.5))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def _texture(
    rng: np.random.Generator,
    width: int,
    height: int,
    falloffs: tuple[float, float] = (0.9, 2.0),
    vividness: float = 6.0,
) -> np.ndarray:
    """Give coloured noise whose amplitude falls as 1/f^a, a between `falloffs`; uint8 (height, width, 3)."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falloff = np.maximum(np.hypot(fy, fx), 1 / max(width, height)) ** -rng.uniform(*falloffs)
    luma = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) * falloff, s=(height, width))
    tint = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) * falloff**1.3, s=(height, width))
    luma, tint = luma / luma.std(), tint / tint.std()
    # Muted colours: natural pictures carry far more luma than chroma.
    base, contrast = rng.uniform(50, 190) + rng.normal(0, 22, 3), rng.uniform(12, 45)
    colour = base + contrast * luma[..., None] + vividness * tint[..., None] * rng.normal(size=3)
    return np.clip(colour, 0, 255).astype(np.uint8)
