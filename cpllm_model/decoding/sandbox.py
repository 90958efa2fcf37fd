"""Decode apart: libav runs in a process that holds no model and no credentials, and can be killed.

The parent keeps the file and answers the child's reads; the child answers with VideoInfo as JSON or
VideoSamples as safetensors, over one socket, never with a pickle. The child (`decoder_process.py`) starts
with an empty environment, locks itself in (`wall.py`), serves many videos, and is replaced when one of them
breaks it. In: a file object. Out: what `video.py` gives, or its errors.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from cpllm_model.decoding import wall
from cpllm_model.decoding.samples import DecodeLimits, VideoInfo, VideoSamples, video_info_from_dict
from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.decoding.wire import MAX_READ_BYTES, Wire, parsed
from cpllm_model.errors import (
    ConfigurationError,
    DecodeCrashError,
    DecodeTimeoutError,
    LimitExceededError,
    VideoError,
    video_error,
)

_START_LIMIT_S = 60.0
#: On a busy machine a video may take so many times its deadline, which counts no waiting for a processor.
LONGEST_WAIT = 5
#: Share of its deadline after which a process has to have decoded on, or to wait for a processor still.
_WAIT_SHARE = 0.25
_VIDEOS_PER_CHILD = 256
_MAX_FACTS_BYTES = 1 << 16
_MAX_STDERR_BYTES = 1 << 16
_CAUSE_CHARACTERS = 500

_log = logging.getLogger(__name__)


class DecodeSandbox:
    """Probes and decodes videos in a child process; for one thread at a time.

    Args:
        limits: what a video may cost; enforced on the child from outside.
    """

    def __init__(self, limits: DecodeLimits | None = None) -> None:
        self.limits = limits or DecodeLimits()
        self._child: _Child | None = None

    def __enter__(self) -> DecodeSandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def interrupt(self) -> None:
        """End the child process from another thread than the one that waits for it; what it was asked for fails."""
        if (child := self._child) is not None:
            child.interrupt()

    def probe(self, file: BinaryIO, name: str) -> VideoInfo:
        """As `video.probe`.

        Raises:
            VideoError: of the video; of its storage, as `file.read` raised it; of the child's end.
            ConfigurationError: no child process can be started.
        """
        payload = self._ask(file, name, {"task": "probe"}, _MAX_FACTS_BYTES)
        try:
            return video_info_from_dict(parsed(payload))
        except ValueError as error:
            raise self._broken(name, error) from error

    def decode(self, file: BinaryIO, name: str, settings: SamplingSettings) -> VideoSamples:
        """As `video.decode`.

        Raises:
            VideoError: of the video; of its storage, as `file.read` raised it; of the child's end.
            ConfigurationError: no child process can be started.
        """
        frames_px = settings.context_frames * settings.context_size_px**2
        bursts_px = settings.burst_frames * settings.mosaic_px**2
        most_bytes = settings.most_looks * 3 * (frames_px + bursts_px) + _MAX_FACTS_BYTES
        payload = self._ask(file, name, {"task": "decode", "settings": asdict(settings)}, most_bytes)
        try:
            return VideoSamples.from_bytes(payload, settings)
        except ValueError as error:
            raise self._broken(name, error) from error

    def _ask(self, file: BinaryIO, name: str, request: dict[str, Any], most_bytes: int) -> bytes:
        size_bytes = file.seek(0, 2)
        if self._child is not None and self._child.videos >= _VIDEOS_PER_CHILD:
            self.close()
        if self._child is None:
            self._child = _Child(self.limits)
            _say_once(self._child.measures)
        try:
            return self._child.serve(file, name, request | {"size_bytes": size_bytes}, most_bytes)
        finally:
            if self._child.is_spent:
                self.close()

    def _broken(self, name: str, error: ValueError) -> DecodeCrashError:
        self.close()
        return DecodeCrashError(name, f"the decoding process answered nonsense: {_printable(str(error))}")


@functools.cache
def measures_in_force() -> tuple[str, ...]:
    """Start a decoding process and give the measures of `wall.py` that are in force in it.

    Raises:
        ConfigurationError: no child process can be started.
    """
    child = _Child(DecodeLimits())
    child.kill()
    return child.measures


class _Child:
    """A decoding process, seen from its parent."""

    def __init__(self, limits: DecodeLimits) -> None:
        self.videos = 0
        self.is_spent = False
        self._limits = limits
        self._last_words = ""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        ours, theirs = socket.socketpair()
        self._wire = Wire(ours)
        with theirs:
            command = [sys.executable, "-S", "-P", "-m", "cpllm_model.decoding.decoder_process"]
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), json.dumps(asdict(limits))],
                env=_environment(),
                cwd="/",
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                start_new_session=True,
            )
        self._wire.deadline = time.monotonic() + _START_LIMIT_S
        try:
            ready, _ = self._wire.receive(0)
        except (OSError, EOFError, ValueError) as error:
            self.kill()
            raise ConfigurationError(f"the decoding process does not start: {self._last_words}") from error
        self.measures = tuple(name for name in wall.MEASURES if name in ready.get("measures", ()))

    def serve(self, file: BinaryIO, name: str, request: dict[str, Any], most_bytes: int) -> bytes:
        """Send one video's request, answer the child's reads, and return its result."""
        self.videos += 1
        self.is_spent = True  # until it has answered: an interrupted exchange cannot be taken up again
        clock = _Clock(self._limits.wall_s, self._process.pid)
        self._wire.deadline, self._wire.more_time_s = time.monotonic() + self._limits.wall_s, clock.left_s
        read_error: Exception | None = None
        try:
            self._wire.send(request)
            answer, payload = self._wire.receive(most_bytes)
            while answer.get("kind") == "read":
                offset, length = _asked(answer)
                data = b""
                try:
                    if read_error is None:
                        with clock.reading():
                            file.seek(offset)
                            data = file.read(length)
                except Exception as error:
                    read_error = error
                self._wire.send({"ok": read_error is None}, data)
                answer, payload = self._wire.receive(most_bytes)
        except TimeoutError:
            self.kill()
            # Storage that fails only after the deadline is still what the video failed of.
            raise read_error or DecodeTimeoutError(name, f"not decoded within {self._limits.wall_s:g} s") from None
        except (OSError, EOFError):
            self.kill()
            raise read_error or self._end_of(name) from None
        except ValueError as error:
            cause = f"the decoding process broke the protocol: {_printable(str(error))}"
            raise DecodeCrashError(name, cause) from error
        self.is_spent = bool(answer.get("is_spent"))
        if read_error is not None:
            raise read_error
        if answer.get("kind") == "result":
            return payload
        raise self._error_of(name, answer)

    def interrupt(self) -> None:
        """End the process and all that it may have started; whoever waits for its answer is told by the wire's end."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the process and all that it may have started; keep its last words."""
        if self._stderr.closed:
            return
        self.interrupt()
        self._process.wait()
        self._wire.close()
        with self._stderr:
            self._stderr.seek(0)
            lines = self._stderr.read(_MAX_STDERR_BYTES).decode(errors="replace").splitlines()
        self._last_words = _printable(lines[-1]) if lines else ""

    def _error_of(self, name: str, answer: dict[str, Any]) -> VideoError:
        try:
            return video_error(str(answer["error_type"]), name, _printable(str(answer["cause"])))
        except (KeyError, ValueError):
            self.is_spent = True
            return DecodeCrashError(name, f"the decoding process answered {_printable(str(answer))}")

    def _end_of(self, name: str) -> VideoError:
        code = self._process.returncode
        if code == -signal.SIGXCPU:
            return LimitExceededError(name, f"takes more than {self._limits.cpu_s} s of processor time")
        if code == -signal.SIGSYS:
            cause = "the decoding process was ended at a system call that only an intruder makes (SIGSYS)"
            return DecodeCrashError(name, cause)
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return DecodeCrashError(name, f"the decoding process died ({how}) {self._last_words}".strip())


