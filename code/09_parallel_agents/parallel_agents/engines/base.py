"""What an engine does: start a variation in a container, give its output as it comes, and make it be gone."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

Output = tuple[Literal["stdout", "stderr"], bytes]


class EngineDown(Exception):
    """The engine cannot be reached, or refuses to start a container."""


@dataclass(frozen=True)
class Job:
    """One variation, as an engine sees it."""

    run_id: str
    n: int
    work: Path  # its private copy of the repository, on this machine
    environment: dict[str, str] = field(default_factory=dict)
    token: str = ""  # for the model gateway; never the real key


@dataclass(frozen=True)
class Exit:
    code: int
    out_of_memory: bool = False


class Container(Protocol):
    """A variation that was started."""

    def output(self) -> AsyncIterator[Output]:
        """What it prints, in pieces, until it has ended. A reader that waits makes the container wait."""
        ...

    async def wait(self) -> Exit:
        """Wait for its end."""
        ...

    async def remove(self) -> None:
        """Kill it if it runs. When this returns, its processes are gone, and `Job.work` has its files."""
        ...


class Engine(Protocol):
    name: str

    async def open(self) -> None:
        """Connect. Raises `EngineDown`."""
        ...

    async def gateway_host(self) -> str:
        """The address of this machine on which the gateway must listen for containers to reach it."""
        ...

    async def sweep(self) -> dict[str, int]:
        """Remove what a dead server of the same data folder left. Returns how many of each kind."""
        ...

    async def start(self, job: Job) -> Container:
        """Start a variation. Raises `EngineDown`."""
        ...

    async def check(self) -> None:
        """Raises `EngineDown` when no variation could start now."""
        ...

    async def close(self) -> None: ...
