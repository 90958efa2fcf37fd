"""What is known of a video once it was opened, and what the model sees of it: plain data, no decoder.

`VideoSamples` travels between processes as safetensors bytes with JSON metadata, never as a pickle, and is
validated where it arrives: the process that made it handled untrusted input.

Shapes: N segments, M context frames a segment, T burst frames a segment, C = 3 channels, H = W.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, fields

import numpy as np
from safetensors.numpy import load, save

from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.scale import EVENTS

#: Accepted formats, by libav's names of their demuxers, and the endings of their files. Each reads one file and
#: nothing else: playlists (HLS, DASH, concat, SDP) and images stay out.
FORMAT_ENDINGS: dict[str, tuple[str, ...]] = {
    "mov": ("mov", "mp4", "m4v", "qt", "3gp", "3g2", "f4v"),
    "matroska": ("mkv",),
    "webm": ("webm",),
    "mpegts": ("ts", "mts", "m2ts", "m2t"),
    "mpeg": ("mpg", "mpeg", "vob"),
    "avi": ("avi",),
    "flv": ("flv",),
    "asf": ("asf", "wmv"),
    "ogg": ("ogv",),
    "mxf": ("mxf",),
    "dv": ("dv",),
    "ivf": ("ivf",),
    "obu": ("obu",),
    "h264": ("h264", "avc"),
    "hevc": ("hevc", "h265"),
    "vvc": ("vvc", "h266"),
    "m4v": ("m4v",),
    "mpegvideo": ("m1v", "m2v"),
    "yuv4mpegpipe": ("y4m",),
    "rm": ("rm", "rmvb"),
}
_VIDEO_ENDINGS = frozenset(ending for endings in FORMAT_ENDINGS.values() for ending in endings)


def has_video_name(name: str) -> bool:
    """Tell by its ending whether a file or object is taken for a video; what it really is, decoding tells.

    White space after the ending does not count: people and copying tools leave some.
    """
    _, dot, ending = name.rpartition(".")
    return bool(dot) and ending.rstrip().lower() in _VIDEO_ENDINGS


#: What `picture_codec` may say.
PICTURE_CODECS = ("jpeg", "png", "webp", "bmp")


def picture_codec(head: bytes) -> str | None:
    """Tell by the first bytes of a file which kind of still picture it is.

    Args:
        head: 18 bytes or more, all of a shorter file.

    Returns:
        one of PICTURE_CODECS; None if it is none of them.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    # Two letters alone say too little; the size of the header that follows has few values.
    is_bmp = head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in {12, 16, 40, 52, 56, 64, 108, 124}
    return "bmp" if is_bmp else None


