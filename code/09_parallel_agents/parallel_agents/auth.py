"""Authentication: passwords by Argon2id, JWTs with an expiry, API keys that are stored as hashes."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from parallel_agents import telemetry
from parallel_agents.config import Settings
from parallel_agents.models import ApiKey, User
from parallel_agents.store import Store

ALGORITHM, ISSUER = "HS256", "parallel-agents"
KEY_PREFIX = "pak_"  # so that scanners for leaked secrets can find a key


class Authenticator:
    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        self.secret = settings.secret_key.get_secret_value()
        self.hasher = PasswordHasher()  # Argon2id with the parameters of RFC 9106
        self.hashing = asyncio.Semaphore(2)  # each hash takes 64 MB
        self.unknown_user = self.hasher.hash(secrets.token_hex())
        self.limiter = MovingWindowRateLimiter(MemoryStorage())

    async def hash(self, password: str) -> str:
        async with self.hashing:
            return await asyncio.to_thread(self.hasher.hash, password)

    async def login(self, username: str, password: str) -> str:
        """A JWT for the user. A wrong name takes as long as a wrong password: names cannot be probed."""
        user = await self.store.user_named(username)
        known = user.password_hash if user else self.unknown_user
        try:
            async with self.hashing:
                await asyncio.to_thread(self.hasher.verify, known, password)
        except VerifyMismatchError:
            user = None
        if user is None:
            raise HTTPException(401, "The name or the password is wrong.", {"WWW-Authenticate": "Bearer"})
        now = int(time.time())
        claims = {"sub": user.id, "iss": ISSUER, "iat": now, "exp": now + self.settings.token_seconds}
        return jwt.encode(claims, self.secret, ALGORITHM)

    @staticmethod
    def new_key(user_id: str, name: str) -> tuple[ApiKey, str]:
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        return ApiKey(user_id=user_id, name=name, digest=digest(key)), key

    async def identify(self, request: Request) -> User:
        """The user of the JWT or of the API key. Raises a 401."""
        user, header = None, request.headers.get("authorization", "")
        if key := request.headers.get("x-api-key"):
            user = await self.store.user_of_key(digest(key))
        elif header.lower().startswith("bearer "):
            try:
                required: Any = {"require": ["exp", "sub", "iss"]}
                claims = jwt.decode(header[7:], self.secret, [ALGORITHM], issuer=ISSUER, options=required)
                user = await self.store.user(claims["sub"])
            except jwt.ExpiredSignatureError:
                raise HTTPException(401, "The token has expired.", {"WWW-Authenticate": "Bearer"}) from None
            except jwt.InvalidTokenError:
                pass
        if user is None:
            detail = "A valid token or API key is needed."
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})
        return user

    async def limit(self, request: Request, rate: int, *caller: str) -> None:
        """Count the request; raise a 429 if there are too many in this minute."""
        item = RateLimitItemPerMinute(rate)
        allowed = await self.limiter.hit(item, *caller)
        reset_at, remaining = await self.limiter.get_window_stats(item, *caller)
        wait = str(max(1, round(reset_at - time.time())))
        # The headers of draft-ietf-httpapi-ratelimit-headers.
        request.state.headers["RateLimit-Policy"] = f'"minute";q={rate};w=60'
        request.state.headers["RateLimit"] = f'"minute";r={remaining};t={wait}'
        if not allowed:
            telemetry.limited.inc()
            raise HTTPException(429, "Too many requests in this minute.", {"Retry-After": wait})


class AuthenticatedRoute(APIRoute):
    """A route that identifies the user and counts the request before the body is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_authenticated(request: Request) -> Response:
            auth: Authenticator = request.state.auth
            request.state.user = user = await auth.identify(request)
            if request.method in ("POST", "DELETE"):
                await auth.limit(request, auth.settings.rate_limit_rpm, "user", user.id)
            return await handle(request)

        return handle_authenticated


class LoginRoute(APIRoute):
    """A route for strangers, limited by address: hashing a password costs time and memory on purpose."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_limited(request: Request) -> Response:
            auth: Authenticator = request.state.auth
            address = request.client.host if request.client else "unknown"
            await auth.limit(request, auth.settings.login_limit_rpm, "address", address)
            return await handle(request)

        return handle_limited


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
