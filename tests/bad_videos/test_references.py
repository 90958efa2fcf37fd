"""Nothing but the named object is ever opened: a host that listens and a file that is watched hear of nothing."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import av.error
import pytest

from cpllm_model.decoding import video
from cpllm_model.decoding.sandbox import DecodeSandbox
from cpllm_model.errors import VideoError
from cpllm_model.network import checkpoint
from tests.bad_videos.references import MOVIES, NOWHERE, movies, playlists
from tests.bad_videos.streams import stills, transport_stream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches a file by inotify")
SETTINGS = checkpoint.sampling_settings("tiny")
_IN_OPEN = 0x20


class Lure:
    """A host on this machine and a video in a folder, and whether anything came to them."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "lure.ts")
        Path(self.path).write_bytes(transport_stream())
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/lure.ts"
        libc = ctypes.CDLL(None, use_errno=True)
        self._watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert libc.inotify_add_watch(self._watch, os.fsencode(self.path), _IN_OPEN) >= 0

    def close(self) -> None:
        self._server.close()
        os.close(self._watch)

    def was_opened(self) -> bool:
        """Whether the file was opened since this was asked last."""
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._watch, 4096))
        return False

    def was_called(self) -> bool:
        """Whether somebody connected since this was asked last."""
        with contextlib.suppress(BlockingIOError):
            self._server.accept()[0].close()
            return True
        return False


@pytest.fixture
def lure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lure]:
    monkeypatch.chdir(tmp_path)  # where relative paths lead
    with contextlib.closing(Lure(tmp_path)) as made:
        yield made


@pytest.fixture(scope="module")
def sandbox() -> Iterator[DecodeSandbox]:
    with DecodeSandbox() as opened:
        yield opened


def test_an_unguarded_reader_takes_the_lure(lure: Lure, tmp_path: Path) -> None:
    options = {"protocol_whitelist": "file,http,tcp,crypto,data", "extension_picky": "0", "allowed_extensions": "ALL"}
    texts = playlists(lure.url, lure.path)
    for kind, has_come in (("HLS, relative path", lure.was_opened), ("HLS, http", lure.was_called)):
        playlist = tmp_path / "video.m3u8"
        playlist.write_text(texts[kind])
        with contextlib.suppress(av.error.FFmpegError), av.open(str(playlist), options=options, timeout=(2, 2)):
            pass
        assert has_come()


def attempts(name: str, data: bytes, sandbox: DecodeSandbox) -> dict[str, Callable[[], object]]:
    """Ways to read a file: with what its process is denied, and without."""
    return {
        "here": lambda: video.decode(io.BytesIO(data), name, SETTINGS),
        "here, probed": lambda: video.probe(io.BytesIO(data), name),
        "there": lambda: sandbox.decode(io.BytesIO(data), name, SETTINGS),
    }


@pytest.mark.parametrize("name", playlists(*NOWHERE))
def test_a_playlist_opens_nothing(lure: Lure, sandbox: DecodeSandbox, name: str) -> None:
    data = playlists(lure.url, lure.path)[name].encode()
    for attempt in attempts("video.mp4", data, sandbox).values():
        with pytest.raises(VideoError) as raised:
            attempt()
        assert raised.value.error_type == "not_a_video"
    assert not lure.was_opened() and not lure.was_called()


@pytest.mark.parametrize("name", movies(stills(1), *NOWHERE))
def test_a_movie_opens_nothing(lure: Lure, sandbox: DecodeSandbox, name: str) -> None:
    data = movies(stills(), lure.url, lure.path)[name]
    for attempt in attempts("video.mp4", data, sandbox).values():
        try:
            attempt()
            error_type = None
        except VideoError as error:
            error_type = error.error_type
        assert error_type == MOVIES.get(name)
    assert not lure.was_opened() and not lure.was_called()