class _Clock:
    """What of a video's time is gone: for reading and for decoding, but not for waiting until a processor is free.

    Args:
        limit_s: the video's time.
        process_id: of the process that decodes it.
    """

    def __init__(self, limit_s: float, process_id: int) -> None:
        self._limit_s, self._process_id = limit_s, process_id
        self._ends_at = time.monotonic() + LONGEST_WAIT * limit_s
        self._read_s = 0.0
        self._began_s = self._seen_s = _processor_s(process_id)[0]

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Count the time of reading."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._read_s += time.monotonic() - began

    def left_s(self) -> float:
        """Give how long to wait for the process from here on; 0 if its time is gone, or it hangs."""
        before_s, (self._seen_s, waits) = self._seen_s, _processor_s(self._process_id)
        if time.monotonic() > self._ends_at or not (waits or self._seen_s > before_s):
            return 0.0
        left_s = self._limit_s - self._read_s - (self._seen_s - self._began_s)
        return min(left_s, _WAIT_SHARE * self._limit_s)


def _processor_s(process_id: int) -> tuple[float, bool]:
    """Give the processor time that a process has used, and whether it has or waits for a processor.

    By proc(5): utime, stime and state; zero and no where the system does not say.
    """
    try:
        state, *numbers = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        return (int(numbers[10]) + int(numbers[11])) / os.sysconf("SC_CLK_TCK"), state == "R"
    except (OSError, ValueError, IndexError):
        return 0.0, False


@functools.cache
def _say_once(measures: tuple[str, ...]) -> None:
    _log.info("videos are decoded in a process of their own, %s", wall.described(measures))


def _environment() -> dict[str, str]:
    """What the child needs to import this package, and nothing of what its parent knows."""
    paths = [str(Path(__file__).resolve().parents[2]), *(os.path.abspath(path) for path in sys.path)]  # noqa: PTH100
    kept = {key: os.environ[key] for key in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if key in os.environ}
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "LC_ALL": "C.UTF-8", **one_thread, **kept}


def _asked(header: dict[str, Any]) -> tuple[int, int]:
    """Offset and length of a read that the child asks for."""
    offset, length = header.get("offset"), header.get("length")
    if not (isinstance(offset, int) and isinstance(length, int) and offset >= 0 < length <= MAX_READ_BYTES):
        raise ValueError(f"a read of {length!r} bytes at {offset!r}")
    return offset, length


def _printable(text: str) -> str:
    """One line without control characters: the words come from a process that untrusted bytes ran in."""
    return "".join(c if c.isprintable() else " " for c in text)[:_CAUSE_CHARACTERS]