@dataclass(frozen=True)
class VideoInfo:
    """What a container and the first frame of its video stream say; or a picture, as a video of equal frames.

    Args:
        duration_s: of the video stream; measured where the container does not say.
        width_px, height_px: as displayed, after rotation; pixels are not stretched to the aspect ratio.
        fps: mean frame rate.
        codec: libav's name of the coding format, such as "h264"; of a picture what `picture_codec` says.
        pixel_format: libav's name, such as "yuv420p10le".
        rotation_deg: clockwise turn applied for display, one of 0, 90, 180, 270.
        bit_rate_bps: of the video stream, else of the file.
        frame_count: what the container claims; None where it claims nothing.
    """

    duration_s: float
    width_px: int
    height_px: int
    fps: float
    codec: str
    pixel_format: str
    rotation_deg: int
    bit_rate_bps: int | None
    frame_count: int | None

    def __post_init__(self) -> None:
        for name in ("duration_s", "fps", "width_px", "height_px"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and positive, got {value!r}")

    @property
    def is_still(self) -> bool:
        """Whether it is a still picture; a video of one frame is too short to be decoded."""
        return self.codec in PICTURE_CODECS and self.frame_count == 1


@dataclass(frozen=True)
class DecodeLimits:
    """What one video may cost.

    Args:
        max_frame_px: pixels of a frame; 8192 x 4320 admits 8K.
        max_duration_s: what a container may claim, or a stream turn out to last.
        max_frames: the same for the number of frames.
        max_file_bytes: size of the file.
        wall_s: deadline for one video, reading included; on Linux the time in which its process waits for a processor
            does not count.
        cpu_s: processor time for one video.
        address_space_bytes: memory a decoding process may map; 0.2 GiB are before a video, 8K takes 1.5 GiB.
    """

    max_frame_px: int = 8192 * 4320
    max_duration_s: float = 86_400.0
    max_frames: int = 8_000_000
    max_file_bytes: int = 1 << 38
    wall_s: float = 30.0
    cpu_s: int = 25
    address_space_bytes: int = 2 << 30


@dataclass(frozen=True)
class Event:
    """A stretch of a video in which something was measured.

    Args:
        kind: a key of `scale.EVENTS`.
        start_s, end_s: half-open interval of presentation time, seconds since the first frame.
        share: of the frame, 0-1; 1.0 for what concerns all of it.
    """

    kind: str
    start_s: float
    end_s: float
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in EVENTS:
            raise ValueError(f"an event of unknown kind {self.kind!r:.40}")
        if not 0 <= self.start_s < self.end_s < math.inf:
            raise ValueError(f"an event from {self.start_s!r} to {self.end_s!r} s")
        if not 0 < self.share <= 1:
            raise ValueError(f"an event over {self.share!r} of the frame")


@dataclass(frozen=True, eq=False)
class VideoSamples:
    """The frames and fragments of one video that the model sees.

    Args:
        info: the video.
        plan: how they were reached: "keyframe" (every burst starts on a key frame), "keyframe+decode" (some
            bursts were reached by decoding on from an earlier key frame) or "sequential" (no usable index:
            the file was read through); "still" for a picture.
        damaged_frames: packets on the way that would not decode, frames shown that the decoder patched or left
            out, frames before the first that decodes, and frames declared and not there. What it gave is kept:
            it is what a viewer sees.
        segment_start_s, segment_end_s: float64 (N,), half-open intervals of presentation time; in order, and without
            a gap from 0 to the end of the video. They need not be equally long.
        segment_has_picture: bool (N,), False where a segment shows black, a flat colour, bars or credits.
        burst_interval_s: float64 (N,), mean time from frame to frame of each burst, finite and positive.
        context_NMCHW: uint8 RGB, full range, whole frames resized to a square, in order of time.
        bursts_NTCHW: uint8 YUV codes of BT.709 in limited range (where the stream's matrix is BT.601 or BT.709),
            mosaics of fragments at native resolution, chroma repeated to 4:4:4.
        events: at most MAX_EVENTS, in order of their start.
    """

    info: VideoInfo
    plan: str
    damaged_frames: int
    segment_start_s: np.ndarray
    segment_end_s: np.ndarray
    segment_has_picture: np.ndarray
    burst_interval_s: np.ndarray
    context_NMCHW: np.ndarray
    bursts_NTCHW: np.ndarray
    events: tuple[Event, ...] = ()

    def to_bytes(self) -> bytes:
        """The same as safetensors bytes."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        facts = {
            "info": asdict(self.info),
            "plan": self.plan,
            "damaged_frames": self.damaged_frames,
            "events": [[event.kind, event.start_s, event.end_s, event.share] for event in self.events],
        }
        return save(arrays, metadata={"video": json.dumps(facts)})

    @classmethod
    def from_bytes(cls, data: bytes, settings: SamplingSettings) -> VideoSamples:
        """Rebuild samples and check that they are what these settings ask for.

        Args:
            data: what `to_bytes` gave.
            settings: the sampling they were made with.

        Raises:
            ValueError: anything else than whole samples of these settings.
        """
        try:
            arrays = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            facts = json.loads(header["__metadata__"]["video"])
            if set(arrays) != set(_ARRAYS):
                raise ValueError(f"arrays {sorted(arrays)}")
            info = video_info_from_dict(facts["info"])
            events = _events_from_lists(facts["events"])
            samples = cls(info, str(facts["plan"]), int(facts["damaged_frames"]), **arrays, events=events)
        except Exception as error:  # whatever the bytes provoke, they are no samples
            raise ValueError(f"not video samples: {error}") from error
        samples._check(settings)
        return samples

    def _check(self, settings: SamplingSettings) -> None:
        n = len(self.segment_start_s)
        s, m = settings.context_size_px, settings.mosaic_px
        expected = {
            "segment_start_s": (np.float64, (n,)),
            "segment_end_s": (np.float64, (n,)),
            "segment_has_picture": (np.bool_, (n,)),
            "burst_interval_s": (np.float64, (n,)),
            "context_NMCHW": (np.uint8, (n, settings.context_frames, 3, s, s)),
            "bursts_NTCHW": (np.uint8, (n, settings.burst_frames, 3, m, m)),
        }
        for name, (dtype, shape) in expected.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {dtype.__name__} {shape}")
        if not 1 <= n <= settings.most_looks:
            raise ValueError(f"{n} segments, expected 1 to {settings.most_looks}")
        if not 0 <= self.damaged_frames <= _MOST:
            raise ValueError(f"{self.damaged_frames} damaged frames")
        if not (np.isfinite(self.segment_start_s).all() and np.isfinite(self.segment_end_s).all()):
            raise ValueError("segment times are not finite")
        edges_s = np.append(self.segment_start_s, self.segment_end_s[-1])
        if edges_s[0] != 0 or (np.diff(edges_s) <= 0).any() or (self.segment_end_s != edges_s[1:]).any():
            raise ValueError("segments do not cover the video in order and without a gap")
        if not (np.isfinite(self.burst_interval_s) & (self.burst_interval_s > 0)).all():
            raise ValueError(f"burst intervals are {self.burst_interval_s} s")


#: Events of a video; of more, the longest are kept.
MAX_EVENTS = 200
#: Larger whole numbers fit into no table.
_MOST = 2**63 - 1
#: Names that libav gives to codecs and pixel formats.
_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
_ARRAYS = (
    *("segment_start_s", "segment_end_s", "segment_has_picture", "burst_interval_s"),
    *("context_NMCHW", "bursts_NTCHW"),
)


def _events_from_lists(rows: object) -> tuple[Event, ...]:
    """Rebuild events, checking every type.

    Raises:
        ValueError: they are too many, or one is none.
    """
    if not isinstance(rows, list) or len(rows) > MAX_EVENTS:
        raise ValueError(f"not at most {MAX_EVENTS} events")
    for row in rows:
        is_row = isinstance(row, list) and len(row) == 4 and isinstance(row[0], str)
        if not (is_row and all(type(number) in (int, float) for number in row[1:])):
            raise ValueError(f"an event is {row!r:.80}")
    return tuple(Event(kind, float(start_s), float(end_s), float(share)) for kind, start_s, end_s, share in rows)


def video_info_from_dict(values: dict) -> VideoInfo:
    """Rebuild a VideoInfo from `dataclasses.asdict`, checking every type.

    Raises:
        ValueError: a field is missing, unknown, of another type, or fits into no table.
    """
    types = {
        "duration_s": (float, int),
        "width_px": int,
        "height_px": int,
        "fps": (float, int),
        "codec": str,
        "pixel_format": str,
        "rotation_deg": int,
        "bit_rate_bps": (int, type(None)),
        "frame_count": (int, type(None)),
    }
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(VideoInfo)}:
        raise ValueError(f"not the fields of a video: {values!r:.200}")
    for name, expected in types.items():
        value = values[name]
        if not isinstance(value, expected) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r:.80}")
        if (isinstance(value, int) and abs(value) > _MOST) or (isinstance(value, str) and not _NAME.fullmatch(value)):
            raise ValueError(f"{name} is {value!r:.80}")
    return VideoInfo(**values)
