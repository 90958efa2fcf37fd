"""Messages between a process and the decoding process it started: bounded, before a deadline, no pickles.

A message is a JSON object and bytes. Either side may be lying: whoever receives says how much it takes.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

#: Most bytes that the child may ask for at once.
MAX_READ_BYTES = 1 << 23
_HEAD = struct.Struct("!IQ")
_MAX_HEADER_BYTES = 1 << 16


def parsed(data: bytes | bytearray) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: anything else.
    """
    try:
        found = json.loads(data)
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
    if not isinstance(found, dict):
        raise ValueError(f"no JSON object: {found!r:.80}")
    return found


class Wire:
    """Messages over a socket: a JSON header and bytes, both of bounded length, before a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        #: On `time.monotonic`; None waits for ever.
        self.deadline: float | None = None
        #: Asked at the deadline: how many seconds more the other side is given; 0 is none.
        self.more_time_s: Callable[[], float] = lambda: 0.0
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
        for part in (_HEAD.pack(len(data), len(payload)) + data, payload):
            view = memoryview(part)
            while view:
                view = view[self._in_time(lambda view=view: self._connection.send(view)) :]

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
        header = parsed(self._exactly(header_bytes))
        return header, bytes(self._exactly(payload_bytes))

    def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            received = self._in_time(lambda view=view: self._connection.recv_into(view))
            if not received:
                raise EOFError("hung up")
            view = view[received:]
        return data

    def _in_time(self, move: Callable[[], int]) -> int:
        """Move some bytes before the deadline, which may be put off."""
        while self.deadline is not None:
            remaining_s = self.deadline - time.monotonic()
            if remaining_s > 0:
                self._connection.settimeout(remaining_s)
                try:
                    return move()
                except TimeoutError:
                    continue
            more_s = self.more_time_s()
            if more_s <= 0:
                raise TimeoutError("past the deadline")
            self.deadline = time.monotonic() + more_s
        return move()
