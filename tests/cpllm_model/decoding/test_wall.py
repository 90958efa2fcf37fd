"""What a decoder that was taken over can reach: nothing, as root or not; and what decoding needs stays."""

import errno
import io
import json
import logging
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from cpllm_model.decoding import sandbox, video, wall
from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.decoding.sandbox import DecodeSandbox
from cpllm_model.errors import DecodeCrashError, NotAVideoError

NOBODY = 65534
USERS = [0, NOBODY] if os.getuid() == 0 else [os.getuid()]
SECRET = "hunter2-and-more"
SETTINGS = SamplingSettings(
    look_every_s=0.1,
    most_looks=2,
    context_frames=2,
    context_size_px=32,
    burst_frames=4,
    fragment_grid=2,
    fragment_px=32,
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a wall")


def taken_over(how: str, user_id: int, folder: Path) -> tuple[dict[str, str], list[str], list[str]]:
    """Outcomes of all attempts of `taken_over.py`, those that anyone may make, and the measures in force."""
    folder.chmod(0o755)
    program = Path(__file__).with_name("taken_over.py")
    command = [sys.executable, str(program), how, str(user_id), str(folder / "own")]
    (folder / "own").mkdir()
    root = str(Path(__file__).resolve().parents[3])
    environment = {"PYTHONPATH": os.pathsep.join([root, *sys.path]), "PLANTED": SECRET}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return said["outcomes"], said["free_to_anyone"], said["measures"]


@pytest.fixture
def folder():
    """A folder that another user can reach, as those of pytest are not."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@linux
@pytest.mark.parametrize("user_id", USERS)
def test_the_attempts_would_succeed_without_the_wall(user_id, folder):
    outcomes, free_to_anyone, _ = taken_over("free", user_id, folder)
    failed = {name: outcomes[name] for name in free_to_anyone if not outcomes[name].startswith("done: ")}
    assert not failed
    assert SECRET in outcomes["environment of the parent"]


@linux
@pytest.mark.parametrize("user_id", USERS)
def test_a_decoder_taken_over_reaches_nothing(user_id, folder):
    outcomes, _, measures = taken_over("locked", user_id, folder)
    if "seccomp" not in measures:
        pytest.skip("this system filters no system calls")
    refusals = re.compile(r"ended: SIGSYS|refused: (EPERM|RuntimeError.*thread.*|ValueError.*limit.*)")
    reached = {name: said for name, said in outcomes.items() if not refusals.fullmatch(said)}
    assert not reached
    assert len(outcomes) > 35
    assert SECRET not in json.dumps(outcomes)
    assert sorted(path.name for path in (folder / "own").iterdir()) == ["kept"]


@linux
@pytest.mark.parametrize("user_id", USERS)
def test_a_second_layer_keeps_files_and_the_parent(user_id, folder):
    outcomes, _, measures = taken_over("layer", user_id, folder)
    if "landlock" not in measures:
        pytest.skip("this system has no Landlock")
    behind = ("environment of the parent", "memory of the parent", "files of the parent", "a file", "openat2",
              "a new file", "exec", "exec from memory", "ptrace", "process_vm_readv")  # fmt: skip
    assert {name: outcomes[name] for name in behind if not re.match("refused: E(ACCES|PERM)", outcomes[name])} == {}


@linux
def test_every_thread_of_the_process_is_behind_the_wall():
    if "seccomp" not in sandbox.measures_in_force():
        pytest.skip("this system filters no system calls")
    with DecodeSandbox() as opened:
        with pytest.raises(NotAVideoError):
            opened.probe(io.BytesIO(b"words" * 99), "words")
        assert opened._child is not None
        threads = list(Path(f"/proc/{opened._child._process.pid}/task").iterdir())
        assert len(threads) == 2
        for thread in threads:
            lines = (line.split() for line in (thread / "status").read_text().splitlines())
            status = {words[0]: words[-1] for words in lines if words}
            assert (status["Seccomp:"], status["NoNewPrivs:"]) == ("2", "1")
            assert {int(status[name], 16) for name in ("CapPrm:", "CapEff:", "CapInh:", "CapAmb:")} == {0}


@linux
def test_an_intruder_costs_its_own_video_and_its_process(monkeypatch, tmp_path):
    if "seccomp" not in sandbox.measures_in_force():
        pytest.skip("this system filters no system calls")
    impostor = tmp_path / "impostor"
    impostor.write_text(
        f"#!{sys.executable}\n"
        "import json, socket, sys\n"
        "from cpllm_model.decoding import decoder_process, samples, video\n"
        "video.probe = lambda *_: socket.socket()\n"
        "limits = samples.DecodeLimits(**json.loads(sys.argv[-1]))\n"
        "decoder_process._child_main(int(sys.argv[-2]), limits)\n"
    )
    impostor.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(impostor))
    with DecodeSandbox() as opened:
        with pytest.raises(DecodeCrashError, match=r"system call that only an intruder makes \(SIGSYS\)"):
            opened.probe(io.BytesIO(b"words"), "words")
        assert opened._child is None


MACHINES = {"x86_64": (0, 0xC000003E, 0xC00000B7), "aarch64": (1, 0xC00000B7, 0xC000003E)}
ALLOW, DENY, KILL = 0x7FFF0000, 0x50000 | errno.EPERM, 0x80000000


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Run a filter as the kernel would: instructions of classic BPF over a struct seccomp_data."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *(*arguments, *[0] * 6)[:6])
    instructions = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        code, if_equal, if_not, k = instructions[at]
        at += 1
        if code == 0x06:
            return k
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        else:
            assert code == 0x15
            at += if_equal if accumulator == k else if_not


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_allows_what_is_listed_and_nothing_else(machine):
    column, architecture, another = MACHINES[machine]
    program = wall.filter_program(machine)
    allowed, deadly = ({n[column] for n in table.values()} - {None} for table in (wall._ALLOWED, wall._DEADLY))
    for number in [*range(600), *(0x40000000 | n for n in range(600))]:
        expected = ALLOW if number in allowed else KILL if number in deadly else DENY
        given = 1 if number == wall._CONDITIONAL["prlimit64"][column] else 0
        assert verdict(program, architecture, number, given) == expected, number
        assert verdict(program, another, number) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_some_calls_are_allowed_for_the_process_itself(machine):
    column, architecture, _ = MACHINES[machine]
    program = wall.filter_program(machine)
    limits, signals = (wall._CONDITIONAL[name][column] for name in ("prlimit64", "tgkill"))
    for number, arguments, expected in (
        (limits, (0, resource.RLIMIT_CPU), ALLOW),
        (limits, (0, resource.RLIMIT_AS), DENY),
        (limits, (os.getpid(), resource.RLIMIT_CPU), DENY),
        (signals, (os.getpid(), 7), ALLOW),
        (signals, (os.getppid(), 7), DENY),
    ):
        assert number is not None
        assert verdict(program, architecture, number, *arguments) == expected


@pytest.mark.parametrize(("column", "header"), [(0, "x86_64-linux-gnu/asm/unistd_64.h"), (1, "asm-generic/unistd.h")])
def test_numbers_are_those_of_the_kernel(column, header):
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip("the kernel's headers are not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", path.read_text())
    known = {name: int(number) for name, number in found}
    for name, numbers in (wall._ALLOWED | wall._DEADLY | wall._CONDITIONAL).items():
        assert known.get(name) == numbers[column], name


def test_a_system_without_a_wall_says_limits(monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="riscv64"))
    assert wall.deny_system_calls() == ()
    assert not wall.is_wall(("no_new_privs", "landlock"))
    assert wall.described(()).startswith("within limits, without a wall")
    assert "in force: no_new_privs, landlock" in wall.described(("landlock", "no_new_privs"))
    assert wall.described(wall.MEASURES).startswith("behind a wall (no_new_privs, no_capabilities, landlock, seccomp)")


def test_what_is_in_force_is_logged_once(caplog):
    sandbox._say_once.cache_clear()
    with caplog.at_level(logging.INFO, "cpllm_model.decoding.sandbox"):
        for _ in range(2):
            with DecodeSandbox() as opened, pytest.raises(NotAVideoError):
                opened.probe(io.BytesIO(b"words" * 99), "words")
    (record,) = caplog.records
    assert record.getMessage().endswith(wall.described(sandbox.measures_in_force()))


#: Encoders at hand for the accepted codecs: container, options.
CODECS = {
    "libx264": ("mp4", {"g": 8}),
    "libx265": ("mp4", {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1:keyint=8"}),
    "libvpx": ("webm", {"deadline": "realtime", "cpu-used": 8}),
    "libvpx-vp9": ("webm", {"deadline": "realtime", "cpu-used": 8}),
    "libsvtav1": ("mp4", {"preset": 12}),
    "mpeg1video": ("mpg", {}),
    "mpeg2video": ("ts", {"metadata": "service_name=Käse"}),
    "mpeg4": ("avi", {}),
    "msmpeg4": ("avi", {}),
    "msmpeg4v2": ("avi", {}),
    "h263": ("avi", {"s": "176x144"}),
    "h263p": ("avi", {}),
    "flv": ("flv", {}),
    "wmv1": ("asf", {}),
    "wmv2": ("asf", {}),
    "libtheora": ("ogg", {}),
    "mjpeg": ("mov", {"pix_fmt": "yuvj420p"}),
    "prores_ks": ("mov", {"pix_fmt": "yuv422p10le"}),
    "dnxhd": ("mxf", {"profile": "dnxhr_lb", "pix_fmt": "yuv422p", "s": "256x128"}),
    "cfhd": ("mov", {"pix_fmt": "yuv422p10le"}),
    "dvvideo": ("dv", {"s": "720x576", "pix_fmt": "yuv420p"}),
    "ffv1": ("mkv", {}),
    "huffyuv": ("avi", {"pix_fmt": "yuv422p"}),
    "ffvhuff": ("avi", {}),
    "utvideo": ("avi", {}),
    "wrapped_avframe": ("y4m", {}),
    "v210": ("mov", {"pix_fmt": "yuv422p10le"}),
}


@pytest.fixture(scope="module")
def shared():
    with DecodeSandbox() as opened:
        yield opened


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_decodes_behind_the_wall_as_in_front_of_it(shared, codec, tmp_path):
    suffix, options = CODECS[codec]
    path = tmp_path / f"clip.{suffix}"
    source = ffmpeg.input("testsrc2=s=160x128:r=25:d=1", f="lavfi")
    encoded = source.output(str(path), vcodec=codec, **{"pix_fmt": "yuv420p", **options})
    ffmpeg.run(encoded, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    with path.open("rb") as file:
        here = video.decode(file, codec, SETTINGS)
        there = shared.decode(file, codec, SETTINGS)
    assert there.info == here.info
    np.testing.assert_array_equal(there.bursts_NTCHW, here.bursts_NTCHW)
    np.testing.assert_array_equal(there.context_NMCHW, here.context_NMCHW)
