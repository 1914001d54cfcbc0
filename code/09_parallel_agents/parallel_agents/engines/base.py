"""What an engine does: start a variation in a container, give its output as it comes, and make it be gone."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
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
    environment: dict[str, str]
    token: str  # for the model gateway; never the real key


@dataclass(frozen=True)
class Exit:
    code: int
    out_of_memory: bool = False


class Container(Protocol):
    """A variation that was started."""

    def output(self) -> AsyncGenerator[Output]:
        """What it prints, in pieces, until it has ended. A reader that waits makes the container wait."""
        ...

    async def wait(self) -> Exit:
        """Wait for its end. Raises `EngineDown`."""
        ...

    async def remove(self) -> None:
        """Kill it if it runs. When this returns, its processes are gone, and `Job.work` has its files."""
        ...


class Engine(Protocol):
    """Each method but `close` raises `EngineDown` if the engine cannot be reached."""

    @property
    def work_mb(self) -> int | None:
        """The limit of a work folder, which the supervisor enforces."""

    async def gateway_host(self) -> str:
        """The address of this machine on which the gateway must listen for containers to reach it."""
        ...

    async def sweep(self) -> dict[str, int]:
        """Remove what a server of this data folder left. Returns how many of each kind."""
        ...

    async def check(self) -> None:
        """Whether a variation could start now."""
        ...

    async def start(self, job: Job) -> Container: ...

    async def close(self) -> None: ...
