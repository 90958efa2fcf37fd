"""Decode behind a wall: libav runs in a process that holds no model and no credentials, and can be killed.

The parent keeps the file and answers the child's reads; the child answers with VideoInfo as JSON or
VideoSamples as safetensors, over one socket, never with a pickle. The child starts with an empty environment,
drops what it may use (memory, processor time, new files, new processes), serves many videos, and is replaced
when one of them breaks it. In: a file object. Out: what `video.py` gives, or its errors.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from cpllm_model.errors import (
    ConfigurationError,
    DecodeCrashError,
    DecodeTimeoutError,
    LimitExceededError,
    VideoError,
    video_error,
)
from cpllm_model.samples import DecodeLimits, VideoInfo, VideoSamples, video_info_from_dict
from cpllm_model.sampling import SamplingSettings

_START_LIMIT_S = 60.0
_VIDEOS_PER_CHILD = 256
_HEAD = struct.Struct("!IQ")
_MAX_HEADER_BYTES = 1 << 16
_MAX_READ_BYTES = 1 << 23
_STDERR_BYTES = 1 << 16
_CAUSE_CHARACTERS = 500


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

    def probe(self, file: BinaryIO, name: str) -> VideoInfo:
        """As `video.probe`.

        Raises:
            VideoError: of the video; of its storage, as `file.read` raised it; of the child's end.
            ConfigurationError: no child process can be started.
        """
        payload = self._ask(file, name, {"task": "probe"}, _MAX_HEADER_BYTES)
        try:
            return video_info_from_dict(json.loads(payload))
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
        most_bytes = settings.segments * 3 * (frames_px + bursts_px) + _MAX_HEADER_BYTES
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
        try:
            return self._child.serve(file, name, request | {"name": name, "size_bytes": size_bytes}, most_bytes)
        except VideoError:
            if self._child.is_spent:
                self.close()
            raise
        except BaseException:
            self.close()  # an interrupted exchange cannot be taken up again
            raise

    def _broken(self, name: str, error: ValueError) -> DecodeCrashError:
        self.close()
        return DecodeCrashError(name, f"the decoding process answered nonsense: {_printable(str(error))}")


class _Child:
    """A decoding process, seen from its parent."""

    def __init__(self, limits: DecodeLimits) -> None:
        self.videos = 0
        self.is_spent = False
        self._limits = limits
        self._last_words = ""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        ours, theirs = socket.socketpair()
        self._wire = _Wire(ours)
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-P", "-m", "cpllm_model.sandbox"),
                    *(str(theirs.fileno()), json.dumps(asdict(limits))),
                ],
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
            self._wire.receive(0)
        except (OSError, EOFError, ValueError) as error:
            self.kill()
            raise ConfigurationError(f"the decoding process does not start: {self._last_words}") from error

    def serve(self, file: BinaryIO, name: str, request: dict[str, Any], most_bytes: int) -> bytes:
        """Send one video's request, answer the child's reads, and return its result."""
        self.videos += 1
        self._wire.deadline = time.monotonic() + self._limits.wall_s
        read_error: Exception | None = None
        try:
            self._wire.send(request)
            while True:
                answer, payload = self._wire.receive(most_bytes)
                if answer.get("kind") != "read":
                    break
                data = b""
                try:
                    data = _read(file, answer) if read_error is None else b""
                except Exception as error:
                    read_error = error
                self._wire.send({"ok": read_error is None}, data)
        except TimeoutError:
            self.is_spent = True
            self.kill()
            raise DecodeTimeoutError(name, f"not decoded within {self._limits.wall_s:g} s") from None
        except (OSError, EOFError):
            self.is_spent = True
            self.kill()
            raise read_error or self._end_of(name) from None
        except ValueError as error:
            self.is_spent = True
            self.kill()
            cause = f"the decoding process broke the protocol: {_printable(str(error))}"
            raise DecodeCrashError(name, cause) from error
        if read_error is not None:
            raise read_error
        if answer.get("kind") == "result":
            return payload
        self.is_spent = bool(answer.get("is_spent"))
        raise self._error_of(name, answer)

    def kill(self) -> None:
        """End the process and all that it may have started; keep its last words."""
        if self._stderr.closed:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._wire.close()
        with self._stderr:
            self._stderr.seek(0)
            lines = self._stderr.read(_STDERR_BYTES).decode(errors="replace").splitlines()
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
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return DecodeCrashError(name, f"the decoding process died ({how}) {self._last_words}".strip())


def _environment() -> dict[str, str]:
    """What the child needs to import this package, and nothing of what its parent knows."""
    paths = [str(Path(__file__).resolve().parents[1]), *(os.path.abspath(path) for path in sys.path)]  # noqa: PTH100
    kept = {key: os.environ[key] for key in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if key in os.environ}
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "LC_ALL": "C.UTF-8", **one_thread, **kept}


def _read(file: BinaryIO, asked: dict[str, Any]) -> bytes:
    offset, length = asked.get("offset"), asked.get("length")
    if not (isinstance(offset, int) and isinstance(length, int) and offset >= 0 < length <= _MAX_READ_BYTES):
        raise ValueError(f"a read of {length!r} bytes at {offset!r}")
    file.seek(offset)
    return file.read(length)


def _printable(text: str) -> str:
    """One line without control characters: the words come from a process that untrusted bytes ran in."""
    return "".join(c if c.isprintable() else " " for c in text)[:_CAUSE_CHARACTERS]


class _Wire:
    """Messages over a socket: a JSON header and bytes, both of bounded length, before a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        #: On `time.monotonic`; None waits for ever.
        self.deadline: float | None = None
        self._connection = connection

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Send one message.

        Raises:
            TimeoutError, OSError: as of the socket.
        """
        data = json.dumps(header).encode()
        self._set_timeout()
        self._connection.sendall(_HEAD.pack(len(data), len(payload)) + data)
        self._set_timeout()
        self._connection.sendall(payload)

    def receive(self, most_bytes: int) -> tuple[dict[str, Any], bytes]:
        """Receive one message.

        Raises:
            TimeoutError, OSError: as of the socket.
            EOFError: the other side hung up.
            ValueError: the message is too long or no message.
        """
        header_bytes, payload_bytes = _HEAD.unpack(self._exactly(_HEAD.size))
        if header_bytes > _MAX_HEADER_BYTES or payload_bytes > most_bytes:
            raise ValueError(f"a message of {header_bytes} and {payload_bytes} bytes")
        header = json.loads(self._exactly(header_bytes))
        if not isinstance(header, dict):
            raise ValueError(f"a message headed {header!r:.80}")
        return header, bytes(self._exactly(payload_bytes))

    def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            self._set_timeout()
            received = self._connection.recv_into(view)
            if not received:
                raise EOFError("hung up")
            view = view[received:]
        return data

    def _set_timeout(self) -> None:
        if self.deadline is not None:
            remaining_s = self.deadline - time.monotonic()
            if remaining_s <= 0:
                raise TimeoutError("past the deadline")
            self._connection.settimeout(remaining_s)


class _RemoteFile:
    """The parent's file, seen from the child."""

    def __init__(self, wire: _Wire, size_bytes: int) -> None:
        self._wire = wire
        self._size_bytes = size_bytes
        self._offset = 0

    def read(self, length: int) -> bytes:
        length = min(length, _MAX_READ_BYTES, self._size_bytes - self._offset)
        if length <= 0:
            return b""
        self._wire.send({"kind": "read", "offset": self._offset, "length": length})
        header, data = self._wire.receive(_MAX_READ_BYTES)
        if not header["ok"]:
            raise OSError("the parent cannot read the file")
        self._offset += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        origin = (0, self._offset, self._size_bytes)[whence]
        if origin + offset < 0:
            raise ValueError(f"seek to {origin + offset}")
        self._offset = origin + offset
        return self._offset

    def tell(self) -> int:
        return self._offset


