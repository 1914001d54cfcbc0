"""A production API: lesson 01's agent, and around it what a team needs to run it for others.

You learn: production is composition. Settings, logs, metrics, limits and a cache come from well-kept
           libraries; the program's own work is to put each in the right place.
Run:       `make model`, and in a second terminal `python code/02_production_api.py`
See:       curl localhost:8000/metrics
"""

import asyncio
import functools
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
from http import HTTPStatus
from types import FrameType
from typing import Annotated, Any, Literal

import httpx2
import limits
import openai
import prometheus_client as prometheus
import structlog
import uvicorn
from cachetools import TTLCache
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.sse import EventSourceResponse, ServerSentEvent, format_sse_event
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, SecretStr
from pydantic import StringConstraints as Text
from pydantic import ValidationError as BadSettings
from pydantic_settings import BaseSettings, NoDecode
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_SECONDS = 5
PROBES = {"/health", "/ready", "/metrics"}
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

# --- Settings: each field is the environment variable of the same name in capitals ---


def split(value: str | list[str]) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


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
    api_keys: Annotated[list[SecretStr], NoDecode, BeforeValidator(split)] = []  # none: everybody may call
    cache_ttl_seconds: float = Field(default=300, ge=0)
    cache_max_entries: int = Field(default=1000, ge=0)
    max_concurrency: int = Field(default=32, ge=1)
    max_body_bytes: int = Field(default=262_144, ge=1)
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(split)] = []  # none: no other site's pages
    drain_seconds: int = Field(default=20, ge=0)
    drain_delay_seconds: float = Field(default=0, ge=0)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)


try:
    settings = Settings()  # type: ignore[call-arg]  # the values come from the environment
except BadSettings as bad:
    sys.exit("\n".join(f"Bad setting {str(e['loc'][0]).upper()}: {e['msg']}" for e in bad.errors()))

# --- Logs: one JSON object a line, whoever writes it ---


