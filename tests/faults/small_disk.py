"""A small disk that a test fills up and frees again."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(disk: Path) -> Iterator[Path]:
    """Lend a disk of 16 MB at a path; a test that may not mount one is skipped."""
    disk.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["/bin/umount", "-l", disk], check=True)


def fill(disk: Path, spare_bytes: int = 0) -> None:
    """Fill a disk up to so many bytes; `free` empties it."""
    with contextlib.suppress(OSError), (disk / "filling").open("ab", buffering=0) as filling:
        while True:
            filling.write(bytes(4096))
    size_bytes = (disk / "filling").stat().st_size
    os.truncate(disk / "filling", max(0, size_bytes - spare_bytes))


def free(disk: Path) -> None:
    (disk / "filling").unlink()
