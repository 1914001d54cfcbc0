"""Streams of server-sent events: their encoding, their response, and their OpenAPI description."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from app.http.reader_limit import ReaderLimit
from app.models import Event, format_event_id

RETRY_MS = 500  # the milliseconds for which a client waits before it connects again
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no proxy may buffer events
EVENT_SCHEMA = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"enum": ["state", "token", "step", "source", "usage", "reset", "error", "done"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
# OpenAPI 3.2 has `itemSchema` for this, but most client generators do not support that version yet.
EVENT_STREAM_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A stream of events",
        "content": {"text/event-stream": {"schema": EVENT_SCHEMA}},
    }
}
NO_MORE_EVENTS_RESPONSE: dict[int | str, dict[str, Any]] = {
    204: {"description": "The run has finished and Last-Event-ID is its last event: do not connect again"}
}


class EventStreamResponse(StreamingResponse):
    """A stream that releases its place in the ReaderLimit when it ends, even before its first byte."""

    media_type = "text/event-stream"

    def __init__(
        self, body: AsyncIterator[bytes], headers: dict[str, str], limit: ReaderLimit, caller: str
    ) -> None:
        super().__init__(body, headers=STREAM_HEADERS | headers)
        self.limit, self.caller = limit, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.limit.release(self.caller)


async def encode_events(batches: AsyncGenerator[list[Event]]) -> AsyncIterator[bytes]:
    """Encode batches of events, each in one piece. An empty batch becomes a comment, as a ping."""
    retry: int | None = RETRY_MS
    async with aclosing(batches):
        async for batch in batches:
            piece = b""
            for event in batch:
                piece += encode_event(event, retry)
                retry = None
            yield piece or b": ping\n\n"


def encode_event(event: Event, retry: int | None) -> bytes:
    """Encode an event. `retry` belongs to the first one: some clients treat a separate block as an event."""
    data = json.dumps(event.data, ensure_ascii=False)
    return format_sse_event(event=event.type, data_str=data, id=format_event_id(event.id), retry=retry)