def configure_logs() -> None:
    processors: list[structlog.typing.Processor] = [
        structlog.stdlib.filter_by_level,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    form, factory = structlog.stdlib.ProcessorFormatter, structlog.stdlib.LoggerFactory()
    structlog.configure([*processors, form.wrap_for_formatter], logger_factory=factory)
    last: list[structlog.typing.Processor] = [
        form.remove_processors_meta,
        structlog.processors.JSONRenderer(),
    ]
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(form(foreign_pre_chain=processors[1:], processors=last))
    logging.basicConfig(handlers=[handler], level="WARNING", force=True)
    for name in (settings.app_name, "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(settings.log_level)


configure_logs()
log = structlog.stdlib.get_logger(settings.app_name)

# --- Metrics: right with several workers, and bounded in series whatever is asked for ---

registry = prometheus.CollectorRegistry()
counter = functools.partial(prometheus.Counter, registry=registry)
histogram = functools.partial(prometheus.Histogram, registry=registry)
requests_total = counter("agent_requests_total", "Requests", ["method", "endpoint", "status"])
latency = histogram("agent_request_latency_seconds", "To the last byte", ["method", "endpoint"])
first_token = histogram("agent_time_to_first_token_seconds", "Of streams")
tokens_total = counter("agent_tokens_total", "Tokens used", ["model"])
cache_total = counter("agent_cache_total", "Look-ups: hit, miss, shared", ["outcome"])
limited_total = counter("agent_rate_limited_total", "Requests over the rate limit")
shed_total = counter("agent_shed_total", "Requests shed under load")
gauge = functools.partial(prometheus.Gauge, registry=registry, multiprocess_mode="livesum")
in_flight = gauge("agent_requests_in_flight", "Now")


@functools.cache  # as bounded as the labels are
def observers(method: str, endpoint: str, status: int) -> tuple[prometheus.Counter, prometheus.Histogram]:
    return requests_total.labels(method, endpoint, status), latency.labels(method, endpoint)


# --- Models: what goes in and what comes out ---


def sendable(context: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse what no model can be sent: NaN is not JSON, half a surrogate pair is not Unicode."""
    json.dumps(context, ensure_ascii=False, allow_nan=False).encode()
    return context


class AgentRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    query: Annotated[
        str, Text(strip_whitespace=True, min_length=1, max_length=10_000, pattern=r"[^\s\u0085\ufeff]")
    ]
    context: Annotated[dict[str, JsonValue], AfterValidator(sendable)] = {}
    stream: bool = False
    max_tokens: int = Field(default=settings.max_tokens, ge=1, le=4096)
    temperature: float = Field(default=settings.temperature, ge=0, le=2)


class AgentResponse(BaseModel):
    id: str
    response: str
    tokens_used: int
    model: str
    latency_ms: float
    timestamp: datetime


class Health(BaseModel):
    status: str
    version: str
    uptime_seconds: float
    dependencies: dict[str, str]


class Problem(BaseModel):
    """An error in the form of RFC 9457; beside the same request id the log tells more."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[dict[str, str]] | None = None


def problem(scope: Scope, error: HTTPException, errors: list[dict[str, str]] | None = None) -> dict[str, Any]:
    status, request_id = error.status_code, scope["state"]["request_id"]
    title = HTTPStatus(status).phrase
    told = Problem(title=title, status=status, detail=error.detail, request_id=request_id, errors=errors)
    return told.model_dump(exclude_none=True)


def refusal(scope: Scope, error: HTTPException, errors: list[dict[str, str]] | None = None) -> Response:
    body = json.dumps(problem(scope, error, errors))
    return Response(body, error.status_code, error.headers, media_type="application/problem+json")


# --- The agent ---


class Slots(asyncio.Semaphore):
    """MAX_CONCURRENCY calls at once; as many more may wait for a place, the rest are shed at once."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size
        self.queue = 0

    async def acquire(self) -> Literal[True]:
        if self.queue >= self.size:
            shed_total.inc()
            raise HTTPException(503, "Too many requests are waiting already.", {"Retry-After": "1"})
        self.queue += 1
        try:
            return await super().acquire()
        finally:
            self.queue -= 1


class SingleFlight:
    """A cache in which equal calls at the same time are one call; it ends when the last who waits leaves.

    Errors are told to all who wait, and not kept.
    """

    def __init__(self) -> None:
        self.kept: TTLCache[str, AIMessage] = TTLCache(settings.cache_max_entries, settings.cache_ttl_seconds)
        self.flying: dict[str, asyncio.Task[AIMessage]] = {}
        self.waiting: dict[str, int] = {}

    def hit(self, key: str) -> AIMessage | None:
        if (message := self.kept.get(key)) is not None:
            cache_total.labels("hit").inc()
        return message

    async def get(self, key: str, call: Callable[[], Awaitable[AIMessage]]) -> AIMessage:
        cache_total.labels("shared" if key in self.flying else "miss").inc()
        if key not in self.flying:
            self.flying[key] = asyncio.create_task(self.fly(key, call))
        task = self.flying[key]
        self.waiting[key] = self.waiting.get(key, 0) + 1
        try:
            return await asyncio.shield(task)
        finally:
            self.waiting[key] -= 1
            if not self.waiting[key]:
                del self.waiting[key], self.flying[key]
                task.cancel()

    async def fly(self, key: str, call: Callable[[], Awaitable[AIMessage]]) -> AIMessage:
        message = await call()
        if self.kept.maxsize:
            self.kept[key] = message
        return message


class Agent:
    """A prompt, a model, its answers kept for those who ask the same, and what is known of its health."""

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
        self.slots = Slots(settings.max_concurrency)
        self.answers = SingleFlight()
        self.draining = False
        self.started_at = time.monotonic()
        self.model_status = "unknown"
        self.checked_at = float("-inf")

    def call(self, body: AgentRequest) -> dict[str, Any]:
        context = json.dumps(body.context, ensure_ascii=False)
        messages = self.prompt.format_messages(query=body.query, context=context)
        return {"input": messages, "max_tokens": body.max_tokens, "temperature": body.temperature}

    async def invoke(self, body: AgentRequest, caller: str) -> AIMessage:
        async def ask() -> AIMessage:
            async with self.slots:
                message = await self.model.ainvoke(**self.call(body))
            count_tokens(message)
            return message

        return await self.answers.get(self.key(body, caller), ask)

    @staticmethod
    def key(body: AgentRequest, caller: str) -> str:
        """Whatever may change the answer, or who may have it."""
        return f"{caller} {body.model_dump_json(exclude={'stream'})}"

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


# --- Middleware, in pure ASGI: it sees the last byte of a stream, and costs next to nothing ---


def new_id() -> str:
    return f"{random.getrandbits(128):032x}"  # a name, no secret: made without a system call


class Envelope:
    """Around every request: an id, a log line, the metrics, and bounds on the body's size and time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else new_id()
        scope["state"]["request_id"] = request_id

        async def named_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        in_flight.inc()
        structlog.contextvars.bind_contextvars(
            request_id=request_id
        )  # of this request's task, and gone with it
        try:
            await self.app(scope, bounded(receive), named_send)
        finally:
            in_flight.dec()
            seconds = time.perf_counter() - began
            endpoint = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            count, observe = observers(method, endpoint, status)
            count.inc()
            observe.observe(seconds)
            if endpoint not in PROBES:
                facts = {"method": method, "endpoint": endpoint, "status": status}
                log.info("request", **facts, ms=round(seconds * 1000, 1))


def bounded(receive: Receive) -> Receive:
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
        if size > settings.max_body_bytes:
            raise HTTPException(413, f"The body is larger than {settings.max_body_bytes} bytes.")
        return message

    return bounded_receive


class Gate:
    """Before a request under /v1/ is read: who is it, and has it calls left in this minute?"""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.keys = [digest(key.get_secret_value()) for key in settings.api_keys]
        self.limit = limits.RateLimitItemPerMinute(settings.rate_limit_rpm)
        self.limiter = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        given = digest(dict(scope["headers"]).get(b"x-api-key", b"").decode("latin-1"))
        # Compared with every key, each in constant time, so that the time taken tells nothing.
        known = sum(secrets.compare_digest(given, key) for key in self.keys) > 0
        caller = scope["state"]["caller"] = given if known else str(scope["client"][0])
        if self.keys and not known:
            headers = {"WWW-Authenticate": "X-API-Key"}
            error = HTTPException(401, "A valid key is needed in X-API-Key.", headers)
            await refusal(scope, error)(scope, receive, send)
            return
        allowed = self.limiter.hit(self.limit, caller)
        reset_at, left = self.limiter.get_window_stats(self.limit, caller)
        wait = str(max(1, round(reset_at - time.time())))
        policy = f'"minute";q={self.limit.amount};w=60'  # as draft-ietf-httpapi-ratelimit-headers has it
        quota = {"RateLimit-Policy": policy, "RateLimit": f'"minute";r={left};t={wait}'}
        if not allowed:
            limited_total.inc()
            error = HTTPException(429, "Too many requests in this minute.", quota | {"Retry-After": wait})
            await refusal(scope, error)(scope, receive, send)
            return

        async def send_with_quota(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in quota.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self.app(scope, receive, send_with_quota)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


# --- The application ---


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Agent]]:
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
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        stop: Any = signal.getsignal(sign)

        def first(number: int, frame: FrameType | None, stop: Any = stop) -> None:
            signal.signal(number, stop)  # a second signal finds uvicorn's own handler
            agent.draining = True
            loop.call_soon_threadsafe(loop.call_later, settings.drain_delay_seconds, stop, number, None)

        signal.signal(sign, first)


async def the_agent(request: Request) -> Agent:
    agent: Agent = request.state.agent
    return agent


CurrentAgent = Annotated[Agent, Depends(the_agent)]
any_problem: dict[int | str, dict[str, Any]] = {
    "default": {"description": "A problem", "content": {"application/problem+json": {}}, "model": Problem}
}
app = FastAPI(title=settings.app_name, version=settings.app_version, lifespan=lifespan, responses=any_problem)
app.add_middleware(Gate)
if settings.cors_origins:  # without credentials: keys come in a header, never in a cookie
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_headers=["X-API-Key", "X-Request-ID", "Content-Type"],
        expose_headers=["X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy"],
    )
app.add_middleware(Envelope)


@app.exception_handler(HTTPException)
async def http_error(request: Request, error: HTTPException) -> Response:
    return refusal(request.scope, error)


@app.exception_handler(RequestValidationError)
async def invalid_request(request: Request, error: RequestValidationError) -> Response:
    errors = [{"field": ".".join(map(str, e["loc"][1:])), "message": e["msg"]} for e in error.errors()]
    return refusal(request.scope, HTTPException(422, "The request is not valid."), errors)


@app.exception_handler(Exception)
async def our_own_fault(request: Request, error: Exception) -> Response:
    headers = {"X-Request-ID": request.state.request_id}  # this reply goes round the Envelope
    error = HTTPException(500, "Something went wrong; the log has the details.", headers)
    return refusal(request.scope, error)


@contextmanager
def model_errors_told() -> Iterator[None]:
    """What can go wrong with the model becomes 504 (too slow) or 502 (failed); the cause goes to the log."""
    try:
        yield
    except (TimeoutError, openai.APITimeoutError):
        raise HTTPException(504, f"The model did not answer within {settings.timeout_seconds:g} s.") from None
    except (openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError) as error:
        log.error("the model failed", error=repr(error))
        raise HTTPException(502, "The model failed, or could not be reached.") from None


async def events(scope: Scope, agent: Agent, body: AgentRequest) -> AsyncGenerator[ServerSentEvent]:
    """The answer as it comes: `token` events, then `usage`, and `done` or `error` always last."""
    began, waiting, reason = time.perf_counter(), True, None
    deadline = asyncio.get_running_loop().time() + settings.timeout_seconds
    try:
        with model_errors_told():
            async with asyncio.timeout_at(deadline):
                await agent.slots.acquire()
            try:
                async with aclosing(agent.model.astream(**agent.call(body))) as chunks:  # type: ignore[type-var]
                    while True:
                        # The timer runs while we wait for the model, never across a yield (PEP 789 says why).
                        async with asyncio.timeout_at(deadline):
                            chunk = await anext(chunks, None)
                        if chunk is None:
                            break
                        if chunk.text:
                            if waiting:
                                first_token.observe(time.perf_counter() - began)
                            waiting = False
                            yield ServerSentEvent(event="token", data={"text": chunk.text})
                        if used := count_tokens(chunk):
                            yield ServerSentEvent(event="usage", data=used)
                        reason = chunk.response_metadata.get("finish_reason", reason)
            finally:
                agent.slots.release()
        if reason is None:
            raise HTTPException(502, "The model's answer broke off.")
        yield ServerSentEvent(event="done", data={"reason": reason})
    except HTTPException as error:
        yield ServerSentEvent(event="error", data={"problem": problem(scope, error)})


async def unless_client_leaves(request: Request, answer: Coroutine[Any, Any, AIMessage]) -> AIMessage | None:
    """The answer, or None when the client left first; then nobody waits for it on its behalf."""

    async def client_left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    call, left = asyncio.ensure_future(answer), asyncio.ensure_future(client_left())
    try:
        await asyncio.wait({call, left}, return_when=asyncio.FIRST_COMPLETED)
        return call.result() if call.done() else None
    finally:
        call.cancel()
        left.cancel()


# --- Routes ---


@app.get("/health")
async def health(request: Request) -> Health:
    """Liveness: this process turns its event loop. Awaits nothing; shows what was last known of the model."""
    agent: Agent = request.state.agent  # not injected: resolving that takes a sixth of the time
    uptime, known = round(time.monotonic() - agent.started_at, 2), {"model": agent.model_status}
    return Health(status="healthy", version=settings.app_version, uptime_seconds=uptime, dependencies=known)


@app.get("/ready")
async def ready(agent: CurrentAgent) -> dict[str, bool]:
    """Readiness: the model answers and nobody has asked us to stop; else 503."""
    if agent.draining:
        raise HTTPException(503, "This server is about to stop.")
    if await agent.check_model() != "ok":
        raise HTTPException(503, "The model is unreachable.")
    return {"ready": True}


@app.get("/metrics")
async def metrics() -> Response:
    """Prometheus's text format; with several workers, the sum of all."""
    source = registry
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        source = prometheus.CollectorRegistry()
        MultiProcessCollector(source)  # type: ignore[no-untyped-call]
    return Response(prometheus.generate_latest(source), media_type=prometheus.CONTENT_TYPE_LATEST)


@app.post("/v1/invoke", response_model=AgentResponse, responses={200: {"content": {"text/event-stream": {}}}})
async def invoke(request: Request, agent: CurrentAgent, body: AgentRequest) -> AgentResponse | Response:
    """The whole answer at once; or, with `"stream": true`, the events of /v1/stream."""
    if body.stream:
        answer = events(request.scope, agent, body)
        encoded = (format_sse_event(event=e.event, data_str=json.dumps(e.data)) async for e in answer)
        return EventSourceResponse(encoded)
    began = time.perf_counter()
    message = agent.answers.hit(agent.key(body, request.state.caller))
    if message is None:
        with model_errors_told():
            async with asyncio.timeout(settings.timeout_seconds):
                message = await unless_client_leaves(request, agent.invoke(body, request.state.caller))
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


@app.post("/v1/stream", response_class=EventSourceResponse)
async def stream(request: Request, agent: CurrentAgent, body: AgentRequest) -> AsyncIterator[ServerSentEvent]:
    """The answer as server-sent events."""
    async with aclosing(events(request.scope, agent, body)) as answer:
        async for event in answer:
            yield event


if __name__ == "__main__":
    options: dict[str, Any] = {"host": settings.host, "port": settings.port, "access_log": False}
    options |= {"log_config": None, "timeout_graceful_shutdown": settings.drain_seconds}
    if int(os.environ.get("WEB_CONCURRENCY", "1")) > 1:  # the workers' metrics meet in a folder
        with tempfile.TemporaryDirectory() as os.environ["PROMETHEUS_MULTIPROC_DIR"]:
            uvicorn.run("__main__:app", **options)
    else:
        uvicorn.run(app, **options)
