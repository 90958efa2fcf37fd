"""Open a video's container in front of hostile bytes, and read what it declares and what it holds.

libav is given the bytes alone: it opens no name, no protocol, no format and no codec outside the lists below.
In: a seekable binary file. Out: an open container, its one video stream, and what it declares of it. Knows
no frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, NoReturn

import av
import av.error
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from cpllm_model.decoding.samples import FORMAT_ENDINGS, DecodeLimits
from cpllm_model.errors import (
    CorruptVideoError,
    EmptyFileError,
    LimitExceededError,
    NotAVideoError,
    NoVideoStreamError,
    UnsupportedCodecError,
)

#: Demuxers as libav takes their names.
FORMATS = ",".join(FORMAT_ENDINGS)
#: Decoders in wide use, and so well tested against hostile streams.
CODECS = (
    "h264,hevc,vvc,vp8,vp9,libdav1d,av1,mpeg1video,mpeg2video,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,h263,h263p,h263i,"
    "flv,vp6,vp6f,vp6a,wmv1,wmv2,wmv3,vc1,theora,mjpeg,prores,dnxhd,cfhd,dvvideo,ffv1,huffyuv,ffvhuff,utvideo,"
    "rawvideo,v210"
)
#: Containers that declare a duration, and those where libav finds it in the last timestamps; for the rest it
#: guesses from the bit rate.
_DECLARES_DURATION = {"mov", "matroska", "avi", "flv", "asf", "mxf"}
_ENDS_IN_TIMESTAMPS = {"mpegts", "mpeg", "ogg"}
#: First bytes of containers (at their offset), to tell a broken video from another kind of file.
_SIGNATURES = ((4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (0, b"\x1a\x45\xdf\xa3"), (0, b"FLV"), (8, b"AVI "))
#: First bytes of archives: what lies in one uncompressed would be taken for a stream with a damaged start.
_ARCHIVES = ((0, b"PK\x03\x04"), (257, b"ustar"))
#: Sound, subtitles, fonts: a film in many languages has a hundred. Each costs libav some time to look into.
_MAX_STREAMS = 256
#: No frame rate above is believed before it was measured; many WebM files claim 1000.
_PLAUSIBLE_FPS = 300.0
_HEAD_BYTES = 512
_READ_BYTES = 1 << 18
#: Failures of libav that are not the file's.
FATAL = (av.error.MemoryError, av.error.ExitError)

av.logging.set_level(None)


class VideoSource:
    """A video file as libav sees it: bytes without a name.

    Args:
        file: seekable, opened for reading bytes.
        name: of the video, for messages.
        limits: what it may cost.

    Raises:
        EmptyFileError, LimitExceededError: by its size.
    """

    def __init__(self, file: BinaryIO, name: str, limits: DecodeLimits) -> None:
        self.name = name
        self.limits = limits
        #: What reading the file raised; libav takes a failed read for the end of the file.
        self.read_error: Exception | None = None
        #: Where in the file packets lie that would not decode.
        self.lost_packets: set[int] = set()
        #: Frames that the container declares and the file does not hold.
        self.missing_frames = 0
        self._has_refused_sizes = False
        self._file = file
        self.size_bytes = file.seek(0, 2)
        if not self.size_bytes:
            raise EmptyFileError(name, "zero bytes")
        if self.size_bytes > limits.max_file_bytes:
            raise LimitExceededError(name, f"{self.size_bytes} bytes are more than {limits.max_file_bytes}")

    def read(self, length: int) -> bytes:
        """As of a file."""
        if self.read_error is not None:
            raise self.read_error
        try:
            return self._file.read(length)
        except Exception as error:
            self.read_error = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of a file; negative where there is no such place."""
        try:
            return self._file.seek(offset, whence)
        except (ValueError, ArithmeticError, OSError):
            return -1

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell()

    def lose(self, packet: Packet, error: av.error.FFmpegError) -> None:
        """Note a packet that does not decode."""
        self.lost_packets.add(packet.pos or 0)
        self._has_refused_sizes |= isinstance(error, av.error.ArgumentError)

    def undecodable(self, cause: str) -> CorruptVideoError | LimitExceededError:
        """Give the error for a stream of which too little decodes.

        A decoder says the same of a frame of no size as of one over `max_pixels`: that an argument is invalid.
        """
        if self._has_refused_sizes:
            most_px = self.limits.max_frame_px
            return LimitExceededError(self.name, f"{cause}: frames of no size, or of more than {most_px} px")
        return CorruptVideoError(self.name, cause)

    @contextmanager
    def opened(self) -> Iterator[OpenVideo]:
        """Open the container from its start.

        Raises:
            VideoError: it is no video, or one that is not accepted.
        """
        head = self._head()
        if _begins(head, _ARCHIVES):
            raise NotAVideoError(self.name, "it is an archive")
        options = {
            "format_whitelist": FORMATS,
            "protocol_whitelist": "",
            "codec_whitelist": CODECS,
            "max_pixels": str(self.limits.max_frame_px),
            "max_streams": str(_MAX_STREAMS),
        }
        try:
            container = av.open(
                self,
                "r",
                options=options,
                metadata_errors="replace",
                buffer_size=_READ_BYTES,
                timeout=(self.limits.wall_s, self.limits.wall_s),
                io_open=_refuse,
            )
        except FATAL:
            raise
        except av.error.FFmpegError as error:
            if _begins(head, _SIGNATURES):
                cause = f"its header or index is cut off or damaged ({error.strerror})"
                raise CorruptVideoError(self.name, cause) from error
            raise NotAVideoError(self.name, "no accepted video format recognises its bytes") from error
        with container:
            yield OpenVideo(self, container, self._video_stream(container))

    def _head(self) -> bytes:
        self._file.seek(0)
        head = self.read(_HEAD_BYTES)
        self._file.seek(0)
        return head

    def _video_stream(self, container: InputContainer) -> VideoStream:
        """The stream that a player would show."""
        unseen = Disposition.attached_pic | Disposition.timed_thumbnails
        moving = [stream for stream in container.streams.video if not stream.disposition & unseen]
        if not moving:
            pictures = len(container.streams.video)
            found = f"{pictures} attached pictures and no video" if pictures else "no video"
            raise NoVideoStreamError(self.name, f"its {len(container.streams)} streams hold {found}")
        accepted = CODECS.split(",")
        decodable = [s for s in moving if s.codec_context is not None and s.codec_context.name in accepted]
        if not decodable:
            names = {s.codec_context.name if s.codec_context is not None else "unknown" for s in moving}
            raise UnsupportedCodecError(self.name, f"no accepted decoder for codec {', '.join(sorted(names))}")
        best = container.streams.best("video")
        stream = next(
            (s for s in decodable if best is not None and s.index == best.index),
            max(decodable, key=lambda s: s.width * s.height),
        )
        context = stream.codec_context
        if context.width * context.height > self.limits.max_frame_px:
            raise LimitExceededError(self.name, f"a frame of {context.width}x{context.height} px")
        # One thread: workers decode a video a core, and the frames must not depend on the machine.
        context.thread_count = 1
        context.options = {"max_pixels": str(self.limits.max_frame_px), "codec_whitelist": CODECS}
        return stream


