"""Writes the files of these tests: pictures through real encoders, containers byte by byte where no muxer would.

A picture has a quadrant each of red, green, blue and light grey, and grows brighter from frame to frame, so that the
samples show which way up a frame stands, whether its colours are right, and which frame of the video it is.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from PIL import Image

#: RGB of the quadrants in reading order, in the first frame; each frame adds one.
QUADRANTS = np.array([(190, 40, 40), (40, 170, 60), (50, 60, 190), (180, 180, 180)], np.uint8)
FRAMES = 48
WIDTH_PX, HEIGHT_PX = 192, 128
FAST = {"preset": "ultrafast", "crf": "8", "g": "12", "threads": "1"}


def picture(index: int, width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX) -> np.ndarray:
    """The frame of this number: uint8 (height, width, 3), RGB."""
    rows = (np.arange(height_px) * 2 // max(height_px, 1))[:, None]
    columns = np.arange(width_px) * 2 // max(width_px, 1)
    return (QUADRANTS[rows * 2 + columns] + np.uint8(index)).astype(np.uint8)


def pictures(frames: int = FRAMES, width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX) -> list[np.ndarray]:
    """The first frames."""
    return [picture(index, width_px, height_px) for index in range(frames)]


def encoded(
    codec: str,
    pixel_format: str,
    container: str,
    frames: Sequence[np.ndarray] | None = None,
    options: dict[str, str] | None = None,
    **context: Any,
) -> bytes:
    """A file that libav itself writes.

    Args:
        codec, pixel_format, container: by libav's names.
        frames: RGB; 48 of `picture` if not given.
        options: of the encoder.
        context: attributes of the codec context.
    """
    frames = pictures() if frames is None else frames
    file = io.BytesIO()
    with av.open(file, "w", format=container) as muxer:
        stream: Any = muxer.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for pixels in frames:
            muxer.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        muxer.mux(stream.encode())
    return file.getvalue()


def remuxed(data: bytes, container: str, offset_s: float = 0.0, sound_s: float = 0.0, **options: str) -> bytes:
    """The video of a file in another container.

    Args:
        data: the file.
        container: by libav's name.
        offset_s: where its clock begins.
        sound_s: how long it has silence beside it.
        options: of the muxer.
    """
    file = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, av.open(file, "w", format=container, options=options) as muxer:
        stream = muxer.add_stream_from_template(source.streams.video[0])
        noiseless: Any = muxer.add_stream("aac", rate=44100) if sound_s else None
        for packet in source.demux(video=0):
            if packet.pts is not None and packet.dts is not None:
                shift = round(offset_s / float(packet.time_base))
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                muxer.mux(packet)
        for index in range(int(sound_s * 44100 / 1024)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, index * 1024
            muxer.mux(noiseless.encode(frame))
        if noiseless is not None:
            muxer.mux(noiseless.encode())
    return file.getvalue()


def boxes(data: bytes) -> Iterator[bytes]:
    """The outermost boxes of an MP4 file."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at : at + size]
        at += size


def jpeg(
    pixels: np.ndarray, subsampling: int = 2, claims: tuple[int, int] | None = None, exif: Image.Exif | None = None
) -> bytes:
    """A picture as JPEG; `claims` is the width and height that it says it has."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=subsampling, exif=exif or Image.Exif())
    data = bytearray(file.getvalue())
    if claims:
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", claims[1], claims[0])
    return bytes(data)


@dataclass(frozen=True)
class Coded:
    """A coded stream: what a container of it is made of.

    Args:
        packets: one a frame, in decoding order.
        keys: whether each is a key frame.
        entry: four-character code of MP4.
        setup: the MP4 box that sets up the decoder, whole.
        codec_id, private: the same for Matroska.
        width_px, height_px: as the container says.
    """

    packets: list[bytes]
    keys: list[bool]
    entry: bytes
    setup: bytes = b""
    codec_id: str = "V_MJPEG"
    private: bytes = b""
    width_px: int = WIDTH_PX
    height_px: int = HEIGHT_PX


def h264(data: bytes) -> Coded:
    """The stream of an MP4 file with H.264 whose frames are shown in the order of decoding."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        extradata = stream.codec_context.extradata or b""
        size = stream.width, stream.height
    keys = [packet.is_keyframe for packet in packets]
    setup = box(b"avcC", extradata)
    coded = [bytes(packet) for packet in packets]
    return Coded(coded, keys, b"avc1", setup, "V_MPEG4/ISO/AVC", extradata, *size)


