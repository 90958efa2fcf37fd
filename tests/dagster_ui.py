"""Asking Dagster's web server what its UI asks it."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def ask(address: str, query: str) -> dict[str, Any]:
    """Put a GraphQL query to the server at an address."""
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})  # noqa: S310 # the UI's own
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        return json.load(response)["data"]


def wait_for(answer: Callable[[], Any], limit_s: float) -> Any:
    """Ask until there is an answer; the server takes a while to listen."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with suppress(OSError):
            if found := answer():
                return found
        time.sleep(0.5)
    raise AssertionError(f"no answer within {limit_s} s")
