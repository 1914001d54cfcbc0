"""Lesson 10's launcher as a process, whose lines are read as they come."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import httpx2

from course.models import base_environment
from course.paths import ROOT
from course.processes import Processes

FOLDER = Path("code/10_dapr_agents")
SECONDS = 240  # for everything to be healthy on a busy machine
READY = r"(\d+) processes? (is|are) healthy after"


class Launcher:
    """`python launch.py`, with what it has printed so far."""

    def __init__(self, processes: Processes, *arguments: str | Path, **env: str) -> None:
        self.processes = processes
        self.lines: list[str] = []
        self.changed = threading.Condition()
        self.process = processes.start(
            [sys.executable, "-u", str(ROOT / FOLDER / "launch.py"), *map(str, arguments)],
            env=base_environment() | env,
            output=subprocess.PIPE,
        )
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()
        self.process.stdout.close()
        with self.changed:
            self.changed.notify_all()

    def wait_for(self, pattern: str, since: int = 0, seconds: float = SECONDS) -> re.Match[str]:
        """The last match of a pattern in a line after the first `since`; waits until there is one."""

        def found() -> re.Match[str] | None:
            matches = [match for line in self.lines[since:] if (match := re.search(pattern, line))]
            return matches[-1] if matches else None

        with self.changed:
            self.changed.wait_for(lambda: found() or not self.reader.is_alive(), seconds)
            match = found()
        assert match, f"The launcher did not print {pattern!r}:\n" + "\n".join(self.lines)
        return match

    def wait_ready(self) -> "Launcher":
        self.wait_for(READY)
        return self

    def pid_of(self, name: str) -> int:
        """The process that the launcher started last under that name."""
        return int(self.wait_for(rf"^✓ {re.escape(name)} is healthy \(.*, pid (\d+)\)$")[1])

    def kill(self, name: str) -> None:
        """Send SIGKILL to a process, and wait until the launcher has started it again."""
        before = len(self.lines)
        os.kill(self.pid_of(name), signal.SIGKILL)
        self.wait_for(rf"^✗ {re.escape(name)} was killed by SIGKILL; it is started again", before)
        self.wait_for(rf"^✓ {re.escape(name)} is healthy", before)

    def stop(self, sign: signal.Signals = signal.SIGINT) -> int:
        """Send a signal to the launcher alone; returns its exit code."""
        self.process.send_signal(sign)
        code = self.ended()
        self.processes.stop(self.process)
        return code

    def ended(self) -> int:
        """The exit code of a launcher that ends by itself, when all its lines are read."""
        code = self.process.wait(SECONDS)
        self.reader.join()
        return code

    def variables(self) -> dict[str, str]:
        """The variables that a launcher without a run file prints."""
        self.wait_ready()
        return dict(line.removeprefix("export ").split("=", 1) for line in self.lines if "export " in line)


def publish(port: int, topic: str, data: Mapping[str, object]) -> None:
    """Publish an event through the sidecar on that port."""
    url = f"http://127.0.0.1:{port}/v1.0/publish/pubsub/{topic}"
    httpx2.post(url, json=data, timeout=30).raise_for_status()
