"""Around the routes: request ids, a bound on the body, metrics, and a graceful stop."""

import asyncio
import json
import re
import time
import uuid
from typing import Protocol

import structlog
import uvicorn
from fastapi import HTTPException, Request
from fastapi.sse import format_sse_event
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parallel_agents import telemetry
from parallel_agents.problems import STOPPING, problem, problem_response

log = structlog.stdlib.get_logger("parallel-agents")
PROBES = ("/health", "/ready", "/metrics")  # not logged: they come every few seconds
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Drainable(Protocol):
    async def drain(self, seconds: float) -> None: ...


class Shutdown:
    """The shutdown: the server gets the signal, and the app drains its runs."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.requested = seconds, False
        self.runs: Drainable | None = None
        self.draining: asyncio.Task[None] | None = None

    def register(self, runs: Drainable) -> None:
        """Register the run manager to drain on shutdown."""
        self.runs = runs

    def start_drain(self) -> None:
        if self.runs and not self.draining:
            self.draining = asyncio.create_task(self.runs.drain(self.seconds))

    async def wait_until_drained(self) -> None:
        if self.draining:
            await self.draining


class RequestContextMiddleware:
    """Gives every request an id, bounds its body, logs and counts it, and ends what outlasts the drain."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app, self.max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, received, stream = time.perf_counter(), 0, 0, False
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex
        scope["state"] |= {"request_id": request_id, "headers": {}}
        structlog.contextvars.bind_contextvars(request_id=request_id)  # in the task of this request only

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:
                raise HTTPException(413, f"The body is larger than {self.max_body_bytes} bytes.")
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status, stream
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS | {"X-Request-ID": request_id} | scope["state"]["headers"])
                stream = headers.get("content-type", "").startswith("text/event-stream")
            await send(message)

        try:
            await self.app(scope, receive_bounded, send_with_headers)
        except asyncio.CancelledError:  # by uvicorn, because the drain is over
            request = Request(scope)
            if not status:
                await problem_response(request, STOPPING)(scope, receive, send_with_headers)
            elif stream:
                told = json.dumps({"variation": None, "problem": problem(request, STOPPING)})
                await send(
                    {"type": "http.response.body", "body": format_sse_event(event="error", data_str=told)}
                )
        finally:
            endpoint = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - began
            telemetry.requests.labels(scope["method"], endpoint, status or 500).inc()
            telemetry.latency.labels(scope["method"], endpoint).observe(seconds)
            if not endpoint.endswith(PROBES):
                facts = {"method": scope["method"], "endpoint": endpoint, "status": status or 500}
                log.info("request", **facts, ms=round(seconds * 1000, 1))


class DrainingServer(uvicorn.Server):
    """Fails /ready at the first signal and finishes requests in flight; a second signal ends it at once."""

    exit_code = 0

    def __init__(self, config: uvicorn.Config, delay: float, stop: Shutdown) -> None:
        super().__init__(config)
        self.delay, self.stop = delay, stop

    def close_and_drain(self) -> None:
        self.stop.start_drain()
        self.should_exit = True  # uvicorn closes its sockets and idle connections

    def handle_exit(self, sig: int, frame: object) -> None:
        second, self.stop.requested = self.stop.requested, True
        loop = asyncio.get_running_loop()
        if second:
            self.exit_code = 128 + sig
            loop.call_soon_threadsafe(self.abort)
        else:
            log.info("stopping", delay=self.delay)
            loop.call_soon_threadsafe(loop.call_later, self.delay, self.close_and_drain)

    def abort(self) -> None:
        """Close all connections now. The end of the app removes the containers of running variations."""
        self.should_exit = self.force_exit = True
        if self.stop.draining:
            self.stop.draining.cancel()
        for client in list(self.server_state.connections):
            client.transport.abort()
