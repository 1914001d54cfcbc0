"""A production API: lesson 01's agent, and around it what a team needs to run it for others.

You learn: production is composition. Settings, logs, metrics, limits and a cache come from well-kept
           libraries; the program's own work is to put each in the right place.
Run:       `make model`, and in a second terminal `python code/02_production_api.py`
See:       curl localhost:8000/metrics
"""

import asyncio
import gc
import hashlib
import json
import logging
import os
import random
import re
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http import HTTPMethod, HTTPStatus
from multiprocessing import parent_process
from typing import Annotated, Any, Literal

import anyio
import httpx2
import limits.aio
import openai
import prometheus_client as prometheus
import uvicorn
from async_lru import alru_cache
from cachetools import TTLCache
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from fastapi.sse import EventSourceResponse, ServerSentEvent, format_sse_event
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, JsonValue, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send
from structlog import contextvars, processors, stdlib
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 65_536  # how much a request may send before its body, and after it

# --- Settings: each field is the environment variable of the same name in capitals ---


def split(value: str | list[str]) -> list[str]:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",")] if value else []


Key = Annotated[SecretStr, Field(min_length=1)]  # a setting of "," is a mistake, and opens no door


class Settings(BaseSettings):
    openai_api_key: SecretStr
    openai_base_url: str = "https://api.openai.com/v1"
    app_name: str = "ai-agent"
    app_version: str = "1.0.0"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    model_name: str = "gpt-5.4-mini"
    temperature: float = Field(default=1, ge=0, le=2)
    max_tokens: int = Field(default=1024, ge=1, le=4096)
    timeout_seconds: float = Field(default=30, gt=0)
    rate_limit_rpm: int = Field(default=60, ge=1)
    api_keys: Annotated[list[Key], NoDecode, BeforeValidator(split)] = []  # none: everybody may call
    cache_ttl_seconds: float = Field(default=300, ge=0)  # 0: nothing is kept
    cache_max_entries: int = Field(default=1000, ge=1)
    max_concurrency: int = Field(default=32, ge=1)
    max_body_bytes: int = Field(default=262_144, ge=1)
    body_seconds: float = Field(default=5, gt=0)
    forwarded_allow_ips: str = ""  # the proxies whose X-Forwarded-For is believed
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(split)] = []  # none: no other site's pages
    drain_seconds: int = Field(default=20, ge=0)
    drain_delay_seconds: float = Field(default=0, ge=0)
    web_concurrency: int = Field(default=1, ge=1)  # uvicorn's own name for the number of workers
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)


try:
    settings = Settings()  # type: ignore[call-arg]  # the values come from the environment
except ValidationError as bad:
    sys.exit("\n".join(f"Bad setting {str(e['loc'][0]).upper()}: {e['msg']}" for e in bad.errors()))

# --- Logs: one JSON object a line, whoever writes it ---

handler = logging.StreamHandler(sys.stdout)
handler.formatter = stdlib.ProcessorFormatter(
    processors.JSONRenderer(),
    foreign_pre_chain=[
        contextvars.merge_contextvars,  # the request's id
        stdlib.add_log_level,
        stdlib.ExtraAdder(),
        processors.TimeStamper(fmt="iso", utc=True),
        processors.format_exc_info,
    ],
)
logging.basicConfig(handlers=[handler], level="WARNING", force=True)
for name in (settings.app_name, "uvicorn", "uvicorn.error"):
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [], True
    logger.setLevel(settings.log_level)
log = logging.getLogger(settings.app_name)

# --- Metrics: right with several workers, and bounded in series whatever is asked for ---

requests_total = prometheus.Counter("agent_requests_total", "Requests", ["method", "endpoint", "status"])
latency = prometheus.Histogram("agent_request_latency_seconds", "To the last byte", ["method", "endpoint"])
first_token = prometheus.Histogram("agent_time_to_first_token_seconds", "Of streams")
tokens_total = prometheus.Counter("agent_tokens_total", "Tokens used", ["model"])
cache_total = prometheus.Counter("agent_cache_total", "Look-ups: hit, miss, shared", ["outcome"])
limited_total = prometheus.Counter("agent_rate_limited_total", "Requests over the rate limit")
shed_total = prometheus.Counter("agent_shed_total", "Requests shed under load")
in_flight = prometheus.Gauge("agent_requests_in_flight", "Now", multiprocess_mode="livesum")

