"""The routes."""

import asyncio
import gc
import json
import math
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from importlib.resources import files
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, FastAPI, Header, HTTPException, Request, Response, Security
from fastapi.responses import StreamingResponse
from fastapi.security import APIKeyHeader
from fastapi.sse import format_sse_event
from fastapi.staticfiles import StaticFiles

from app import telemetry
from app.agent import Agent
from app.config import Settings
from app.http.middleware import Envelope, Gate, tell_problems
from app.http.operations import STATIC, Health, operations
from app.http.reader_limit import EventStream, ReaderLimit
from app.http.server import Stop
from app.models import Event, EventId, Record, ResearchRequest, Result, Run, event_id, wire_id
from app.research.search import make_search
from app.runs.manager import Runs, answer_alias
from app.runs.stores.base import MemoryStore, Store

log = structlog.stdlib.get_logger("research-agent")
TRACE_SECONDS = 2
"""What the last traces may take at the end."""
RETRY_MS = 500
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no proxy may hold events back
any_problem: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
event_schema = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"enum": ["state", "token", "step", "source", "usage", "reset", "error", "done"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
# In OpenAPI 3.2 this is an `itemSchema`; most generators of clients do not speak that version yet.
event_stream: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events, each as its schema says",
        "content": {"text/event-stream": {"schema": event_schema}},
    }
}
nothing_more: dict[int | str, dict[str, Any]] = {
    204: {"description": "The run is over, and Last-Event-ID is its last event: do not connect again"}
}
api_key = APIKeyHeader(name="X-API-Key", auto_error=False, description="Needed where API_KEYS are set.")
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]


