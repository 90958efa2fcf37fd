"""A proxy in front of an S3 server that fails as storages and networks fail, request by request.

In: the address of a real S3 server. Out: an address for boto3, behind which requests pass unchanged, but for those
that a fault is injected into. Faults are functions of the exchange; they may answer themselves, forward and spoil the
answer, or do something to the storage first.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "date", "server"}


@dataclass
class Exchange:
    """A request on its way, and the means to answer it.

    Args:
        method: GET, PUT, ...
        path: unquoted, without the query.
        query: the first value by name.
        headers: by lower-case name.
        body: of the request.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    handler: BaseHTTPRequestHandler = field(repr=False)
    upstream: tuple[str, int] = field(repr=False)

    @property
    def is_listing(self) -> bool:
        """Whether a bucket is being listed."""
        return self.method == "GET" and "list-type" in self.query

    @property
    def is_read(self) -> bool:
        """Whether an object's bytes are asked for."""
        return self.method == "GET" and not self.is_listing

    def is_read_of(self, uri: str) -> bool:
        """Whether the bytes of this object are asked for."""
        return self.is_read and uri == f"s3:/{self.path}"

    def ask(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Put the request to the real server; gives status, headers and body."""
        connection = http.client.HTTPConnection(*self.upstream, timeout=60)
        try:
            connection.request(self.method, self.handler.path, self.body, self.headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def start(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Send the head of an answer."""
        self.handler.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.handler.send_header(name, value)
        self.handler.end_headers()

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Send an answer whose headers tell its length."""
        self.start(status, headers)
        if self.method != "HEAD":
            self.handler.wfile.write(body)

    def reset(self) -> None:
        """Break the connection off with a TCP reset."""
        connection = self.handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())  # closing the socket would wait for the handler's files
        self.handler.close_connection = True


Fault = Callable[[Exchange], None]
Condition = Callable[[Exchange], bool]


def forward(exchange: Exchange) -> None:
    """No fault: the real server's answer."""
    exchange.answer(*exchange.ask())


def refusal(status: int, code: str, message: str = "no") -> Fault:
    """An error as S3 words it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()

    def refuse(exchange: Exchange) -> None:
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        exchange.answer(status, headers, body)

    return refuse


def reset(exchange: Exchange) -> None:
    """The connection is reset before an answer."""
    exchange.reset()


def silence(seconds: float) -> Fault:
    """No answer for so long, then the end of the connection."""

    def keep_silent(exchange: Exchange) -> None:
        time.sleep(seconds)
        exchange.reset()

    return keep_silent


def broken_body(exchange: Exchange) -> None:
    """The connection is reset in the middle of the body."""
    status, headers, body = exchange.ask()
    exchange.start(status, headers)
    exchange.handler.wfile.write(body[: len(body) // 2])
    exchange.reset()


def short_body(exchange: Exchange) -> None:
    """The body ends in its middle, and its length says that this is all."""
    status, headers, body = exchange.ask()
    half = body[: len(body) // 2]
    kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
    exchange.answer(status, [*kept, ("Content-Length", str(len(half)))], half)


def slow_body(bytes_per_s: float) -> Fault:
    """The body comes in small pieces, this many bytes a second."""

    def trickle(exchange: Exchange) -> None:
        status, headers, body = exchange.ask()
        exchange.start(status, headers)
        piece = max(1, int(bytes_per_s / 20))
        for start in range(0, len(body), piece):
            exchange.handler.wfile.write(body[start : start + piece])
            exchange.handler.wfile.flush()
            time.sleep(piece / bytes_per_s)

    return trickle


SLOW_DOWN = refusal(503, "SlowDown")
INTERNAL = refusal(500, "InternalError")
#: Faults that a second request does not meet.
PASSING: dict[str, Fault] = {
    "500": INTERNAL,
    "503": SLOW_DOWN,
    "reset": reset,
    "broken body": broken_body,
    "short body": short_body,
    "slow body": slow_body(200_000),
}


def meanwhile(action: Callable[[Exchange], object]) -> Fault:
    """Something happens to the storage just before the request reaches it."""

    def act(exchange: Exchange) -> None:
        action(exchange)
        forward(exchange)

    return act


def altered(change: Callable[[list[tuple[str, str]], bytes], tuple[list[tuple[str, str]], bytes]]) -> Fault:
    """The real server's answer with other headers or another body."""

    def answer(exchange: Exchange) -> None:
        status, headers, body = exchange.ask()
        headers, changed = change(headers, body)
        if changed != body:
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(len(changed))))
        exchange.answer(status, headers, changed)

    return answer


def without(*names: str) -> Fault:
    """The server knows no such request headers, and does not say so."""

    def ignore(exchange: Exchange) -> None:
        for name in names:
            exchange.headers.pop(name, None)
        forward(exchange)

    return ignore


def etags_read_as(name: Callable[[str], str | None]) -> Fault:
    """ETags are sent under other names, or not at all, when an object is read."""

    def change(headers: list[tuple[str, str]], body: bytes) -> tuple[list[tuple[str, str]], bytes]:
        named = [(key, name(value) if key.lower() == "etag" else value) for key, value in headers]
        return [(key, value) for key, value in named if value is not None], body

    return altered(change)


def etags_listed_as(text: str) -> Fault:
    """Listings have this in the place of every ETag."""
    return altered(lambda headers, body: (headers, re.sub(rb"<ETag>.*?</ETag>", text.encode(), body)))


