"""Before the routes: each request's id, log line and metrics, its bounds, and who may ask how often."""

import asyncio
import functools
import hashlib
import json
import re
import secrets
import time
import uuid
from collections.abc import Callable, Coroutine
from http import HTTPMethod, HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import telemetry
from app.http.reader_limit import TooManyReaders
from app.models import Problem
from app.runs.stores.base import Busy, StoreDown, StoreError

log = structlog.stdlib.get_logger("research-agent")
BODY_SECONDS = 5
PROBES = {"/health", "/ready", "/metrics"}
SAFE = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


class Envelope:
    """Pure ASGI: it sees the last byte of a stream, and costs next to nothing."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app, self.max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex
        headers = [(b"x-request-id", request_id.encode()), *SAFE]
        scope["state"] |= {"request_id": request_id, "headers": headers}
        structlog.contextvars.bind_contextvars(request_id=request_id)  # of this request's task alone

        async def send_more(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        try:
            with telemetry.span("request", path=scope["path"]):
                await self.app(scope, self.bounded(receive), send_more)
        finally:
            seconds = time.perf_counter() - began
            endpoint = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in HTTPMethod.__members__ else "OTHER"
            count, observe = observers(method, endpoint, status)
            count()
            observe(seconds)
            if endpoint not in PROBES:
                facts = {"method": method, "endpoint": endpoint, "status": status}
                log.info("request", **facts, ms=round(seconds * 1000, 1))

    def bounded(self, receive: Receive) -> Receive:
        """A `receive` that gives up on a body that is too large (413) or too slow (408)."""
        deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        size, complete = 0, False

        async def bounded_receive() -> Message:
            nonlocal size, complete
            if complete:  # the only message still to come is that the client has left
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"The body took longer than {BODY_SECONDS} s.") from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > self.max_body_bytes:
                raise HTTPException(413, f"The body is larger than {self.max_body_bytes} bytes.")
            return message

        return bounded_receive


@functools.cache  # as bounded as the labels are
def observers(method: str, endpoint: str, status: int) -> tuple[Callable[[], None], Callable[[float], None]]:
    return telemetry.requests.labels(method, endpoint, status).inc, telemetry.latency.labels(
        method, endpoint
    ).observe


class Gate(APIRoute):
    """A route that asks who calls, and how often, before it reads the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def admitted(request: Request) -> Response:
            request.state.caller = identify(request)
            await count(request)
            return await handle(request)

        return admitted


def identify(request: Request) -> str:
    """The digest of the caller's key, or where no keys are set, the caller's address."""
    keys = request.state.settings.api_keys
    given = hashlib.sha256(request.headers.get("x-api-key", "").encode("latin-1")).hexdigest()
    # Compared with every key, each in constant time, so that the time taken tells nothing.
    if sum(secrets.compare_digest(given, key) for key in keys):
        return given
    if keys:
        raise HTTPException(401, "A valid key is needed in X-API-Key.", {"WWW-Authenticate": "X-API-Key"})
    return request.client.host if request.client else "unknown"


async def count(request: Request) -> None:
    """Count the request against its caller's quota, and say what is left. Reading events has its own."""
    caller = request.state.caller
    if request.method not in ("POST", "DELETE"):
        if not request.url.path.endswith("/events"):
            return
        caller += ":events"
    limit = request.state.settings.rate_limit_rpm
    quota = await request.state.runs.store.hit(caller, limit)
    wait = str(max(1, round(quota.reset_at - time.time())))
    # As draft-ietf-httpapi-ratelimit-headers has it.
    request.state.headers += [
        (b"ratelimit-policy", f'"minute";q={limit};w=60'.encode()),
        (b"ratelimit", f'"minute";r={quota.left};t={wait}'.encode()),
    ]
    if not quota.allowed:
        telemetry.limited.inc()
        raise HTTPException(429, "Too many requests in this minute.", {"Retry-After": wait})


def problem(
    request: Request, error: AnyHTTPException, errors: list[dict[str, str]] | None = None
) -> Response:
    told = Problem(
        title=HTTPStatus(error.status_code).phrase,
        status=error.status_code,
        detail=error.detail,
        request_id=request.state.request_id,
        errors=errors,
    )
    body, kind = json.dumps(told.model_dump(exclude_none=True)), "application/problem+json"
    return Response(body, error.status_code, error.headers, media_type=kind)


def methods(request: Request) -> list[str]:
    """The methods that this request's path has a route for."""
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    wanted = [dict(request.scope) | {"method": method} for method in HTTPMethod]
    allowed = [w["method"] for w in wanted if any(route.matches(w)[0] is Match.FULL for route in routes)]
    return allowed or ["GET", "HEAD"]  # of static files


def tell_problems(app: FastAPI) -> None:
    """Every error is a problem (RFC 9457); what an exception says stays in the log."""

    @app.exception_handler(AnyHTTPException)
    async def known(request: Request, error: AnyHTTPException) -> Response:
        if error.status_code == 405:  # a route knows its own methods, and not those of others with its path
            error = HTTPException(405, error.detail, {"Allow": ", ".join(methods(request))})
        return problem(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [{"field": ".".join(map(str, e["loc"][1:])), "message": e["msg"]} for e in error.errors()]
        return problem(request, HTTPException(422, "The request is not valid."), errors)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        return problem(request, HTTPException(429, "You have too many runs going.", {"Retry-After": "1"}))

    @app.exception_handler(TooManyReaders)
    async def too_many_readers(request: Request, error: TooManyReaders) -> Response:
        told = "You read too many streams of events at once."
        return problem(request, HTTPException(429, told, {"Retry-After": "1"}))

    @app.exception_handler(StoreError)
    async def store_failed(request: Request, error: StoreError) -> Response:
        log.error("the store failed", error=f"{type(error).__name__}: {error}")
        told = "is down" if isinstance(error, StoreDown) else "is full, or refuses this"
        return problem(request, HTTPException(503, f"The store of runs {told}.", {"Retry-After": "1"}))

    @app.exception_handler(Exception)
    async def our_own_fault(request: Request, error: Exception) -> Response:
        headers = {"X-Request-ID": request.state.request_id}  # this reply goes round the Envelope
        return problem(request, HTTPException(500, "Something went wrong; the log has the details.", headers))
