"""Disconnects: every wait of this server ends at once when its client has left."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientDisconnected(Exception):
    """The client closed its connection before the end of its answer."""


class ClientConnection:
    """Watches one connection after its request body was read.

    Starlette's StreamingResponse notices a disconnect at its next send. A stream that waits for its next
    token would notice nothing, so each wait here also waits for ASGI's http.disconnect.
    """

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.disconnect: asyncio.Task[None] | None = None

    async def wait(self, seconds: float | None) -> None:
        """Sleep, for ever with None; raise ClientDisconnected as soon as the client has left."""
        if self.disconnect is None:
            self.disconnect = asyncio.create_task(self.wait_for_disconnect())
        done, _ = await asyncio.wait({self.disconnect}, timeout=seconds)
        if done:
            raise ClientDisconnected

    async def wait_for_disconnect(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    def close(self) -> None:
        if self.disconnect is not None:
            self.disconnect.cancel()
