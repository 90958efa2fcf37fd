"""Still pictures in every kind and depth, turned, broken and hostile, here and behind the wall."""

import io
import struct
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from cpllm_model import errors
from cpllm_model.decoding.pictures import _webp_size
from cpllm_model.decoding.samples import DecodeLimits, VideoSamples, picture_codec
from cpllm_model.decoding.sandbox import DecodeSandbox
from cpllm_model.decoding.video import decode, probe
from tests.cpllm_model.decoding.settings import SETTINGS

WIDTH, HEIGHT = 161, 99


@pytest.fixture(scope="module")
def sandbox():
    with DecodeSandbox() as opened:
        yield opened


def picture(width=WIDTH, height=HEIGHT):
    """Smooth, of many colours, and different at each corner: uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width] / height
    planes = 128 + 90 * np.sin(5 * x + 2 * y), 128 + 90 * np.sin(3 * y + 1), 60 + 120 * x * y / 1.7
    return np.stack(planes, -1).clip(0, 255).astype(np.uint8)


def saved(pixels, kind, **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def sampled(data, settings=SETTINGS, limits=None):
    return decode(io.BytesIO(data), "picture", settings, limits)


def video_of(pixels, frames=10):
    """The same picture as a video of equal frames, without loss."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as muxer:
        stream = muxer.add_stream("ffv1", rate=25)
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "bgr0"
        for _ in range(frames):
            muxer.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        muxer.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (1200, 130)])
def test_a_picture_is_seen_as_a_video_of_equal_frames_is(size):
    pixels = picture(*size)
    still, moving = sampled(saved(pixels, "png")), sampled(video_of(pixels))
    assert still.plan == "still" and still.damaged_frames == 0
    assert still.bursts_NTCHW.shape == (1, 5, 3, 64, 64) and still.context_NMCHW.shape == (1, 3, 3, 48, 48)
    for one, other in ((still.bursts_NTCHW, moving.bursts_NTCHW), (still.context_NMCHW, moving.context_NMCHW)):
        assert np.abs(one[0].astype(int) - other[0]).max() <= 1
    np.testing.assert_array_equal(still.burst_interval_s, [0.04])
    assert (still.segment_start_s[0], still.segment_end_s[0]) == (0, 0.2)


def test_what_is_said_of_a_picture():
    data = saved(picture(), "png")
    info = sampled(data).info
    assert (info.width_px, info.height_px, info.codec, info.frame_count) == (WIDTH, HEIGHT, "png", 1)
    assert (info.duration_s, info.fps, info.rotation_deg, info.bit_rate_bps) == (0.2, 25, 0, None)
    probed = probe(io.BytesIO(data), "picture")
    assert (probed.width_px, probed.codec, probed.duration_s) == (WIDTH, "png", 0.04)


def cmyk(pixels):
    return Image.fromarray(pixels).convert("CMYK")


