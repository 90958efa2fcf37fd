"""Screens and drawn pictures: what a recorder of screens, an animator or a game shows, rendered from a seed.

In: a seed, a size, moments. Out: RGB frames: desktops, slides, terminals, editors, pages, documents, credits, cartoons
and simple games, still, scrolling or typing. Also subtitles for any picture. Text is of made-up words in Pillow's
own font, so that nothing is needed from outside. Knows nothing of files, encoders or labels.

Shape legend: T moments, H height, W width, 3 RGB.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cpllm_model.training.data.scenes import there_and_back

Colour = tuple[int, int, int]
#: Draws the frame at a moment, counted in frames.
Show = Callable[[float], Image.Image]

SYLLABLES = (
    "a", "be", "co", "da", "el", "fi", "go", "ha", "in", "ka", "lo", "mu", "ne", "or", "pi", "ra", "so", "ti", "un",
    "ve", "wo", "ya", "ter", "ing", "con", "str", "pro", "man", "ble", "est",
)  # fmt: skip
KEYWORDS = ("def", "return", "if", "for", "in", "import", "class", "while", "not", "with", "yield", "from", "else")


def is_drawn(seed: int) -> bool:
    """Tell whether a seed gives a cartoon or a game, which are animation, rather than a screen."""
    return LAYOUTS[seed % len(LAYOUTS)] in (_cartoon, _game)


def render_screen(seed: int, width_px: int, height_px: int, times_T: np.ndarray) -> np.ndarray:
    """Render a screen or a drawn scene.

    Args:
        seed: decides everything; the same seed gives the same bytes.
        width_px, height_px: frame size.
        times_T: moments, in frames.

    Returns:
        uint8 (T, H, W, 3) RGB.
    """
    show = LAYOUTS[seed % len(LAYOUTS)](np.random.default_rng([seed, 77]), width_px, height_px)
    return np.stack([np.asarray(show(float(time))) for time in times_T])


def add_subtitle(frames_THW3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Write one or two lines of subtitle over frames: white or yellow, with a dark rim or on a dark box."""
    height, width = frames_THW3.shape[1:3]
    size = max(10, round(height * rng.uniform(0.045, 0.075)))
    layer = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(layer)
    colour = (255, 255, 255) if rng.random() < 0.7 else (250, 230, 60)
    boxed = rng.random() < 0.3
    lines = int(rng.integers(1, 3))
    for line in range(lines):
        text, y = _words(rng, 3, 7).capitalize(), height - round((lines - line + 0.6) * size * 1.25)
        x = (width - draw.textlength(text, _font(size))) / 2
        if boxed:
            draw.rectangle(draw.textbbox((x, y), text, _font(size)), fill=(0, 0, 0, 190))
        draw.text((x, y), text, (*colour, 255), _font(size), stroke_width=max(1, size // 12), stroke_fill=(0, 0, 0))
    ink = np.asarray(layer).astype(np.float32)
    alpha = ink[..., 3:] / 255
    return np.rint(frames_THW3 * (1 - alpha) + ink[..., :3] * alpha).astype(np.uint8)


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _word(rng: np.random.Generator) -> str:
    return "".join(rng.choice(SYLLABLES, int(rng.integers(1, 4))))


def _words(rng: np.random.Generator, least: int, most: int) -> str:
    return " ".join(_word(rng) for _ in range(int(rng.integers(least, most + 1))))


def _colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> Colour:
    red, green, blue = (int(code) for code in rng.integers(low, high, 3))
    return red, green, blue


def _theme(rng: np.random.Generator) -> tuple[Colour, Colour, Colour]:
    """Draw background, text and accent: light or dark, as screens are."""
    if rng.random() < 0.55:
        return _colour(rng, 235, 256), _colour(rng, 0, 60), _colour(rng, 20, 200)
    return _colour(rng, 8, 50), _colour(rng, 190, 256), _colour(rng, 100, 256)


def _text_px(rng: np.random.Generator, height: int) -> int:
    """Draw a text size that screens of any height have."""
    return int(np.clip(height * rng.uniform(0.025, 0.055), 8, 30))


def _scroll(rng: np.random.Generator, canvas: Image.Image, height: int, top: int = 0, moving: float = 0.6) -> Show:
    """Show a tall canvas through a window; it stands still or scrolls, in even steps or in jerks as a wheel does.

    The first `top` rows stay where they are.
    """
    room = canvas.height - height
    speed = float(rng.choice([1, 2, 3, 4, 6, 10, 16])) if rng.random() < moving else 0.0
    start = int(rng.integers(0, max(1, room)))
    every = int(rng.choice([1, 1, 1, 4]))

    def show(time: float) -> Image.Image:
        # Down to the end and up again.
        place = (start + np.floor(time / every) * every * speed) % max(1, 2 * room)
        row = int(place if place <= room else 2 * room - place)
        frame = canvas.crop((0, row, canvas.width, row + height))
        if top:
            frame.paste(canvas.crop((0, 0, canvas.width, top)), (0, 0))
        return frame

    return show


def _paragraphs(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], size: int, ink: Colour
) -> None:
    """Fill a box with lines of words."""
    left, top, right, bottom = box
    y, fits = top, max(1, int((right - left) / (size * 2.9)))
    while y < bottom - size:
        for _ in range(int(rng.integers(2, 7))):
            if y >= bottom - size:
                break
            draw.text((left, y), _words(rng, max(1, fits - 3), fits), ink, _font(size))
            y += round(size * 1.35)
        y += size


def _document(rng: np.random.Generator, width: int, height: int) -> Show:
    paper, ink, accent = _theme(rng)
    size, tall = _text_px(rng, height), height * 3
    canvas = Image.new("RGB", (width, tall), paper)
    draw = ImageDraw.Draw(canvas)
    edge = round(width * rng.uniform(0.04, 0.2))
    draw.text((edge, size), _words(rng, 2, 4).title(), accent, _font(size * 2))
    _paragraphs(rng, draw, (edge, size * 4, width - edge, tall), size, ink)
    return _scroll(rng, canvas, height)


def _page(rng: np.random.Generator, width: int, height: int) -> Show:
    paper, ink, accent = _theme(rng)
    size, tall = _text_px(rng, height), height * 3
    canvas = Image.new("RGB", (width, tall), paper)
    draw = ImageDraw.Draw(canvas)
    bar = size * 2 + 6
    y = bar + size
    while y < tall - size * 6:
        block = int(rng.integers(4, 9)) * size
        if rng.random() < 0.5:
            columns = int(rng.integers(2, 5))
            for column in range(columns):
                left, right = (round((column + side) * width / columns) + 6 for side in (0, 0.9))
                draw.rectangle((left, y, right, y + block), fill=_colour(rng, 40, 230), outline=ink)
                draw.text((left + 4, y + block - size * 1.5), _word(rng), paper, _font(size))
        else:
            _paragraphs(rng, draw, (size * 2, y, round(width * rng.uniform(0.5, 0.95)), y + block), size, ink)
            draw.rounded_rectangle((width - size * 7, y, width - size, y + size * 2), 4, fill=accent)
            draw.text((width - size * 6, y + 3), _word(rng), paper, _font(size))
        y += block + size * 2
    draw.rectangle((0, 0, width, bar), fill=accent)
    draw.text((size, 5), _words(rng, 3, 6).title(), paper, _font(size))
    return _scroll(rng, canvas, height, bar)


def _editor(rng: np.random.Generator, width: int, height: int) -> Show:
    paper, ink, _ = _theme(rng)
    size, tall = _text_px(rng, height), height * 2
    canvas = Image.new("RGB", (width, tall), paper)
    draw = ImageDraw.Draw(canvas)
    dark = sum(paper) < 384
    inks = [ink, *(_colour(rng, *((120, 256) if dark else (0, 150))) for _ in range(4))]
    for number, y in enumerate(range(4, tall - size, round(size * 1.4)), 1):
        draw.text((2, y), f"{number:4}", inks[-1], _font(size))
        x = size * 3 + int(rng.integers(0, 4)) * size * 2
        for _ in range(int(rng.integers(0, 7))):
            keyword = rng.random() < 0.3
            text = (
                str(rng.choice(KEYWORDS)) if keyword else _word(rng) + str(rng.choice(["", "(", ")", ":", " =", "."]))
            )
            draw.text((x, y), text, inks[1] if keyword else inks[int(rng.integers(len(inks)))], _font(size))
            x += int(draw.textlength(text + " ", _font(size)))
    if rng.random() < 0.5:
        return _scroll(rng, canvas, height)
    return _typing(
        rng, canvas.crop((0, 0, width, height)), size, ink, (size * 3, round(height * rng.uniform(0.2, 0.9)))
    )


def _terminal(rng: np.random.Generator, width: int, height: int) -> Show:
    paper = (0, 0, 0) if rng.random() < 0.6 else _colour(rng, 0, 45)
    ink: Colour = ((220, 220, 220), (90, 230, 110), (240, 180, 60))[int(rng.integers(3))]
    size, tall = _text_px(rng, height), height * 3
    canvas = Image.new("RGB", (width, tall), paper)
    draw = ImageDraw.Draw(canvas)
    for y in range(2, tall - size, round(size * 1.3)):
        prompt = rng.random() < 0.3
        text = f"$ {_words(rng, 1, 4)} -{_word(rng)[0]}" if prompt else f"{_words(rng, 1, 8)} {rng.integers(10000)}"
        draw.text((2, y), text, ink if prompt else tuple(code * 4 // 5 for code in ink), _font(size))
    if rng.random() < 0.6:
        return _scroll(rng, canvas, height)
    canvas = canvas.crop((0, 0, width, height))
    row = round(height * 0.9)
    ImageDraw.Draw(canvas).rectangle((0, row, width, height), fill=paper)
    return _typing(rng, canvas, size, ink, (2, row))


def _typing(rng: np.random.Generator, canvas: Image.Image, size: int, ink: Colour, place: tuple[int, int]) -> Show:
    """Write letter by letter, with a caret, at a place of a still canvas."""
    text, every = _words(rng, 20, 30), int(rng.integers(1, 5))

    def show(time: float) -> Image.Image:
        frame = canvas.copy()
        draw = ImageDraw.Draw(frame)
        written = text[: 3 + max(0, int(time // every + 8))]
        draw.text(place, written, ink, _font(size))
        x = place[0] + draw.textlength(written, _font(size)) + 1
        draw.rectangle((x, place[1], x + max(1, size // 8), place[1] + size), fill=ink)
        return frame

    return show


def _slide(rng: np.random.Generator, width: int, height: int) -> Show:
    paper, ink, accent = _theme(rng)
    canvas = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(canvas)
    size = round(height * rng.uniform(0.045, 0.075))
    if rng.random() < 0.6:
        draw.rectangle((0, 0, width, size * 2.4), fill=accent)
    draw.text((size, size * 0.5), _words(rng, 2, 4).title(), ink, _font(round(size * 1.4)))
    for line in range(int(rng.integers(3, 7))):
        draw.text((size, size * (3.4 + 1.6 * line)), f"- {_words(rng, 2, 5)}", ink, _font(size))
    left, bottom = round(width * 0.62), round(height * 0.9)
    if rng.random() < 0.5:
        bars = int(rng.integers(4, 9))
        step = width * 0.32 / bars
        for bar in range(bars):
            top = bottom - rng.uniform(0.1, 0.5) * height
            draw.rectangle((left + bar * step, top, left + (bar + 0.7) * step, bottom), fill=_colour(rng, 30, 230))
    else:
        points = [(left + 0.32 * width * n / 9, bottom - rng.uniform(0.05, 0.5) * height) for n in range(10)]
        draw.line(points, fill=accent, width=max(1, size // 8))
        draw.line((left, bottom, width * 0.95, bottom), fill=ink)
    # A pointer, or nothing at all, moves over it.
    speed = rng.normal(0, 2, 2) if rng.random() < 0.4 else None
    start = rng.uniform([0.2 * width, 0.2 * height], [0.8 * width, 0.8 * height])

    def show(time: float) -> Image.Image:
        frame = canvas.copy()
        if speed is not None:
            _pointer(frame, *(start + speed * time).tolist())
        return frame

    return show


def _pointer(frame: Image.Image, x: float, y: float) -> None:
    shape = [(0, 0), (0, 14), (4, 11), (7, 16), (9, 15), (6, 10), (11, 10)]
    ImageDraw.Draw(frame).polygon([(x + dx, y + dy) for dx, dy in shape], fill=(255, 255, 255), outline=(0, 0, 0))


def _desktop(rng: np.random.Generator, width: int, height: int) -> Show:
    top, bottom = (np.array(_colour(rng, 20, 220)) for _ in range(2))
    fade = np.linspace(0, 1, height)[:, None, None]
    canvas = Image.fromarray(np.broadcast_to(top * (1 - fade) + bottom * fade, (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    size = _text_px(rng, height)
    for number in range(int(rng.integers(3, 10))):
        x, y = 10 + number // 5 * size * 5, 10 + number % 5 * size * 4
        draw.rounded_rectangle((x, y, x + size * 2, y + size * 2), 4, fill=_colour(rng))
        draw.text((x, y + size * 2 + 2), _word(rng), (255, 255, 255), _font(max(8, size * 3 // 4)))
    draw.rectangle((0, height - size * 2, width, height), fill=_colour(rng, 20, 60))
    for number in range(int(rng.integers(3, 8))):
        x = 6 + number * size * 2
        draw.rectangle((x, height - size * 1.8, x + size * 1.5, height - size * 0.3), fill=_colour(rng, 60, 250))
    windows = []
    for _ in range(int(rng.integers(1, 4))):
        paper, ink, accent = _theme(rng)
        w, h = (int(side * rng.uniform(0.35, 0.7)) for side in (width, height))
        window = Image.new("RGB", (w, h), paper)
        pane = ImageDraw.Draw(window)
        pane.rectangle((0, 0, w, size * 1.6), fill=accent)
        pane.text((6, 2), _words(rng, 1, 3), paper, _font(size))
        _paragraphs(rng, pane, (8, size * 2, w - 8, h), size, ink)
        pane.rectangle((0, 0, w - 1, h - 1), outline=ink)
        windows.append((window, int(rng.uniform(0, width - w)), int(rng.uniform(0, height - h))))
    # The last window is dragged, or only the pointer moves, or nothing does.
    speed = np.rint(rng.normal(0, 4, 2)) if rng.random() < 0.6 else np.zeros(2)
    dragged = rng.random() < 0.5

    def show(time: float) -> Image.Image:
        frame = canvas.copy()
        dx, dy = (int(step) for step in speed * time)
        for number, (window, x, y) in enumerate(windows, 1):
            moves = dragged and number == len(windows)
            frame.paste(window, (x + dx * moves, y + dy * moves))
        _pointer(frame, windows[-1][1] + size * 3 + dx, windows[-1][2] + size + dy)
        return frame

    return show


def _credits(rng: np.random.Generator, width: int, height: int) -> Show:
    size, tall = _text_px(rng, height) + 2, height * 3
    canvas = Image.new("RGB", (width, tall))
    draw = ImageDraw.Draw(canvas)
    ink = _colour(rng, 200, 256)
    y = size
    while y < tall - size * 2:
        draw.text((width * 0.47, y), _word(rng), tuple(code * 3 // 4 for code in ink), _font(size), anchor="ra")
        for _ in range(int(rng.integers(1, 5))):
            draw.text((width * 0.53, y), f"{_word(rng)} {_word(rng)}".title(), ink, _font(size))
            y += round(size * 1.5)
        y += size * 2
    return _scroll(rng, canvas, height, moving=0.9)


def _cartoon(rng: np.random.Generator, width: int, height: int) -> Show:
    wide = width * 2
    canvas = Image.new("RGB", (wide, height), _colour(rng, 120, 256))
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((width * 0.7, height * 0.08, width * 0.7 + height * 0.2, height * 0.28), fill=_colour(rng, 200, 256))
    line = max(1, height // 160)
    for layer in range(3):
        steps = np.linspace(0, wide, 12)
        base = height * (0.45 + 0.18 * layer)
        ridge = [(float(x), float(base + rng.normal(0, height * 0.06))) for x in steps]
        draw.polygon(
            [(0, height), *ridge, (wide, height)], fill=_colour(rng, 30, 210), outline=(20, 20, 20), width=line
        )
    for _ in range(int(rng.integers(4, 12))):
        x, y, r = rng.uniform(0, wide), height * rng.uniform(0.5, 0.9), height * rng.uniform(0.04, 0.12)
        draw.rectangle((x - r / 5, y, x + r / 5, y + r * 1.5), fill=_colour(rng, 40, 120), outline=(20, 20, 20))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_colour(rng, 30, 200), outline=(20, 20, 20), width=line)
    skin, shirt, pan = _colour(rng, 150, 256), _colour(rng), float(rng.choice([0, 1, 2, 3]))
    r, speed = height * rng.uniform(0.07, 0.14), float(rng.uniform(0, 5))

    # Drawn "on twos": a figure gets a new pose in every second frame, as in animated films.
    def show(time: float) -> Image.Image:
        left = int(there_and_back(pan * time, width))
        frame = canvas.crop((left, 0, left + width, height))
        draw, pose = ImageDraw.Draw(frame), np.floor(time / 2) * 2
        x, y = width * 0.2 + there_and_back(speed * pose, width * 0.6), height * 0.6 + r * 0.3 * np.sin(pose / 2)
        for side in (-1, 1):
            swing = r * np.sin(pose / 2 + side)
            draw.line(
                (x + side * r / 3, y + r * 2, x + side * r / 3 + swing, y + r * 3.2), fill=(20, 20, 20), width=line * 3
            )
        draw.rounded_rectangle(
            (x - r * 0.7, y + r * 0.8, x + r * 0.7, y + r * 2.2), r / 4, fill=shirt, outline=(20, 20, 20), width=line
        )
        draw.ellipse((x - r, y - r, x + r, y + r), fill=skin, outline=(20, 20, 20), width=line)
        for side in (-0.35, 0.35):
            draw.ellipse(
                (x + r * side - r / 6, y - r / 4, x + r * side + r / 6, y + r / 8),
                fill=(255, 255, 255),
                outline=(0, 0, 0),
            )
        draw.arc((x - r / 2, y, x + r / 2, y + r * 0.6), 20, 160, fill=(20, 20, 20), width=line)
        return frame

    return show


def _game(rng: np.random.Generator, width: int, height: int) -> Show:
    size = max(8, round(height / int(rng.choice([9, 12, 15]))))
    kinds, flat = int(rng.integers(3, 7)), rng.random() < 0.4
    tiles = []
    for _ in range(kinds):
        tile = np.full((size, size, 3), _colour(rng, 20, 220), np.int16)
        if not flat:
            coarse = rng.integers(-25, 26, (-(-size // 4), -(-size // 4), 1))
            tile += np.repeat(np.repeat(coarse, 4, 0), 4, 1)[:size, :size].astype(np.int16)
            tile[0], tile[:, 0] = tile[0] // 2, tile[:, 0] // 2
        tiles.append(np.clip(tile, 0, 255).astype(np.uint8))
    rows, columns = -(-height // size), -(-width * 2 // size)
    # Neighbours are mostly alike.
    level = np.sort(rng.integers(0, kinds, (rows, columns)), axis=0)
    world = Image.fromarray(np.concatenate([np.concatenate([tiles[k] for k in row], 1) for row in level], 0))
    pixels = rng.random((8, 4)) < 0.6
    sprite = np.zeros((8, 8, 4), np.uint8)
    sprite[np.concatenate([pixels, pixels[:, ::-1]], 1)] = (*_colour(rng, 120, 256), 255)
    big = Image.fromarray(sprite).resize((size, size), Image.Resampling.NEAREST)
    speed, ink = float(rng.choice([0, 1, 2, 4, 8])), max(9, height // 18)
    others = rng.uniform([0, 0.2 * height, -4, -2], [width, 0.9 * height, 4, 2], (int(rng.integers(2, 7)), 4))
    score = int(rng.integers(1000, 90000))

    def show(time: float) -> Image.Image:
        left = int(there_and_back(speed * time, world.width - width))
        frame = world.crop((left, 0, left + width, height))
        for x, y, dx, dy in others:
            frame.paste(big, (int((x + dx * time) % width), int((y + dy * time) % height)), big)
        draw = ImageDraw.Draw(frame)
        text = f"SCORE {score + int(time) * 10}   x{len(others)}"
        draw.text((ink // 2, ink // 2), text, (255, 255, 255), _font(ink), stroke_width=1, stroke_fill=(0, 0, 0))
        draw.rectangle(
            (width - ink * 6, ink // 2, width - ink // 2, ink * 1.3), fill=(60, 0, 0), outline=(255, 255, 255)
        )
        draw.rectangle((width - ink * 6, ink // 2, width - ink * 3, ink * 1.3), fill=(230, 40, 40))
        return frame

    return show


LAYOUTS = (_document, _cartoon, _page, _game, _editor, _slide, _terminal, _cartoon, _desktop, _game, _credits)
