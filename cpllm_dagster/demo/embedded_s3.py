"""A small S3 server in a process of its own: moto on the loopback interface, for demo, development and tests.

In: a port. Out: an endpoint, and credentials for it (it checks none). Objects live as long as the process,
which ends with the `with` block and, should its parent be killed, by the end of the pipe the parent holds.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cpllm_model.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class EmbeddedS3:
    """A running server: where it listens, and the environment variables with which boto3 may talk to it."""

    endpoint_url: str

    @property
    def environment(self) -> dict[str, str]:
        """Credentials and region in boto3's own variables; the values are arbitrary, none is secret."""
        return {
            "AWS_ACCESS_KEY_ID": "embedded",
            "AWS_SECRET_ACCESS_KEY": "embedded",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def embedded_s3(port: int = 0) -> Iterator[EmbeddedS3]:
    """Run the server for the length of a `with` block; it answers when the block is entered.

    Args:
        port: port to listen on, 0 for any free one.

    Raises:
        ConfigurationError: moto is not installed, or the port is taken.
    """
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        raise ConfigurationError("the embedded S3 server needs moto: pip install 'cpllm[demo]'")
    process = subprocess.Popen(
        [sys.executable, "-m", "cpllm_dagster.demo.embedded_s3", "--port", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops the server last
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        listening = process.stdout.readline().decode().strip()
        if not listening:
            raise ConfigurationError(f"the embedded S3 server cannot listen on {LOOPBACK}:{port}")
        yield EmbeddedS3(endpoint_url=f"http://{LOOPBACK}:{listening}")
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _serve(port: int) -> None:
    """Listen, print the port on a line, and serve until standard input ends."""
    from moto.moto_server.threaded_moto_server import (
        ThreadedMotoServer,
    )  # heavy, and needed in the child alone

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    if port and not _is_free(port):
        sys.exit(1)
    server = ThreadedMotoServer(ip_address=LOOPBACK, port=port, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.buffer.read()


def _is_free(port: int) -> bool:
    """Whether the port can be bound; moto binds in a thread and would wait for ever if it cannot."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    _serve(parser.parse_args().port)
