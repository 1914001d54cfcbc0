"""Limit the event streams that one caller reads at once: each of them costs time for every event."""

from collections import Counter
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class TooManyReaders(Exception):
    """The caller already reads as many streams as one caller may."""


class ReaderLimit:
    """Counts the open streams of each caller."""

    def __init__(self, max_readers: int) -> None:
        self.max_readers = max_readers
        self.open: Counter[str] = Counter()

    def acquire(self, caller: str) -> None:
        if self.open[caller] >= self.max_readers:
            raise TooManyReaders
        self.open[caller] += 1

    def release(self, caller: str) -> None:
        self.open[caller] -= 1
        self.open += Counter()  # removes callers that have no open stream left


class EventStream(StreamingResponse):
    """A stream that releases its caller's place when it ends, even before its first byte."""

    def __init__(self, *args: Any, limit: ReaderLimit, caller: str, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self.limit, self.caller = limit, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.limit.release(self.caller)
