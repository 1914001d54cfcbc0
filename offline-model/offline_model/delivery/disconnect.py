"""Presence: every wait of this server ends at once when the client has left."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientLeft(Exception):
    """The client closed its connection before the end of its answer."""


class Presence:
    """Watches one connection, after its body was read.

    Starlette's StreamingResponse leaves a client's departure to the next send; a stream that waits for
    its next token would notice nothing. So the wait itself is raced against ASGI's http.disconnect.
    """

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.left: asyncio.Task[None] | None = None

    async def wait(self, seconds: float | None) -> None:
        """Sleep that long (None: for ever), or raise ClientLeft as soon as the client has gone."""
        if self.left is None:
            self.left = asyncio.create_task(self.until_left())
        done, _ = await asyncio.wait({self.left}, timeout=seconds)
        if done:
            raise ClientLeft

    async def until_left(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    def close(self) -> None:
        if self.left is not None:
            self.left.cancel()
