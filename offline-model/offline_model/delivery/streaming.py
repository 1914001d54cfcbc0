"""Send one response at the chosen speed and with the chosen fault, and notice when the client leaves."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from offline_model.delivery.call_log import LoggedCall
from offline_model.delivery.faults import DeliveryOptions

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# A stream without `tps` checks for a disconnect each time it has sent this number of tokens.
TOKENS_BETWEEN_CHECKS = 32


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


@dataclass
class ResponseSender:
    """Sends the response of one call. `close_connection` closes the socket without ending the response."""

    call: LoggedCall
    options: DeliveryOptions
    client: ClientConnection
    send: Send
    close_connection: Callable[[], None]

    async def wait_for_first_token(self) -> None:
        if self.options.fault == "hang":
            await self.client.wait(None)
        if self.options.ttft:
            await self.client.wait(self.options.ttft)

    async def send_json(self, body: bytes, tokens: int, first_tokens: Callable[[int], bytes]) -> None:
        """Send a body that holds `tokens` tokens. For the fault `cut`, `first_tokens` gives its beginning."""
        if self.options.tps:
            await self.client.wait(tokens / self.options.tps)
        if self.options.fault == "malformed":
            body = body[: len(body) // 2]
        await self.start(b"application/json", (b"content-length", str(len(body)).encode()))
        if self.options.fault == "cut":
            await self.push(first_tokens(self.options.after))
            self.call.tokens_sent = min(self.options.after, tokens)
            await self.cut()
            return
        self.call.tokens_sent = tokens
        await self.send({"type": "http.response.body", "body": body})

    async def send_stream(self, first: bytes, events: Iterable[tuple[bytes, int]], last: bytes) -> None:
        """Send events, each given with the number of its tokens."""
        await self.start(b"text/event-stream; charset=utf-8", (b"cache-control", b"no-cache"))
        await self.push(first)
        stops_at = self.options.after if self.options.fault in {"cut", "malformed"} else None
        for event, tokens in events:
            if stops_at is not None and self.call.tokens_sent >= stops_at:
                break
            await self.push(event)
            self.call.tokens_sent += tokens
            await self.wait_between_tokens()
        if self.options.fault == "cut":
            await self.cut()
            return
        if self.options.fault == "malformed":
            await self.push(b'data: {"id": "chatcmpl-broken", "choices": [{"index": 0, "del\n\n')
        await self.send({"type": "http.response.body", "body": last})

    async def wait_between_tokens(self) -> None:
        if self.options.tps:
            await self.client.wait(1 / self.options.tps)
        elif self.call.tokens_sent % TOKENS_BETWEEN_CHECKS == 0:
            await self.client.wait(0)

    async def start(self, content_type: bytes, header: tuple[bytes, bytes]) -> None:
        self.call.status = 200
        headers = [(b"content-type", content_type), header]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def push(self, body: bytes) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": True})

    async def cut(self) -> None:
        """Close the connection in the middle of a response, and wait until it is closed."""
        self.close_connection()
        try:
            await self.client.wait(1)
        except ClientDisconnected:
            return
