"""The app: its parts, its lifespan, and the routes for research."""

import asyncio
import gc
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, FastAPI, Header, HTTPException, Request, Response, Security
from fastapi.responses import StreamingResponse
from fastapi.security import APIKeyHeader
from fastapi.staticfiles import StaticFiles

from app import telemetry
from app.agent import Agent
from app.config import Settings
from app.http.authentication import AuthenticatedRoute
from app.http.event_stream import (
    EVENT_STREAM_RESPONSES,
    NO_MORE_EVENTS_RESPONSE,
    EventStreamResponse,
    encode_events,
)
from app.http.middleware import RequestContextMiddleware
from app.http.operations import STATIC, Health, RevalidatedFiles, operations
from app.http.problems import PROBLEM_RESPONSES, add_problem_handlers
from app.http.reader_limit import ReaderLimit
from app.http.server import Shutdown
from app.models import EventId, ResearchRequest, Result, Run, StoredRun, parse_event_id
from app.research.search import make_search
from app.runs.event_writer import answer_alias
from app.runs.manager import RunManager
from app.runs.stores.base import Store
from app.runs.stores.memory import MemoryStore

log = structlog.stdlib.get_logger("research-agent")
TRACE_SECONDS = 2  # the time limit for sending the last traces when the app stops
api_key = APIKeyHeader(name="X-API-Key", auto_error=False, description="Needed if API_KEYS is set.")
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]


def make_store(settings: Settings) -> Store:
    ttl = settings.run_ttl_seconds
    if settings.redis_url is None:
        return MemoryStore(ttl, settings.max_stored_runs, settings.max_stored_bytes)
    from app.runs.stores.redis import RedisStore  # only here, because its client takes a while to import

    url = settings.redis_url.get_secret_value()
    return RedisStore(url, lease=settings.lease_seconds, ttl=ttl, max_seconds=settings.timeout_seconds)


