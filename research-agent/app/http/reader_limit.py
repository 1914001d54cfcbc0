"""Bound the event streams that one caller reads at once: each costs time for every event."""

from collections import Counter
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class TooManyReaders(Exception):
    """The caller reads as many streams as one may."""


class ReaderLimit:
    def __init__(self, most: int) -> None:
        self.most = most
        self.open: Counter[str] = Counter()

    def acquire(self, caller: str) -> None:
        if self.open[caller] >= self.most:
            raise TooManyReaders
        self.open[caller] += 1

    def release(self, caller: str) -> None:
        self.open[caller] -= 1
        self.open += Counter()  # drops what has come to zero


class EventStream(StreamingResponse):
    """A stream that gives its caller's place back when it ends, also before its first byte."""

    def __init__(self, *args: Any, limit: ReaderLimit, caller: str, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self.limit, self.caller = limit, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.limit.release(self.caller)
