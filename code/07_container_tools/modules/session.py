"""The session: one connection to Dagger's engine for the life of the app, opened anew when it has died."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

import dagger

log = logging.getLogger("uvicorn.error")
Result = TypeVar("Result")


class EngineDown(Exception):
    """The engine cannot be reached."""


class Session:
    """A client that all calls share. A call that finds it dead opens a new one, and the others use that."""

    def __init__(self, log_path: Path, connect_seconds: float) -> None:
        self.log_path, self.connect_seconds = log_path, connect_seconds
        self.stack = AsyncExitStack()
        self.client: dagger.Client | None = None
        self.connecting = asyncio.Lock()
        self.checking: asyncio.Task[None] | None = None
        self.checked_at = 0.0
        self.status = "unknown"  # as of the last call or check

    async def run(self, work: Callable[[dagger.Client], Awaitable[Result]]) -> Result:
        """Do work with the client; once more with a new one if the session died. Raises `EngineDown`."""
        client = await self.connect(None)
        try:
            return await work(client)
        except (dagger.TransportError, dagger.ClientConnectionError) as error:
            log.warning("The session with Dagger's engine is lost: %s", type(error).__name__)
        try:
            return await work(await self.connect(client))
        except (dagger.TransportError, dagger.ClientConnectionError):
            self.status = "unreachable"
            raise EngineDown from None

    async def connect(self, dead: dagger.Client | None) -> dagger.Client:
        """Return the client, after replacing it if it is `dead`. Raises `EngineDown`."""
        async with self.connecting:
            if self.client is None or self.client is dead:
                await self.close()
                self.client = await self.open()
            return self.client

    async def open(self) -> dagger.Client:
        try:
            # Without a file for its log, the session's process would fill a pipe that nobody reads, and hang.
            output = self.stack.enter_context(self.log_path.open("a"))
            # A call that finds the session dead must not retry on it for ten seconds.
            config = dagger.Config(log_output=output, retry=dagger.Retry(execute=False))
            async with asyncio.timeout(self.connect_seconds):
                client: dagger.Client = await self.stack.enter_async_context(dagger.Connection(config))
        except (TimeoutError, OSError, dagger.DaggerError) as error:
            self.status = "unreachable"
            log.error("Dagger's engine cannot be reached: %s", error)
            raise EngineDown from None
        self.status = "ok"
        return client

    async def close(self) -> None:
        stack, self.stack, self.client = self.stack, AsyncExitStack(), None
        try:
            await stack.aclose()
        except dagger.DaggerError as error:  # the process of a session that died has an exit code
            log.warning("The session with Dagger's engine did not end cleanly: %s", type(error).__name__)

    async def stop(self) -> None:
        if self.checking:
            self.checking.cancel()
        await self.close()

    async def check(self) -> str:
        """Whether the engine answers within two seconds: "ok" or "unreachable". Asks once a second at most.

        A check that takes longer goes on: it may be opening a new session.
        """
        done, _ = await asyncio.wait([self.start_check()], timeout=2)
        return self.status if done else "unreachable"

    def start_check(self) -> asyncio.Task[None]:
        if self.checking is None or (self.checking.done() and time.monotonic() > self.checked_at + 1):
            self.checking = asyncio.create_task(self.ask_version())
        return self.checking

    async def ask_version(self) -> None:
        with suppress(EngineDown):
            await self.run(lambda client: client.version())
            self.status = "ok"
        self.checked_at = time.monotonic()
