"""The wall around the decoding process: what Linux can take away from a process for good.

A decoder that was taken over must not reach files, the network or other processes. `drop_privileges` takes away
what the kernel grants by privilege (capabilities, core dumps, Landlock); `deny_system_calls` leaves only the system
calls that decoding needs (seccomp). Both return the measures in force, found by trying. Other systems have none of
them: there, what remains are the limits that `decoder_process.py` sets, which are no wall.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import sys
from collections.abc import Iterable

#: All measures. The wall stands where seccomp is in force; the others are a second layer behind it.
MEASURES = ("no_new_privs", "no_capabilities", "landlock", "seccomp")

#: What decoding needs: use what is open, manage memory, tell the time, wait, end. No call here names a file, an
#: address or another process. Numbers on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl of Linux) and on arm64
#: (include/uapi/asm-generic/unistd.h); None where there is no such call.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "poll": (7, None),
    "ppoll": (271, 73),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sysinfo": (99, 179),
    "getrusage": (98, 165),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
#: Allowed where the arguments are as `_arguments` says.
_CONDITIONAL: dict[str, tuple[int | None, int | None]] = {"prlimit64": (302, 261), "tgkill": (234, 131)}
#: What no library calls unasked. A process that tries has been taken over, and is ended before it answers for
#: another video.
_DEADLY: dict[str, tuple[int | None, int | None]] = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kill": (62, 129),
    "socket": (41, 198),
    "connect": (42, 203),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
}

#: os.uname().machine -> AUDIT_ARCH (linux/audit.h), column of the tables above, number of `seccomp` itself.
_MACHINES = {"x86_64": (0xC000003E, 0, 317), "aarch64": (0xC00000B7, 1, 277)}

# linux/prctl.h, linux/capability.h
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 4, 38, 39
_CAPABILITY_VERSION_3 = 0x20080522
# linux/seccomp.h, linux/filter.h: classic BPF, whose program reads a struct seccomp_data.
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
_RET_ALLOW, _RET_EPERM, _RET_KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NR_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
# linux/landlock.h: numbers of its system calls, the same on all machines; its rights by version of the interface.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF, _LANDLOCK_CREATE_RULESET_VERSION = 444, 446, 1
_LANDLOCK_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}


def is_wall(measures: Iterable[str]) -> bool:
    """Whether these measures keep a decoder that was taken over from all but decoding."""
    return "seccomp" in measures


def described(measures: Iterable[str]) -> str:
    """Say in words what a decoding process is kept in.

    Args:
        measures: in force, of MEASURES.
    """
    in_force = [name for name in MEASURES if name in set(measures)]
    if is_wall(in_force):
        return f"behind a wall ({', '.join(in_force)}) and within limits"
    also = f"; in force: {', '.join(in_force)}" if in_force else ""
    return f"within limits, without a wall: this system filters no system calls (seccomp){also}"


def drop_privileges() -> tuple[str, ...]:
    """Give up privileges of the calling thread, and of those that it starts from then on.

    Returns:
        The measures in force.
    """
    if sys.platform != "linux":
        return ()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # a core file would hold the video
    found = []
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1:
        found.append("no_new_privs")
    # Root without capabilities may not look into a root that has them.
    if libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)) == 0:
        found.append("no_capabilities")
    _enter_empty_landlock(libc)
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError:
        found.append("landlock")
    return tuple(found)


def deny_system_calls() -> tuple[str, ...]:
    """Leave all threads of this process only the system calls that decoding needs.

    What is not allowed fails with EPERM: a library that looks for a file goes on without it. What only an intruder
    calls ends the process with SIGSYS.

    Returns:
        The measures in force.
    """
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in _MACHINES or sys.maxsize < 1 << 32:
        return ()
    _, _, seccomp = _MACHINES[machine]
    program = filter_program(machine)
    instructions = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    # By the flag TSYNC the filter holds for the threads that already run, or is refused.
    libc.syscall(seccomp, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, head)
    try:
        os.stat("/")  # noqa: PTH116 (one system call, and nothing else)
    except PermissionError:
        return ("seccomp",)
    return ()


def filter_program(machine: str) -> bytes:
    """Assemble the filter of system calls (Linux: Documentation/userspace-api/seccomp_filter.rst).

    Args:
        machine: as os.uname() names it; one of x86_64, aarch64.

    Returns:
        Instructions of classic BPF, eight bytes each.
    """
    architecture, column, _ = _MACHINES[machine]
    # Another architecture's numbers, as of 32-bit calls on x86-64, mean other calls.
    program = [(_LOAD, 0, 0, _ARCH_AT), (_JUMP_IF_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _RET_KILL)]
    program.append((_LOAD, 0, 0, _NR_AT))
    for table, verdict in ((_ALLOWED, _RET_ALLOW), (_DEADLY, _RET_KILL)):
        for numbers in table.values():
            if (number := numbers[column]) is not None:
                program += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, verdict)]
    for name, numbers in _CONDITIONAL.items():
        if (number := numbers[column]) is not None:
            checks = []
            for argument, value in _arguments(name):
                # The low half on machines with little-endian numbers; the kernel reads no more of these arguments.
                checks.append((_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument))
                checks += [(_JUMP_IF_EQUAL, 1, 0, value), (_RETURN, 0, 0, _RET_EPERM)]
            checks.append((_RETURN, 0, 0, _RET_ALLOW))
            program += [(_JUMP_IF_EQUAL, 0, len(checks), number), *checks]
    program.append((_RETURN, 0, 0, _RET_EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _arguments(name: str) -> tuple[tuple[int, int], ...]:
    """Which arguments of a conditional system call must have which value."""
    if name == "prlimit64":  # the processor time of this process, which is set anew for each video
        return (0, 0), (1, resource.RLIMIT_CPU)
    return ((0, os.getpid()),)  # tgkill: abort() raises a signal in its own process


def _enter_empty_landlock(libc: ctypes.CDLL) -> None:
    """Enter a Landlock domain without any rule: no file can be opened, no process outside be signalled or traced."""
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return
    file_rights = (1 << _LANDLOCK_FILE_RIGHTS[min(version, 5)]) - 1
    net_rights = 0b11 if version >= 4 else 0
    scopes = 0b11 if version >= 6 else 0
    rights = struct.pack("=QQQ", file_rights, net_rights, scopes)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, rights, len(rights), 0)
    if ruleset >= 0:
        libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)