def create_app(settings: Settings, shutdown: Shutdown) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        if settings.search_backend == "offline":
            log.warning("SEARCH_BACKEND=offline is deprecated: use SEARCH_BACKEND=searxng")
        flush_traces = telemetry.configure_traces(settings)
        search = make_search(settings)
        agent = Agent(settings, search)
        store = make_store(settings)
        runs = RunManager(settings, store, agent)
        health = Health(settings, agent, store)
        await health.check()
        runs.open()
        shutdown.register(runs)
        gc.collect()
        gc.freeze()  # later collections skip what the imports have created, which is never freed
        readers = ReaderLimit(settings.max_readers_per_caller)
        yield {
            "settings": settings,
            "store": store,
            "runs": runs,
            "health": health,
            "shutdown": shutdown,
            "search": search,
            "readers": readers,
        }
        await shutdown.wait_until_drained()
        await runs.close()
        with suppress(TimeoutError):  # the trace collector does not answer
            async with asyncio.timeout(TRACE_SECONDS):
                await asyncio.to_thread(flush_traces)
        telemetry.mark_worker_dead()

    app = FastAPI(
        title=settings.app_name,
        version=settings.app_version,
        lifespan=lifespan,
        responses=PROBLEM_RESPONSES,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(RequestContextMiddleware, max_body_bytes=settings.max_body_bytes)
    add_problem_handlers(app)
    # `Security` only documents the key: AuthenticatedRoute checks it before the body is read.
    app.include_router(research, dependencies=[Security(api_key)])
    app.include_router(operations)
    app.mount("/static", RevalidatedFiles(directory=STATIC), name="static")
    app.mount("/swagger", StaticFiles(directory=str(files("fastapi_swagger") / "resources")), name="swagger")
    if not settings.api_keys:
        remove_security(app.openapi())
    return app


def remove_security(document: dict[str, Any]) -> None:
    """Remove the requirement of a key from the OpenAPI document, which FastAPI keeps."""
    for path in document["paths"].values():
        for operation in path.values():
            operation.pop("security", None)


# --- Research ---

research = APIRouter(prefix="/v1/research", route_class=AuthenticatedRoute, tags=["research"])


async def start_run(request: Request, body: ResearchRequest, key: str | None) -> str:
    """Start a run, or find the one that this key or the same question has started. Returns its id."""
    runs: RunManager = request.state.runs
    caller = request.state.caller
    if runs.draining:
        raise HTTPException(503, "This server is about to stop.", {"Retry-After": "1"})
    alias = f"key:{caller}:{key}" if key else None
    known: str | None = await request.state.store.find_alias(alias or answer_alias(caller, body.query))
    if known and (earlier := await runs.get(known)):
        if alias:
            check_same_body(earlier, body)
        return known
    if runs.full:
        telemetry.shed.inc()
        raise HTTPException(503, "Too many runs are waiting already.", {"Retry-After": "1"})
    run = Run(query=body.query, background=body.background)
    if seconds := runs.agent.circuit.retry_after(run.id):
        raise HTTPException(
            503,
            "The model fails at the moment; no runs are started.",
            {"Retry-After": str(math.ceil(seconds))},
        )
    record = StoredRun(run=run, caller=caller, request_id=request.state.request_id)
    structlog.contextvars.bind_contextvars(run_id=run.id)
    run_id = await runs.start(record, alias)
    if run_id != run.id:  # another request with this key was faster
        check_same_body(await find_run(request, run_id), body)
    return run_id


def check_same_body(earlier: StoredRun, body: ResearchRequest) -> None:
    if (earlier.run.query, earlier.run.background) != (body.query, body.background):
        raise HTTPException(409, "This Idempotency-Key was used with another body.")


async def find_run(request: Request, run_id: str) -> StoredRun:
    """Return a run of this caller. Raise a 404 for a run that does not exist or is another caller's."""
    structlog.contextvars.bind_contextvars(run_id=run_id)
    record: StoredRun | None = await request.state.runs.get(run_id)
    if record is None or record.caller != request.state.caller:
        raise HTTPException(404, "There is no such run.")
    return record


@research.post("", response_model=Result, responses={202: {"model": Run}})
async def research_whole(request: Request, body: ResearchRequest, idempotency_key: Key = None) -> Any:
    """Research a question and wait for the answer; with `background`, get the run's id at once (202)."""
    runs: RunManager = request.state.runs
    run_id = await start_run(request, body, idempotency_key)
    location = {"Location": f"/v1/research/{run_id}"}
    record = await find_run(request, run_id)
    if body.background:
        return Response(record.run.model_dump_json(), 202, location, media_type="application/json")
    if not record.run.finished:
        waiting, left = (
            asyncio.create_task(runs.wait_until_finished(run_id)),
            asyncio.create_task(wait_for_disconnect(request)),
        )
        try:
            await asyncio.wait({waiting, left}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait([waiting])
                await runs.abandon(run_id)
                return Response(status_code=499)  # nginx's status for a client that has left
        finally:
            waiting.cancel()
            left.cancel()
        if not waiting.result():
            raise HTTPException(
                503,
                "Another replica continues this run. Request the URL in Location for its result.",
                {"Retry-After": "1"} | location,
            )
        record = await find_run(request, run_id)
    if problem := record.run.problem:
        raise HTTPException(problem.status, problem.detail)
    if record.run.result is None:
        raise HTTPException(409, "The run was cancelled.")
    return Response(record.run.result.model_dump_json(), headers=location, media_type="application/json")


async def wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@research.post("/stream", response_class=StreamingResponse, responses=EVENT_STREAM_RESPONSES)
async def research_stream(
    request: Request, body: ResearchRequest, idempotency_key: Key = None
) -> StreamingResponse:
    """Research a question and follow the run; its events are those of GET /v1/research/{id}/events."""
    readers: ReaderLimit = request.state.readers
    readers.acquire(request.state.caller)  # before starting a run that its caller could not follow
    try:
        run_id = await start_run(request, body, idempotency_key)
    except BaseException:
        readers.release(request.state.caller)
        raise
    return stream_events(request, run_id, (0, 0))


@research.get("/{run_id}")
async def research_state(request: Request, run_id: str) -> Run:
    """A run's state and, when it has finished, its result or its problem."""
    return (await find_run(request, run_id)).run


@research.get(
    "/{run_id}/events",
    response_class=StreamingResponse,
    responses=EVENT_STREAM_RESPONSES | NO_MORE_EVENTS_RESPONSE,
)
async def research_events(
    request: Request,
    run_id: str,
    last_event_id: Annotated[str, Header(pattern=r"^[0-9]{1,18}-[0-9]{1,18}$")] = "0-0",
) -> Response:
    """A run's events from the first, or after Last-Event-ID; `done` or `error` is always the last.

    204 if that was the last one: no other status keeps an open EventSource from connecting again.
    """
    await find_run(request, run_id)
    runs: RunManager = request.state.runs
    if not runs.can_follow(run_id):
        raise HTTPException(503, "This server is about to stop.", {"Retry-After": "1"})
    after = parse_event_id(last_event_id)
    if await runs.is_last_event(run_id, after):
        return Response(status_code=204)
    request.state.readers.acquire(request.state.caller)
    return stream_events(request, run_id, after)


@research.delete("/{run_id}", status_code=202)
async def research_cancel(request: Request, run_id: str) -> Run:
    """Ask for a run to be cancelled; its last event is then `done` with the reason "cancelled"."""
    record = await find_run(request, run_id)
    if not record.run.finished:
        await request.state.runs.cancel(run_id)
    return record.run


def stream_events(request: Request, run_id: str, after: EventId) -> EventStreamResponse:
    """Stream the events after that id. The caller must have acquired a place of the ReaderLimit."""
    body = encode_events(request.state.runs.follow(run_id, after))
    headers = {"Location": f"/v1/research/{run_id}", "X-Run-ID": run_id}
    return EventStreamResponse(
        body, headers=headers, limit=request.state.readers, caller=request.state.caller
    )
