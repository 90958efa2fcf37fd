"""A stub of S3 that lists one library of any size by ListObjectsV2, and nothing else, for the benchmarks.

The embedded server reads all of its keys for each page, which would be what is measured.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

LIBRARY = "films"
KEY = f"{LIBRARY}/season/%09d.mp4"
ETAG = "%032x"
PAGE = 1000


@contextmanager
def stub_listing(count: int) -> Iterator[str]:
    """List `count` videos in a process of its own for the length of a `with` block; gives the endpoint."""
    command = [sys.executable, __file__, str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def serve(count: int) -> None:
    """Print a free port on a line, and answer on it."""

    class Listing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            start = int(query.get("continuation-token", ["0"])[0])
            stop = min(start + PAGE, count)
            contents = "".join(
                f"<Contents><Key>{KEY % index}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{ETAG % index}&quot;</ETag><Size>1000</Size></Contents>"
                for index in range(start, stop)
            )
            more = f"<NextContinuationToken>{stop}</NextContinuationToken>" if stop < count else ""
            body = (
                '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<Name>bucket</Name><IsTruncated>{str(stop < count).lower()}</IsTruncated>{more}"
                f"<KeyCount>{stop - start}</KeyCount>{contents}</ListBucketResult>"
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
