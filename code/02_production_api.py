"""A production API: lesson 01's agent with what a team needs to run it for others.

You learn: how to add settings, logs, metrics, limits and a cache with maintained libraries, and where in the
           program each of them belongs.
Run:       `make model`, and in a second terminal `python code/02_production_api.py`
See:       curl localhost:8000/metrics
"""

import asyncio
import gc
import json
import logging
import os
import re
import secrets
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from http import HTTPMethod, HTTPStatus
from multiprocessing import parent_process
from typing import Annotated, Any, Literal, cast

import anyio
import httpx2
import limits
import openai
import prometheus_client as prometheus
import uvicorn
from async_lru import alru_cache
from cachetools import TTLCache
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from fastapi.sse import EventSourceResponse, ServerSentEvent, format_sse_event
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from prometheus_client.multiprocess import MultiProcessCollector
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, JsonValue, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog import contextvars, processors, stdlib

# A call to the model raises these when it is too slow, or fails.
MODEL_ERRORS = (TimeoutError, openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError)
PERSONA = "Answer briefly and exactly. The situation, as the caller describes it in JSON: "
split_commas = BeforeValidator(lambda value: [part.strip() for part in value.split(",")] if value else [])
Key = Annotated[SecretStr, Field(min_length=1)]  # no key is empty: API_KEYS="," is an error


class Settings(BaseSettings):  # each field is the environment variable of the same name in capitals
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
    api_keys: Annotated[list[Key], NoDecode, split_commas] = []  # empty: no key is needed
    cache_ttl_seconds: float = Field(default=300, ge=0)  # 0: no answer is kept
    cache_max_entries: int = Field(default=1000, ge=1)
    max_concurrency: int = Field(default=32, ge=1)
    max_body_bytes: int = Field(default=262_144, ge=1)
    body_seconds: float = Field(default=5, gt=0)
    forwarded_allow_ips: str = ""  # the proxies whose X-Forwarded-For is trusted
    cors_origins: Annotated[list[str], NoDecode, split_commas] = []  # empty: no CORS
    drain_seconds: int = Field(default=20, ge=0)
    drain_delay_seconds: float = Field(default=0, ge=0)
    web_concurrency: int = Field(default=1, ge=1)  # the number of workers; uvicorn reads it, too
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)


try:
    settings = Settings()  # type: ignore[call-arg]  # the values come from the environment