# --- Models: what goes in and what comes out ---


def sendable(context: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse what no model can be sent: NaN is not JSON, half a surrogate pair is not Unicode."""
    json.dumps(context, ensure_ascii=False, allow_nan=False).encode()
    return context


class AgentRequest(BaseModel, extra="forbid"):
    query: str = Field(max_length=10_000, pattern=r"[^\s\u0085\ufeff]")  # not blank
    context: Annotated[dict[str, JsonValue], AfterValidator(sendable)] = {}
    stream: bool = Field(default=False, strict=True)
    max_tokens: int = Field(default=settings.max_tokens, ge=1, le=4096)
    temperature: float = Field(default=settings.temperature, ge=0, le=2)


class AgentResponse(BaseModel):
    id: str
    response: str
    tokens_used: int
    model: str
    latency_ms: float
    timestamp: datetime


class Problem(BaseModel):
    """An error in the form of RFC 9457; beside the same request id the log tells more."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[dict[str, str]] | None = None


# --- The agent: a prompt, a model, its answers kept for those who ask the same, and what is known of it ---


class Agent:
    def __init__(self) -> None:
        self.model = ChatOpenAI(
            model=settings.model_name,
            api_key=settings.openai_api_key,
            base_url=settings.openai_base_url,
            max_retries=0,  # when to retry is for the caller to say; the status and Retry-After tell it
            stream_usage=True,
        )
        persona = "Answer briefly and exactly. What the caller tells of the situation, as JSON: {context}"
        self.prompt = ChatPromptTemplate.from_messages([("system", persona), ("human", "{query}")])
        self.kept: TTLCache[str, AIMessage] = TTLCache(settings.cache_max_entries, settings.cache_ttl_seconds)
        self.slots = anyio.CapacityLimiter(settings.max_concurrency)
        self.draining = False
        self.started_at = time.monotonic()
        self.model_status = "unknown"
        self.checked_at = float("-inf")

    def call(self, body: AgentRequest) -> dict[str, Any]:
        context = json.dumps(body.context, ensure_ascii=False)
        messages = self.prompt.format_messages(query=body.query, context=context)
        return {"input": messages, "max_tokens": body.max_tokens, "temperature": body.temperature}

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """MAX_CONCURRENCY calls at once; as many more may wait for a place, the rest are shed at once."""
        if self.slots.statistics().tasks_waiting >= settings.max_concurrency:
            shed_total.inc()
            raise HTTPException(503, "Too many requests are waiting already.", {"Retry-After": "1"})
        place = object()  # not this task's: a stream that is left behind may be closed by another
        await self.slots.acquire_on_behalf_of(place)
        try:
            yield
        finally:
            self.slots.release_on_behalf_of(place)

    async def ask(self, key: str, body: AgentRequest) -> AIMessage:
        cache_total.labels("shared" if self.fly.cache_contains(key, body) else "miss").inc()
        return await self.fly(key, body)

    @alru_cache(maxsize=None, ttl=0, key=lambda self, key, body: key)
    async def fly(self, key: str, body: AgentRequest) -> AIMessage:
        """Single-flight: equal calls at once are one, which ends when the last who waits for it has left."""
        async with self.slot():
            message = await self.model.ainvoke(**self.call(body))
        count_tokens(message)
        self.kept[key] = message
        return message

    async def stream(self, body: AgentRequest) -> AsyncGenerator[AIMessageChunk]:
        async with self.slot(), aclosing(self.model.astream(**self.call(body))) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk

    async def check_model(self) -> str:
        """Ask the model's server for a sign of life, at most once a second: "ok" or "unreachable"."""
        now = time.monotonic()
        if now - self.checked_at > 1:
            self.checked_at = now
            try:
                async with asyncio.timeout(2):
                    await self.model.root_async_client.models.list()
                self.model_status = "ok"
            except (TimeoutError, openai.OpenAIError):
                self.model_status = "unreachable"
        return self.model_status


def count_tokens(message: AIMessage) -> dict[str, int]:
    if not (used := message.usage_metadata):
        return {}
    tokens_total.labels(settings.model_name).inc(used["total_tokens"])
    return {"prompt_tokens": used["input_tokens"], "completion_tokens": used["output_tokens"]}


# --- The application ---


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[dict[str, Agent]]:
    agent = Agent()
    await agent.check_model()
    delay_stop(agent)
    gc.collect()
    gc.freeze()  # what the imports made stays for ever; no later collection need look at it
    yield {"agent": agent}
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]  # its gauges end, its counts stay


