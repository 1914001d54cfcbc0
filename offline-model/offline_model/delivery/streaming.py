"""Delivery: an answer sent at the pace asked for, with the fault asked for."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from offline_model.api.answers import Answer
from offline_model.api.chunks import Chunks
from offline_model.api.errors import ApiError
from offline_model.api.responses import Choice, Completion, ReplyMessage
from offline_model.delivery.call_log import Call
from offline_model.delivery.disconnect import ClientLeft, Presence
from offline_model.delivery.faults import Pace

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# How many tokens an unpaced stream sends before it looks whether its client is still there.
GLANCE = 32
FINGERPRINT = "fp_offline"


@dataclass
class Delivery:
    """One answer on its way to one client. `hang_up` closes the connection without an end."""

    call: Call
    pace: Pace
    presence: Presence
    send: Send
    hang_up: Callable[[], None]

    async def wait_for_first_token(self) -> None:
        """The faults that come instead of an answer, and the time to the first token."""
        if self.pace.fault == "hang":
            await self.presence.wait(None)
        if self.pace.ttft:
            await self.presence.wait(self.pace.ttft)
        if self.pace.fault == "401":
            key = dict(self.call.headers)[b"authorization"].decode("latin-1").split()[-1]
            message = f"Incorrect API key provided: {key}."  # some servers really quote it
            raise ApiError(401, message, code="invalid_api_key")
        if self.pace.fault == "429":
            raise ApiError(
                429,
                f"Rate limit reached for {self.call.model}. Please try again in {self.pace.retry_after}s.",
                kind="requests",
                code="rate_limit_exceeded",
                headers={"retry-after": str(self.pace.retry_after)},
            )
        if self.pace.fault == "500":
            message = "The server had an error while processing your request. Sorry about that!"
            raise ApiError(500, message, kind="server_error")

    async def plain(self, answer: Answer, head: dict[str, Any]) -> None:
        if self.pace.tps:
            await self.presence.wait(answer.usage.completion_tokens / self.pace.tps)
        body = completion(answer, head)
        if self.pace.fault == "malformed":
            body = body[: len(body) // 2]
        await self.start(b"application/json", len(body))
        if self.pace.fault == "cut":
            kept = first_tokens(body, answer, self.pace.after)
            await self.send({"type": "http.response.body", "body": kept, "more_body": True})
            self.call.tokens_sent = min(self.pace.after, answer.usage.completion_tokens)
            await self.cut()
            return
        self.call.tokens_sent = answer.usage.completion_tokens
        await self.send({"type": "http.response.body", "body": body})

    async def stream(self, answer: Answer, chunks: Chunks) -> None:
        await self.start(b"text/event-stream; charset=utf-8", None)
        await self.push(chunks.opening(answer))
        stops_at = self.pace.after if self.pace.fault in {"cut", "malformed"} else None
        for event, carried in chunks.pieces(answer):
            if stops_at is not None and self.call.tokens_sent >= stops_at:
                break
            await self.push(event)
            self.call.tokens_sent += carried
            await self.between_tokens()
        if self.pace.fault == "cut":
            await self.cut()
            return
        if self.pace.fault == "malformed":
            await self.push(b'data: {"id": "chatcmpl-broken", "choices": [{"index": 0, "del\n\n')
        await self.send({"type": "http.response.body", "body": chunks.closing(answer)})

    async def between_tokens(self) -> None:
        if self.pace.tps:
            await self.presence.wait(1 / self.pace.tps)
        elif self.call.tokens_sent % GLANCE == 0:
            await self.presence.wait(0)

    async def start(self, content_type: bytes, length: int | None) -> None:
        headers = [(b"content-type", content_type)]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        else:
            headers.append((b"cache-control", b"no-cache"))
        self.call.status = 200
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def push(self, event: bytes) -> None:
        await self.send({"type": "http.response.body", "body": event, "more_body": True})

    async def cut(self) -> None:
        """Close the connection in the middle, and wait until it is closed: nothing may follow."""
        self.hang_up()
        try:
            await self.presence.wait(1)
        except ClientLeft:
            return


def completion(answer: Answer, head: dict[str, Any]) -> bytes:
    message = ReplyMessage(content=answer.text, tool_calls=answer.calls)
    choice = Choice(message=message, finish_reason=answer.finish)
    exclude = None if answer.calls else {"choices": {0: {"message": {"tool_calls"}}}}
    return Completion(**head, choices=[choice], usage=answer.usage).model_dump_json(exclude=exclude).encode()


def first_tokens(body: bytes, answer: Answer, count: int) -> bytes:
    """The reply up to its so-manyth token."""
    kept = "".join(answer.pieces[0][:count])
    mark = b'"arguments":"' if answer.calls else b'"content":"'
    return body[: body.find(mark) + len(mark) + len(json.dumps(kept, ensure_ascii=False).encode()) - 2]