except ValidationError as error:
    sys.exit("\n".join(f"Bad setting {str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()))


# Every logger writes one JSON object a line.
handler = logging.StreamHandler(sys.stdout)
chain: list[Any] = [contextvars.merge_contextvars, stdlib.add_log_level]  # the first adds the request id
chain += [stdlib.ExtraAdder(), processors.TimeStamper("iso"), processors.format_exc_info]
handler.formatter = stdlib.ProcessorFormatter(processors.JSONRenderer(), foreign_pre_chain=chain)
logging.basicConfig(handlers=[handler], level="WARNING")
log = logging.getLogger(settings.app_name)
for logger in (log, logging.getLogger("uvicorn")):
    logger.setLevel(settings.log_level)

requests_total = prometheus.Counter("agent_requests_total", "Requests", ["method", "endpoint", "status"])
latency = prometheus.Histogram("agent_request_latency_seconds", "Until the last byte", ["method", "endpoint"])
tokens_total = prometheus.Counter("agent_tokens_total", "Tokens used", ["model"])
cache_total = prometheus.Counter("agent_cache_total", "Look-ups: hit, miss, shared", ["outcome"])
shed_total = prometheus.Counter("agent_shed_total", "Requests shed under load")


def check_encodable(context: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Reject values that cannot be sent: NaN is not JSON, and UTF-8 cannot encode an unpaired surrogate."""
    json.dumps(context, ensure_ascii=False, allow_nan=False).encode()
    return context


class AgentRequest(BaseModel, extra="forbid"):
    query: str = Field(max_length=10_000, pattern=r"[^\s\u0085\ufeff]")  # not blank
    context: Annotated[dict[str, JsonValue], AfterValidator(check_encodable)] = {}
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


class Agent:
    """A model, a cache of its answers, and the last known state of the model."""

    def __init__(self) -> None:
        self.model = ChatOpenAI(
            model=settings.model_name,
            api_key=settings.openai_api_key,
            base_url=settings.openai_base_url,
            max_retries=0,  # the caller decides whether to retry; status and Retry-After help
            stream_usage=True,
        )
        entries, seconds = settings.cache_max_entries, settings.cache_ttl_seconds
        self.cache: TTLCache[str, AIMessage] = TTLCache(entries, seconds)
        self.slots = anyio.Semaphore(settings.max_concurrency)
        self.started_at = time.monotonic()
        self.model_status = "unknown"

    def model_input(self, body: AgentRequest) -> dict[str, Any]:
        context = json.dumps(body.context, ensure_ascii=False)
        messages = [SystemMessage(PERSONA + context), HumanMessage(body.query)]
        return {"input": messages, "max_tokens": body.max_tokens, "temperature": body.temperature}

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Run MAX_CONCURRENCY calls at once, let as many wait, and shed the rest with a 503."""
        if self.slots.statistics().tasks_waiting >= settings.max_concurrency:
            shed_total.inc()
            raise HTTPException(503, "Too many requests are waiting.", {"Retry-After": "1"})
        async with self.slots:
            yield

    async def answer(self, key: str, body: AgentRequest) -> AIMessage:
        """Join the call with the same key if one is under way, else make it."""
        cache_total.labels("shared" if self.single_flight.cache_contains(key, body) else "miss").inc()
        return await self.single_flight(key, body)

    @alru_cache(maxsize=None, ttl=0, key=lambda self, key, body: key)
    async def single_flight(self, key: str, body: AgentRequest) -> AIMessage:
        """Make one call for all callers with the same key; it is cancelled when the last of them leaves."""
        async with self.slot():
            message = await self.model.ainvoke(**self.model_input(body))
        count_tokens(message)
        self.cache[key] = message
        return message

    async def stream(self, body: AgentRequest) -> AsyncGenerator[AIMessageChunk]:
        async with self.slot(), aclosing(self.model.astream(**self.model_input(body))) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk

    @alru_cache(ttl=1)
    async def check_model(self) -> str:
        """Ask the model's server for its list of models, at most once a second: "ok" or "unreachable"."""
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


def problem(request: Request, error: Exception) -> dict[str, Any]:
    """Describe an error in the format of RFC 9457, in our own words: an exception's text may hold a key."""
    errors = {}
    if isinstance(error, HTTPException):
        status, detail = error.status_code, error.detail
    elif isinstance(error, RequestValidationError):
        status, detail = 422, "The request is not valid."
        fields = [{"field": ".".join(map(str, e["loc"][1:])), "message": e["msg"]} for e in error.errors()]
        errors = {"errors": fields}
    elif isinstance(error, TimeoutError | openai.APITimeoutError):
        status, detail = 504, f"The model did not answer within {settings.timeout_seconds:g} s."
    elif isinstance(error, MODEL_ERRORS):
        status, detail = 502, "The model failed, or could not be reached."
        log.error("the model failed", extra={"error": repr(error)})
    else:
        status, detail = 500, "Something went wrong; the log has the details."
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return body | {"request_id": request.state.request_id} | errors


async def problem_response(request: Request, error: Exception) -> Response:
    body, headers = problem(request, error), getattr(error, "headers", None)
    if headers == {"Allow": "GET"}:
        headers = {"Allow": "GET, HEAD"}
    # json.dumps escapes all but ASCII, so that even a field name with a lone surrogate can be sent.
    return Response(json.dumps(body), body["status"], headers, media_type="application/problem+json")


class RequestContextMiddleware:
    """Gives every request an id, and records it. Pure ASGI, so that it sees the last byte of a stream."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # answered like GET; uvicorn leaves out the body
            scope = {**scope, "method": "GET"}
        began, status = time.perf_counter(), 500
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex
        headers = {"X-Request-ID": request_id}
        scope["state"] |= {"request_id": request_id, "headers": headers}
        contextvars.bind_contextvars(request_id=request_id)  # for the log lines of this request's task

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(headers)
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            record_request(scope, status, time.perf_counter() - began)


def record_request(scope: Scope, status: int, seconds: float) -> None:
    """Count and log a request. Unknown paths and methods share one label, to bound the number of series."""
    endpoint = getattr(scope.get("route"), "path", "unmatched")
    method = scope["method"] if scope["method"] in HTTPMethod.__members__ else "OTHER"
    requests_total.labels(method, endpoint, status).inc()
    latency.labels(method, endpoint).observe(seconds)
    if endpoint not in ("/health", "/ready", "/metrics"):
        fields = {"method": method, "endpoint": endpoint, "status": status, "ms": round(seconds * 1000, 1)}
        log.info("request", extra=fields)


api_keys = [key.get_secret_value().encode() for key in settings.api_keys]
rate_limit = limits.RateLimitItemPerMinute(settings.rate_limit_rpm)
rate_limiter = FixedWindowRateLimiter(MemoryStorage())


def identify(request: Request) -> str:
    """Return the caller's key, or without API_KEYS the caller's address."""
    if not api_keys:
        return str(request.client and request.client.host)
    given = request.headers.get("x-api-key", "")
    # Compare with every key, each in constant time, so that the time taken reveals nothing.
    if not sum(secrets.compare_digest(given.encode("latin-1"), key) for key in api_keys):
        raise HTTPException(401, "A valid key is needed in X-API-Key.", {"WWW-Authenticate": "X-API-Key"})
    return given


async def check_rate_limit(request: Request, caller: str) -> None:
    """Count the request, and report the quota as in draft-ietf-httpapi-ratelimit-headers."""
    allowed = await rate_limiter.hit(rate_limit, caller)
    window = await rate_limiter.get_window_stats(rate_limit, caller)
    wait = max(1, round(window.reset_time - time.time()))
    request.state.headers["RateLimit-Policy"] = f'"minute";q={rate_limit.amount};w=60'
    request.state.headers["RateLimit"] = f'"minute";r={window.remaining};t={wait}'
    if not allowed:
        raise HTTPException(429, "Too many requests in this minute.", {"Retry-After": str(wait)})


async def read_body(request: Request) -> None:
    """Read the body within bounds of size and time, and keep it in the request, where FastAPI looks first."""
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > settings.max_body_bytes:
                    raise HTTPException(413, f"The body is larger than {settings.max_body_bytes} bytes.")
    except TimeoutError:
        raise HTTPException(408, f"The body took longer than {settings.body_seconds:g} s.") from None
    request._body = bytes(body)


class AuthenticatedRoute(APIRoute):
    """Checks the key and the rate limit before FastAPI reads the body. Dependencies run only after that."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_authenticated(request: Request) -> Response:
            request.state.caller = identify(request)
            await check_rate_limit(request, request.state.caller)
            await read_body(request)
            return await handle(request)

        return handle_authenticated


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[dict[str, Agent]]:
    agent = Agent()
    await agent.check_model()
    gc.collect()
    gc.freeze()  # later collections skip all that the imports made
    yield {"agent": agent}


async def get_agent(request: Request) -> Agent:
    return cast(Agent, request.state.agent)


CurrentAgent = Annotated[Agent, Depends(get_agent)]
ERRORS = (HTTPException, RequestValidationError, *MODEL_ERRORS, Exception)
problem_schema = {"description": "A problem", "content": {"application/problem+json": {}}}
api = FastAPI(
    title=settings.app_name,
    version=settings.app_version,
    lifespan=lifespan,
    responses={"default": problem_schema},
    exception_handlers=dict.fromkeys(ERRORS, problem_response),
)
api.openapi_version = "3.2.0"  # the first version that can describe the events of a stream
api.state.draining = False
if settings.cors_origins:  # without credentials: keys come in a header, never in a cookie
    api.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["X-API-Key", "X-Request-ID", "Content-Type"],
        expose_headers=["X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy"],
    )
app = RequestContextMiddleware(api)


@api.get("/health")
async def health(agent: CurrentAgent) -> dict[str, Any]:
    """Liveness: this process runs its event loop. Awaits nothing; shows the last known state of the model."""
    uptime = round(time.monotonic() - agent.started_at, 2)
    known = {"version": settings.app_version, "dependencies": {"model": agent.model_status}}
    return {"status": "healthy", "uptime_seconds": uptime} | known


@api.get("/ready")
async def ready(request: Request, agent: CurrentAgent) -> dict[str, bool]:
    """Readiness: the model answers, and the server has not been told to stop; else 503."""
    if request.app.state.draining:
        raise HTTPException(503, "The server is stopping.")
    if await agent.check_model() != "ok":
        raise HTTPException(503, "The model is unreachable.")
    return {"ready": True}


@api.get("/metrics")
async def metrics() -> Response:
    """Metrics in Prometheus's text format; with several workers, their sum."""
    source = prometheus.REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        source = prometheus.CollectorRegistry()
        MultiProcessCollector(source)  # type: ignore[no-untyped-call]
    return Response(prometheus.generate_latest(source), media_type=prometheus.CONTENT_TYPE_LATEST)


# `identify` checks the key; the dependency makes /docs ask for one.
key_in_docs = [Depends(APIKeyHeader(name="X-API-Key", auto_error=False))] if api_keys else []
v1 = APIRouter(prefix="/v1", route_class=AuthenticatedRoute, dependencies=key_in_docs)


@v1.post("/stream", response_class=EventSourceResponse)
async def stream(request: Request, agent: CurrentAgent, body: AgentRequest) -> AsyncIterator[ServerSentEvent]:
    """Stream the answer as `token` events, then `usage`; the last event is `done` or `error`."""
    deadline, reason = asyncio.get_running_loop().time() + settings.timeout_seconds, None
    try:
        async with aclosing(agent.stream(body)) as chunks:
            while True:
                # The timeout covers the wait for the model, and never a yield (PEP 789 says why).
                async with asyncio.timeout_at(deadline):
                    if (chunk := await anext(chunks, None)) is None:
                        break
                if chunk.text:
                    yield ServerSentEvent(event="token", data={"text": chunk.text})
                if used := count_tokens(chunk):
                    yield ServerSentEvent(event="usage", data=used)
                reason = chunk.response_metadata.get("finish_reason", reason)
        if reason is None:
            raise HTTPException(502, "The model's answer broke off.")
        yield ServerSentEvent(event="done", data={"reason": reason})
    except (HTTPException, *MODEL_ERRORS) as error:
        yield ServerSentEvent(event="error", data={"problem": problem(request, error)})


@v1.post("/invoke", response_model=AgentResponse, responses={200: {"content": {"text/event-stream": {}}}})
async def invoke(request: Request, agent: CurrentAgent, body: AgentRequest) -> AgentResponse | Response:
    """Return the whole answer; or with `"stream": true` the events of /v1/stream."""
    if body.stream:
        events = stream(request, agent, body)
        encoded = (format_sse_event(event=e.event, data_str=json.dumps(e.data)) async for e in events)
        return EventSourceResponse(encoded)
    began = time.perf_counter()
    # The cache key contains everything that can change the answer, and the caller: callers share no answers.
    key = f"{request.state.caller} {body.model_dump_json(exclude={'stream'})}"
    if message := agent.cache.get(key):
        cache_total.labels("hit").inc()
    else:
        async with asyncio.timeout(settings.timeout_seconds):
            message = await cancel_on_disconnect(request, agent.answer(key, body))
    if message is None:
        return Response(status_code=499)  # nginx's status for a client that has left
    return AgentResponse(
        id=request.state.request_id,
        response=message.text,
        tokens_used=message.usage_metadata["total_tokens"] if message.usage_metadata else 0,
        model=message.response_metadata["model_name"],
        latency_ms=round((time.perf_counter() - began) * 1000, 2),
        timestamp=datetime.now(UTC),
    )


async def cancel_on_disconnect(request: Request, answer: Coroutine[Any, Any, AIMessage]) -> AIMessage | None:
    """Return the answer. If the client leaves first, cancel the call to the model and return None."""
    # After the body, the only message still to come is http.disconnect.
    call, left = asyncio.ensure_future(answer), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({call, left}, return_when=asyncio.FIRST_COMPLETED)
        return call.result() if call.done() else None
    finally:
        call.cancel()
        left.cancel()


api.include_router(v1)


class DrainingServer(uvicorn.Server):
    """Serves for DRAIN_DELAY_SECONDS after the first signal; a second signal ends it at once."""

    def handle_exit(self, sig: int, frame: object) -> None:
        loop = asyncio.get_running_loop()
        if not api.state.draining:
            delay = settings.drain_delay_seconds
            loop.call_soon_threadsafe(loop.call_later, delay, setattr, self, "should_exit", True)
        elif not parent_process():  # a worker hears of Ctrl-C twice: from the terminal and from its parent
            os._exit(128 + sig)
        api.state.draining = True


class Worker(uvicorn.supervisors.multiprocess.Process):
    """A worker whose death its parent notices at once, also while it waits for a healthcheck."""

    def start(self) -> None:
        super().start()
        self.child_conn.close()  # the parent's copy of the worker's end would keep the pipe open


# uvicorn has no option for these.
uvicorn.supervisors.multiprocess.Server = DrainingServer  # type: ignore[attr-defined]
uvicorn.supervisors.multiprocess.Process = Worker  # type: ignore[misc]


if __name__ == "__main__":
    options: dict[str, Any] = {"host": settings.host, "port": settings.port, "access_log": False}
    options |= {"log_config": None, "timeout_graceful_shutdown": settings.drain_seconds}
    options |= {"http": "h11", "h11_max_incomplete_event_size": 65_536}  # httptools does not bound headers
    options |= {"forwarded_allow_ips": settings.forwarded_allow_ips}
    if settings.web_concurrency == 1:
        DrainingServer(uvicorn.Config(app, **options)).run()
    else:
        with tempfile.TemporaryDirectory() as os.environ["PROMETHEUS_MULTIPROC_DIR"]:  # shared by the workers
            uvicorn.run("__main__:app", timeout_worker_healthcheck=60, **options)