def motion_jpeg(images: Iterable[bytes], width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX) -> Coded:
    """A stream of JPEG images."""
    packets = list(images)
    return Coded(packets, [True] * len(packets), b"jpeg", width_px=width_px, height_px=height_px)


# --- MP4 (ISO/IEC 14496-12) ----------------------------------------------------------------------------------


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


UPRIGHT = (1, 0, 0, 1)


def mp4(
    coded: Coded,
    *,
    durations: Sequence[int] | int = 40,
    shifts: Sequence[int] | None = None,
    timescale: int = 1000,
    claimed_duration: int | None = None,
    matrix: Sequence[float] = UPRIGHT,
    edits: bytes = b"",
    data_reference: bytes | None = None,
    sizes: Sequence[int] | None = None,
    in_moov: bytes = b"",
    in_entry: bytes = b"",
    wrap_moov: Any = None,
) -> bytes:
    """An MP4 file, its index before its data.

    Args:
        coded: the stream.
        durations: of each frame, or of all, in ticks.
        shifts: of each frame from decoding to being shown, in ticks.
        timescale: ticks a second.
        claimed_duration: what all headers say, in ticks; the truth if not given.
        matrix: a, b, c, d of the display matrix.
        edits: an edit list, whole.
        data_reference: the entry of `dref`; the file itself if not given.
        sizes: of the frames as the index has them.
        in_moov, in_entry: more boxes for the movie and for the sample entry.
        wrap_moov: makes of the `moov` box what stands in its place, of the same length each time.
    """
    count = len(coded.packets)
    runs = [(count, durations)] if isinstance(durations, int) else [(1, duration) for duration in durations]
    total = sum(frames * duration for frames, duration in runs) if claimed_duration is None else claimed_duration
    wide = 1 if total > 0xFFFFFFFF else 0
    moment = ">Q" if wide else ">I"
    times = bytes(16 if wide else 8)
    a, b, c, d = (round(value * 65536) for value in matrix)
    matrix_bytes = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    entry = box(
        coded.entry,
        bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", coded.width_px, coded.height_px),
        struct.pack(">II", 72 << 16, 72 << 16) + bytes(4) + struct.pack(">H", 1) + bytes(32),
        struct.pack(">Hh", 24, -1),
        coded.setup,
        in_entry,
    )
    tables = [
        full_box(b"stsd", struct.pack(">I", 1), entry),
        full_box(b"stts", struct.pack(">I", len(runs)), *(struct.pack(">II", *run) for run in runs)),
        full_box(b"stsc", struct.pack(">IIII", 1, 1, count, 1) if count else bytes(4)),
        full_box(b"stsz", struct.pack(">II", 0, count), _words(sizes or list(map(len, coded.packets)))),
        full_box(b"stss", struct.pack(">I", sum(coded.keys)), _words(np.flatnonzero(coded.keys) + 1)),
    ]
    if shifts is not None:
        tables.append(
            full_box(b"ctts", struct.pack(">I", count), *(struct.pack(">Ii", 1, shift) for shift in shifts), version=1)
        )

    def moov(data_at: int) -> bytes:
        offsets = full_box(b"stco", struct.pack(">II", 1, data_at) if count else bytes(4))
        reference = data_reference or full_box(b"url ", flags=1)
        minf = box(
            b"minf",
            full_box(b"vmhd", bytes(8), flags=1),
            box(b"dinf", full_box(b"dref", struct.pack(">I", 1), reference)),
            box(b"stbl", *tables, offsets),
        )
        mdhd = full_box(
            b"mdhd", times, struct.pack(">I", timescale), struct.pack(moment, total), bytes(4), version=wide
        )
        hdlr = full_box(b"hdlr", bytes(4) + b"vide" + bytes(13))
        tkhd = full_box(
            b"tkhd",
            times + struct.pack(">II", 1, 0) + struct.pack(moment, total) + bytes(16),
            matrix_bytes + struct.pack(">II", coded.width_px << 16, coded.height_px << 16),
            version=wide,
            flags=3,
        )
        mvhd = full_box(
            b"mvhd",
            times + struct.pack(">I", timescale) + struct.pack(moment, total) + struct.pack(">IH", 1 << 16, 256),
            bytes(10) + struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30) + bytes(24) + struct.pack(">I", 2),
            version=wide,
        )
        made = box(b"moov", mvhd, box(b"trak", tkhd, edits, box(b"mdia", mdhd, hdlr, minf)), in_moov)
        return wrap_moov(made) if wrap_moov else made

    head = box(b"ftyp", b"isom" + bytes(4) + b"isommp42")
    return head + moov(len(head) + len(moov(0)) + 8) + box(b"mdat", *coded.packets)


