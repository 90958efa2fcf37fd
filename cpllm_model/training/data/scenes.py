"""Moving pictures from still ones: procedural scenes, and a camera that moves over any picture.

In: a seed, or a photograph. Out: RGB frames. Rendered scenes have the 1/f spectrum of natural images
(Field 1987), hard edges, fine detail and a moving foreground, so that encoders treat them as they treat film. One in
five is soft by nature, as a sky or a wall out of focus is: a picture may lack fine detail and lack nothing. Scenes of
nature (`render_nature`) are hazy, warm, blue or out of focus in the same sense. Knows nothing of files, encoders or
labels.

Shape legend: T moments, H height, W width, 3 RGB. Moments are counted in frames.
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
    picture: Image.Image,
    camera: CameraPath,
    frames: int,
    size_px: tuple[int, int],
    rng: np.random.Generator,
    times_T: np.ndarray | None = None,
) -> np.ndarray:
    """Film a still picture.

    Args:
        picture: RGB, any size; scaled so that the frame with its margin covers it.
        camera: the motion.
        frames: length of the camera's path.
        size_px: (width, height) of the result.
        rng: drives the hand-held walk and the place of the frame within the picture.
        times_T: the moments that are shown; past its end the path is gone back. None: one a frame of the path.

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
    if times_T is not None:
        moments = np.array([there_and_back(time, frames - 1) for time in times_T])
        zoom = np.interp(moments, np.arange(frames), zoom)
        offsets = np.stack([np.interp(moments, np.arange(frames), offsets[:, axis]) for axis in (0, 1)], 1)
    result_THW3 = np.empty((len(zoom), height, width, 3), np.uint8)
    for index in range(len(zoom)):
        step = 1 / zoom[index]
        left, top = centre + offsets[index] - np.array([width, height]) * step / 2
        window = (step, 0, left, 0, step, top)
        result_THW3[index] = np.asarray(
            canvas.transform(size_px, Image.Transform.AFFINE, window, Image.Resampling.BICUBIC)
        )
    return result_THW3


def there_and_back(place: float, room: float) -> float:
    """Fold a straight way into 0 to `room`, as the way of a ball between two walls."""
    if room <= 0:
        return 0.0
    place = abs(place) % (2 * room)
    return min(place, 2 * room - place)


def render_scene(
    seed: int, width_px: int, height_px: int, frames: int, times_T: np.ndarray | None = None
) -> np.ndarray:
    """Render a procedural scene with camera motion and, unless it is soft, one moving object.

    Args:
        seed: decides everything; the same seed gives the same bytes.
        width_px, height_px: frame size.
        frames: length of the camera's path.
        times_T: the moments that are shown; None: one a frame of the path.

    Returns:
        uint8 (T, H, W, 3) RGB.
    """
    rng = np.random.default_rng(seed)
    is_soft = seed % SOFT_EVERY == SOFT_EVERY - 1
    still = (_soft_still if is_soft else _still)(rng, int(width_px * 1.5), int(height_px * 1.5))
    frames_THW3 = animate(still, CameraPath.draw(rng), frames, (width_px, height_px), rng, times_T)
    if is_soft:
        return frames_THW3
    patch_size = max(16, height_px // 4)
    patch = np.asarray(_still(rng, patch_size, patch_size))
    rows, columns = np.mgrid[:patch_size, :patch_size] - (patch_size - 1) / 2
    disc = (np.hypot(rows, columns) < patch_size / 2)[..., None]
    place = rng.uniform(0, [height_px - patch_size, width_px - patch_size])
    speed = rng.uniform(-4, 4, 2)
    for index, time in enumerate(range(frames) if times_T is None else times_T):
        row, column = np.clip(place + speed * time, 0, [height_px - patch_size, width_px - patch_size])
        window = frames_THW3[index, int(row) : int(row) + patch_size, int(column) : int(column) + patch_size]
        np.copyto(window, patch, where=disc)
    return frames_THW3


def shallow_focus(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Keep a subject sharp and put what is around it out of focus, as a wide aperture or a macro lens does."""
    blurred = picture
    for _ in range(2):
        blurred = blurred.filter(ImageFilter.BoxBlur(picture.height * float(rng.uniform(0.01, 0.035))))
    mask = Image.new("L", picture.size)
    size = np.array(picture.size)
    centre, reach = size * rng.uniform(0.3, 0.7, 2), size * rng.uniform(0.12, 0.32, 2)
    ImageDraw.Draw(mask).ellipse([*(centre - reach).tolist(), *(centre + reach).tolist()], fill=255)
    mask = mask.filter(ImageFilter.BoxBlur(picture.height * float(rng.uniform(0.004, 0.05))))
    return Image.composite(picture, blurred, mask)


def render_nature(seed: int, width_px: int, height_px: int, frames: int, times_T: np.ndarray) -> np.ndarray:
    """Render a clean scene that a careless judge would call faulty: fog, snow, fire, sunset, water or lights at night.

    Args:
        seed: decides everything; the same seed gives the same bytes.
        width_px, height_px: frame size.
        frames: length of the camera's path.
        times_T: the moments that are shown.

    Returns:
        uint8 (T, H, W, 3) RGB.
    """
    rng = np.random.default_rng([seed, 31])
    stills = (_hills, _snowfall, None, _hills, _water, _night)
    draw = stills[seed // 2 % len(stills)]
    if draw is None:
        return _fire(rng, width_px, height_px, times_T)
    still = draw(rng, int(width_px * 1.5), int(height_px * 1.5))
    frames_THW3 = animate(still, CameraPath.draw(rng), frames, (width_px, height_px), rng, times_T)
    return _flakes(rng, frames_THW3, times_T) if draw is _snowfall else frames_THW3


def _hills(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw rows of hills in fog, or before an evening sky, each row paler than the one before it."""
    evening = rng.random() < 0.5
    far = np.array([240, 130, 60] if evening else [205, 208, 212]) + rng.normal(0, 12, 3)
    near = np.array([60, 22, 40] if evening else [125, 132, 135]) + rng.normal(0, 15, 3)
    sky = np.array([70, 40, 90] if evening else [225, 228, 232]) + rng.normal(0, 10, 3)
    fade = np.linspace(0, 1, height)[:, None, None] ** 0.7
    canvas = Image.fromarray(
        np.clip(np.broadcast_to(sky * (1 - fade) + far * fade, (height, width, 3)), 0, 255).astype(np.uint8)
    )
    if evening:
        x, y, radius = width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.5), height * rng.uniform(0.04, 0.1)
        ImageDraw.Draw(canvas).ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 225, 150))
    rows = int(rng.integers(3, 6))
    for row in range(rows):
        nearness = (row + 1) / rows
        texture = _texture(rng, width, height, (1.0, 1.8)).astype(np.float32)
        tone = far * (1 - nearness) + near * nearness
        # Fog takes contrast away, and the more the farther.
        layer = np.clip(tone + (texture - texture.mean()) * nearness * (0.5 if evening else 0.28), 0, 255)
        mask, steps = Image.new("L", (width, height)), np.linspace(0, width, 24)
        base = height * (0.35 + 0.5 * nearness)
        ridge = [(float(x), float(base + rng.normal(0, height * 0.025))) for x in steps]
        ImageDraw.Draw(mask).polygon([(0, height), *ridge, (width, height)], fill=255)
        canvas.paste(Image.fromarray(layer.astype(np.uint8)), mask=mask.filter(ImageFilter.BoxBlur(2 * (1 - nearness))))
    return canvas


