"""The decoding process, as `sandbox.py` starts it: `python -m cpllm_model.decoding.decoder_process SOCKET LIMITS`.

It gives up what decoding does not need (`wall.py`, and limits on memory, processor time and files), then serves
one video after the other: it reads the file through its parent and answers with VideoInfo as JSON, VideoSamples
as safetensors, or the type of an error. It ends when its parent hangs up.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import socket
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

# Loaded before the lock-down, after which no file can be opened: whatever a library would import at its first use.
# PyAV loads these at the first file with subtitles, NumPy its masked arrays at the first median that leaves out NaN.
import av.subtitles.codeccontext
import av.subtitles.stream
import av.subtitles.subtitle  # noqa: F401
import numpy.ma  # noqa: F401

from cpllm_model.decoding import video, wall
from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.decoding.wire import MAX_READ_BYTES, Wire
from cpllm_model.errors import DecodeCrashError, LimitExceededError, SourceReadError, VideoError

#: Of what it may write to the file it has for its standard error.
STDERR_BYTES = 1 << 16
_CAUSE_CHARACTERS = 1000


class _RemoteFile:
    """The parent's file, seen from the child."""

    def __init__(self, wire: Wire, size_bytes: int) -> None:
        self._wire = wire
        self._size_bytes = size_bytes
        self._offset = 0

    def read(self, length: int) -> bytes:
        length = min(length, MAX_READ_BYTES, self._size_bytes - self._offset)
        if length <= 0:
            return b""
        self._wire.send({"kind": "read", "offset": self._offset, "length": length})
        header, data = self._wire.receive(MAX_READ_BYTES)
        if not header["ok"]:
            raise SourceReadError("", "the parent cannot read the file")
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
    # The lowest free number, whatever it was in the parent: files can be opened below the limit that is set on it.
    connection = socket.socket(fileno=os.dup(socket_fd))
    os.close(socket_fd)
    wire = Wire(connection)
    measures = lock_down(limits, connection)
    gc.freeze()
    wire.send({"kind": "ready", "measures": measures})
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
                payload = json.dumps(asdict(video.probe(file, "video", limits))).encode()
            else:
                settings = SamplingSettings(**request["settings"])
                payload = video.decode(file, "video", settings, limits).to_bytes()
        except VideoError as error:
            is_spent = isinstance(error, LimitExceededError)  # libav may have lost its footing with its memory
            header = _failure(error.error_type, error.cause, is_spent)
        except MemoryError:
            cause = f"needs more than {limits.address_space_bytes} bytes of memory"
            header = _failure(LimitExceededError.error_type, cause, True)
        except Exception as error:
            header = _failure(DecodeCrashError.error_type, f"{type(error).__name__}: {error}", True)
        wire.send(header, payload)


def _failure(error_type: str, cause: str, is_spent: bool) -> dict[str, Any]:
    return {"kind": "error", "error_type": error_type, "cause": cause[:_CAUSE_CHARACTERS], "is_spent": is_spent}


def _die_with_parent(connection: socket.socket) -> None:
    poll = select.poll()
    poll.register(connection, 0)  # hanging up is reported unasked
    poll.poll()
    os._exit(0)


def lock_down(limits: DecodeLimits, connection: socket.socket) -> tuple[str, ...]:
    """Give up what decoding does not need, for good; what the system does not know is left out.

    Args:
        limits: what the process may use.
        connection: to the parent, whose end ends this process.

    Returns:
        The measures of `wall.py` that are in force.
    """
    measures = wall.drop_privileges()
    # The last thread that is started: the one before it has given up its privileges, and none can be started later.
    threading.stack_size(1 << 18)
    threading.Thread(target=_die_with_parent, args=(connection,), daemon=True).start()
    open_fds = [fd for fd in range(256) if _is_open(fd)]
    _set_limit(resource.RLIMIT_NOFILE, max(open_fds) + 1)
    _set_limit(resource.RLIMIT_FSIZE, STDERR_BYTES)
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_AS, limits.address_space_bytes)
    if hasattr(resource, "RLIMIT_NPROC"):
        _set_limit(resource.RLIMIT_NPROC, 0)
    return measures + wall.deny_system_calls()


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