FORMS = {
    "jpeg": lambda p: saved(p, "jpeg", quality=95, subsampling=0),
    "progressive jpeg": lambda p: saved(p, "jpeg", quality=95, progressive=True),
    "cmyk jpeg": lambda p: saved(cmyk(p), "jpeg", quality=95),
    "grey jpeg": lambda p: saved(Image.fromarray(p).convert("L"), "jpeg", quality=95),
    "png": lambda p: saved(p, "png"),
    "palette png": lambda p: saved(Image.fromarray(p).quantize(256), "png"),
    "alpha png": lambda p: saved(np.dstack([p, p[..., 1]]), "png"),
    "transparent palette png": lambda p: saved(Image.fromarray(p).quantize(200), "png", transparency=3),
    "grey png": lambda p: saved(Image.fromarray(p).convert("L"), "png"),
    "grey and alpha png": lambda p: saved(Image.fromarray(p).convert("LA"), "png"),
    "16 bit grey png": lambda p: saved(np.asarray(Image.fromarray(p).convert("L")).astype("<u2") * 257, "png"),
    "16 bit png": lambda p: png(p.shape[1], p.shape[0], rows=(p.astype(">u2") * 257).tobytes(), depth=16),
    "webp": lambda p: saved(p, "webp", quality=95),
    "lossless webp": lambda p: saved(p, "webp", lossless=True),
    "alpha webp": lambda p: saved(Image.fromarray(p).convert("RGBA"), "webp", quality=95),
    "bmp": lambda p: saved(p, "bmp"),
    "palette bmp": lambda p: saved(Image.fromarray(p).quantize(256), "bmp"),
}  # fmt: skip
#: Worst mean difference of an RGB code.
TOLERANCE = {"cmyk jpeg": 6, "palette png": 6, "transparent palette png": 6, "palette bmp": 6}


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, rows=b"", depth=8, before=b""):
    """A PNG of RGB whose pixels may be other than its header says; `rows` holds the codes."""
    stride = max(1, width * 3 * depth // 8)
    lines = b"".join(b"\0" + rows[at : at + stride] for at in range(0, len(rows), stride))
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_and_depth_shows_the_same_picture_behind_the_wall(sandbox, form):
    pixels = picture()
    data = FORMS[form](pixels)
    found = sandbox.decode(io.BytesIO(data), form, SETTINGS)
    assert found.to_bytes() == sampled(data).to_bytes()
    assert found.info.codec == picture_codec(data[:64]) == form.split()[-1]
    assert sandbox.probe(io.BytesIO(data), form).codec == found.info.codec
    if "grey" in form:
        pixels = np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, -1)
    expected = sampled(saved(pixels, "bmp"))
    difference = np.abs(found.context_NMCHW.astype(int) - expected.context_NMCHW)
    assert difference.mean() < TOLERANCE.get(form, 3)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_picture_stands_as_its_exif_orientation_says(kind, value):
    turned = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: np.rot90(p),
    }
    exif = Image.Exif()
    exif[0x0112] = value
    options = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {"lossless": True} if kind == "webp" else {}
    found = sampled(saved(picture(), kind, exif=exif, **options))
    expected = sampled(saved(np.ascontiguousarray(turned[value](picture())), "bmp"))
    assert (found.info.width_px, found.info.height_px) == (expected.info.width_px, expected.info.height_px)
    assert found.info.rotation_deg == {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}.get(value, 0)
    assert np.abs(found.bursts_NTCHW.astype(int) - expected.bursts_NTCHW).mean() < 2
    assert np.abs(found.context_NMCHW.astype(int) - expected.context_NMCHW).mean() < 2


def animated(kind):
    frames = [Image.fromarray(picture()), Image.fromarray(picture()[::-1].copy())]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
REFUSED = {
    "PNG of 60,000 x 60,000": (lambda: png(60_000, 60_000, bytes(1 << 20)), "limit_exceeded"),
    "JPEG of 65,000 x 65,000": (lambda: resized_jpeg(65_000, 65_000), "limit_exceeded"),
    "WebP of 16,383 x 16,383": (lambda: webp_canvas(16_383, 16_383), "limit_exceeded"),
    "BMP of 2^31 x 2^31": (lambda: bmp_header(2**31 - 1, 2**31 - 1), "limit_exceeded"),
    "comment that unpacks to 100 MB": (
        lambda: png(40, 40, bytes(4800), before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20)))),
        "corrupt_video",
    ),
    "half a JPEG": (lambda: half(saved(NOISE, "jpeg")), "corrupt_video"),
    "half a PNG": (lambda: half(saved(NOISE, "png")), "corrupt_video"),
    "half a WebP": (lambda: half(saved(NOISE, "webp", lossless=True)), "corrupt_video"),
    "half a BMP": (lambda: half(saved(NOISE, "bmp")), "corrupt_video"),
    "head of a JPEG": (lambda: b"\xff\xd8\xff\xe0", "corrupt_video"),
    "head of a PNG": (lambda: b"\x89PNG\r\n\x1a\n", "corrupt_video"),
    "head of a WebP": (lambda: b"RIFF\xff\xff\xff\xffWEBP", "corrupt_video"),
    "PNG of no size": (lambda: png(0, 0), "corrupt_video"),
    "animated PNG": (lambda: animated("png"), "unsupported_codec"),
    "animated WebP": (lambda: animated("webp"), "unsupported_codec"),
    "animated GIF": (lambda: animated("gif"), "not_a_video"),
    "TIFF": (lambda: saved(picture(), "tiff"), "not_a_video"),
    "small": (lambda: saved(picture(31, 200), "png"), "too_small"),
}


