"""Processes: each is started in a process group of its own, waited for, and stopped with all that it started.

Leaving `Processes` ends every group. If this program is killed by SIGKILL, a reaper ends them: a small shell
that reads their ids from a pipe, which closes when this program ends.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.request import ProxyHandler, build_opener

from course.errors import CourseError

# Reads which groups start and end until the pipe closes, then kills those that are left. An id that has ended
# is forgotten, because the system soon gives it to another program. The word "release" lets all live.
REAPER = """
while read -r event id; do
  case $event in
    started) ids="$ids $id " ;;
    ended) ids=${ids%%" $id "*}${ids#*" $id "} ;;
    release) exit ;;
  esac
done
for id in $ids; do kill -s KILL -- "-$id"; done 2>/dev/null
"""


class Processes:
    """A context in which processes are started; leaving it stops them all.

    Each process group gets SIGTERM, and SIGKILL when it still runs after `grace` seconds.
    """

    def __init__(self, grace: float = 5) -> None:
        self.grace = grace
        self.running: list[subprocess.Popen[str]] = []
        self.reaper: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.reaper = subprocess.Popen(
            ["/bin/sh", "-c", REAPER], stdin=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
        )
        return self

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | None = subprocess.DEVNULL,
        output: IO[str] | int | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command; its stdout and stderr both go to `output`."""
        process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            text=True,
            bufsize=1 if stdin == subprocess.PIPE else -1,
            start_new_session=True,
        )
        self.adopt(process)
        return process

    def adopt(self, process: subprocess.Popen[str]) -> None:
        """Stop a process that leads a process group of its own when this context ends."""
        assert self.reaper and self.reaper.stdin
        self.running.append(process)
        self.reaper.stdin.write(f"started {process.pid}\n")

    def stop(self, process: subprocess.Popen[str]) -> int:
        """Stop a process and its process group; returns its exit code."""
        assert self.reaper and self.reaper.stdin
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                if process.poll() is not None and is_running(process.pid):
                    break  # the process has ended, and another program has its id
                os.killpg(process.pid, sign)
                process.wait(self.grace)
            except (ProcessLookupError, PermissionError):  # ended; macOS gives EPERM for a group of zombies
                break
            except subprocess.TimeoutExpired:
                continue
        if process in self.running:
            self.running.remove(process)
            self.reaper.stdin.write(f"ended {process.pid}\n")
        return process.wait()

    def release(self) -> None:
        """Leave the processes running when this context ends."""
        assert self.reaper and self.reaper.stdin
        self.reaper.stdin.write("release\n")
        self.running.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in list(reversed(self.running)):
            self.stop(process)
        assert self.reaper and self.reaper.stdin
        self.reaper.stdin.close()
        self.reaper.wait()


def is_running(pid: int) -> bool:
    """Whether a process has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        pass
    return True


def wait_ready(process: subprocess.Popen[str], url: str, seconds: float = 30) -> None:
    """Wait until GET `url` answers 200. Raises `CourseError` when the process ends or the time is up."""
    deadline = time.monotonic() + seconds
    client = build_opener(ProxyHandler({}))  # requests to 127.0.0.1 need no proxy
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            raise CourseError(f"The program ended with exit code {code} before {url} answered.")
        try:
            with client.open(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (OSError, HTTPException):  # it does not listen, or does not answer with 200 yet
            pass
        time.sleep(0.02)
    raise CourseError(f"{url} did not answer with 200 within {seconds:.0f} s.")


def wait_listening(process: subprocess.Popen[str], seconds: float = 150) -> str:
    """Wait until a program that was started with port 0 (or a child of it) listens; return its URL."""
    import psutil

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            raise CourseError(f"The program ended with exit code {code} before it listened.")
        with suppress(psutil.NoSuchProcess):
            program = psutil.Process(process.pid)
            for each in (program, *program.children(recursive=True)):
                for connection in each.net_connections("tcp4"):
                    if connection.status == psutil.CONN_LISTEN:
                        return f"http://127.0.0.1:{connection.laddr.port}"
        time.sleep(0.1)  # to find the children takes a look at every process of the machine
    raise CourseError(f"The program did not listen within {seconds:.0f} s.")
