"""uvicorn with bounds: of a request's head, of idle connections, and of the time that a stop takes."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import connection, get_context
from socket import socket
from typing import NoReturn, Protocol

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 65_536
PIECE_BYTES = 16_384
LAST_SECONDS = 6  # after the drain, for what must be stored and closed
log = structlog.stdlib.get_logger("research-agent")


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which bounds neither a request's head nor the time that it takes to come.

    HEAD_BYTES bound a head, and what is no body after it: trailers, the extensions of chunks. The whole head
    must come within `timeout_keep_alive` seconds; until then, uvicorn's own timer ends with the first byte.
    """

    head_bytes = 0  # since the last head or piece of a body was complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        seconds, close = self.timeout_keep_alive, self.timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(seconds, close)

    def _unset_keepalive_if_required(self) -> None:
        if self.cycle and not self.cycle.response_complete:  # not before a whole head has come
            super()._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            self.head_bytes += len(piece)
            super().data_received(piece)
            if self.head_bytes > HEAD_BYTES and not self.transport.is_closing():
                if self.cycle is None or self.cycle.response_complete:
                    refusal = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n"
                    self.transport.write(refusal)
                self.transport.close()
            if self.transport.is_closing():
                return

    def on_headers_complete(self) -> None:
        self.head_bytes = 0
        super().on_headers_complete()
        self._unset_keepalive_if_required()

    def on_body(self, body: bytes) -> None:
        self.head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.head_bytes = 0
        super().on_message_complete()


class Drains(Protocol):
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

    async def serve(self, sockets: list[socket] | None = None) -> None:
        await super().serve(sockets)
        self.end()

    def end(self) -> NoReturn:
        """End the process now: Python itself would wait for every thread, also for one that hangs."""
        logging.shutdown()
        sys.stdout.flush()
        os._exit(self.exit_code)

    def handle_exit(self, sig: int, frame: object) -> None:
        if self.parent:  # a terminal signals the whole group: the stop reaches us from the parent as well
            return
        again = self.stop_asked.asked
        self.stop_asked.asked = True
        if again:
            self.exit_code = 128 + sig
        asyncio.get_running_loop().call_soon_threadsafe(self.cut if again else self.stop)

    def stop(self) -> None:
        """Not ready from now on; no new connections after the delay, in which a proxy notices that."""
        structlog.contextvars.clear_contextvars()  # of whatever request the signal has interrupted
        self.stop_asked.asked = True
        loop = asyncio.get_running_loop()
        if self.parent:
            loop.remove_reader(self.parent.fileno())
        log.info("stopping", delay=self.stop_asked.delay)
        loop.call_later(self.stop_asked.delay, self.leave)

    def leave(self) -> None:
        self.stop_asked.begin()
        self.should_exit = True
        asyncio.get_running_loop().call_later(self.stop_asked.seconds + LAST_SECONDS, self.end)

    def cut(self) -> None:
        log.warning("stopping at once")
        self.should_exit = self.force_exit = True
        asyncio.get_running_loop().call_later(1, self.end)
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