def _words(numbers: Any) -> bytes:
    return np.asarray(numbers).astype(">u4").tobytes()


def edit_list(*edits: tuple[int, int]) -> bytes:
    """An edit list of (duration, media time) in ticks; a media time of -1 shows nothing."""
    entries = (struct.pack(">Iii", duration, media_time, 1 << 16) for duration, media_time in edits)
    return box(b"edts", full_box(b"elst", struct.pack(">I", len(edits)), *entries))


# --- Matroska (RFC 9559) -------------------------------------------------------------------------------------


def element(kind: int, *parts: bytes) -> bytes:
    """An element, its length in eight bytes."""
    body = b"".join(parts)
    return kind.to_bytes((kind.bit_length() + 7) // 8, "big") + struct.pack(">Q", 1 << 56 | len(body)) + body


def number(kind: int, value: int) -> bytes:
    """An element with an unsigned integer."""
    return element(kind, struct.pack(">Q", value))


def mkv(
    coded: Coded,
    times_ms: Sequence[int] | None = None,
    *,
    duration_ms: float | None = None,
    frame_duration_ns: int | None = None,
    in_track: bytes = b"",
    in_segment: bytes = b"",
    track_kind: int = 1,
) -> bytes:
    """A Matroska file without cues; each frame is a cluster of its own, so that any time can be said.

    Args:
        coded: the stream.
        times_ms: of each packet, not negative; 40 ms apart if not given.
        duration_ms: what the header says; None says nothing.
        frame_duration_ns: what the track says of each frame; None says nothing.
        in_track, in_segment: more elements, the latter before the clusters.
        track_kind: 1 is video.
    """
    times_ms = times_ms or [40 * index for index in range(len(coded.packets))]
    info = number(0x2AD7B1, 1_000_000) + element(0x4D80, b"tests") + element(0x5741, b"tests")
    if duration_ms is not None:
        info += element(0x4489, struct.pack(">d", duration_ms))
    track = number(0xD7, 1) + number(0x73C5, 1) + number(0x83, track_kind) + element(0x86, coded.codec_id.encode())
    if coded.private:
        track += element(0x63A2, coded.private)
    if frame_duration_ns is not None:
        track += number(0x23E383, frame_duration_ns)
    if track_kind == 1:
        track += element(0xE0, number(0xB0, coded.width_px), number(0xBA, coded.height_px))
    clusters = (
        element(0x1F43B675, number(0xE7, time), element(0xA3, b"\x81\0\0", b"\x80" if key else b"\0", packet))
        for packet, key, time in zip(coded.packets, coded.keys, times_ms, strict=True)
    )
    head = element(0x1A45DFA3, element(0x4282, b"matroska"), number(0x4287, 4), number(0x4285, 2))
    segment = element(
        0x18538067,
        element(0x1549A966, info),
        element(0x1654AE6B, element(0xAE, track, in_track)),
        in_segment,
        *clusters,
    )
    return head + segment


# --- H.264 (ITU-T H.264, 7.3) --------------------------------------------------------------------------------


def empty_h264(width_px: int, height_px: int, claims: tuple[int, int], frames: int = 10) -> Coded:
    """A stream of any size in a few bytes: a key frame without macroblocks, then frames that skip them all.

    Args:
        width_px, height_px: of the stream, multiples of 16.
        claims: width and height that its container has.
        frames: how many.
    """
    columns, rows = width_px // 16, height_px // 16
    sequence = b"\x67" + _bits("01000010 00000000 00110011", 0, 0, 2, 1, "0", columns - 1, rows - 1, "1100")
    picture_ = b"\x68" + _bits(0, 0, "00", 0, 0, "000", 0, 0, 0, "111")
    key = b"\x65" + _bits(0, 7, 0, "0000", 0, "00", 0)
    skip = b"\x41" + _bits(0, 5, 0, "0001 000", 0, columns * rows)
    sets = b"\xff\xe1" + _sized(sequence, 2) + b"\x01" + _sized(picture_, 2)
    private = b"\x01\x42\x00\x33" + sets
    packets = [_sized(key, 4), *[_sized(skip, 4)] * (frames - 1)]
    keys = [True, *[False] * (frames - 1)]
    return Coded(packets, keys, b"avc1", box(b"avcC", private), "V_MPEG4/ISO/AVC", private, *claims)


def field_h264(frames: int = FRAMES) -> Coded:
    """The frames of `picture` as H.264 without compression: two fields each, in packets of their own."""
    columns, rows = WIDTH_PX // 16, HEIGHT_PX // 32
    sequence = b"\x67" + _bits(f"{77:08b} {0:08b} {30:08b}", 0, 4, 2, 1, "0", columns - 1, rows - 1, "001 00")
    picture_ = b"\x68" + _bits(0, 0, "00", 0, 0, 0, "000", 0, 0, 0, "100")
    private = b"\x01\x4d\x00\x1e\xff\xe1" + _sized(sequence, 2) + b"\x01" + _sized(picture_, 2)
    rgb_43 = QUADRANTS[
        [row * 2 // rows * 2 + column * 2 // columns for row in range(rows) for column in range(columns)]
    ]
    packets, keys = [], []
    for index in range(frames):
        number_, is_key = index % 12, index % 12 == 0
        yuv_43 = np.rint((rgb_43 + float(index)) @ _TO_YUV.T + (16, 128, 128)).astype(np.uint8)
        blocks = b"".join(np.repeat(yuv, (256, 64, 64)).tobytes() + b"\x0d\x00" for yuv in yuv_43)[:-2]
        for parity in range(2):
            is_idr = is_key and parity == 0
            head = (0, 7, 0, f"{number_:08b} 1 {parity}", *((0, "00") if is_idr else ("0",)), 0, 1, 25)
            bits = _joined(*head)
            start = int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big")
            unit = (b"\x65" if is_idr else b"\x61") + _escaped(start + blocks + b"\x80")
            packets.append(_sized(unit, 4))
            keys.append(is_idr)
    return Coded(packets, keys, b"avc1", box(b"avcC", private), "V_MPEG4/ISO/AVC", private)


#: Luma and chroma of RGB codes by BT.601 (Rec. ITU-R BT.601-7, 2.5.1), limited range.
_TO_YUV = np.array([(65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214)]) / 255


def _escaped(data: bytes) -> bytes:
    """With bytes put in against false start codes (7.4.1)."""
    return re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", data)


def _joined(*fields: str | int) -> str:
    return "".join(field if isinstance(field, str) else _exp_golomb(field) for field in fields).replace(" ", "")


def _bits(*fields: str | int) -> bytes:
    """Bits as they are, and numbers as Exp-Golomb codes, with the trailing bits."""
    bits = _joined(*fields) + "1"
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _exp_golomb(value: int) -> str:
    binary = format(value + 1, "b")
    return "0" * (len(binary) - 1) + binary


def _sized(data: bytes, length_bytes: int) -> bytes:
    return len(data).to_bytes(length_bytes, "big") + data