def half(data):
    return data[: len(data) // 2]


def resized_jpeg(width, height):
    """A JPEG that says it is larger than it is."""
    data = bytearray(saved(picture(), "jpeg"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_canvas(width, height):
    """A WebP whose canvas is larger than its picture."""
    body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    inside = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + body + saved(picture(), "webp")[12:]
    return b"RIFF" + struct.pack("<I", len(inside)) + inside


def bmp_header(width, height):
    """A BMP that ends with its header."""
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_has_a_type_and_leaves_the_sandbox_standing(sandbox, name):
    make, error_type = REFUSED[name]
    data = make()
    for attempt in (
        lambda: sampled(data),
        lambda: sandbox.decode(io.BytesIO(data), name, SETTINGS),
    ):
        with pytest.raises(errors.VideoError) as raised:
            attempt()
        assert raised.value.error_type == error_type
        assert raised.value.cause.isprintable()
    assert sandbox.decode(io.BytesIO(saved(picture(), "png")), "sound", SETTINGS).plan == "still"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp"])
def test_flipped_bits_give_a_picture_or_a_typed_error(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if kind == "bmp" else {"exif": exif}
    data, rng, refused = saved(NOISE, kind, **options), np.random.default_rng(1), 0
    for _ in range(60):
        broken = bytearray(data)
        for at in rng.integers(4, min(len(data), 400), 4):
            broken[at] ^= 1 << int(rng.integers(8))
        try:
            assert sampled(bytes(broken), limits=DecodeLimits(max_frame_px=1 << 20)).bursts_NTCHW.size
        except errors.VideoError as error:
            refused += 1
            assert not error.transient
    assert refused


def test_limits_of_a_picture_are_kept():
    data = saved(picture(), "png")
    with pytest.raises(errors.LimitExceededError, match="161x99 px"):
        sampled(data, limits=DecodeLimits(max_frame_px=WIDTH * HEIGHT - 1))
    with pytest.raises(errors.LimitExceededError, match="bytes"):
        sampled(data, limits=DecodeLimits(max_file_bytes=100))


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}, {"quality": 80, "exif": b"Exif\0\0"}])
def test_the_size_of_a_webp_is_read_from_its_first_chunk(options):
    assert _webp_size(saved(picture(), "webp", **options)) == (WIDTH, HEIGHT)


def test_a_picture_within_bars_is_seen_without_them():
    pixels = picture(160, 98)
    framed = np.zeros((180, 240, 3), np.uint8)
    framed[40:138, 40:200] = pixels
    found, expected = sampled(saved(framed, "png")), sampled(saved(pixels, "png"))
    np.testing.assert_array_equal(found.bursts_NTCHW, expected.bursts_NTCHW)
    assert np.abs(found.context_NMCHW.astype(int) - expected.context_NMCHW).mean() < 2


def test_samples_of_a_picture_survive_the_trip():
    samples = sampled(saved(picture(), "jpeg"))
    again = VideoSamples.from_bytes(samples.to_bytes(), SETTINGS)
    assert again.info == samples.info and again.plan == "still"
    np.testing.assert_array_equal(again.bursts_NTCHW, samples.bursts_NTCHW)
