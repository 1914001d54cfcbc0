"""The model gateway: the only address that a container reaches. It holds the real key; containers never do.

A variation has a token that only the gateway knows, and only while the variation runs. The gateway forwards
one route, sets the model and the size of an answer, counts tokens, and enforces the budget of the run.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from parallel_agents import telemetry
from parallel_agents.config import Settings

log = structlog.stdlib.get_logger("parallel-agents")
MAX_BODY, MAX_OUTPUT = 1_000_000, 65_536
BYTES_PER_TOKEN = 3  # an estimate that is rather too high, for what a call may cost before it is known
FORWARDED = (
    "messages",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "tools",
    "tool_choice",
    "response_format",
    "stream",
)
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
    # For an engine that does not give the output of a container as it comes: the container posts it here.
    output: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(16))


class Gateway:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.grants: dict[str, Grant] = {}
        key, timeout = settings.openai_api_key.get_secret_value(), httpx2.Timeout(settings.model_timeout)
        self.model = httpx2.AsyncClient(
            base_url=settings.openai_base_url, headers={"Authorization": f"Bearer {key}"}, timeout=timeout
        )
        routes = [
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/output", self.receive_output, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)
        self.server: QuietServer | None = None
        self.serving: asyncio.Task[None] | None = None
        self.port = 0

    async def open(self, host: str) -> None:
        config = uvicorn.Config(self.app, host, 0, access_log=False, log_config=None, lifespan="off")
        self.server = QuietServer(config)
        self.serving = asyncio.create_task(self.server.serve())
        await self.server.listening.wait()
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self.server and self.serving:
            self.server.should_exit = self.server.force_exit = True
            await self.serving
        await self.model.aclose()

    def grant(self, budget: Budget, on_usage: Callable[[Usage], Awaitable[None]]) -> tuple[str, Grant]:
        token = secrets.token_urlsafe(24)
        self.grants[token] = Grant(budget, on_usage)
        return token, self.grants[token]

    def revoke(self, token: str) -> None:
        self.grants.pop(token, None)

    def find(self, request: Request) -> Grant | None:
        return self.grants.get(request.headers.get("authorization", "").removeprefix("Bearer "))

    async def complete(self, request: Request) -> Response:
        """Forward a chat completion."""
        if (grant := self.find(request)) is None:
            return refusal(401, "This token is not valid, or its variation has ended.")
        try:
            body = await read_body(request)
        except ValueError as bad:
            return refusal(
                413 if str(bad) == "too large" else 400, "The body is not a JSON object, or too large."
            )
        asked = body.get("max_completion_tokens") or body.get("max_tokens")
        answer = (
            min(asked, self.settings.max_tokens)
            if isinstance(asked, int) and asked > 0
            else self.settings.max_tokens
        )
        sent = {name: body[name] for name in FORWARDED if name in body}
        sent |= {"model": self.settings.model_name, "max_completion_tokens": answer}
        if body.get("stream"):
            sent["stream_options"] = {"include_usage": True}  # so that the tokens can be counted
        content = json.dumps(sent)
        reserved = len(content) // BYTES_PER_TOKEN + answer
        if not grant.budget.reserve(reserved):
            telemetry.model_calls.labels("over_budget").inc()
            return refusal(429, "The token budget of this run is used up.", "insufficient_quota")
        call = self.model.build_request(
            "POST", "chat/completions", content=content, headers={"Content-Type": "application/json"}
        )
        charge = Charge(grant, reserved)
        try:
            upstream = await self.model.send(call, stream=True)
        except httpx2.HTTPError as error:
            log.error("the model failed", error=type(error).__name__)
            await charge.settle(failed=True)
            return refusal(502, "The model failed, or could not be reached.")
        except BaseException:
            await charge.settle()
            raise
        kind = upstream.headers.get("content-type", "application/json")
        return StreamingResponse(charge.forward(upstream), upstream.status_code, media_type=kind)

    async def receive_output(self, request: Request) -> Response:
        """Take the output of a container, as slowly as its reader reads."""
        if (grant := self.find(request)) is None:
            return refusal(401, "This token is not valid, or its variation has ended.")
        piece = b""
        async for part in request.stream():
            piece += part
            if len(piece) > MAX_OUTPUT:
                return refusal(413, "The piece is too large.")
        await grant.output.put(piece)
        return Response(status_code=204)


class Charge:
    """One call of the model: its answer passes through, and its usage is read from it."""

    def __init__(self, grant: Grant, reserved: int) -> None:
        self.grant, self.reserved = grant, reserved
        self.rest = b""  # of a line that is not complete yet, or of the whole answer if it is no stream
        self.usage: Usage | None = None
        self.settled = False

    async def forward(self, upstream: httpx2.Response) -> AsyncIterator[bytes]:
        stream = upstream.headers.get("content-type", "").startswith("text/event-stream")
        failed = upstream.status_code >= 400
        try:
            async for piece in upstream.aiter_bytes():
                self.rest += piece
                if stream:
                    *lines, self.rest = self.rest.split(b"\n")
                    for line in lines:
                        self.read(line.removeprefix(b"data:"))
                yield piece
            self.read(self.rest)
        finally:
            await upstream.aclose()
            await self.settle(failed)

    def read(self, text: bytes) -> None:
        if b'"usage"' not in text:
            return
        try:
            usage = json.loads(text)["usage"]
            self.usage = {name: int(usage[name]) for name in ("prompt_tokens", "completion_tokens")}
        except (ValueError, KeyError, TypeError):
            return

    async def settle(self, failed: bool = False) -> None:
        """Charge what the model says it used; all that was reserved, if it broke off without saying."""
        if self.settled:
            return
        self.settled = True
        used = self.usage or {"prompt_tokens": 0 if failed else self.reserved, "completion_tokens": 0}
        self.grant.budget.settle(self.reserved, sum(used.values()))
        telemetry.model_calls.labels("failed" if failed else "ok").inc()
        for name, count in used.items():
            self.grant.usage[name] += count
            telemetry.tokens.labels(name.removesuffix("_tokens")).inc(count)
        await self.grant.on_usage(dict(self.grant.usage))


class QuietServer(uvicorn.Server):
    """A second server in the process: it leaves signals to the first, and is not announced as the app."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def _log_started_message(self, listeners: Any) -> None:
        log.info("the gateway listens")


async def read_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises ValueError."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise ValueError("too large")
    parsed = json.loads(body)
    if not isinstance(parsed, dict):
        raise ValueError("no object")
    return parsed


def refusal(status: int, message: str, code: str | None = None) -> Response:
    """An error as OpenAI's API has it. The client must not try again."""
    error = {"message": message, "type": code or "invalid_request_error", "code": code, "param": None}
    return JSONResponse({"error": error}, status, {"x-should-retry": "false"})
