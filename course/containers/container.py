"""Containers under test: an agent's image beside the offline model, on networks of their own."""

import json
import time
from typing import Any

from course.containers.commands import run, until
from course.engines.docker import docker
from course.errors import Failed

# A health check that runs at this moment is no child of process 1; stopped, it would hold up all later ones.
SIGNAL_OFFSPRING = """
import os, signal, sys
from contextlib import suppress
parents = {}
for number in filter(str.isdigit, os.listdir("/proc")):
    with suppress(OSError), open(f"/proc/{number}/stat") as file:
        parents[int(number)] = int(file.read().rpartition(")")[2].split()[1])
family = {1}
while more := {number for number, parent in parents.items() if parent in family} - family:
    family |= more
for number in family - {1}:
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
        """As its health check found it: "starting", "healthy", "unhealthy"; "none" without a check."""
        health: str = self.state.get("Health", {}).get("Status", "none")
        return health

    def wait_healthy(self, seconds: float = 60) -> None:
        """`Failed` when its health check does not turn healthy."""
        if not until(lambda: self.health == "healthy", seconds):
            raise Failed(f"A container is {self.health}; {self.last_words}.")

    def url(self, port: str) -> str:
        return f"http://{run('port', self.id, port).splitlines()[0]}"

    def logs(self) -> str:
        done = docker("logs", self.id)
        return (done.stdout + done.stderr).strip()

    @property
    def last_words(self) -> str:
        """The last line that it logged."""
        lines = [line for line in self.logs().splitlines() if line.strip()]
        return f"its last words: {lines[-1].strip()[:300]}" if lines else "it said nothing"

    def signal(self, name: str) -> None:
        """Signal process 1 from outside, for nobody inside can stop that one, and its offspring."""
        # It fails where there is no python, which leaves process 1.
        docker("exec", self.id, "python", "-c", SIGNAL_OFFSPRING, name)
        run("kill", "--signal", name, self.id)

    def stop(self, grace: int) -> tuple[int, float]:
        """Stop it as an engine does; its exit code and how many seconds it took."""
        began = time.monotonic()
        run("stop", "-t", str(grace), self.id, seconds=grace + 30)
        return self.state["ExitCode"], time.monotonic() - began

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.id)
