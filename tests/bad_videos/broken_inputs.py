"""Files that are no video, are damaged, or cost more than they should."""

from __future__ import annotations

import io
import itertools
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from tests.bad_videos.files import (
    FRAMES,
    HEIGHT_PX,
    WIDTH_PX,
    Coded,
    box,
    edit_list,
    element,
    empty_h264,
    encoded,
    full_box,
    jpeg,
    mkv,
    motion_jpeg,
    mp4,
    number,
    picture,
    pictures,
)
from tests.bad_videos.streams import Input, avc, clip, stills, transport_stream


def noise(length: int) -> bytes:
    """The same noise each time."""
    return np.random.default_rng(0).bytes(length)


def hole(data: bytes, start: float, stop: float) -> bytes:
    """The bytes with zeros in these shares of them."""
    first, last = int(len(data) * start), int(len(data) * stop)
    return data[:first] + bytes(last - first) + data[last:]


def archive(name: str, content: bytes) -> bytes:
    """An uncompressed ZIP archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr(name, content)
    return file.getvalue()


def tarred(content: bytes) -> bytes:
    """A tar archive of one file."""
    return b"video.ts".ljust(257, b"\0") + b"ustar\x0000" + bytes(247) + content


def sound(container: str, codec: str = "aac", with_cover: bool = False) -> bytes:
    """A second of silence, with or without a cover."""
    form, dtype = ("fltp", "float32") if codec == "aac" else ("s16", "int16")
    file = io.BytesIO()
    with av.open(file, "w", format=container) as muxer:
        stream: Any = muxer.add_stream(codec, rate=44100)
        art: Any = muxer.add_stream("mjpeg", rate=25) if with_cover else None
        if art is not None:
            art.width, art.height, art.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuvj420p"
            art.disposition = Disposition.attached_pic
        for index in range(43):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype), format=form, layout="mono")
            frame.sample_rate, frame.pts = 44100, index * 1024
            muxer.mux(stream.encode(frame))
        muxer.mux(stream.encode())
        if art is not None:
            muxer.mux(art.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
            muxer.mux(art.encode())
    return file.getvalue()


OTHER_FILES = {
    "nothing": Input(lambda: b"", "empty_file"),
    "one byte": Input(lambda: b"\0", "not_a_video"),
    "zeros": Input(lambda: bytes(1 << 16), "not_a_video"),
    "noise": Input(lambda: noise(50_000), "not_a_video"),
    "text": Input(lambda: b"not a video\n" * 100, "not_a_video"),
    "web page": Input(lambda: b"<!doctype html><title>404 Not Found</title>\n" * 50, "not_a_video"),
    "archive of a film": Input(lambda: archive("video.mp4", clip()), "not_a_video"),
    "archive of a stream": Input(lambda: archive("video.ts", transport_stream()), "not_a_video"),
    "tar of a stream": Input(lambda: tarred(transport_stream()), "not_a_video"),
    "JPEG image": Input(lambda: jpeg(picture(0))),
    "PNG image": Input(lambda: encoded("png", "rgb24", "image2pipe", pictures(1))),
    "half a JPEG image": Input(lambda: cut(jpeg(picture(0)), 0.5), "corrupt_video"),
    "JPEG images on end": Input(lambda: jpeg(picture(0)) * 10),
    "animated GIF": Input(lambda: encoded("gif", "rgb8", "gif", pictures(10)), "not_a_video"),
    "sound, WAV": Input(lambda: sound("wav", "pcm_s16le"), "not_a_video"),
    "sound, MP4": Input(lambda: sound("ipod"), "no_video_stream"),
    "sound, Matroska": Input(lambda: sound("matroska"), "no_video_stream"),
    "sound with a cover": Input(lambda: sound("mp4", with_cover=True), "no_video_stream"),
    "subtitles": Input(lambda: b"1\n00:00:00,000 --> 00:00:02,000\nwords\n", "not_a_video"),
    "subtitles, Matroska": Input(
        lambda: mkv(Coded([b"words"] * 10, [True] * 10, b"", codec_id="S_TEXT/UTF8"), track_kind=17), "no_video_stream"
    ),
    "an experiment's codec": Input(
        lambda: encoded("snow", "yuv420p", "matroska", pictures(10), {"strict": "-2"}), "unsupported_codec"
    ),
    "PNG in QuickTime": Input(lambda: encoded("png", "rgb24", "mov", pictures(10)), "unsupported_codec"),
    "unknown codec": Input(lambda: mp4(replace(avc(), entry=b"XXXX")), "unsupported_codec"),
    "unknown codec, Matroska": Input(lambda: mkv(replace(avc(), codec_id="V_NOSUCH")), "unsupported_codec"),
}


def whole_mkv(seconds: int = 10) -> bytes:
    """Matroska that declares its duration."""
    coded = motion_jpeg(list(itertools.islice(itertools.cycle(stills().packets), seconds * 25)))
    return mkv(coded, duration_ms=seconds * 1000)


def cut(data: bytes, share: float) -> bytes:
    """The first part of a file."""
    return data[: int(len(data) * share)]


ENCRYPTION = box(
    b"sinf",
    box(b"frma", b"avc1"),
    full_box(b"schm", b"cenc" + struct.pack(">I", 0x10000)),
    box(b"schi", full_box(b"tenc", b"\0\0\x01\x08" + bytes(16))),
)
#: Cut off, damaged, put together wrongly.
DAMAGED = {
    "index lost": Input(lambda: cut(clip(), 0.9), "corrupt_video"),
    "half a file": Input(lambda: cut(mp4(avc()), 0.5), "corrupt_video"),
    "half a Matroska file": Input(lambda: cut(whole_mkv(), 0.5), "corrupt_video"),
    "half of two seconds": Input(lambda: cut(whole_mkv(2), 0.5), "corrupt_video"),
    "without its last second": Input(lambda: cut(whole_mkv(), 0.92), damaged=True),
    "index alone": Input(lambda: mp4(avc()).partition(b"mdat")[0][:-4], "corrupt_video"),
    "a hole in the index": Input(lambda: hole(mp4(avc()), 0.05, 0.08), "corrupt_video"),
    "a hole in mid-stream": Input(lambda: hole(transport_stream(), 0.4, 0.6), damaged=True),
    "a hole in Matroska": Input(lambda: hole(mkv(avc(), duration_ms=1920), 0.5, 0.55), damaged=True),
    "packets of noise": Input(
        lambda: mp4(replace(avc(), packets=[noise(len(packet)) for packet in avc().packets])), "corrupt_video"
    ),
    "some packets of noise": Input(
        lambda: mp4(
            replace(
                stills(),
                packets=[*stills().packets[:40], *[noise(500)] * 2, *stills().packets[42:48]],
                keys=[True] * 48,
            )
        ),
        damaged=True,
    ),
    "encrypted": Input(
        lambda: mp4(
            replace(avc(), entry=b"encv", packets=[p[:5] + bytes(c ^ 90 for c in p[5:]) for p in avc().packets]),
            in_entry=ENCRYPTION,
        ),
        "corrupt_video",
    ),
    "another codec than it says": Input(
        lambda: mp4(replace(avc(), entry=b"hvc1", setup=box(b"hvcC", avc().private))), "corrupt_video"
    ),
    "frames beyond the end": Input(lambda: mp4(avc(), sizes=[1 << 24] * FRAMES), "corrupt_video"),
    "zeros before": Input(lambda: bytes(1 << 16) + clip(), "not_a_video"),
    "an archive behind": Input(lambda: mp4(avc()) + archive("more", noise(1000))),
    "twice": Input(lambda: mp4(avc()) + mp4(avc())),
    "a box of no end": Input(lambda: clip()[:28] + struct.pack(">I4sQ", 1, b"moov", (1 << 63) - 1), "corrupt_video"),
    "a wrong ending": Input(lambda: mkv(stills())),
    "dead frames": Input(lambda: mp4(empty_h264(192, 128, (192, 128))), damaged=True, quadrants=None),
}

#: Matroska's compression by zlib, of frames.
ZLIB = element(0x6D80, element(0x6240, element(0x5034, number(0x4254, 0))))


def compressed_moov(claimed_bytes: int | None = None) -> bytes:
    """MP4 with its index compressed by zlib, and what it says of its size."""

    def wrap(moov: bytes) -> bytes:
        size = struct.pack(">I", claimed_bytes or len(moov))
        return box(
            b"moov", box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", size, zlib.compress(moov).ljust(900, b"\0")))
        )

    return mp4(stills(), wrap_moov=wrap)


def many_tracks(count: int) -> bytes:
    """MP4 with the same track over and over."""
    whole = mp4(stills())
    at = whole.index(b"trak") - 4
    more = whole[at : at + int.from_bytes(whole[at : at + 4], "big")] * count
    data_at = whole.index(b"mdat") + 4
    place, moved = (struct.pack(">4sIII", b"stco", 0, 1, offset) for offset in (data_at, data_at + len(more)))
    return mp4(stills(), in_moov=more).replace(place, moved)


def nested(depth: int) -> bytes:
    """Boxes in boxes."""
    data = b""
    for _ in range(depth):
        data = box(b"udta", data)
    return data


def tags(count: int) -> bytes:
    """Metadata of MP4."""
    return box(b"udta", *(box(b"\xa9" + struct.pack(">I", n)[1:], b"\0\x08\0\0words   ") for n in range(count)))


def times_of(frames: int) -> bytes:
    """The box of MP4 that gives each frame 40 ms."""
    return full_box(b"stts", struct.pack(">III", 1, frames, 40))


def one_chunk(frames: int) -> bytes:
    """The box of MP4 that says how many frames lie in a row."""
    return full_box(b"stsc", struct.pack(">IIII", 1, 1, frames, 1))


def fixed_sizes(frames: int, size_bytes: int) -> bytes:
    """MP4 whose index says in a few bytes that there are so many frames, all of one size."""
    coded = stills()
    count = len(coded.packets)
    true = full_box(b"stsz", struct.pack(">II", 0, count), np.array([*map(len, coded.packets)], ">u4").tobytes())
    claim = full_box(b"stsz", struct.pack(">II", size_bytes, frames))
    data = mp4(coded).replace(true, claim + box(b"skip", bytes(len(true) - len(claim) - 8)))
    data = data.replace(times_of(count), times_of(frames))
    return data.replace(one_chunk(count), one_chunk(frames))


def one_place() -> bytes:
    """MP4 of which each frame is said to begin at the first one, and to reach to the end of the file."""
    coded = stills()
    count, size_bytes = len(coded.packets), sum(map(len, coded.packets))
    more, data = 4 * (count - 1), mp4(coded, sizes=[size_bytes] * count)
    at = data.index(b"mdat") + 4
    data = data.replace(one_chunk(count), one_chunk(1))
    places = full_box(b"stco", struct.pack(">I", count), struct.pack(">I", at + more) * count)
    data = data.replace(full_box(b"stco", struct.pack(">II", 1, at)), places)
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        begin = data.index(kind) - 4
        grown = int.from_bytes(data[begin : begin + 4], "big") + more
        data = data[:begin] + struct.pack(">I", grown) + data[begin + 4 :]
    return data


def cued(cues: Iterable[tuple[int, int]]) -> bytes:
    """Matroska of 38 s with an index: (time in ms, place in the segment) of each key frame."""
    points = (
        element(0xBB, number(0xB3, time_ms), element(0xB7, number(0xF7, 1), number(0xF1, place)))
        for time_ms, place in cues
    )
    film = motion_jpeg(stills().packets * 20)
    return mkv(film, duration_ms=38_400, frame_duration_ns=40_000_000, in_segment=element(0x1C53BB6B, *points))


BOMBS = {
    "compressed index": Input(compressed_moov),
    "compressed index of 4 GB": Input(lambda: compressed_moov((1 << 32) - 1), "limit_exceeded"),
    "index of 2^31 frames": Input(
        lambda: mp4(avc()).replace(struct.pack(">II", 0, FRAMES), struct.pack(">II", 1, (1 << 31) - 1)),
        "corrupt_video",
    ),
    "index of 5 million frames": Input(lambda: fixed_sizes(5_000_000, 1), "corrupt_video"),
    "index of 9 million frames": Input(lambda: fixed_sizes(9_000_000, 1), "limit_exceeded"),
    "index of a million frames, 2 GB": Input(lambda: fixed_sizes(1_000_000, 2000), "corrupt_video"),
    "frames without a byte": Input(lambda: mp4(stills(), sizes=[0] * FRAMES), "corrupt_video"),
    "frames of 4 GB": Input(lambda: mp4(stills(), sizes=[(1 << 32) - 1] * FRAMES), "corrupt_video"),
    "frames that are each the whole file": Input(one_place, advances=False),
    "cues beyond the end": Input(lambda: cued((40 * n, 1 << 60) for n in range(20_000))),
    "cues to one place": Input(lambda: cued((40 * n, 500) for n in range(20_000))),
    "cues of one time": Input(lambda: cued((0, 500 + n) for n in range(20_000))),
    "cues beyond all clocks": Input(lambda: cued(((1 << 62) + n, 500) for n in range(20_000))),
    "cues in reverse": Input(lambda: cued((40 * n, 60_000 - n) for n in reversed(range(10_000)))),
    "edits of 12 million frames": Input(lambda: mp4(avc(), edits=edit_list(*[(1920, 0)] * 250_000)), "limit_exceeded"),
    "50,000 tags": Input(lambda: mp4(stills(), in_moov=tags(50_000))),
    "10 MB of a tag": Input(
        lambda: mp4(stills(), in_moov=box(b"udta", *[box(b"\xa9nam", b"\xea\x60\0\0", bytes(60_000))] * 170))
    ),
    "300 tracks": Input(lambda: many_tracks(300), "limit_exceeded"),
    "5000 boxes in each other": Input(lambda: mp4(stills(), in_moov=nested(5000)), "corrupt_video"),
    "compressed frames": Input(
        lambda: mkv(replace(stills(), packets=[zlib.compress(packet) for packet in stills().packets]), in_track=ZLIB)
    ),
    "compressed frames of 1 MB": Input(
        lambda: mkv(replace(stills(), packets=[zlib.compress(bytes(1 << 20))] * 8, keys=[True] * 8), in_track=ZLIB),
        "corrupt_video",
    ),
    "a decoder's set-up of 5 MB": Input(lambda: mkv(replace(stills(), private=bytes(5 << 20)))),
}
