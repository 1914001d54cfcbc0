"""The model gateway: the only address that a container reaches. It holds the real key; containers never do.

A variation has a token that only the gateway knows, and only while the variation runs. The gateway forwards
one route, sets the model and the size of an answer, counts tokens, and enforces the budget of the run.
"""

import asyncio
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from parallel_agents import telemetry
from parallel_agents.config import Settings
from parallel_agents.server import BodyLimitMiddleware

log = structlog.stdlib.get_logger("parallel-agents")
MAX_BODY = 1_000_000
MAX_CALLS = 16  # requests of one variation that are worked on at a time
BYTES_PER_TOKEN = 3  # an estimate that is rather too high, for what a call may cost before it is known
# An answer is never streamed: it passes on only when its tokens are known.
FORWARDED = ("messages", "temperature", "top_p", "seed", "stop", "tools", "tool_choice", "response_format")
Usage = dict[str, int]


@dataclass
class Budget:
    """The tokens of a run: those spent, and those reserved by calls that are going on."""

    limit: int
    spent: int = 0
    reserved: int = 0

    def reserve(self, tokens: int) -> bool:
        if self.spent + self.reserved + tokens > self.limit:
            return False
        self.reserved += tokens
        return True

    def settle(self, reserved: int, spent: int) -> None:
        self.reserved -= reserved
        self.spent += spent


@dataclass
class Grant:
    """What a token allows: calls of the model for one variation, from the budget of its run."""

    budget: Budget
    on_usage: Callable[[Usage], Awaitable[None]]
    usage: Usage = field(default_factory=lambda: {"prompt_tokens": 0, "completion_tokens": 0})
    calls: set["asyncio.Task[Response]"] = field(default_factory=set)  # requests that are worked on
    # For an engine that does not give the output of a container as it comes: the container posts it here.
    output: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(4))

    async def charge(self, reserved: int, used: Usage) -> None:
        self.budget.settle(reserved, sum(used.values()))
        for name, count in used.items():
            self.usage[name] += count
            telemetry.tokens.labels(name.removesuffix("_tokens")).inc(count)
        await self.on_usage(dict(self.usage))

    async def until_revoked(self, work: Coroutine[Any, Any, Response]) -> Response:
        """Do the work of a request in a task, which ends with the token."""
        call = asyncio.create_task(work)
        self.calls.add(call)
        await asyncio.wait([call])
        self.calls.discard(call)
        return refusal(401, "The variation of this token has ended.") if call.cancelled() else call.result()


