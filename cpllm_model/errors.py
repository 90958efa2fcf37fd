"""Every error this project raises on purpose: one tree, rooted at CPLLMError.

A VideoError concerns one video and becomes that video's row; every other error stops what was asked for.

    CPLLMError
    ├── ConfigurationError      a setting, an address or a credential is missing or wrong
    ├── CheckpointError         a model folder cannot be loaded, or may not be
    ├── LakeError               the tables cannot be read or written
    ├── ShrunkLibraryError      a library has lost so many videos that a person has to say whether that is right
    ├── DataSetError            labelled videos cannot be read, or are not what training or evaluation needs
    ├── TrainingError           training cannot go on
    └── VideoError              one video has no score; `error_type` is the reason in its row
"""

from __future__ import annotations

from typing import ClassVar


class CPLLMError(Exception):
    """Root of the tree."""


class ConfigurationError(CPLLMError):
    """A setting, an address or a credential is missing or wrong; the message is one sentence."""


class CheckpointError(CPLLMError):
    """A model folder is missing, incomplete, or holds what may not be loaded (pickles, remote code)."""


class LakeError(CPLLMError):
    """The tables cannot be read or written, or rows break their schema."""


class ShrunkLibraryError(CPLLMError):
    """A library has vanished, or lost so many videos that a person has to say whether that is right."""


class DataSetError(CPLLMError):
    """Labelled videos cannot be read, or are not what training or evaluation needs; names the file."""


class TrainingError(CPLLMError):
    """Training cannot go on: a loss is not finite, or a run belongs to another configuration."""


class VideoError(CPLLMError):
    """One video cannot be scored.

    Args:
        name: the video's path or URI.
        cause: what is wrong with it, in words.
    """

    error_type: ClassVar[str] = "video_error"
    #: Whether another attempt on the same bytes may succeed; a later run tries such rows again.
    transient: ClassVar[bool] = False

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(name, cause)
        self.name = name
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.name}: {self.cause}"


class EmptyFileError(VideoError):
    """The file has zero bytes."""

    error_type = "empty_file"


class NotAVideoError(VideoError):
    """No accepted container format recognises the file."""

    error_type = "not_a_video"


class NoVideoStreamError(VideoError):
    """The container has no moving picture (audio, subtitles or cover art only)."""

    error_type = "no_video_stream"


class UnsupportedCodecError(VideoError):
    """The video stream's codec is not accepted or has no decoder."""

    error_type = "unsupported_codec"


class CorruptVideoError(VideoError):
    """The stream is truncated or damaged so far that the sampling plan cannot be met."""

    error_type = "corrupt_video"


class TooShortError(VideoError):
    """The video has fewer frames than one burst."""

    error_type = "too_short"


class NoPictureError(VideoError):
    """Wherever the video was looked at, it shows black, one flat colour or test bars: there is no picture to rate."""

    error_type = "no_picture"


class TooSmallError(VideoError):
    """A frame is smaller than one native-resolution fragment."""

    error_type = "too_small"


class LimitExceededError(VideoError):
    """The video asks for more pixels, bytes, memory or time on its clock than the limits allow."""

    error_type = "limit_exceeded"


class DecodeTimeoutError(VideoError):
    """Decoding passed its deadline."""

    error_type = "decode_timeout"
    transient = True


class DecodeCrashError(VideoError):
    """The decoding process died on this video."""

    error_type = "decode_crash"


class ObjectMissingError(VideoError):
    """The object is gone since it was listed."""

    error_type = "object_missing"
    transient = True


class ObjectChangedError(VideoError):
    """The object's bytes are no longer those that were listed (another ETag)."""

    error_type = "object_changed"
    transient = True


class SourceReadError(VideoError):
    """The storage failed to deliver the bytes, after retries."""

    error_type = "source_read"
    transient = True


class AccessDeniedError(VideoError):
    """The object may be listed but not read."""

    error_type = "access_denied"
    transient = True


class ArchivedError(VideoError):
    """The object lies in an archive and has to be restored before it can be read; only a person can have that done."""

    error_type = "object_archived"


class WorkerLostError(VideoError):
    """The workers that held this video died or hung each time it was tried."""

    error_type = "worker_lost"
    transient = True


class InferenceError(VideoError):
    """The model gave no finite answer for this video."""

    error_type = "inference_failed"


def video_error(error_type: str, name: str, cause: str) -> VideoError:
    """Rebuild a video error from its row or message.

    Args:
        error_type: the `error_type` of a VideoError class.
        name: the video's path or URI.
        cause: what is wrong with it.

    Raises:
        ValueError: no class has this `error_type`.
    """
    for cls in (VideoError, *VideoError.__subclasses__()):
        if cls.error_type == error_type:
            return cls(name, cause)
    raise ValueError(f"unknown error type {error_type!r} for {name!r}")