def _snowfall(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw a white landscape with a few dark trunks."""
    texture = _texture(rng, width, height, (1.3, 2.2), 3.0).astype(np.float32)
    ground = np.clip(rng.uniform(205, 235) + (texture - texture.mean()) * 0.35, 0, 255)
    canvas = Image.fromarray(ground.astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(2, 14))):
        x, thickness, tone = rng.uniform(0, width), rng.uniform(2, width / 25), int(rng.integers(40, 150))
        lean, top = rng.normal(0, width / 20), height * rng.uniform(0, 0.4)
        foot = height * rng.uniform(0.6, 1)
        draw.polygon(
            [(x, foot), (x + thickness, foot), (x + lean + thickness / 3, top), (x + lean, top)],
            fill=(tone, tone, tone),
        )
    return canvas


def _flakes(rng: np.random.Generator, frames_THW3: np.ndarray, times_T: np.ndarray) -> np.ndarray:
    height, width = frames_THW3.shape[1:3]
    count = int(rng.integers(20, 200))
    places, sizes = rng.uniform([0, 0], [width, height], (count, 2)), rng.uniform(0.8, height / 70, count)
    # Near flakes are large and fall fast.
    speeds = np.stack([rng.normal(0.6, 0.4, count), 0.6 + 0.9 * sizes], 1)
    result = []
    for frame, time in zip(frames_THW3, times_T, strict=True):
        picture = Image.fromarray(frame)
        draw = ImageDraw.Draw(picture)
        for (x, y), size in zip((places + speeds * time) % [width, height], sizes, strict=True):
            draw.ellipse((x - size, y - size, x + size, y + size), fill=(248, 248, 250))
        result.append(np.asarray(picture))
    return np.stack(result)


def _fire(rng: np.random.Generator, width: int, height: int, times_T: np.ndarray) -> np.ndarray:
    """Draw flames: two fields of noise that rise at their own speeds, in the colours of glowing soot."""
    fields = [_texture(rng, width, height * 2, (1.2, 1.7), 0).mean(2) for _ in range(2)]
    fields = [(field - field.mean()) / field.std() for field in fields]
    speeds = rng.uniform(1, 6, 2)
    rise = np.linspace(-1.6, 1.6, height)[:, None] + rng.uniform(-0.4, 0.4)
    across = 1.2 - 2.2 * np.abs(np.linspace(-1, 1, width)) ** 2
    result = []
    for time in times_T:
        moved = [np.roll(field, -round(speed * time), 0)[:height] for field, speed in zip(fields, speeds, strict=True)]
        heat = np.clip((moved[0] + moved[1]) * 0.45 + rise + across, 0, 3)[..., None] / 3
        result.append(np.clip(heat * [520, 330, 150] - [0, 70, 75], 0, 255).astype(np.uint8))
    return np.stack(result)


def _water(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw soft shapes in blue-green water."""
    still = np.asarray(_soft_still(rng, width, height)).astype(np.float32)
    tint = np.array([0.25, 0.75, 0.9]) + rng.normal(0, 0.06, 3)
    depth = np.linspace(1.15, 0.6, height)[:, None, None]
    return Image.fromarray(np.clip(still * tint * depth, 0, 255).astype(np.uint8))


def _night(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw lights that are out of focus, large discs, before the dark."""
    glow = np.zeros((height, width, 3), np.float32)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(int(rng.integers(8, 40))):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), height * rng.uniform(0.015, 0.07)
        disc = np.clip(radius + 0.5 - np.hypot(rows - y, columns - x), 0, 1)[..., None]
        glow += (
            disc * rng.uniform(40, 190) * (np.array([1.0, 0.7, 0.35]) if rng.random() < 0.6 else rng.uniform(0.3, 1, 3))
        )
    return Image.fromarray(np.clip(glow + rng.uniform(4, 22), 0, 255).astype(np.uint8))


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
