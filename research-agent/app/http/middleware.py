"""Around every request: its id, its log line and metrics, security headers, and a limit on its body."""

import asyncio
import functools
import re
import time
import uuid
from collections.abc import Callable
from http import HTTPMethod

import structlog
from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import telemetry

log = structlog.stdlib.get_logger("research-agent")
BODY_SECONDS = 5  # the time in which the whole body of a request must arrive
PROBES = {"/health", "/ready", "/metrics"}  # not logged: they come every few seconds
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


class RequestContextMiddleware:
    """Adds an id, a log line, metrics and headers to each request. Pure ASGI: it sees the end of a stream."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app, self.max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        request_id = read_request_id(scope)
        headers = [(b"x-request-id", request_id.encode()), *SECURITY_HEADERS]
        scope["state"] |= {"request_id": request_id, "headers": headers}
        structlog.contextvars.bind_contextvars(request_id=request_id)  # in the task of this request only

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        try:
            with telemetry.span("request", path=scope["path"]):
                await self.app(scope, limit_body(receive, self.max_body_bytes), send_with_headers)
        finally:
            record_request(scope, status, time.perf_counter() - began)


def read_request_id(scope: Scope) -> str:
    """Return the caller's X-Request-ID if it is safe to log, else a new one."""
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex


def record_request(scope: Scope, status: int, seconds: float) -> None:
    endpoint = getattr(scope.get("route"), "path", "unmatched")
    method = scope["method"] if scope["method"] in HTTPMethod.__members__ else "OTHER"
    increment, observe = metric_updaters(method, endpoint, status)
    increment()
    observe(seconds)
    if endpoint not in PROBES:
        facts = {"method": method, "endpoint": endpoint, "status": status}
        log.info("request", **facts, ms=round(seconds * 1000, 1))


@functools.cache  # bounded, because the labels are
def metric_updaters(
    method: str, endpoint: str, status: int
) -> tuple[Callable[[], None], Callable[[float], None]]:
    return telemetry.requests.labels(method, endpoint, status).inc, telemetry.latency.labels(
        method, endpoint
    ).observe


def limit_body(receive: Receive, max_bytes: int) -> Receive:
    """Make a `receive` that raises a 413 for a body that is too large, and a 408 for one that is too slow.

    Starlette's RequestBodyLimitMiddleware has no time limit, and answers in plain text instead of
    problem+json if the Content-Length is too large.
    """
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS
    size, complete = 0, False

    async def limited_receive() -> Message:
        nonlocal size, complete
        if complete:  # the only message that can follow says that the client has disconnected
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"The body took longer than {BODY_SECONDS} s.") from None
        size += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if size > max_bytes:
            raise HTTPException(413, f"The body is larger than {max_bytes} bytes.")
        return message

    return limited_receive
