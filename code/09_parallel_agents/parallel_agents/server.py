"""Around the routes: request ids, a bound on the body, metrics, and a graceful stop."""

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable

import structlog
import uvicorn
from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parallel_agents import telemetry

log = structlog.stdlib.get_logger("parallel-agents")
PROBES = ("/health", "/ready", "/metrics")  # not logged: they come every few seconds
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class BodyLimitMiddleware:
    """Answers 413 to a body that is too large, while it is read."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, f"The body is larger than {self.max_bytes} bytes.")
            return message

        await self.app(scope, receive_bounded, send)


class RequestContextMiddleware:
    """Gives every request an id and security headers, logs it and counts it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex
        scope["state"]["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)  # in the task of this request only

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(SECURITY_HEADERS | {"X-Request-ID": request_id})
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            endpoint = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - began
            telemetry.requests.labels(scope["method"], endpoint, status).inc()
            telemetry.latency.labels(scope["method"], endpoint).observe(seconds)
            if not endpoint.endswith(PROBES):
                facts = {"method": scope["method"], "endpoint": endpoint, "status": status}
                log.info("request", **facts, ms=round(seconds * 1000, 1))


class Shutdown:
    """The shutdown: the server gets the signal, and the app drains its runs."""

    def __init__(self) -> None:
        self.requested = False
        self.drain: Callable[[], Awaitable[None]] | None = None  # set by the app
        self.draining: asyncio.Future[None] | None = None

    def start_drain(self) -> None:
        if self.drain and not self.draining:
            self.draining = asyncio.ensure_future(self.drain())

    async def wait_until_drained(self) -> None:
        self.start_drain()
        if self.draining:
            await asyncio.wait([self.draining])


class DrainingServer(uvicorn.Server):
    """Fails /ready at the first signal and finishes requests in flight; a second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, delay: float, shutdown: Shutdown) -> None:
        super().__init__(config)
        self.delay, self.stopping, self.exit_code = delay, shutdown, 0

    def close_and_drain(self) -> None:
        self.stopping.start_drain()
        self.should_exit = True  # uvicorn closes its sockets and idle connections

    def handle_exit(self, sig: int, frame: object) -> None:
        if self.stopping.requested:
            self.exit_code = 128 + sig
            self.should_exit = self.force_exit = True
            return
        self.stopping.requested = True
        log.info("stopping", delay=self.delay)
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, self.delay, self.close_and_drain)
