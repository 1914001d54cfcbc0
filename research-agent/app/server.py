"""uvicorn, but the first signal drains, the second ends at once, and who has drained exits with 0."""

import asyncio
import signal
from collections.abc import Callable
from multiprocessing import connection, get_context
from socket import socket
from typing import Protocol

import structlog
import uvicorn

log = structlog.stdlib.get_logger("research-agent")


class Drains(Protocol):
    @property
    def busy(self) -> bool: ...

    async def drain(self, seconds: float) -> None: ...


class Stop:
    """Between the server, which hears the signal, and the app, which has runs to finish."""

    def __init__(self, delay: float, seconds: float) -> None:
        self.delay, self.seconds = delay, seconds
        self.asked = False
        self.runs: Drains | None = None
        self.draining: asyncio.Task[None] | None = None

    def app_stops(self, runs: Drains) -> None:
        """What to drain."""
        self.runs = runs

    @property
    def busy(self) -> bool:
        return self.runs is not None and self.runs.busy

    def begin(self) -> None:
        if self.runs and not self.draining:
            self.draining = asyncio.create_task(self.runs.drain(self.seconds))

    async def drained(self) -> None:
        self.asked = True
        self.begin()
        if self.draining:
            await self.draining


class DrainingServer(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, stop: Stop, parent: connection.Connection | None = None
    ) -> None:
        super().__init__(config)
        self.stop_asked = stop
        self.parent = parent  # a worker's: closed to stop it, also by the parent's death
        self.exit_code = 0

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.parent:
            asyncio.get_running_loop().add_reader(self.parent.fileno(), self.stop)

    def handle_exit(self, sig: int, frame: object) -> None:
        if self.parent:  # a terminal signals the whole group: the stop reaches us from the parent as well
            return
        again = self.stop_asked.asked
        self.stop_asked.asked = True
        if again:
            self.exit_code = 128 + sig
        asyncio.get_running_loop().call_soon_threadsafe(self.cut if again else self.stop)

    def stop(self) -> None:
        """Not ready from now on; no new connections after the delay, which an idle server skips."""
        structlog.contextvars.clear_contextvars()  # of whatever request the signal has interrupted
        self.stop_asked.asked = True
        loop = asyncio.get_running_loop()
        if self.parent:
            loop.remove_reader(self.parent.fileno())
        busy = self.stop_asked.busy
        log.info("stopping", busy=busy)
        loop.call_later(self.stop_asked.delay if busy else 0, self.leave)

    def leave(self) -> None:
        self.stop_asked.begin()
        self.should_exit = True

    def cut(self) -> None:
        log.warning("stopping at once")
        self.should_exit = self.force_exit = True
        for client in list(self.server_state.connections):
            client.transport.abort()


def supervise(count: int, config: uvicorn.Config, work: Callable[..., int]) -> int:
    """Run workers on one socket until they have drained; the exit code: 1 when one of them died unasked."""
    listening = config.bind_socket()
    spawn = get_context("spawn")
    theirs, ours = spawn.Pipe(duplex=False)
    workers = [spawn.Process(target=work, args=(theirs, [listening])) for _ in range(count)]
    signals: list[int] = []

    def pass_on(sig: int, frame: object) -> None:
        signals.append(sig)
        ours.close()
        for worker in workers:
            if len(signals) > 1 and worker.pid:
                worker.kill()

    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, pass_on)
    for worker in workers:
        worker.start()
    theirs.close()
    listening.close()  # or callers would still be let in when every worker has closed its copy
    connection.wait([worker.sentinel for worker in workers])
    died = not signals
    ours.close()  # when one has died unasked, the others drain
    for worker in workers:
        worker.join()
    return 1 if died else 128 + signals[-1] if len(signals) > 1 else 0
