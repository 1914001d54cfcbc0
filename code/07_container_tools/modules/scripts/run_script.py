"""Run a tool's script inside its container, as an unprivileged user and within limits.

Usage: run_script.py LIMITS.json SCRIPT.py INPUT.json. The script prints its result. The exit code is that
of the script, 124 if it ran out of time, or 125 if it printed too much. Dagger itself limits no command.
"""

import ctypes
import json
import os
import platform
import random
import resource
import struct
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

TIMED_OUT, PRINTED_TOO_MUCH = 124, 125
STDERR_BYTES = 2_000  # only the end of a script's error output is kept
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
# Of each architecture: its AUDIT_ARCH and the numbers of the system calls socket and io_uring_setup.
SYSTEM_CALLS = {"x86_64": (0xC000003E, 41, 425), "aarch64": (0xC00000B7, 198, 425)}


def deny_network() -> None:
    """Let the kernel refuse all sockets but Unix ones: seccomp(2), as RestrictAddressFamilies= of systemd."""
    architecture, socket, io_uring = SYSTEM_CALLS[platform.machine()]
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050000 | 13, 0x7FFF0000  # refuse with EACCES
    program = [
        (load, 0, 0, 4),  # the architecture: a 32-bit system call has other numbers
        (equal, 1, 0, architecture),
        (end, 0, 0, kill),
        (load, 0, 0, 0),  # the number of the system call
        (at_least, 5, 0, 0x40000000),  # the x32 ABI numbers its calls from here
        (equal, 4, 0, io_uring),  # it could open sockets without the system call
        (equal, 0, 2, socket),
        (load, 0, 0, 16),  # its first argument: the address family
        (equal, 0, 1, 1),  # AF_UNIX
        (end, 0, 0, allow),
        (end, 0, 0, refuse),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    prctl(PR_SET_SECCOMP, 2, filter_, 0, 0)


def prctl(option: int, *values: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *values):
        raise OSError(ctypes.get_errno(), "the kernel refuses to restrict the script")


def restrict(limits: dict[str, int]) -> None:
    """Give up root and set the limits. Runs in the new process, before the script."""
    for name, most in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(name, (most, most))
    # The kernel counts the processes of a user in all containers together, so each call is another user.
    user = random.SystemRandom().randrange(10_000, 60_000)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # or a set-user-ID program could make the script root
    if not limits["network"]:
        deny_network()


def run(limits: dict[str, int], command: list[str]) -> tuple[int, bytes, bytes]:
    """Run the command; return its exit code, its output, and the end of its error output."""
    with TemporaryFile() as output, TemporaryFile() as errors:  # which the limit for files bounds, too
        process = subprocess.Popen(
            command, stdout=output, stderr=errors, cwd="/tmp", preexec_fn=lambda: restrict(limits)
        )
        why = b""
        try:
            code = process.wait(limits["seconds"])
        except subprocess.TimeoutExpired:
            process.kill()
            code, why = TIMED_OUT, b"\nThe time limit ended the script.\n"
        if output.seek(0, os.SEEK_END) > limits["output_bytes"]:
            code, why = PRINTED_TOO_MUCH, b"\nThe script printed too much.\n"
        errors.seek(-min(STDERR_BYTES, errors.seek(0, os.SEEK_END)), os.SEEK_END)
        output.seek(0)
        # A process that a signal ended has a negative exit code; shells add 128.
        return 128 - code if code < 0 else code, b"" if why else output.read(), errors.read() + why


if __name__ == "__main__":
    limits, script, given = sys.argv[1:]
    os.environ["HOME"] = "/tmp"
    code, output, errors = run(json.loads(Path(limits).read_text()), [sys.executable, "-I", script, given])
    sys.stdout.buffer.write(output)
    sys.stderr.buffer.write(errors)
    sys.exit(code)  # the container ends with this process, and so does whatever the script has started