def _begins(head: bytes, signatures: tuple[tuple[int, bytes], ...]) -> bool:
    return any(head[offset:].startswith(magic) for offset, magic in signatures)


def _refuse(url: str, flags: int, options: dict) -> NoReturn:
    raise PermissionError("a video may not open other files")


@dataclass
class OpenVideo:
    """An open container and its one video stream; valid while `VideoSource.opened` lasts."""

    source: VideoSource
    container: InputContainer
    stream: VideoStream

    @property
    def format_name(self) -> str:
        """The first of the demuxer's names."""
        return self.container.format.name.split(",")[0]

    @property
    def time_base(self) -> Fraction:
        """Seconds a tick."""
        return self.stream.time_base or Fraction(1, 1_000_000)

    def declared_duration_s(self) -> float | None:
        """What the container says of the length of the video stream, or else of the whole; None if unsure.

        Raises:
            LimitExceededError: more than is allowed.
        """
        if self.format_name not in _DECLARES_DURATION:
            return None
        duration_s = self._stated_duration_s()
        limit_s = self.source.limits.max_duration_s
        if duration_s is not None and duration_s > limit_s:
            raise LimitExceededError(self.source.name, f"lasts {duration_s:.6g} s, over {limit_s:.6g} s")
        return duration_s

    def likely_duration_s(self) -> float | None:
        """The declared duration, or one that libav found in the last timestamps of the file."""
        if self.format_name not in _ENDS_IN_TIMESTAMPS:
            return self.declared_duration_s()
        duration_s = self._stated_duration_s()
        in_bounds = duration_s is not None and duration_s <= self.source.limits.max_duration_s
        return duration_s if in_bounds else None

    def _stated_duration_s(self) -> float | None:
        of_stream = (self.stream.duration or 0) * float(self.time_base)
        of_file = (self.container.duration or 0) / 1e6
        return next((d for d in (of_stream, of_file) if math.isfinite(d) and d > 0), None)

    def declared_fps(self) -> float | None:
        """The container's mean frame rate if it is believable."""
        rate = self.stream.average_rate
        return float(rate) if rate is not None and 0 < rate <= _PLAUSIBLE_FPS else None
