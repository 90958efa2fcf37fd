"""A decoder that was taken over: a program that tries, in a decoding process, what an intruder would.

Run by `test_wall.py` as `python taken_over.py HOW USER_ID FOLDER`, with a secret in its environment. Each attempt has
a decoding process of its own, forked and not started, so that the user need not be able to read the Python that runs
here. HOW is "free" (nothing was given up), "layer" (only `wall.drop_privileges`) or "locked" (the real thing: the
attempt is made in place of probing a video). Out: one JSON object: how each attempt ended, and which
measures were in force.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpllm_model.decoding import decoder_process, video, wall
from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.decoding.wire import Wire

LIBC = ctypes.CDLL(None, use_errno=True)
PARENT = os.getpid()
COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), 0)
PR_SET_DUMPABLE = 4
EXECUTED = 42
#: In force in the decoding processes.
MEASURES: set[str] = set()


def call(name: str, *arguments: Any) -> int:
    """Make a system call that Python has no function for."""
    number = NUMBERS[name][COLUMN]
    result = LIBC.syscall(number, *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


NUMBERS = {
    "openat2": (437, 437),
    "clone3": (435, 435),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "inotify_init1": (294, 26),
    "prctl": (157, 167),
    "capset": (126, 91),
}


def remote_memory() -> object:
    """Read a word of the parent, at an address that it shares with its fork."""
    theirs, ours = ctypes.create_string_buffer(b"words", 5), ctypes.create_string_buffer(5)
    local, remote = (struct.pack("PN", ctypes.addressof(b), 5) for b in (ours, theirs))
    call("process_vm_readv", PARENT, local, 1, remote, 1, 0)
    return ours.raw


def memory_file() -> object:
    """Write a program into memory and run it."""
    fd = os.memfd_create("program")
    os.write(fd, b"#!/bin/sh\nexit 42\n")
    os.set_inheritable(fd, True)
    os.execve(fd, ["program"], {})  # noqa: S606


def clone() -> object:
    """Start a process by the system call that newer C libraries use."""
    started = call("clone3", struct.pack("8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)
    return started if started else os._exit(0)


def fork() -> object:
    """Start a process as Python does."""
    return os.fork() or os._exit(0)


def thread() -> object:
    """Start a thread."""
    started = threading.Thread(target=lambda: None)
    started.start()
    return started.join()


def own_signal() -> object:
    """Have the kernel send signals to the parent when something comes in."""
    return fcntl.fcntl(2, fcntl.F_SETOWN, PARENT)


def attempts(folder: Path) -> dict[str, tuple[bool, Callable[[], object]]]:
    """Give all attempts, and whether each succeeds for anyone who has given up nothing."""
    kept = folder / "kept"
    return {
        "environment of the parent": (True, lambda: Path(f"/proc/{PARENT}/environ").read_bytes()),
        "environment of itself": (True, lambda: Path("/proc/self/environ").read_bytes()),
        "memory of the parent": (False, lambda: os.open(f"/proc/{PARENT}/mem", os.O_RDWR)),
        "files of the parent": (True, lambda: list(Path(f"/proc/{PARENT}/fd").iterdir())),
        "processes": (True, lambda: list(Path("/proc").iterdir())),
        "a file": (True, lambda: kept.read_bytes()),
        "openat2": (True, lambda: call("openat2", -100, bytes(kept), bytes(24), 24)),
        "whether a file is there": (True, lambda: kept.stat()),
        "a new file": (True, lambda: (folder / "new").write_text("words")),
        "a new folder": (True, lambda: (folder / f"new-{os.getpid()}").mkdir()),
        "deleting": (True, lambda: kept.rename(kept)),
        "rights": (True, lambda: kept.chmod(0o644)),
        "an internet socket": (True, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
        "a unix socket": (True, lambda: socket.socket(socket.AF_UNIX)),
        "a kernel socket": (False, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
        "a pair of sockets": (True, socket.socketpair),
        "fork": (True, fork),
        "clone3": (True, clone),
        "a thread": (True, thread),
        "exec": (True, lambda: os.execv("/bin/sh", ["sh", "-c", f"exit {EXECUTED}"])),  # noqa: S606
        "spawn": (True, lambda: os.posix_spawn("/bin/sh", ["sh", "-c", ":"], {})),
        "exec from memory": (True, memory_file),
        "ptrace": (False, lambda: call("ptrace", 0x4206, PARENT, 0, 0)),  # PTRACE_SEIZE
        "process_vm_readv": (False, remote_memory),
        "pidfd": (True, lambda: os.pidfd_open(PARENT)),
        "a signal to the parent": (True, lambda: os.kill(PARENT, 0)),
        "tkill": (True, lambda: call("tkill", PARENT, 0)),
        "tgkill": (True, lambda: call("tgkill", PARENT, PARENT, 0)),
        "signals by a file's owner": (True, own_signal),
        "limits of the parent": (True, lambda: resource.prlimit(PARENT, resource.RLIMIT_CPU)),
        "more files": (True, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))),
        "io_uring": (False, lambda: call("io_uring_setup", 4, ctypes.create_string_buffer(120))),
        "bpf": (False, lambda: call("bpf", 0, struct.pack("IIIIQQ", 2, 4, 4, 1, 0, 0), 32)),
        "keyctl": (False, lambda: call("keyctl", 0, -3, 0)),
        "mount": (False, lambda: call("mount", b"none", b"/", b"no such type", 0, None)),
        "a name space": (False, lambda: call("unshare", 0x10000000)),
        "userfaultfd": (False, lambda: call("userfaultfd", 1)),
        "perf_event_open": (False, lambda: call("perf_event_open", bytes(128), 0, -1, -1, 0)),
        "inotify": (True, lambda: call("inotify_init1", 0)),
        "prctl": (True, lambda: call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)),
        "another user": (True, lambda: os.setuid(os.getuid())),
    }


def attempt(act: Callable[[], object], report: int) -> None:
    """Make one attempt, with a free number for a file, and end."""
    os.close(0)
    try:
        said = f"done: {act()!r}"
    except OSError as error:
        said = f"refused: {errno.errorcode.get(error.errno or 0)}"
    except BaseException as error:
        said = f"refused: {error!r}"
    os.write(report, said.encode())
    os._exit(0)


def outcome(how: str, act: Callable[[], object]) -> str:
    """Make one attempt in a process of its own; say how it ended."""
    ours, theirs = socket.socketpair()
    reading, report = os.pipe()
    child = os.fork()
    if not child:
        ours.close()
        os.close(reading)
        if how == "locked":
            video.probe = lambda *_: attempt(act, report)
            decoder_process._child_main(theirs.detach(), DecodeLimits())
            os._exit(1)
        if how == "layer":
            os.write(report, json.dumps(wall.drop_privileges()).encode() + b"\n")
        attempt(act, report)
    theirs.close()
    os.close(report)
    if how == "locked":
        wire = Wire(ours)
        ready, _ = wire.receive(0)
        MEASURES.update(ready["measures"])
        with contextlib.suppress(BrokenPipeError):  # it may have ended
            wire.send({"task": "probe", "size_bytes": 1})
    with os.fdopen(reading, "rb") as pipe, ours:
        said = pipe.read().decode()
    if how == "layer":
        measures, said = said.split("\n", 1)
        MEASURES.update(json.loads(measures))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"ended: {signal.Signals(-code).name}"
    return "done: executed" if code == EXECUTED else said or f"ended: {code}"


def main() -> None:
    how, user_id, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    (folder / "kept").write_text("words")
    if user_id != os.getuid():
        os.chown(folder, user_id, user_id)
        os.chown(folder / "kept", user_id, user_id)
        os.setgroups([])
        os.setresgid(*[user_id] * 3)
        os.setresuid(*[user_id] * 3)
        LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # as it is of a program that this user starts
    free = [name for name, (for_anyone, _) in attempts(folder).items() if for_anyone]
    outcomes = {name: outcome(how, act) for name, (_, act) in attempts(folder).items()}
    print(json.dumps({"outcomes": outcomes, "free_to_anyone": free, "measures": sorted(MEASURES)}))


if __name__ == "__main__":
    main()
