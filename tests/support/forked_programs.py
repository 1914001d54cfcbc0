"""Start the lessons' programs by fork from a process that has imported their libraries: 0.3 s instead of 1.5.

The program's own files are read and run as `python PROGRAM` runs them, in a process of its own. Workers,
process 1, and programs on pages and in containers are started by Python itself.
"""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock

from course.errors import CourseError
from course.models import base_environment
from course.processes import Processes
from support import fork_server

# Called with a program and its arguments, its environment, folder and log.
StartPython = Callable[[list[str], dict[str, str], Path, Path], subprocess.Popen[str]]


class ForkedProgram(subprocess.Popen[str]):
    """A program that the fork server has started, and whose exit code the fork server reports."""

    def __init__(self, path: Path, arguments: list[str], env: dict[str, str], cwd: Path, log: Path) -> None:
        self.args = arguments
        self.lock = Lock()
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(path))
        self.answers = self.connection.makefile()
        request = {"arguments": arguments, "env": env, "cwd": str(cwd), "log": str(log)}
        self.connection.sendall(json.dumps(request).encode() + b"\n")
        self.pid = int(self.answers.readline())
        self.returncode = None

    def wait(self, timeout: float | None = None) -> int:
        with self.lock:
            if self.returncode is None:
                if not select.select([self.connection], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                self.returncode = int(self.answers.readline())
                self.answers.close()
                self.connection.close()
            return int(self.returncode)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)


def start_fork_server(processes: Processes, path: Path) -> StartPython:
    """Start a fork server that listens on a Unix socket at `path`; return a function that starts programs."""
    command = [sys.executable, fork_server.__file__, str(path)]
    server = processes.start(command, env=base_environment(), output=subprocess.PIPE)
    assert server.stdout
    with server.stdout as output:
        if (said := output.readline()) != "ready\n":
            raise CourseError(f"The fork server does not start: {said}{output.read()}")

    def start(arguments: list[str], env: dict[str, str], cwd: Path, log: Path) -> subprocess.Popen[str]:
        program = ForkedProgram(path, arguments, env, cwd, log)
        processes.adopt(program)
        return program

    return start
