"""The decoding process: what it gives, what it lacks, and how it dies."""

import contextlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from cpllm_model import errors
from cpllm_model.decoding import sandbox, video
from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.decoding.sandbox import DecodeSandbox

SETTINGS = SamplingSettings(
    look_every_s=0.1,
    most_looks=4,
    context_frames=2,
    context_size_px=32,
    burst_frames=4,
    fragment_grid=2,
    fragment_px=32,
)


def encoded(path: Path, size: str, g: int) -> bytes:
    """A video of three seconds with a key frame every g frames."""
    source = ffmpeg.input(f"testsrc2=s={size}:r=25:d=3", f="lavfi")
    made = source.output(str(path), vcodec="libx264", preset="veryfast", g=g, pix_fmt="yuv420p")
    ffmpeg.run(made, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    return path.read_bytes()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    return encoded(tmp_path_factory.mktemp("sandbox") / "clip.mp4", "160x128", 20)


@pytest.fixture(scope="module")
def shared():
    with DecodeSandbox() as opened:
        yield opened


def pid(opened: DecodeSandbox) -> int:
    assert opened._child is not None
    return opened._child._process.pid


def is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


class Acting(io.BytesIO):
    """A file that does something each time it is read."""

    def __init__(self, data: bytes, act) -> None:
        super().__init__(data)
        self._act = act

    def read(self, *args) -> bytes:
        self._act()
        return super().read(*args)


def test_it_gives_what_decoding_here_gives(shared, clip):
    here, there = video.decode(io.BytesIO(clip), "clip", SETTINGS), shared.decode(io.BytesIO(clip), "clip", SETTINGS)
    assert there.info == here.info == shared.probe(io.BytesIO(clip), "clip")
    assert (there.plan, there.damaged_frames) == (here.plan, here.damaged_frames)
    for name in ("segment_start_s", "segment_end_s", "context_NMCHW", "bursts_NTCHW"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_subtitles_and_sound_do_not_disturb(clip, suffix, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(clip)
    (tmp_path / "words.srt").write_text("1\n00:00:00,000 --> 00:00:02,000\nwords\n")
    parts = [ffmpeg.input(str(tmp_path / name)) for name in ("clip.mp4", "words.srt")]
    path = tmp_path / f"whole.{suffix}"
    codecs = {"vcodec": "copy", "acodec": "aac", "scodec": "mov_text" if suffix == "mp4" else "srt"}
    whole = ffmpeg.output(*parts, ffmpeg.input("sine=d=3", f="lavfi"), str(path), **codecs)
    ffmpeg.run(whole, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    with DecodeSandbox() as opened, path.open("rb") as file:
        assert opened.decode(file, "whole", SETTINGS).bursts_NTCHW.size


def test_errors_keep_their_type_and_the_process(shared, clip):
    shared.probe(io.BytesIO(clip), "clip")
    before = pid(shared)
    for data, expected in (
        (b"", errors.EmptyFileError),
        (b"text" * 99, errors.NotAVideoError),
        (clip[: len(clip) // 2], errors.CorruptVideoError),
    ):
        with pytest.raises(expected, match="some/name: "):
            shared.decode(io.BytesIO(data), "some/name", SETTINGS)
    assert shared.decode(io.BytesIO(clip), "clip", SETTINGS).plan == "keyframe"
    assert pid(shared) == before


def test_what_reading_raises_is_raised(shared, clip):
    shared.probe(io.BytesIO(clip), "clip")
    before = pid(shared)
    for gone in (errors.ObjectChangedError("clip", "another ETag"), OSError("disk")):

        def fail(gone=gone):
            raise gone

        with pytest.raises(type(gone)) as raised:
            shared.decode(Acting(clip, fail), "clip", SETTINGS)
        assert raised.value is gone
    assert shared.probe(io.BytesIO(clip), "clip").codec == "h264"
    assert pid(shared) == before


@pytest.mark.parametrize("module", ["cpllm_model.decoding.sandbox", "cpllm_model.decoding.decoder_process"])
def test_the_process_needs_no_model_and_no_platform(module):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "boto3", "ray", "scipy", "dagster"} & set(done.stdout.split())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_knows_no_secrets(clip, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("https_proxy", "http://user:hunter2@proxy")
    with DecodeSandbox() as opened:
        opened.probe(io.BytesIO(clip), "clip")
        for entry in ("environ", "cmdline"):
            with contextlib.suppress(PermissionError):  # without privileges nobody can look into it
                assert b"hunter2" not in Path(f"/proc/{pid(opened)}/{entry}").read_bytes()
        assert os.getsid(pid(opened)) == pid(opened)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_is_locked_down_whatever_its_parent_holds_open(clip, request):
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(300)]
    shared = DecodeSandbox()
    request.addfinalizer(shared.close)
    shared.probe(io.BytesIO(clip), "clip")
    for fd in held:
        os.close(fd)
    limits = Path(f"/proc/{pid(shared)}/limits").read_text()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert soft["Max open files"] == "4"  # the standard three and the wire
    assert int(soft["Max address space"]) == DecodeLimits().address_space_bytes
    assert int(soft["Max cpu time"]) <= DecodeLimits().cpu_s + 30
    assert soft["Max core file size"] == "0"


def test_a_trickling_source_ends_at_the_deadline(clip):
    with (
        DecodeSandbox(DecodeLimits(wall_s=1.0)) as opened,
        pytest.raises(errors.DecodeTimeoutError, match="within 1 s"),
    ):
        opened.decode(Acting(clip, lambda: time.sleep(1.2)), "clip", SETTINGS)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody knows what a process has used")
def test_waiting_for_a_processor_is_not_the_time_of_the_video(tmp_path):
    """Ten times, a process has a processor for a hundredth of a second and then none for half a second."""
    large = encoded(tmp_path / "large.mp4", "1280x720", 75)
    with DecodeSandbox(DecodeLimits(wall_s=4.0)) as opened:
        opened.probe(io.BytesIO(large), "large")
        starved, ended = pid(opened), threading.Event()

        def starve() -> None:
            for _ in range(10):
                before_s, _ = sandbox._processor_s(starved)
                while sandbox._processor_s(starved)[0] == before_s and not ended.wait(0.001):
                    pass
                os.kill(starved, signal.SIGSTOP)
                ended.wait(0.5)
                os.kill(starved, signal.SIGCONT)

        thread, began = threading.Thread(target=starve), time.monotonic()
        thread.start()
        try:
            samples = opened.decode(io.BytesIO(large), "large", SETTINGS)
            assert time.monotonic() - began > opened.limits.wall_s
        finally:
            ended.set()
            thread.join()
        assert pid(opened) == starved
        assert samples.to_bytes() == opened.decode(io.BytesIO(large), "large", SETTINGS).to_bytes()


def test_a_hanging_process_is_killed_and_replaced(clip):
    with DecodeSandbox(DecodeLimits(wall_s=2.0)) as opened:
        opened.probe(io.BytesIO(clip), "clip")
        hung = pid(opened)
        with pytest.raises(errors.DecodeTimeoutError):
            opened.decode(Acting(clip, lambda: os.kill(hung, signal.SIGSTOP)), "clip", SETTINGS)
        assert not is_running(hung)
        assert opened.probe(io.BytesIO(clip), "clip").codec == "h264"
        assert pid(opened) != hung


def test_another_thread_can_end_what_is_waited_for(clip):
    with DecodeSandbox(DecodeLimits(wall_s=300.0)) as opened:
        opened.interrupt()  # there is nothing to end yet
        opened.probe(io.BytesIO(clip), "clip")
        hung = pid(opened)
        threading.Timer(1.0, opened.interrupt).start()
        with pytest.raises(errors.DecodeCrashError, match="SIGKILL"):
            opened.decode(Acting(clip, lambda: os.kill(hung, signal.SIGSTOP)), "clip", SETTINGS)
        assert not is_running(hung)
        assert opened.probe(io.BytesIO(clip), "clip").codec == "h264"


@pytest.mark.parametrize(
    ("signal_number", "expected", "words"),
    [
        (signal.SIGKILL, errors.DecodeCrashError, "SIGKILL"),
        (signal.SIGSEGV, errors.DecodeCrashError, "SIGSEGV"),
        (signal.SIGXCPU, errors.LimitExceededError, "processor time"),
    ],
)
def test_a_dead_process_costs_one_video(clip, signal_number, expected, words):
    with DecodeSandbox() as opened:
        opened.probe(io.BytesIO(clip), "clip")
        dead = pid(opened)
        with pytest.raises(expected, match=words):
            opened.decode(Acting(clip, lambda: os.kill(dead, signal_number)), "clip", SETTINGS)
        assert opened.probe(io.BytesIO(clip), "clip").codec == "h264"
        assert pid(opened) != dead


def index_bomb(clip: bytes, samples: int) -> bytes:
    """A small file whose index claims so many frames, all of one size and duration."""

    def box(kind: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return struct.pack(">I4s", 8 + len(body), kind) + body

    def changed(data: bytes) -> bytes:
        out, at = b"", 0
        while at + 8 <= len(data):
            size, kind = struct.unpack_from(">I4s", data, at)
            body = data[at + 8 : at + size]
            if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
                body = changed(body)
            elif kind == b"stts":
                body = struct.pack(">IIII", 0, 1, samples, 1)
            elif kind == b"stsz":
                body = struct.pack(">III", 0, 1, samples)
            elif kind == b"stsc":
                body = struct.pack(">IIIII", 0, 1, 1, samples, 1)
            elif kind in (b"ctts", b"edts", b"stss", b"sgpd", b"sbgp"):
                kind, body = b"free", b""
            out += box(kind, body)
            at += size
        return out

    return changed(clip)


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited there")
def test_an_index_bomb_stays_within_memory(clip):
    bomb = index_bomb(clip, 40_000_000)
    with DecodeSandbox(DecodeLimits(address_space_bytes=1 << 29)) as opened:
        with pytest.raises(errors.VideoError) as raised:
            opened.decode(io.BytesIO(bomb), "bomb", SETTINGS)
        assert not raised.value.transient
        assert opened.probe(io.BytesIO(clip), "clip").codec == "h264"


def test_it_ends_with_its_parent(clip, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(clip)
    code = textwrap.dedent(f"""
        import os, time
        from cpllm_model.decoding.sandbox import DecodeSandbox
        opened = DecodeSandbox()
        file = open({str(tmp_path / "clip.mp4")!r}, "rb")
        opened.probe(file, "clip")
        print(opened._child._process.pid, flush=True)
        os._exit(0)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    orphan = int(done.stdout)
    until = time.monotonic() + 120
    while is_running(orphan) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_running(orphan)


def test_it_ends_with_its_parent_at_work_too():
    code = textwrap.dedent("""
        import os, socket, threading, time
        from cpllm_model.decoding.decoder_process import _die_with_parent
        ours, theirs = socket.socketpair()
        threading.Thread(target=_die_with_parent, args=(theirs,), daemon=True).start()
        ours.close()
        until = time.monotonic() + 120
        while time.monotonic() < until:
            pass
        os._exit(1)
    """)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_process_serves_only_so_many_videos(clip, monkeypatch):
    monkeypatch.setattr(sandbox, "_VIDEOS_PER_CHILD", 2)
    with DecodeSandbox() as opened:
        seen = []
        for _ in range(4):
            opened.probe(io.BytesIO(clip), "clip")
            seen.append(pid(opened))
    assert seen[0] == seen[1] != seen[2] == seen[3]


FAKES = {
    "no header": b"\x00" * 64,
    "a huge header": struct.pack("!IQ", 1 << 31, 0),
    "a huge payload": struct.pack("!IQ", 2, 1 << 40) + b"{}",
    "no object": struct.pack("!IQ", 2, 0) + b"[]",
    "a read before the file": None,
    "a read of everything": None,
    "an unknown error": None,
    "samples of nothing": None,
}
HEADERS = {
    "a read before the file": {"kind": "read", "offset": -1, "length": 10},
    "a read of everything": {"kind": "read", "offset": 0, "length": 1 << 40},
    "an unknown error": {"kind": "error", "error_type": "no such\nthing", "cause": "\x1b[31mred"},
    "samples of nothing": {"kind": "result"},
}


@pytest.mark.parametrize("fake", FAKES)
def test_a_process_taken_over_can_say_nothing_harmful(clip, fake, monkeypatch, tmp_path):
    ready = json.dumps({"kind": "ready"}).encode()
    said = FAKES[fake]
    if said is None:
        header = json.dumps(HEADERS[fake]).encode()
        said = struct.pack("!IQ", len(header), 0) + header
    impostor = tmp_path / "impostor"
    impostor.write_text(
        f"#!{sys.executable}\n"
        "import socket, sys\n"
        "wire = socket.socket(fileno=int(sys.argv[-2]))\n"
        f"wire.sendall({struct.pack('!IQ', len(ready), 0) + ready!r})\n"
        f"wire.recv(1 << 16); wire.sendall({said!r})\n"
        "wire.recv(1 << 16)\n"
    )
    impostor.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(impostor))
    with DecodeSandbox(DecodeLimits(wall_s=20.0)) as opened:
        with pytest.raises(errors.DecodeCrashError) as raised:
            opened.decode(io.BytesIO(clip), "clip", SETTINGS)
        assert str(raised.value).isprintable()
        assert opened._child is None


def test_a_broken_installation_is_not_the_fault_of_a_video(clip, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecodeSandbox() as opened, pytest.raises(errors.ConfigurationError, match="does not start"):
        opened.probe(io.BytesIO(clip), "clip")