_NOT_IMPLEMENTED = refusal(501, "NotImplemented")
_CONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
#: What servers that are not AWS do, by name: a fault, and the requests that meet it.
LOOK_ALIKES: dict[str, tuple[Fault, Condition]] = {
    "wants Content-MD5": (
        refusal(400, "MissingContentMD5"),
        lambda e: e.method == "POST" and "delete" in e.query and "content-md5" not in e.headers,
    ),
    "knows no DeleteObjects": (_NOT_IMPLEMENTED, lambda e: e.method == "POST" and "delete" in e.query),
    "refuses conditional PUT": (
        _NOT_IMPLEMENTED,
        lambda e: e.method == "PUT" and any(name in e.headers for name in _CONDITIONS),
    ),
    "ignores conditions": (without(*_CONDITIONS), lambda _: True),
    "refuses checksum headers": (
        refusal(400, "InvalidArgument"),
        lambda e: any(re.match(r"x-amz-(sdk-)?checksum|x-amz-trailer", name) for name in e.headers),
    ),
    "sends weak ETags": (etags_read_as(lambda etag: f"W/{etag}"), lambda e: not e.is_listing),
    "sends no ETags": (etags_read_as(lambda _: None), lambda e: not e.is_listing),
    "sends other ETags": (etags_read_as(lambda etag: f'"other-{etag[1:]}'), lambda e: not e.is_listing),
    "lists one ETag": (etags_listed_as(f"<ETag>&quot;{'0' * 32}&quot;</ETag>"), lambda e: e.is_listing),
    "lists no ETags": (etags_listed_as(""), lambda e: e.is_listing),
    "lists empty ETags": (etags_listed_as("<ETag></ETag>"), lambda e: e.is_listing),
}


def made_up_listing(count: int, prefix: str) -> Fault:
    """A listing of so many objects that are nowhere, a thousand a page."""

    def page(exchange: Exchange) -> None:
        start = int(exchange.query.get("continuation-token", "0"))
        stop = min(start + int(exchange.query.get("max-keys", "1000")), count)
        items = "".join(
            f"<Contents><Key>{prefix}{number:08d}.mp4</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{number:032x}&quot;</ETag><Size>{number + 1}</Size></Contents>"
            for number in range(start, stop)
        )
        rest = "<IsTruncated>false</IsTruncated>"
        if stop < count:
            rest = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{stop}</NextContinuationToken>"
        body = f"<ListBucketResult><Prefix>{prefix}</Prefix>{rest}{items}</ListBucketResult>".encode()
        exchange.answer(200, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))], body)

    return page


def changed_body(change: Callable[[bytes], bytes]) -> Fault:
    """The real answer with another body."""

    def answer_changed(exchange: Exchange) -> None:
        status, headers, body = exchange.ask()
        body = change(body)
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        exchange.answer(status, [*kept, ("Content-Length", str(len(body)))], body)

    return answer_changed


@dataclass
class _Rule:
    fault: Fault
    when: Condition
    times: int | None


class S3Proxy:
    """A running proxy; `requests` keeps what has passed."""

    def __init__(self, endpoint_url: str) -> None:
        self.requests: list[Exchange] = []
        self._upstream = urlsplit(endpoint_url)
        self._rules: list[_Rule] = []
        self._actions: dict[int, Callable[[], object]] = {}
        self._lock = threading.RLock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client has hung up."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def inject(self, fault: Fault, when: Condition = lambda _: True, times: int | None = None) -> None:
        """Spoil requests from now on; the fault that came last goes before the others.

        Args:
            fault: what happens to them.
            when: which requests.
            times: how many of them; None is all.
        """
        with self._lock:
            self._rules.insert(0, _Rule(fault, when, times))

    def before_read(self, number: int, action: Callable[[], object]) -> None:
        """Do something just before the so-manieth read of an object since `heal`; all requests wait for it."""
        with self._lock:
            self._actions[number] = action

    @property
    def reads(self) -> int:
        """Number of requests so far that asked for an object's bytes."""
        with self._lock:
            return sum(exchange.is_read for exchange in self.requests)

    def heal(self) -> None:
        """Take all faults away, and forget the requests so far."""
        with self._lock:
            self._rules.clear()
            self._actions.clear()
            self.requests.clear()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        length = int(handler.headers.get("Content-Length") or 0)
        if handler.headers.get("Expect", "").lower() == "100-continue":
            handler.send_response_only(100)
            handler.end_headers()
        exchange = Exchange(
            method=handler.command,
            path=unquote(parts.path),
            query={name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()},
            headers={name.lower(): value for name, value in handler.headers.items() if name.lower() != "expect"},
            body=handler.rfile.read(length),
            handler=handler,
            upstream=(self._upstream.hostname or "", self._upstream.port or 80),
        )
        try:
            self._fault_of(exchange)(exchange)
        except OSError:
            handler.close_connection = True

    def _fault_of(self, exchange: Exchange) -> Fault:
        with self._lock:
            self.requests.append(exchange)
            if exchange.is_read and (action := self._actions.pop(self.reads, None)):
                action()
            for rule in self._rules:
                if rule.times != 0 and rule.when(exchange):
                    rule.times = rule.times and rule.times - 1
                    return rule.fault
        return forward

    @contextmanager
    def _running(self) -> Iterator[S3Proxy]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@contextmanager
def s3_proxy(endpoint_url: str) -> Iterator[S3Proxy]:
    """Run a proxy for the length of a `with` block."""
    with S3Proxy(endpoint_url)._running() as proxy:
        yield proxy
