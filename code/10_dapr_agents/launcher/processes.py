"""Processes that live as long as the launcher: started, waited for by their health, and stopped in order.

Each has a process group of its own. However the launcher ends, SIGKILL included, a pipe closes then. A small
shell that reads the pipe kills the groups that are left, and removes the folder of this run.
"""

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REAPER = """
while read -r event id; do
  case $event in
    started) ids="$ids $id " ;;
    ended) ids=${ids%%" $id "*}${ids#*" $id "} ;;
  esac
done
for id in $ids; do kill -s KILL -- "-$id"; done 2>/dev/null
rm -rf "$1"
"""
START_SECONDS = 120  # for a service to become healthy, on a busy machine
GRACE_SECONDS = 10  # between SIGTERM and SIGKILL
LONGEST_PAUSE = 10.0  # before a service that keeps dying is started again
LONGEST_LINE = 65_536


class Failure(Exception):
    """The launcher cannot go on; the message is for its user."""


@dataclass
class Service:
    """A program to start, and how to tell that it is healthy."""

    name: str
    command: list[str]
    healthy: Callable[[], Awaitable[bool]]
    stage: int  # services of a later stage are stopped first
    env: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None  # the working folder
    user: str | None = None
    log: Path | None = None
    shown: bool = True  # whether its output is printed
    after: Callable[[], Awaitable[bool]] | None = None  # it is not started before this is true
    process: asyncio.subprocess.Process | None = None
    copying: asyncio.Task[None] | None = None  # of its output
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=15))

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None


class Processes:
    """A context that starts services, and stops them all when it is left."""

    def __init__(self, restart: bool = False) -> None:
        self.restart = restart
        self.services: list[Service] = []
        self.failed: asyncio.Future[None]  # gets the exception of a task, which nobody else waits for
        self.tasks: set[asyncio.Task[None]] = set()
        self.folder = Path(tempfile.mkdtemp(prefix="dapr-agents-"))
        self.folder.chmod(0o711)  # PostgreSQL, which refuses to be root, passes through it
        reaper = ["/bin/sh", "-c", REAPER, "reaper", str(self.folder)]
        self.reaper = subprocess.Popen(
            reaper, stdin=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
        )

    async def __aenter__(self) -> "Processes":
        self.failed = asyncio.get_running_loop().create_future()
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self.tasks:
            task.cancel()
        for stage in sorted({service.stage for service in self.services}, reverse=True):
            await asyncio.gather(*(stop(each) for each in self.services if each.stage == stage))
        self.reaper.communicate()  # closes its pipe

    async def start(self, *services: Service) -> None:
        """Start services at the same time, and return when all are healthy."""
        await together(*map(self.start_one, services))

    async def start_one(self, service: Service) -> None:
        restarted = service in self.services
        while service.after and not restarted and not await service.after():  # noqa: ASYNC110  # asks another process
            await asyncio.sleep(0.05)
        began = time.monotonic()
        process = await self.spawn(service)
        if not restarted:
            self.services.append(service)
        while not await service.healthy():
            if not service.running:
                raise Failure(
                    f"{service.name} {end_of(service)} before it was healthy.\n{await tail(service)}"
                )
            if time.monotonic() - began > START_SECONDS:
                raise Failure(
                    f"{service.name} is not healthy after {START_SECONDS} s.\n{await tail(service)}"
                )
            await asyncio.sleep(0.05)
        say(f"✓ {service.name} is healthy ({time.monotonic() - began:.1f} s, pid {process.pid})")
        if not restarted:
            self.keep(self.watch(service))

    async def run(self, name: str, *command: str, user: str | None = None) -> None:
        """Run a command to its end. Raises `Failure` with its output when it fails."""
        service = Service(name, list(command), healthy=never, stage=0, user=user, shown=False)
        process = await self.spawn(service)
        if await process.wait():
            raise Failure(f"{name} {end_of(service)}.\n{await tail(service)}")
        self.report("ended", process.pid)

    async def spawn(self, service: Service) -> asyncio.subprocess.Process:
        reading, writing = os.pipe()
        try:
            service.process = await asyncio.create_subprocess_exec(
                *service.command,
                env=os.environ | dict(service.env),
                cwd=service.folder,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=service.user,
                group=service.user,
            )
        except OSError as error:
            os.close(reading)
            raise Failure(f"{service.name} cannot be started: {error}") from error
        finally:
            os.close(writing)
        self.report("started", service.process.pid)
        service.copying = self.keep(copy_output(service, reading))
        return service.process

    async def watch(self, service: Service) -> None:
        """Say when a service ends, and with `restart` start it again, more slowly each time it fails."""
        pause = 0.2
        while True:
            assert service.process
            await service.process.wait()
            with suppress(ProcessLookupError):
                os.killpg(service.process.pid, signal.SIGKILL)  # what it left behind
            self.report("ended", service.process.pid)
            if not self.restart:
                say(f"✗ {service.name} {end_of(service)}.")
                return
            say(f"✗ {service.name} {end_of(service)}; it is started again.")
            await asyncio.sleep(pause)
            try:
                await self.start_one(service)
                pause = 0.2
            except Failure as failure:
                say(f"✗ {failure}")
                pause = min(2 * pause, LONGEST_PAUSE)

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.done)
        return task

    def done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self.failed.done():
            self.failed.set_exception(error)

    def report(self, event: str, group: int) -> None:
        assert self.reaper.stdin
        try:
            self.reaper.stdin.write(f"{event} {group}\n")
        except BrokenPipeError:
            raise Failure(f"The shell that would remove {self.folder} has ended.") from None


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Run at the same time. The first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def stop(service: Service) -> None:
    """Send SIGTERM to a service's process group, and SIGKILL if it still runs after the grace period."""
    assert service.process
    if not service.running:
        say(f"✗ {service.name} {end_of(service)} before it was stopped")
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if service.running:
            with suppress(ProcessLookupError, TimeoutError):
                os.killpg(service.process.pid, sign)
                await asyncio.wait_for(service.process.wait(), GRACE_SECONDS)
    say(f"{service.name} has stopped")


async def copy_output(service: Service, descriptor: int) -> None:
    """Copy a service's output to the terminal, each line with its name, and to its log."""
    with (service.log or Path(os.devnull)).open("ab") as log:
        async for line in lines(descriptor):
            log.write(line + b"\n")
            log.flush()
            service.last_lines.append(text := line.decode(errors="replace"))
            if service.shown:
                say(f"{service.name} | {text}")


async def lines(descriptor: int) -> AsyncIterator[bytes]:
    """The lines that a pipe brings; a very long one comes in parts."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(descriptor, "rb"))
    try:
        rest = b""
        while chunk := await reader.read(LONGEST_LINE):
            *whole, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE:
                whole, rest = [*whole, rest], b""
            for line in whole:
                yield line
        if rest:
            yield rest
    finally:
        transport.close()


async def never() -> bool:
    return False


def end_of(service: Service) -> str:
    """How a service ended."""
    assert service.process
    code = service.process.returncode
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


async def tail(service: Service) -> str:
    """The last lines that a service printed, and where all of them are."""
    if service.copying and not service.running:
        await asyncio.wait([service.copying], timeout=5)  # a process that it left behind may still print
    all_lines = [f"All of its output is in {service.log}"] if service.log else []
    return "\n".join([*(f"{service.name} | {line}" for line in service.last_lines), *all_lines])


def say(line: str) -> None:
    print(line, flush=True)
