"""A uvicorn server that drains on the first signal, and exits within a time limit."""

import asyncio
import logging
import os
import sys
from multiprocessing import connection
from socket import socket
from typing import NoReturn, Protocol

import structlog
import uvicorn

CLOSE_SECONDS = 6  # the time after the drain for storing the remaining events and closing everything
log = structlog.stdlib.get_logger("research-agent")


class Drainable(Protocol):
    async def drain(self, seconds: float) -> None: ...


class Shutdown:
    """The shutdown state, which the server and the app share.

    The server receives the signal, and the app drains its runs.
    """

    def __init__(self, delay: float, seconds: float) -> None:
        self.delay, self.seconds = delay, seconds
        self.requested = False
        self.runs: Drainable | None = None
        self.draining: asyncio.Task[None] | None = None

    def register(self, runs: Drainable) -> None:
        """Register the run manager to drain on shutdown."""
        self.runs = runs

    def start_drain(self) -> None:
        if self.runs and not self.draining:
            self.draining = asyncio.create_task(self.runs.drain(self.seconds))

    async def wait_until_drained(self) -> None:
        self.requested = True
        self.start_drain()
        if self.draining:
            await self.draining


class DrainingServer(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, shutdown: Shutdown, parent: connection.Connection | None = None
    ) -> None:
        super().__init__(config)
        self.graceful_shutdown = shutdown  # uvicorn has a method `shutdown`
        self.parent = parent  # of a worker: a pipe that is closed to stop it, also when the parent dies
        self.exit_code = 0

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.parent:
            asyncio.get_running_loop().add_reader(self.parent.fileno(), self.start_shutdown)

    async def serve(self, sockets: list[socket] | None = None) -> None:
        await super().serve(sockets)
        self.exit_process()

    def exit_process(self) -> NoReturn:
        """Exit now. Python itself would wait for every thread, even for one that hangs."""
        logging.shutdown()
        sys.stdout.flush()
        os._exit(self.exit_code)

    def handle_exit(self, sig: int, frame: object) -> None:
        if self.parent:  # a terminal signals the whole group, and the parent closes the pipe as well
            return
        second_signal = self.graceful_shutdown.requested
        self.graceful_shutdown.requested = True
        if second_signal:
            self.exit_code = 128 + sig
        react = self.abort if second_signal else self.start_shutdown
        asyncio.get_running_loop().call_soon_threadsafe(react)

    def start_shutdown(self) -> None:
        """Make /ready fail now. Keep serving during the delay, in which a proxy notices that."""
        structlog.contextvars.clear_contextvars()  # those of the request that the signal has interrupted
        self.graceful_shutdown.requested = True
        loop = asyncio.get_running_loop()
        if self.parent:
            loop.remove_reader(self.parent.fileno())
        log.info("stopping", delay=self.graceful_shutdown.delay)
        loop.call_later(self.graceful_shutdown.delay, self.close_and_drain)

    def close_and_drain(self) -> None:
        self.graceful_shutdown.start_drain()
        self.should_exit = True  # uvicorn closes its sockets and idle connections
        seconds = self.graceful_shutdown.seconds + CLOSE_SECONDS
        asyncio.get_running_loop().call_later(seconds, self.exit_process)

    def abort(self) -> None:
        """The second signal: close every connection and exit within a second."""
        log.warning("stopping at once")
        self.should_exit = self.force_exit = True
        asyncio.get_running_loop().call_later(1, self.exit_process)
        for client in list(self.server_state.connections):
            client.transport.abort()
