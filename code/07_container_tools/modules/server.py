"""Around the routes: request ids, a bound on the body, metrics, and a graceful stop."""

import asyncio
import json
import logging
import re
import uuid

import prometheus_client as prometheus
import uvicorn
from fastapi import Request
from fastapi.sse import format_sse_event
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.problems import Stopping, problem, problem_response

log = logging.getLogger("uvicorn.error")
requests_total = prometheus.Counter("agent_requests_total", "Requests", ["method", "endpoint", "status"])


class Shutdown:
    """Whether the server was told to stop."""

    requested = False


class RequestContextMiddleware:
    """Gives every request an id, bounds its body, counts it, and ends what outlasts the drain with a 503."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app, self.max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = received = 0
        if scope["method"] == "HEAD":  # answered like GET; uvicorn leaves out the body
            scope = {**scope, "method": "GET"}
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex
        scope["state"]["request_id"] = request_id

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:
                raise HTTPException(413, f"The body is larger than {self.max_body_bytes} bytes.")
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive_bounded, send_with_id)
        except asyncio.CancelledError:  # by uvicorn, because DRAIN_SECONDS are over
            request, error = Request(scope), Stopping()
            if not status:
                await (await problem_response(request, error))(scope, receive, send_with_id)
            else:  # only a stream has begun and not ended
                event = format_sse_event(
                    event="error", data_str=json.dumps({"problem": problem(request, error)})
                )
                await send({"type": "http.response.body", "body": event})
        finally:
            endpoint = getattr(scope.get("route"), "path", "unmatched")
            requests_total.labels(scope["method"], endpoint, status or 500).inc()


class DrainingServer(uvicorn.Server):
    """Fails /ready at the first signal and finishes requests in flight; a second signal ends it at once."""

    exit_code = 0

    def __init__(self, config: uvicorn.Config, delay: float, stop: Shutdown) -> None:
        super().__init__(config)
        self.delay, self.stop = delay, stop

    def handle_exit(self, sig: int, frame: object) -> None:
        second, self.stop.requested = self.stop.requested, True
        loop = asyncio.get_running_loop()
        if second:
            self.exit_code = 128 + sig
            loop.call_soon_threadsafe(self.abort)
        else:
            log.info("Stopping: /ready fails, and new connections are accepted for %g s more", self.delay)
            loop.call_soon_threadsafe(loop.call_later, self.delay, setattr, self, "should_exit", True)

    def abort(self) -> None:
        """Close all connections now, which also cancels tool calls and calls of the model."""
        self.should_exit = self.force_exit = True
        for client in list(self.server_state.connections):
            client.transport.abort()
