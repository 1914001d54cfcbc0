"""A running container: its state, its logs, and the signals that it gets."""

import json
import time
from typing import Any

from course.containers.commands import run, until
from course.engines.docker import docker
from course.errors import CourseError

# Signals process 1's children, but not a running health check: a stopped one would block all later checks.
SIGNAL_DESCENDANTS = """
import os, signal, sys
from contextlib import suppress
parents = {}
for number in filter(str.isdigit, os.listdir("/proc")):
    with suppress(OSError), open(f"/proc/{number}/stat") as file:
        parents[int(number)] = int(file.read().rpartition(")")[2].split()[1])
descendants = {1}
while more := {number for number, parent in parents.items() if parent in descendants} - descendants:
    descendants |= more
for number in descendants - {1}:
    with suppress(ProcessLookupError):
        os.kill(number, getattr(signal, f"SIG{sys.argv[1]}"))
"""


class Container:
    """A running container."""

    def __init__(self, *arguments: str) -> None:
        self.id = run("run", "--detach", *arguments)

    def inspect(self) -> dict[str, Any]:
        inspected: dict[str, Any] = json.loads(run("inspect", self.id))[0]
        return inspected

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.inspect()["State"]
        return state

    @property
    def health(self) -> str:
        """The result of its health check: "starting", "healthy" or "unhealthy"; "none" without a check."""
        health: str = self.state.get("Health", {}).get("Status", "none")
        return health

    def wait_healthy(self, seconds: float = 60) -> None:
        """Wait until it is healthy. Raises `CourseError` when the time is up."""
        if not until(lambda: self.health == "healthy", seconds):
            raise CourseError(f"A container is {self.health}; {self.last_line}.")

    def url(self, port: str) -> str:
        return f"http://{run('port', self.id, port).splitlines()[0]}"

    def logs(self) -> str:
        done = docker("logs", self.id)
        return (done.stdout + done.stderr).strip()

    @property
    def last_line(self) -> str:
        """The last line of its log, as part of a sentence."""
        lines = [line for line in self.logs().splitlines() if line.strip()]
        return f"its last line of log: {lines[-1].strip()[:300]}" if lines else "it logged nothing"

    def signal(self, name: str) -> None:
        """Send a signal to process 1 and its descendants. Only a process outside can stop process 1."""
        # This fails in an image without Python; then process 1 alone gets the signal.
        docker("exec", self.id, "python", "-c", SIGNAL_DESCENDANTS, name)
        run("kill", "--signal", name, self.id)

    def stop(self, grace: int) -> tuple[int, float]:
        """Stop it with SIGTERM, and SIGKILL after `grace` seconds; return its exit code and the seconds."""
        began = time.monotonic()
        run("stop", "-t", str(grace), self.id, seconds=grace + 30)
        return self.state["ExitCode"], time.monotonic() - began

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.id)
