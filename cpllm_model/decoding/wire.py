"""Messages between a process and the decoding process it started: bounded, before a deadline, no pickles.

A message is a JSON object and bytes. Either side may be lying: whoever receives says how much it takes.
"""

from __future__ import annotations

import json
import socket
import struct
import time
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
        header = parsed(self._exactly(header_bytes))
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
