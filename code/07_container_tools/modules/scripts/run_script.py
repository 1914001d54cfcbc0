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
import selectors
import struct
import subprocess
import sys
import time
from pathlib import Path

TIMED_OUT, PRINTED_TOO_MUCH = 124, 125
STDERR_BYTES = 2_000  # only the end of a script's error output is kept
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
    libc = ctypes.CDLL(None, use_errno=True)
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filter_, 0, 0):  # no new privileges; set the filter
        raise OSError(ctypes.get_errno(), "the kernel does not take the seccomp filter")


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
    if not limits["network"]:
        deny_network()


def run(limits: dict[str, int], command: list[str]) -> tuple[int, bytes, bytes]:
    """Run the command; return its exit code, its output, and the end of its error output."""
    deadline = time.monotonic() + limits["seconds"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/tmp",
        preexec_fn=lambda: restrict(limits),
    )
    printed = {"stdout": b"", "stderr": b""}
    with selectors.DefaultSelector() as pipes:
        for name in printed:
            pipes.register(getattr(process, name), selectors.EVENT_READ, name)
        while pipes.get_map():
            left = deadline - time.monotonic()
            ready = pipes.select(max(0, left))
            if not ready or left <= 0:
                process.kill()
                return TIMED_OUT, b"", printed["stderr"] + b"\nThe time limit ended the script.\n"
            for key, _ in ready:
                piece = os.read(key.fd, 65_536)
                printed[key.data] += piece
                if not piece:
                    pipes.unregister(key.fileobj)
            printed["stderr"] = printed["stderr"][-STDERR_BYTES:]
            if len(printed["stdout"]) > limits["output_bytes"]:
                process.kill()
                return PRINTED_TOO_MUCH, b"", printed["stderr"] + b"\nThe script printed too much.\n"
    try:
        code = process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:  # it closed its output and hangs
        return TIMED_OUT, b"", printed["stderr"] + b"\nThe time limit ended the script.\n"
    return (128 - code if code < 0 else code), printed["stdout"], printed["stderr"]


if __name__ == "__main__":
    limits, script, given = sys.argv[1:]
    os.environ["HOME"] = "/tmp"
    code, output, errors = run(json.loads(Path(limits).read_text()), [sys.executable, "-I", script, given])
    sys.stdout.buffer.write(output)
    sys.stderr.buffer.write(errors)
    sys.stdout.flush()
    sys.stderr.flush()
    # This is the parent of whatever the script has started: the container ends with it, and so do they.
    os._exit(code if code < 256 else 255)
