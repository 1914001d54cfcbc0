"""Authentication: passwords by Argon2id, JWTs with an expiry, API keys that are stored as hashes."""

import asyncio
import hashlib
import secrets
import time
from typing import Annotated, Any

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from sqlmodel import select

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
        user = await self.store.first(select(User).where(User.username == username))
        known = user.password_hash if user else self.unknown_user
        try:
            async with self.hashing:
                await asyncio.to_thread(self.hasher.verify, known, password)
        except VerifyMismatchError:
            user = None
        if user is None:
            raise unauthorized("The name or the password is wrong.")
        now = int(time.time())
        claims = {"sub": user.id, "iss": ISSUER, "iat": now, "exp": now + self.settings.token_seconds}
        return jwt.encode(claims, self.secret, ALGORITHM)

    async def user_of_token(self, token: str) -> User | None:
        try:
            required: Any = {"require": ["exp", "sub", "iss"]}
            claims = jwt.decode(token, self.secret, [ALGORITHM], issuer=ISSUER, options=required)
        except jwt.ExpiredSignatureError:
            raise unauthorized("The token has expired.") from None
        except jwt.InvalidTokenError:
            return None
        return await self.store.get(User, claims["sub"])

    async def user_of_key(self, key: str) -> User | None:
        return await self.store.first(select(User).join(ApiKey).where(ApiKey.digest == digest(key)))

    async def limit(self, rate: int, *caller: str) -> None:
        """Count a request; raise a 429 if there are too many in this minute."""
        item = RateLimitItemPerMinute(rate)
        if not await self.limiter.hit(item, *caller):
            telemetry.limited.inc()
            reset_at, _ = await self.limiter.get_window_stats(item, *caller)
            wait = str(max(1, round(reset_at - time.time())))
            raise HTTPException(429, "Too many requests in this minute.", {"Retry-After": wait})


def new_key(user_id: str, name: str) -> tuple[ApiKey, str]:
    """An API key as it is stored, and as it is shown."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return ApiKey(user_id=user_id, name=name, digest=digest(key)), key


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def unauthorized(detail: str) -> HTTPException:
    return HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})


async def current_user(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
    key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
) -> User:
    """The user of the API key or of the JWT. Their requests that change something are limited."""
    auth: Authenticator = request.state.auth
    user = None
    if key:
        user = await auth.user_of_key(key)
    elif bearer:
        user = await auth.user_of_token(bearer.credentials)
    if user is None:
        raise unauthorized("A valid token or API key is needed.")
    if request.method in ("POST", "DELETE"):
        await auth.limit(auth.settings.rate_limit_rpm, "user", user.id)
    return user


async def limit_strangers(request: Request) -> None:
    """Limit requests without a user by address: hashing a password costs time and memory on purpose."""
    auth: Authenticator = request.state.auth
    await auth.limit(auth.settings.login_limit_rpm, "address", request.client.host if request.client else "")


CurrentUser = Annotated[User, Depends(current_user)]
