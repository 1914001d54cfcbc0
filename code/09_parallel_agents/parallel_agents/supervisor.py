"""Run one variation in a container, under three clocks and a limit on its work folder.

The wall clock and the idle clock are here; the clock of each command is the agent's, inside. Whatever ends a
variation, its container is gone when `supervise` returns.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parallel_agents.agent_output import OutputParser
from parallel_agents.config import Settings
from parallel_agents.engines.base import Container, Engine, EngineDown, Exit, Job
from parallel_agents.models import VariationState
from parallel_agents.repositories import directory_bytes

REMOVE_SECONDS = 30  # that a variation waits for the removal of its container
WATCH_SECONDS = 0.5  # between two looks at the size of the work folder
Sink = Callable[..., Awaitable[None]]  # called with the type of an event and its data


@dataclass
class Outcome:
    state: VariationState
    values: dict[str, Any] = field(default_factory=dict)


async def supervise(engine: Engine, job: Job, settings: Settings, sink: Sink) -> Outcome:
    """Run a variation to its end, or to the first limit. Raises `EngineDown`."""
    parser, began = OutputParser(settings.output_bytes), time.monotonic()
    exit: Exit | None = None
    full = asyncio.Event()
    wall, idle = asyncio.timeout(settings.agent_timeout), asyncio.timeout(None)
    async with started(engine, job, settings.agent_timeout) as container:
        watcher = asyncio.create_task(watch_folder(job.work, engine.work_mb, container, full))
        try:
            async with wall, aclosing(container.output()) as output:
                while True:
                    async with asyncio.timeout(settings.idle_timeout) as idle:
                        piece = await anext(output, None)
                    if piece is None:
                        break
                    for kind, data in parser.feed(*piece):
                        await sink(kind, **data)
                exit = await container.wait()
        except TimeoutError:
            if not (wall.expired() or idle.expired()):
                raise
        except EngineDown:
            if not full.is_set():
                raise
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])
    for kind, data in parser.end():
        await sink(kind, **data)
    values: dict[str, Any] = {"seconds": round(time.monotonic() - began, 3), "output_bytes": parser.bytes}
    values["exit_code"] = exit.code if exit else None
    if parser.result:
        values |= parser.result.model_dump(exclude={"status"})
    if full.is_set():
        return Outcome("over_quota", values)
    if exit is None:
        return Outcome("timed_out" if wall.expired() else "idle", values)
    if exit.code == 0 and parser.result:
        return Outcome(parser.result.status, values)
    return Outcome("out_of_memory" if exit.out_of_memory else "crashed", values)


@asynccontextmanager
async def started(engine: Engine, job: Job, seconds: float) -> AsyncIterator[Container]:
    """Start a container and remove it at the end, even after a cancel or a start that takes too long."""
    starting = asyncio.create_task(engine.start(job))
    try:
        if not (await asyncio.wait([starting], timeout=seconds))[0]:
            raise EngineDown
        yield starting.result()
    finally:
        removing = asyncio.create_task(remove(starting))
        if (await asyncio.wait([removing], timeout=REMOVE_SECONDS))[0]:
            removing.result()


async def remove(starting: asyncio.Task[Container]) -> None:
    """Remove what a start gives, whenever it does: the engine may hang, and go on later."""
    await asyncio.wait([starting])
    if starting.exception() is None:
        await starting.result().remove()


async def watch_folder(folder: Path, limit_mb: int | None, container: Container, full: asyncio.Event) -> None:
    """Remove the container when its work folder is too large: a folder has no quota of its own.

    Files that an agent removes while it has them open are not seen, and take space until it ends.
    """
    while limit_mb is not None:
        try:
            size = await asyncio.to_thread(directory_bytes, folder)
        except OSError:  # folders in folders, until a path is too long to look at
            size = sys.maxsize
        if size > limit_mb * 2**20:
            full.set()
            await container.remove()
            return
        await asyncio.sleep(WATCH_SECONDS)
