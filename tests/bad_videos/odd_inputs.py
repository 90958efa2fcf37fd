"""Videos with odd times, sizes, pixel formats and orientations, most of which are to be scored like any other."""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from tests.bad_videos.files import (
    FAST,
    FRAMES,
    HEIGHT_PX,
    WIDTH_PX,
    boxes,
    edit_list,
    element,
    empty_h264,
    encoded,
    jpeg,
    mkv,
    motion_jpeg,
    mp4,
    number,
    pictures,
    remuxed,
)
from tests.bad_videos.streams import (
    UPRIGHT,
    Input,
    avc,
    clip,
    cut_stream,
    fields,
    pairs,
    refreshed,
    still,
    stills,
    transport_stream,
    vp8,
)

HEVC = {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"}
UNEVEN = [int(step) for step in np.random.default_rng(0).integers(5, 400, FRAMES)]


def timed(make: Callable[[], bytes], error: str | None = None) -> Input:
    """A video whose frames have to be seen in order all the same."""
    return Input(make, error, advances=True)


#: Times in Matroska, in milliseconds.
CLOCKS = {
    "uneven": [int(time) for time in np.cumsum(UNEVEN)],
    "jump an hour": [n * 40 + (n >= 24) * 3_600_000 for n in range(FRAMES)],
    "jump ten days": [n * 40 + (n >= 24) * 864_000_000 for n in range(FRAMES)],
    "jump to the end of time": [n * 40 + (n >= 24) * (2**63 - 5000) for n in range(FRAMES)],
    "stand still": [0] * FRAMES,
    "come in pairs": [n // 2 * 80 for n in range(FRAMES)],
    "run backwards": [(FRAMES - n) * 40 for n in range(FRAMES)],
    "begin again": [n % 24 * 40 for n in range(FRAMES)],
}
DURATIONS_MS = {"0": 0.0, "negative": -5000.0, "NaN": float("nan"), "infinite": float("inf"), "missing": None}
TIMES = {
    **{f"times {name}": timed(lambda times=times: mkv(stills(), times)) for name, times in CLOCKS.items()},
    **{f"duration {name}": timed(lambda ms=ms: mkv(avc(), duration_ms=ms)) for name, ms in DURATIONS_MS.items()},
    "duration 1e12": timed(lambda: mkv(avc(), duration_ms=1e15), "limit_exceeded"),
    "duration 0, MP4": timed(lambda: mp4(avc(), claimed_duration=0)),
    "duration unknown, MP4": timed(lambda: mp4(avc(), claimed_duration=0xFFFFFFFF)),
    "duration 2^63, MP4": timed(lambda: mp4(avc(), claimed_duration=1 << 63)),
    "no ticks in a second": timed(lambda: mp4(avc(), timescale=0)),
    "no frame": Input(lambda: mp4(motion_jpeg([])), "corrupt_video"),
    "no frame, Matroska": Input(lambda: mkv(motion_jpeg([])), "corrupt_video"),
    "one frame": Input(lambda: mp4(stills(1)), "too_short"),
    "seven frames": Input(lambda: mp4(stills(7)), "too_short"),
    "eight frames": timed(lambda: mp4(stills(8))),
    "1000 frames a second": timed(lambda: mp4(avc(), durations=1)),
    "1000 frames a second, claimed": timed(lambda: mkv(avc(), frame_duration_ns=1_000_000)),
    "1e9 frames a second, claimed": timed(lambda: mkv(avc(), frame_duration_ns=1)),
    "uneven, MP4": timed(lambda: mp4(stills(), durations=UNEVEN)),
    "frames of no duration": timed(lambda: mp4(stills(), durations=0)),
    "a frame of 136 years": timed(lambda: mp4(stills(), durations=[*[40] * 24, 0xFFFFFFF0, *[40] * 23])),
    "shown long before decoded": timed(lambda: mp4(avc(), shifts=[(-1) ** n * (2**31 - 1) for n in range(FRAMES)])),
    "an edit that waits": timed(lambda: mp4(avc(), edits=edit_list((5000, -1), (1920, 0)))),
    "an edit that shows half": timed(lambda: mp4(avc(), edits=edit_list((960, 960)))),
    "an edit that shows nothing": Input(lambda: mp4(avc(), edits=edit_list((1920, 10**6))), "corrupt_video"),
}


def joined_late(skipped: int) -> bytes:
    """Fragmented MP4 without its first fragments, as a player that joins a broadcast gets it."""
    flags = "+frag_keyframe+empty_moov+default_base_moof+frag_discont"
    whole = list(boxes(remuxed(clip(), "mp4", movflags=flags)))
    fragments = [one for one in whole if one[4:8] in (b"moof", b"mdat")]
    return b"".join([*(one for one in whole if one[4:8] in (b"ftyp", b"moov")), *fragments[2 * skipped :]])


def lasting(make: Callable[[], bytes], duration_s: float, damaged: bool = False, fps: float = 25.0) -> Input:
    """A video whose row has to say how long it is, whatever it says of itself."""
    return Input(make, damaged=damaged, advances=True, duration_s=duration_s, fps=fps)


YEARS_S = 1_732_560_000
LONG_SOUND = ("matroska", "flv", "asf", "mp4", "mpegts")
SPANS = {
    "begins after an hour, Matroska": lasting(lambda: remuxed(clip(), "matroska", 3600), 1.92),
    "begins after 4 s, Matroska": lasting(lambda: remuxed(clip(), "matroska", 4), 1.92),
    "begins after an hour, FLV": lasting(lambda: remuxed(clip(), "flv", 3600), 1.92),
    "begins after an hour, ASF": lasting(lambda: remuxed(clip(), "asf", 3600), 1.92),
    "begins after an hour, MPEG-TS": lasting(lambda: remuxed(clip(), "mpegts", 3600), 1.92),
    "a clock since 1970, Matroska": lasting(lambda: remuxed(clip(), "matroska", YEARS_S), 1.92),
    "a length and not an end, Matroska": lasting(
        lambda: mkv(avc(), [90_000 + 40 * n for n in range(FRAMES)], duration_ms=1920), 1.92
    ),
    "neither an end nor a length, Matroska": lasting(
        lambda: mkv(avc(), [5000 + 40 * n for n in range(FRAMES)], duration_ms=1000), 1.92
    ),
    "joined late": lasting(lambda: joined_late(2), 0.96),
    "joined streams": lasting(lambda: transport_stream() * 3, 5.76, damaged=True),
    "joined program streams": Input(
        lambda: encoded("mpeg2video", "yuv420p", "mpeg") * 3, tolerance=24, duration_s=5.76, fps=25.0
    ),
    **{
        f"long sound, {container}": lasting(lambda container=container: remuxed(clip(), container, sound_s=19.2), 1.92)
        for container in LONG_SOUND
    },
    "no key frames, H.264": timed(lambda: mkv(replace(avc(), keys=[False] * FRAMES), duration_ms=1920)),
    "no key frames, VP8": Input(lambda: mkv(vp8(), duration_ms=1920), tolerance=24, duration_s=1.92, fps=25.0),
    "from the middle": lasting(lambda: cut_stream(transport_stream(), 0.15), 1.68, damaged=True),
    "refreshed bit by bit": lasting(refreshed, 1.92),
    "refreshed bit by bit, from the middle": lasting(lambda: cut_stream(refreshed(), 0.3), 1.36, damaged=True),
    "fields": lasting(lambda: mp4(fields(), durations=20), 1.92),
    "fields, Matroska": lasting(lambda: mkv(fields(), [20 * n for n in range(2 * FRAMES)], duration_ms=1920), 1.92),
    "fields in pairs": lasting(lambda: mp4(pairs()), 1.92),
}

SIZES = {
    "1x1": Input(lambda: mp4(still(1, 1)), "too_small"),
    "2x2": Input(lambda: mp4(still(2, 2)), "too_small"),
    "95x95": Input(lambda: mp4(still(95, 95)), "too_small"),
    "16x16384": Input(lambda: mp4(still(16, 16384)), "too_small"),
    "96x96": Input(lambda: mp4(still(96, 96)), size_px=(96, 96)),
    "161x129": Input(lambda: mp4(still(161, 129)), size_px=(161, 129)),
    "96x4096": Input(lambda: mp4(still(96, 4096)), size_px=(96, 4096)),
    "8K": Input(
        lambda: mp4(empty_h264(8192, 4320, (8192, 4320), 8)), damaged=True, quadrants=None, size_px=(8192, 4320)
    ),
    "16k x 16k": Input(lambda: mp4(empty_h264(16000, 16000, (16000, 16000))), "limit_exceeded"),
    "16k x 16k, called small": Input(lambda: mp4(empty_h264(16000, 16000, (192, 128))), "limit_exceeded"),
    "16k x 16k, beyond libav": Input(lambda: mp4(empty_h264(16384, 16384, (192, 128))), "corrupt_video"),
    "small, called 16k x 16k": Input(lambda: mp4(replace(stills(), width_px=16000, height_px=16000))),
    "called 0x0": Input(lambda: mp4(replace(stills(), width_px=0, height_px=0))),
    # A burst may lie over the change, and fragments of the larger frames lie elsewhere.
    "grows in mid-stream": Input(
        lambda: mp4(motion_jpeg(stills().packets[:24] + stills(FRAMES, 320, 240).packets[24:]))
    ),
    "shrinks in mid-stream": Input(
        lambda: mp4(motion_jpeg(stills().packets[:24] + stills(24, 64, 64).packets)), "too_small"
    ),
    "two sizes by turns": Input(
        lambda: mkv(
            motion_jpeg(itertools.chain(*zip(stills().packets[:24], stills(24, 320, 240).packets, strict=True)))
        ),
    ),
    "8K and more in mid-stream": Input(
        lambda: mp4(motion_jpeg(stills().packets[:24] + [huge_jpeg()] * 24)), "limit_exceeded"
    ),
}


@functools.cache
def huge_jpeg() -> bytes:
    """A JPEG image of noise that claims more pixels than are allowed, and has bytes enough to be believed."""
    pixels = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    return jpeg(pixels, claims=(8208, 4320))


FORMATS = {
    "10 bit": ("libx264", "yuv420p10le", "mp4", FAST, {}),
    "4:2:2 10 bit": ("libx264", "yuv422p10le", "mp4", FAST, {}),
    "4:4:4": ("libx264", "yuv444p", "mp4", FAST, {}),
    "H.264 in RGB": ("libx264rgb", "rgb24", "mp4", FAST, {}),
    "12 bit": ("libx265", "yuv420p12le", "mp4", HEVC, {"tolerance": 24}),
    "HDR10": ("libx265", "yuv420p10le", "mp4", HEVC, {"trc": 16, "tolerance": 40}),
    "HLG": ("libx265", "yuv420p10le", "mp4", HEVC, {"trc": 18, "tolerance": 40}),
    "4:1:1": ("ffv1", "yuv411p", "matroska", {}, {}),
    "4:1:0": ("ffv1", "yuv410p", "matroska", {}, {}),
    "alpha": ("ffv1", "yuva420p", "matroska", {}, {}),
    "alpha 4:4:4": ("prores_ks", "yuva444p10le", "mov", {}, {}),
    "alpha, RGB": ("ffv1", "bgra", "matroska", {}, {}),
    "alpha, VP9": ("libvpx-vp9", "yuva420p", "webm", {"deadline": "realtime", "cpu-used": "8"}, {"tolerance": 24}),
    "16 bit RGB": ("ffv1", "gbrp16le", "matroska", {}, {}),
    "grey": ("ffv1", "gray", "matroska", {}, {"grey": True}),
    "grey 16 bit": ("ffv1", "gray16le", "matroska", {}, {"grey": True}),
    "rows from the bottom up": ("rawvideo", "bgr24", "avi", {}, {}),
    "15 bit RGB": ("rawvideo", "rgb555le", "avi", {}, {}),
    "Cinepak": ("cinepak", "rgb24", "mov", {}, {"tolerance": 30}),
    "Cinepak, AVI": ("cinepak", "rgb24", "avi", {}, {"tolerance": 30}),
    "Sorenson Video 1": ("svq1", "yuv410p", "mov", {}, {"tolerance": 30}),
    "Sorenson Spark": ("flv", "yuv420p", "flv", {}, {"tolerance": 24}),
    "RealVideo 1": ("rv10", "yuv420p", "rm", {}, {"tolerance": 24}),
    "RealVideo 2": ("rv20", "yuv420p", "rm", {}, {"tolerance": 24}),
    "JPEG 2000": ("jpeg2000", "yuv422p10le", "mxf", {}, {}),
    "interlaced": ("libx264", "yuv420p", "mp4", {**FAST, "x264-params": "interlaced=1"}, {}),
    "interlaced MPEG-2": ("mpeg2video", "yuv420p", "mpegts", {"flags": "+ildct+ilme"}, {}),
}


def formatted(codec: str, pixel_format: str, container: str, options: dict[str, str], facts: dict[str, int]) -> Input:
    """A video of a format."""
    colours = {"color_primaries": 9, "color_trc": facts["trc"], "colorspace": 9} if "trc" in facts else {}
    return Input(
        lambda: encoded(codec, pixel_format, container, pictures(10), options, **colours),
        grey=bool(facts.get("grey")),
        tolerance=facts.get("tolerance", 14),
    )


#: Display matrix a, b, c, d; which quadrants stand where; the turn in degrees.
TURNS = {
    "90": ((0, 1, -1, 0), (2, 0, 3, 1), 90),
    "180": ((-1, 0, 0, -1), (3, 2, 1, 0), 180),
    "270": ((0, -1, 1, 0), (1, 3, 0, 2), 270),
    "10": ((0.985, 0.174, -0.174, 0.985), UPRIGHT, 0),
    "80": ((0.174, 0.985, -0.985, 0.174), (2, 0, 3, 1), 90),
    "0 and mirrored": ((-1, 0, 0, 1), (1, 0, 3, 2), 0),
    "180 and mirrored": ((1, 0, 0, -1), (2, 3, 0, 1), 180),
    "90 and mirrored": ((0, 1, 1, 0), (0, 2, 1, 3), 90),
    "270 and mirrored": ((0, -1, -1, 0), (3, 1, 2, 0), 270),
    "nowhere": ((0, 0, 0, 0), UPRIGHT, 0),
    "and stretched": ((2, 0, 0, 0.5), UPRIGHT, 0),
}


def turned(matrix: tuple[float, ...], quadrants: tuple[int, ...], rotation_deg: int) -> Input:
    """A video with a display matrix."""
    size_px = (WIDTH_PX, HEIGHT_PX) if abs(matrix[0]) >= abs(matrix[1]) else (HEIGHT_PX, WIDTH_PX)
    return Input(lambda: mp4(stills(), matrix=matrix), quadrants=quadrants, size_px=size_px, rotation_deg=rotation_deg)


def with_exif(orientation: int) -> bytes:
    """Motion JPEG whose pictures have EXIF, with this orientation."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", orientation
    return mp4(motion_jpeg(jpeg(pixels, exif=exif) for pixels in pictures()))


def rolled(degrees: float) -> bytes:
    """Matroska with a roll of its projection, counterclockwise."""
    projection = element(0x7670, number(0x7671, 0), element(0x7675, struct.pack(">d", degrees)))
    return mkv(stills(), in_track=element(0xE0, number(0xB0, WIDTH_PX), number(0xBA, HEIGHT_PX), projection))


LOOKS = {
    **{name: formatted(*facts) for name, facts in FORMATS.items()},
    **{f"turned {name}": turned(*facts) for name, facts in TURNS.items()},
    "turned 270, Matroska": Input(
        lambda: rolled(90.0), quadrants=(1, 3, 0, 2), size_px=(HEIGHT_PX, WIDTH_PX), rotation_deg=270
    ),
    "turned NaN, Matroska": Input(lambda: rolled(float("nan"))),
    "EXIF": timed(lambda: with_exif(1)),
    "EXIF, turned 90": Input(
        lambda: with_exif(6), quadrants=(2, 0, 3, 1), size_px=(HEIGHT_PX, WIDTH_PX), rotation_deg=90
    ),
}
