"""A web server whose responses a test sets byte by byte."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ssl import SSLContext
from typing import Any, Self

from app.research.fetch import Fetcher

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A web server on 127.0.0.1. The test sets every byte of its responses."""

    def __init__(self, tls: SSLContext | None = None) -> None:
        self.tls = tls
        self.pages: dict[str, Answer] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.heads: list[str] = []  # the request lines and headers of all requests
        self.bodies: list[str] = []  # the bodies of all requests

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self.server.sockets[0].getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.tasks.append(task)
        with suppress(OSError, asyncio.IncompleteReadError):  # the client has left
            try:
                self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
                length = re.search(r"content-length: *(\d+)", self.heads[-1].lower())
                self.bodies.append((await reader.readexactly(int(length[1]) if length else 0)).decode())
                path = self.heads[-1].split()[1].partition("?")[0]
                await self.pages.get(path, page(b"", status="404 Not Found"))(writer)
                await writer.drain()
            finally:
                writer.close()
                await writer.wait_closed()

    def fetcher(self, **settings: Any) -> Fetcher:
        """Return a fetcher that may read this site, and no other private host."""
        given: dict[str, Any] = {"timeout": 20, "allowed_hosts": frozenset({self.host})} | settings
        return Fetcher(**given)


def page(
    body: bytes = b"", kind: str | None = "text/html; charset=utf-8", status: str = "200 OK", **headers: str
) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        fields = {"Content-Length": str(len(body)), "Connection": "close"}
        fields |= {"Content-Type": kind} if kind is not None else {}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)

    return answer


def redirect(to: str) -> Answer:
    return page(status="302 Found", Location=to, Set_Cookie="spy=1")


def endless(piece: bytes, pause: float = 0) -> Answer:
    """Return an answer whose body does not end until the client disconnects."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return answer


async def silence(writer: asyncio.StreamWriter) -> None:
    """Send nothing until the client disconnects."""
    await writer.wait_closed()