def delay_stop(agent: Agent) -> None:
    """Between the first signal and uvicorn's stop, serve on for DRAIN_DELAY_SECONDS while /ready says 503."""
    loop, signals = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
    stop: Any = signal.getsignal(signal.SIGTERM)  # uvicorn's, for both

    def first(number: int, frame: object) -> None:
        agent.draining = True
        for sign in signals:  # a worker hears of a Ctrl-C twice: the terminal tells it, and its parent
            signal.signal(sign, signal.SIG_IGN if parent_process() else stop)
        # Not as SIGINT: uvicorn takes a second one for a wish to end at once.
        loop.call_soon_threadsafe(loop.call_later, settings.drain_delay_seconds, stop, signal.SIGTERM, None)

    for sign in signals:
        signal.signal(sign, first)


schema: dict[str, Any] = {"application/problem+json": {"schema": Problem.model_json_schema()}}
any_problem: dict[int | str, dict[str, Any]] = {"default": {"description": "A problem", "content": schema}}
api = FastAPI(title=settings.app_name, version=settings.app_version, lifespan=lifespan, responses=any_problem)
api.openapi_version = "3.2.0"  # the first that can describe the events of a stream
if settings.cors_origins:  # without credentials: keys come in a header, never in a cookie
    api.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["X-API-Key", "X-Request-ID", "Content-Type"],
        expose_headers=["X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy"],
    )


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Around every request: its id, the metrics, a log line. As pure ASGI it sees a stream's last byte."""
    if scope["type"] != "http":
        return await api(scope, receive, send)
    if scope["method"] == "HEAD":  # is GET without the body, which uvicorn leaves out
        scope = {**scope, "method": "GET"}
    began, status = time.perf_counter(), 500
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else f"{random.getrandbits(128):032x}"
    headers = [(b"x-request-id", request_id.encode())]
    scope["state"] |= {"request_id": request_id, "headers": headers}
    contextvars.bind_contextvars(request_id=request_id)  # of this request's task, and gone with it

    async def send_more(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    in_flight.inc()
    try:
        await api(scope, receive, send_more)
    finally:
        in_flight.dec()
        seconds = time.perf_counter() - began
        route = scope.get("route")
        endpoint = getattr(route, "path", "unmatched")
        method = scope["method"] if scope["method"] in HTTPMethod.__members__ else "OTHER"
        requests_total.labels(method, endpoint, status).inc()
        latency.labels(method, endpoint).observe(seconds)
        if not isinstance(route, Probe):
            facts = {"method": method, "endpoint": endpoint, "status": status}
            log.info("request", extra=facts | {"ms": round(seconds * 1000, 1)})


# --- Errors: one form for all, and never the text of an exception ---


def problem(request: Request, error: Exception) -> dict[str, Any]:
    status, detail, errors = 500, "Something went wrong; the log has the details.", None
    if isinstance(error, HTTPException):
        status, detail = error.status_code, error.detail
    elif isinstance(error, RequestValidationError):
        status, detail = 422, "The request is not valid."
        errors = [{"field": ".".join(map(str, e["loc"][1:])), "message": e["msg"]} for e in error.errors()]
    title, request_id = HTTPStatus(status).phrase, request.state.request_id
    told = Problem(title=title, status=status, detail=detail, request_id=request_id, errors=errors)
    return told.model_dump(exclude_none=True)


@api.exception_handler(HTTPException)
@api.exception_handler(RequestValidationError)
@api.exception_handler(Exception)
async def reply(request: Request, error: Exception) -> Response:
    told, headers = problem(request, error), getattr(error, "headers", None)
    if headers == {"Allow": "GET"}:
        headers = {"Allow": "GET, HEAD"}
    return Response(json.dumps(told), told["status"], headers, media_type="application/problem+json")


@contextmanager
def model_errors_told() -> Iterator[None]:
    """What can go wrong with the model becomes 504 (too slow) or 502 (failed); the cause goes to the log."""
    try:
        yield
    except (TimeoutError, openai.APITimeoutError):
        raise HTTPException(504, f"The model did not answer within {settings.timeout_seconds:g} s.") from None
    except (openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError) as error:
        log.error("the model failed", extra={"error": repr(error)})
        raise HTTPException(502, "The model failed, or could not be reached.") from None


# --- The gate: who is it, and has it calls left in this minute? Only then is its body read, within bounds ---


def digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


keys = [digest(key.get_secret_value().encode()) for key in settings.api_keys]
quotas = limits.aio.storage.MemoryStorage()


async def admit(request: Request) -> None:
    """Name the caller, and tell it what is left of its quota; or refuse it (401, 429)."""
    given = digest(request.headers.get("x-api-key", "").encode("latin-1"))
    # Compared with every key, each in constant time, so that the time taken tells nothing.
    known = sum(secrets.compare_digest(given, key) for key in keys) > 0
    if keys and not known:
        raise HTTPException(401, "A valid key is needed in X-API-Key.", {"WWW-Authenticate": "X-API-Key"})
    caller = request.state.caller = given if known else str(request.client and request.client.host)
    used = await quotas.incr(caller, expiry=60)
    left = max(0, settings.rate_limit_rpm - used)
    wait = str(max(1, round(await quotas.get_expiry(caller) - time.time())))
    # Written as draft-ietf-httpapi-ratelimit-headers has it.
    policy, quota = f'"minute";q={settings.rate_limit_rpm};w=60', f'"minute";r={left};t={wait}'
    request.state.headers += [(b"ratelimit-policy", policy.encode()), (b"ratelimit", quota.encode())]
    if used > settings.rate_limit_rpm:
        limited_total.inc()
        raise HTTPException(429, "Too many requests in this minute.", {"Retry-After": wait})


def bounded(receive: Receive) -> Receive:
    size = 0

    async def bounded_receive() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > settings.max_body_bytes:
            raise HTTPException(413, f"The body is larger than {settings.max_body_bytes} bytes.")
        return message

    return bounded_receive


class Gated(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def gated(request: Request) -> Response:
            await admit(request)
            request = Request(request.scope, bounded(request.receive))
            try:
                async with asyncio.timeout(settings.body_seconds):
                    await request.body()
            except (TimeoutError, ClientDisconnect):
                raise HTTPException(408, f"No body within {settings.body_seconds:g} s.") from None
            return await handle(request)

        return gated


# --- Routes ---


class Probe(APIRoute):
    """Not logged, and called as it stands: to resolve and validate nothing would be half of its cost."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


api.router.route_class = Probe


@api.get("/health")
async def health(request: Request) -> Response:
    """Liveness: this process turns its event loop. Awaits nothing; shows what was last known of the model."""
    agent: Agent = request.state.agent
    uptime, known = round(time.monotonic() - agent.started_at, 2), {"model": agent.model_status}
    told = {"status": "healthy", "version": settings.app_version, "uptime_seconds": uptime}
    return Response(json.dumps(told | {"dependencies": known}), media_type="application/json")


@api.get("/ready")
async def ready(request: Request) -> Response:
    """Readiness: the model answers and nobody has asked us to stop; else 503."""
    agent: Agent = request.state.agent
    if agent.draining:
        raise HTTPException(503, "This server is about to stop.")
    if await agent.check_model() != "ok":
        raise HTTPException(503, "The model is unreachable.")
    return Response('{"ready": true}', media_type="application/json")


@api.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus's text format; with several workers, the sum of all."""
    source = prometheus.REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        source = prometheus.CollectorRegistry()
        MultiProcessCollector(source)  # type: ignore[no-untyped-call]
    return Response(prometheus.generate_latest(source), media_type=prometheus.CONTENT_TYPE_LATEST)


api.router.route_class = Gated
api.router.dependencies = [Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]  # asked for in /docs


@api.post("/v1/stream", response_class=EventSourceResponse)
async def stream(request: Request, body: AgentRequest) -> AsyncIterator[ServerSentEvent]:
    """The answer as server-sent events: `token` as it comes, then `usage`, and `done` or `error` last."""
    began, waiting, reason = time.perf_counter(), True, None
    deadline = asyncio.get_running_loop().time() + settings.timeout_seconds
    agent: Agent = request.state.agent
    try:
        with model_errors_told():
            async with aclosing(agent.stream(body)) as chunks:
                while True:
                    # The timer runs while we wait for the model, never across a yield (PEP 789 says why).
                    async with asyncio.timeout_at(deadline):
                        if (chunk := await anext(chunks, None)) is None:
                            break
                    if chunk.text:
                        if waiting:
                            first_token.observe(time.perf_counter() - began)
                        waiting = False
                        yield ServerSentEvent(event="token", data={"text": chunk.text})
                    if used := count_tokens(chunk):
                        yield ServerSentEvent(event="usage", data=used)
                    reason = chunk.response_metadata.get("finish_reason", reason)
        if reason is None:
            raise HTTPException(502, "The model's answer broke off.")
        yield ServerSentEvent(event="done", data={"reason": reason})
    except HTTPException as error:
        yield ServerSentEvent(event="error", data={"problem": problem(request, error)})


@api.post("/v1/invoke", response_model=AgentResponse, responses={200: {"content": {"text/event-stream": {}}}})
async def invoke(request: Request, body: AgentRequest) -> AgentResponse | Response:
    """The whole answer at once; or, with `"stream": true`, the events of /v1/stream."""
    if body.stream:
        answer = stream(request, body)
        encoded = (format_sse_event(event=e.event, data_str=json.dumps(e.data)) async for e in answer)
        return EventSourceResponse(encoded)
    began, agent = time.perf_counter(), request.state.agent
    # Whatever may change the answer, or who may have it.
    key = f"{request.state.caller} {body.model_dump_json(exclude={'stream'})}"
    if message := agent.kept.get(key):
        cache_total.labels("hit").inc()
    else:
        with model_errors_told():
            async with asyncio.timeout(settings.timeout_seconds):
                message = await unless_client_leaves(request, agent.ask(key, body))
    if message is None:
        return Response(status_code=499)  # nginx's word for it; nobody is there to read it
    return AgentResponse(
        id=request.state.request_id,
        response=message.text,
        tokens_used=message.usage_metadata["total_tokens"] if message.usage_metadata else 0,
        model=message.response_metadata["model_name"],
        latency_ms=round((time.perf_counter() - began) * 1000, 2),
        timestamp=datetime.now(UTC),
    )


async def unless_client_leaves(request: Request, answer: Awaitable[AIMessage]) -> AIMessage | None:
    """The answer, or None when the client left first; then nobody waits for it on its behalf."""
    # The body has been read: the only message still to come is that the client has left.
    call, left = asyncio.ensure_future(answer), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({call, left}, return_when=asyncio.FIRST_COMPLETED)
        return call.result() if call.done() else None
    finally:
        call.cancel()
        left.cancel()


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, which bounds neither a request's headers nor the time that they take to come."""

    head_bytes = 0  # since the last headers, or piece of a body, were complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, transport.close)

    def _unset_keepalive_if_required(self) -> None:
        if self.cycle and not self.cycle.response_complete:  # not by the first byte of a request
            super()._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), HEAD_BYTES // 4):
            piece = data[start : start + HEAD_BYTES // 4]
            self.head_bytes += len(piece)
            super().data_received(piece)
            if self.head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The request's headers are too large.")
            if self.transport.is_closing():
                return

    def on_headers_complete(self) -> None:
        self.head_bytes = 0
        super().on_headers_complete()
        self._unset_keepalive_if_required()

    def on_body(self, body: bytes) -> None:
        self.head_bytes = 0
        super().on_body(body)


if __name__ == "__main__":
    options: dict[str, Any] = {"host": settings.host, "port": settings.port, "access_log": False}
    options |= {"log_config": None, "timeout_graceful_shutdown": settings.drain_seconds}
    options |= {"http": BoundedProtocol, "forwarded_allow_ips": settings.forwarded_allow_ips}
    options |= {"timeout_worker_healthcheck": 60}  # on a busy machine the imports take longer than 5 s
    if settings.web_concurrency > 1:  # the workers' metrics meet in a folder
        with tempfile.TemporaryDirectory() as os.environ["PROMETHEUS_MULTIPROC_DIR"]:
            uvicorn.run("__main__:app", **options)
    else:
        uvicorn.run(app, **options)
