"""Identify the caller and enforce the rate limit before the body of a request is read."""

import hashlib
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from app import telemetry


class AuthenticatedRoute(APIRoute):
    """A route that checks the key and the rate limit first. Dependencies run after the body is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_authenticated(request: Request) -> Response:
            request.state.caller = identify_caller(request)
            await enforce_rate_limit(request)
            return await handle(request)

        return handle_authenticated


def identify_caller(request: Request) -> str:
    """Return the digest of the caller's key, or the caller's address if API_KEYS is not set."""
    keys = request.state.settings.api_keys
    given = hashlib.sha256(request.headers.get("x-api-key", "").encode("latin-1")).hexdigest()
    # Compare with every key, each in constant time, so that the time taken reveals nothing.
    if sum(secrets.compare_digest(given, key) for key in keys):
        return given
    if keys:
        raise HTTPException(401, "A valid key is needed in X-API-Key.", {"WWW-Authenticate": "X-API-Key"})
    return request.client.host if request.client else "unknown"


async def enforce_rate_limit(request: Request) -> None:
    """Count the request and add the RateLimit headers; raise a 429 if there are too many in this minute.

    Requests that start or cancel runs share one limit; those that read events have their own.
    """
    caller = request.state.caller
    if request.method not in ("POST", "DELETE"):
        if not request.url.path.endswith("/events"):
            return
        caller += ":events"
    limit = request.state.settings.rate_limit_rpm
    quota = await request.state.store.count_request(caller, limit)
    wait = str(max(1, round(quota.reset_at - time.time())))
    # The headers of draft-ietf-httpapi-ratelimit-headers.
    request.state.headers += [
        (b"ratelimit-policy", f'"minute";q={limit};w=60'.encode()),
        (b"ratelimit", f'"minute";r={quota.remaining};t={wait}'.encode()),
    ]
    if not quota.allowed:
        telemetry.limited.inc()
        raise HTTPException(429, "Too many requests in this minute.", {"Retry-After": wait})