def _child_main(socket_fd: int, limits: DecodeLimits) -> None:
    """Serve the parent until it hangs up."""
    from cpllm_model import video  # loaded before the limits allow no new files

    connection = socket.socket(fileno=socket_fd)
    wire = _Wire(connection)
    threading.stack_size(1 << 18)
    threading.Thread(target=_die_with_parent, args=(connection,), daemon=True).start()
    _lock_down(limits)
    gc.freeze()
    wire.send({"kind": "ready"})
    while True:
        gc.collect()  # PyAV's containers and streams refer to each other and hold hundreds of megabytes
        try:
            request, _ = wire.receive(0)
        except EOFError:
            return
        used_s = time.process_time()
        _set_limit(resource.RLIMIT_CPU, int(used_s) + 1 + limits.cpu_s, hard=False)
        file: Any = _RemoteFile(wire, request["size_bytes"])
        header, payload = {"kind": "result"}, b""
        try:
            if request["task"] == "probe":
                payload = json.dumps(asdict(video.probe(file, request["name"], limits))).encode()
            else:
                settings = SamplingSettings(**request["settings"])
                payload = video.decode(file, request["name"], settings, limits).to_bytes()
        except VideoError as error:
            is_spent = isinstance(error, LimitExceededError)  # libav may have lost its footing with its memory
            header = {"kind": "error", "error_type": error.error_type, "cause": error.cause, "is_spent": is_spent}
        except MemoryError:
            cause = f"needs more than {limits.address_space_bytes} bytes of memory"
            header = {"kind": "error", "error_type": "limit_exceeded", "cause": cause, "is_spent": True}
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"[:_CAUSE_CHARACTERS]
            header = {"kind": "error", "error_type": "decode_crash", "cause": cause, "is_spent": True}
        wire.send(header, payload)


def _die_with_parent(connection: socket.socket) -> None:
    poll = select.poll()
    poll.register(connection, 0)  # hanging up is reported unasked
    poll.poll()
    os._exit(0)


def _lock_down(limits: DecodeLimits) -> None:
    """Give up what decoding does not need; what the system does not know (macOS) is left out."""
    open_fds = [fd for fd in range(256) if _is_open(fd)]
    _set_limit(resource.RLIMIT_NOFILE, max(open_fds) + 1)
    _set_limit(resource.RLIMIT_FSIZE, _STDERR_BYTES)
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_AS, limits.address_space_bytes)
    if hasattr(resource, "RLIMIT_NPROC"):
        _set_limit(resource.RLIMIT_NPROC, 0)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _set_limit(which: int, value: int, hard: bool = True) -> None:
    _, ceiling = resource.getrlimit(which)
    if ceiling != resource.RLIM_INFINITY:
        value = min(value, ceiling)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(which, (value, value if hard else ceiling))


if __name__ == "__main__":
    _child_main(int(sys.argv[1]), DecodeLimits(**json.loads(sys.argv[2])))
