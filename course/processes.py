"""Processes of the course: started in a group of their own, waited for, and surely stopped.

Nothing outlives the program that started it: on the way out every group is ended, and a watchman (a small
shell that reads a pipe from us) does the same if we are killed with no time to say goodbye.
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

from course.errors import Failed

# Reads group ids until the pipe closes, which it does even when our side is killed, then ends those groups;
# the word "release" lets them live.
WATCHMAN = """
while read -r id; do
  [ "$id" = release ] && exit
  ids="$ids $id"
done
for id in $ids; do kill -s KILL -- "-$id"; done 2>/dev/null
"""


class Processes:
    """A context in which processes are started; leaving it stops them all.

    Each is asked by SIGTERM and has `grace` seconds before its whole group is killed.
    """

    def __init__(self, grace: float = 5) -> None:
        self.grace = grace
        self.running: list[subprocess.Popen[str]] = []
        self.watchman: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.watchman = subprocess.Popen(
            ["/bin/sh", "-c", WATCHMAN], stdin=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
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
        """Start a command; stdout and stderr go to `output` together."""
        assert self.watchman and self.watchman.stdin
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
        self.running.append(process)
        self.watchman.stdin.write(f"{process.pid}\n")
        return process

    def stop(self, process: subprocess.Popen[str]) -> int:
        """Stop a process and what it started; its exit code."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
                process.wait(self.grace)
            except (ProcessLookupError, PermissionError):  # gone; macOS answers EPERM for a group of zombies
                break
            except subprocess.TimeoutExpired:
                continue
        if process in self.running:
            self.running.remove(process)
        return process.wait()

    def release(self) -> None:
        """Let what runs go on running when this context ends."""
        assert self.watchman and self.watchman.stdin
        self.watchman.stdin.write("release\n")
        self.running.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in list(reversed(self.running)):
            self.stop(process)
        assert self.watchman and self.watchman.stdin
        self.watchman.stdin.close()
        self.watchman.wait()


def wait_ready(process: subprocess.Popen[str], url: str, seconds: float = 30) -> None:
    """Wait until GET `url` answers 200; raise `Failed` when the process ends or the time is up."""
    deadline = time.monotonic() + seconds
    client = build_opener(ProxyHandler({}))  # a proxy has no business with 127.0.0.1
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            raise Failed(f"The program ended with exit code {code} before {url} answered.")
        try:
            with client.open(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (OSError, HTTPException):  # not there yet, not well yet, or not speaking HTTP yet
            pass
        time.sleep(0.02)
    raise Failed(f"{url} did not answer with 200 within {seconds:.0f} s.")


def wait_listening(process: subprocess.Popen[str], seconds: float = 60) -> str:
    """The URL of a program that was started with port 0, when it (or a child) listens on 127.0.0.1."""
    import psutil

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            raise Failed(f"The program ended with exit code {code} before it listened.")
        with suppress(psutil.NoSuchProcess):
            program = psutil.Process(process.pid)
            for each in (program, *program.children(recursive=True)):
                for connection in each.net_connections("tcp4"):
                    if connection.status == psutil.CONN_LISTEN:
                        return f"http://127.0.0.1:{connection.laddr.port}"
        time.sleep(0.05)
    raise Failed(f"The program did not listen within {seconds:.0f} s.")