class FreshFiles(StaticFiles):
    """Files that a browser asks for again each time, and gets again when they have changed."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def make_store(settings: Settings) -> Store:
    ttl = settings.run_ttl_seconds
    if settings.redis_url is None:
        return MemoryStore(ttl, settings.max_stored_runs, settings.max_stored_bytes)
    from app.runs.stores.redis import RedisStore  # not before: its client takes a while to import

    url, longest = settings.redis_url.get_secret_value(), settings.timeout_seconds
    return RedisStore(url, lease=settings.lease_seconds, ttl=ttl, longest=longest)


def create_app(settings: Settings, stop: Stop) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        flush_traces = telemetry.configure_traces(settings)
        search = make_search(settings)
        agent = Agent(settings, search)
        runs = Runs(settings, make_store(settings), agent)
        health = Health(settings, agent, runs.store)
        await health.check()
        runs.begin()
        stop.app_stops(runs)
        gc.collect()
        gc.freeze()  # what the imports made stays for ever; no later collection need look at it
        readers = ReaderLimit(settings.max_readers_per_caller)
        yield {
            "settings": settings,
            "runs": runs,
            "health": health,
            "stop": stop,
            "search": search,
            "readers": readers,
        }
        await stop.drained()
        await runs.end()
        with suppress(TimeoutError):  # the collector hangs
            async with asyncio.timeout(TRACE_SECONDS):
                await asyncio.to_thread(flush_traces)
        telemetry.worker_ends()

    app = FastAPI(
        title=settings.app_name,
        version=settings.app_version,
        lifespan=lifespan,
        responses=any_problem,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Envelope, max_body_bytes=settings.max_body_bytes)
    tell_problems(app)
    # This only describes the key: Gate looks at it before the body is read.
    app.include_router(research, dependencies=[Security(api_key)])
    app.include_router(operations)
    app.mount("/static", FreshFiles(directory=STATIC), name="static")
    app.mount("/swagger", StaticFiles(directory=str(files("fastapi_swagger") / "resources")), name="swagger")
    if not settings.api_keys:
        need_no_key(app.openapi())
    return app


def need_no_key(document: dict[str, Any]) -> None:
    """Say in an OpenAPI document, which FastAPI keeps, that a key may be sent and is not needed."""
    for path in document["paths"].values():
        for operation in path.values():
            operation.pop("security", None)


# --- Research ---

research = APIRouter(prefix="/v1/research", route_class=Gate, tags=["research"])


async def begin(request: Request, body: ResearchRequest, key: str | None) -> str:
    """Start a run; or find the one that this key, or an equal question a moment ago, has started. Its id."""
    runs: Runs = request.state.runs
    caller = request.state.caller
    if runs.draining:
        raise HTTPException(503, "This server is about to stop.", {"Retry-After": "1"})
    alias = f"key:{caller}:{key}" if key else None
    known = await runs.store.find(alias or answer_alias(caller, body.query))
    if known and (earlier := await runs.get(known)):
        if alias:
            refuse_another_body(earlier, body)
        return known
    if runs.full:
        telemetry.shed.inc()
        raise HTTPException(503, "Too many runs are waiting already.", {"Retry-After": "1"})
    run = Run(query=body.query, background=body.background)
    if wait := runs.agent.circuit.wait(run.id):
        raise HTTPException(
            503, "The model fails at the moment; no runs are started.", {"Retry-After": str(math.ceil(wait))}
        )
    record = Record(run=run, caller=caller, request_id=request.state.request_id)
    structlog.contextvars.bind_contextvars(run_id=run.id)
    run_id = await runs.start(record, alias)
    if run_id != run.id:  # the same key, in the same moment
        refuse_another_body(await known_run(request, run_id), body)
    return run_id


def refuse_another_body(earlier: Record, body: ResearchRequest) -> None:
    if (earlier.run.query, earlier.run.background) != (body.query, body.background):
        raise HTTPException(409, "This Idempotency-Key was used with another body.")


async def known_run(request: Request, run_id: str) -> Record:
    structlog.contextvars.bind_contextvars(run_id=run_id)
    record: Record | None = await request.state.runs.get(run_id)
    if record is None or record.caller != request.state.caller:  # another's run is nobody's business
        raise HTTPException(404, "There is no such run.")
    return record


@research.post("", response_model=Result, responses={202: {"model": Run}})
async def research_whole(request: Request, body: ResearchRequest, idempotency_key: Key = None) -> Any:
    """Research a question and wait for the answer; with `background`, get the run's id at once (202)."""
    runs: Runs = request.state.runs
    run_id = await begin(request, body, idempotency_key)
    location = {"Location": f"/v1/research/{run_id}"}
    record = await known_run(request, run_id)
    if body.background:
        return Response(record.run.model_dump_json(), 202, location, media_type="application/json")
    if not record.run.over:
        waiting, left = (
            asyncio.create_task(runs.until_over(run_id)),
            asyncio.create_task(client_left(request)),
        )
        try:
            await asyncio.wait({waiting, left}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait([waiting])
                await runs.abandon(run_id)
                return Response(status_code=499)  # nginx's word for it; nobody is there to read it
        finally:
            waiting.cancel()
            left.cancel()
        if not waiting.result():
            raise HTTPException(
                503,
                "The run goes on at another replica; its Location tells.",
                {"Retry-After": "1"} | location,
            )
        record = await known_run(request, run_id)
    if told := record.run.problem:
        raise HTTPException(told.status, told.detail)
    if record.run.result is None:
        raise HTTPException(409, "The run was cancelled.")
    return Response(record.run.result.model_dump_json(), headers=location, media_type="application/json")


async def client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@research.post("/stream", response_class=StreamingResponse, responses=event_stream)
async def research_stream(
    request: Request, body: ResearchRequest, idempotency_key: Key = None
) -> StreamingResponse:
    """Research a question and follow the run; its events are those of GET /v1/research/{id}/events."""
    readers: ReaderLimit = request.state.readers
    readers.acquire(request.state.caller)  # before a run is started that its caller could not read
    try:
        run_id = await begin(request, body, idempotency_key)
    except BaseException:
        readers.release(request.state.caller)
        raise
    return stream(request, run_id, (0, 0))


@research.get("/{run_id}")
async def research_state(request: Request, run_id: str) -> Run:
    """A run's state, and when it is over, its result or its problem."""
    return (await known_run(request, run_id)).run


@research.get("/{run_id}/events", response_class=StreamingResponse, responses=event_stream | nothing_more)
async def research_events(
    request: Request,
    run_id: str,
    last_event_id: Annotated[str, Header(pattern=r"^[0-9]{1,18}-[0-9]{1,18}$")] = "0-0",
) -> Response:
    """A run's events from the first, or after Last-Event-ID; `done` or `error` is always the last.

    204 when that was the last: an EventSource that is left open connects again for ever, but for this status.
    """
    await known_run(request, run_id)
    runs: Runs = request.state.runs
    if runs.draining and run_id not in runs.live:
        raise HTTPException(503, "This server is about to stop.", {"Retry-After": "1"})
    after = event_id(last_event_id)
    known = (await runs.follow(run_id)).events
    if known and known[-1].last and known[-1].id <= after:
        return Response(status_code=204)
    request.state.readers.acquire(request.state.caller)
    return stream(request, run_id, after)


@research.delete("/{run_id}", status_code=202)
async def research_cancel(request: Request, run_id: str) -> Run:
    """Ask for a run to be cancelled; its last event is then `done` with the reason "cancelled"."""
    record = await known_run(request, run_id)
    if not record.run.over:
        await request.state.runs.cancel(run_id)
    return record.run


def stream(request: Request, run_id: str, after: EventId) -> EventStream:
    """For a caller who has acquired a reader's place."""

    async def body() -> AsyncIterator[bytes]:
        retry: int | None = RETRY_MS
        async with aclosing(request.state.runs.watch(run_id, after)) as batches:
            async for batch in batches:
                told = b""
                for event in batch:
                    told += on_the_wire(event, retry)
                    retry = None
                yield told or b": ping\n\n"

    headers = STREAM_HEADERS | {"Location": f"/v1/research/{run_id}", "X-Run-ID": run_id}
    place = {"limit": request.state.readers, "caller": request.state.caller}
    return EventStream(body(), headers=headers, media_type="text/event-stream", **place)


def on_the_wire(event: Event, retry: int | None) -> bytes:
    """An event; the first also tells `retry`: in a block of its own, some clients take it for an event."""
    data = json.dumps(event.data, ensure_ascii=False)
    return format_sse_event(event=event.type, data_str=data, id=wire_id(event.id), retry=retry)