class Gateway:
    def __init__(self, settings: Settings) -> None:
        self.settings, self.port = settings, 0
        self.grants: dict[str, Grant] = {}
        self.model = httpx2.AsyncClient(
            base_url=settings.openai_base_url,
            headers={"Authorization": f"Bearer {settings.openai_api_key.get_secret_value()}"},
            timeout=settings.model_timeout,
        )
        routes = [Route("/v1/chat/completions", self.complete, methods=["POST"])]
        if settings.engine == "dagger":
            routes.append(Route("/output", self.receive_output, methods=["POST"]))
        app = Starlette(routes=routes, middleware=[Middleware(BodyLimitMiddleware, MAX_BODY)])
        config = uvicorn.Config(app, http="h11", access_log=False, log_config=None, lifespan="off")
        self.server = QuietServer(config)
        self.serving: asyncio.Task[None] | None = None

    async def open(self, host: str) -> None:
        listener = socket.create_server((host, 0))
        self.port = listener.getsockname()[1]
        self.serving = asyncio.create_task(self.server.serve([listener]))

    async def close(self) -> None:
        if self.serving:
            self.server.should_exit = self.server.force_exit = True
            await self.serving
        await self.model.aclose()

    def grant(self, budget: Budget, on_usage: Callable[[Usage], Awaitable[None]]) -> str:
        """A new token."""
        token = secrets.token_urlsafe(24)
        self.grants[token] = Grant(budget, on_usage)
        return token

    async def revoke(self, token: str) -> None:
        """End a token, and the calls of the model that it has begun."""
        if grant := self.grants.pop(token, None):
            for call in grant.calls:
                call.cancel()
            await asyncio.gather(*grant.calls, return_exceptions=True)

    def find(self, request: Request) -> Grant | None:
        return self.grants.get(request.headers.get("authorization", "").removeprefix("Bearer "))

    async def complete(self, request: Request) -> Response:
        """Forward a chat completion."""
        try:
            body = await request.json()
        except (ValueError, RecursionError):
            body = None
        if (grant := self.find(request)) is None:
            return refusal(401, "This token is not valid, or its variation has ended.")
        if not isinstance(body, dict):
            return refusal(400, "The body is not a JSON object.")
        if not is_text(body.get("messages")):
            return refusal(400, "The messages are not text: the model must not fetch an address.")
        if len(grant.calls) >= MAX_CALLS:
            return refusal(429, "This variation has too many calls that are not finished.")
        asked, most = body.get("max_completion_tokens") or body.get("max_tokens"), self.settings.max_tokens
        answer = min(asked, most) if isinstance(asked, int) and asked > 0 else most
        sent = {name: body[name] for name in FORWARDED if name in body}
        sent |= {"model": self.settings.model_name, "max_completion_tokens": answer}
        reserved = len(json.dumps(sent)) // BYTES_PER_TOKEN + answer
        if not grant.budget.reserve(reserved):
            telemetry.model_calls.labels("over_budget").inc()
            return refusal(429, "The token budget of this run is used up.", "insufficient_quota")
        return await grant.until_revoked(self.call_model(grant, sent, reserved))

    async def call_model(self, grant: Grant, sent: dict[str, Any], reserved: int) -> Response:
        """Call the model, and charge what it says it used; all that was reserved, if it does not say."""
        used, outcome = {"prompt_tokens": reserved}, "ok"
        try:
            answer = await self.model.post("chat/completions", json=sent)
            if answer.is_error:  # its text may quote the key
                used, outcome = {}, "failed"
                return JSONResponse({"error": {"message": "The model failed."}}, answer.status_code)
            used = usage_of(answer.content) or used
            return Response(answer.content, media_type="application/json")
        except httpx2.HTTPError as error:
            used, outcome = {}, "failed"
            log.error("the model failed", error=type(error).__name__)
            return refusal(502, "The model failed, or could not be reached.")
        finally:
            telemetry.model_calls.labels(outcome).inc()
            await grant.charge(reserved, used)

    async def receive_output(self, request: Request) -> Response:
        """Take the output of a container, as slowly as its reader reads."""
        piece = await request.body()
        if (grant := self.find(request)) is None:
            return refusal(401, "This token is not valid, or its variation has ended.")
        if len(grant.calls) >= MAX_CALLS:
            return refusal(429, "This variation has too many calls that are not finished.")

        async def put() -> Response:
            await grant.output.put(piece)
            return Response(status_code=204)

        return await grant.until_revoked(put())


class QuietServer(uvicorn.Server):
    """A second server in the process: it leaves signals to the first, and is not announced as the app."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def _log_started_message(self, listeners: Any) -> None:
        log.info("the gateway listens")


def is_text(messages: Any) -> bool:
    """Whether all messages are text. The provider would fetch the address of an image."""
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        return False
    contents = [each.get("content") for each in messages]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [content])]
    kinds = [part.get("type") if isinstance(part, dict) else type(part) for part in parts]
    return all(kind in ("text", str, type(None)) for kind in kinds)


def usage_of(answer: bytes) -> Usage | None:
    """The tokens that an answer of the model says it has used."""
    try:
        usage = json.loads(answer)["usage"]
        return {name: int(usage[name]) for name in ("prompt_tokens", "completion_tokens")}
    except (ValueError, KeyError, TypeError):
        return None


def refusal(status: int, message: str, code: str | None = None) -> Response:
    """An error as OpenAI's API has it. The client must not try again."""
    error = {"message": message, "type": code or "invalid_request_error", "code": code, "param": None}
    return JSONResponse({"error": error}, status, {"x-should-retry": "false"})
