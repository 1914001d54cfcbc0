"""The app: its parts, its lifespan, and the routes for users and runs."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, FastAPI, Header, HTTPException, Path, Query, Request, Response, Security
from fastapi.responses import StreamingResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.staticfiles import StaticFiles

from parallel_agents import telemetry
from parallel_agents.auth import AuthenticatedRoute, Authenticator, LoginRoute
from parallel_agents.config import Settings
from parallel_agents.engines import make_engine
from parallel_agents.event_log import LAST_EVENTS, EventLog
from parallel_agents.gateway import Gateway
from parallel_agents.models import (
    UNFINISHED,
    Credentials,
    KeyInfo,
    KeyRequest,
    NewKey,
    ResultTable,
    Run,
    RunInfo,
    RunPage,
    RunRequest,
    Token,
    User,
    UserInfo,
    VariationInfo,
    run_info,
)
from parallel_agents.operations import STATIC, Health, operations
from parallel_agents.problems import PROBLEM_RESPONSES, STOPPING, add_problem_handlers
from parallel_agents.runs import QuotaExceeded, RunManager
from parallel_agents.server import Shutdown
from parallel_agents.store import Conflict, Store

log = structlog.stdlib.get_logger("parallel-agents")
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no proxy may buffer events
LOG_PAGE = 100  # events of a log that are read at once
Number = Annotated[int, Path(ge=1)]


def create_app(settings: Settings, shutdown: Shutdown) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        store = Store(settings.database)
        await store.open()
        events, gateway = EventLog(store), Gateway(settings)
        engine = make_engine(settings, gateway)
        await gateway.open(await engine.gateway_host())
        events.open()
        runs = RunManager(settings, store, events, engine, gateway)
        await runs.open()
        shutdown.register(runs)
        yield {
            "settings": settings,
            "store": store,
            "events": events,
            "runs": runs,
            "auth": Authenticator(settings, store),
            "shutdown": shutdown,
            "health": Health(settings, store, engine),
            "readers": Counter[str](),
        }
        with suppress(asyncio.CancelledError):  # by a second signal
            await shutdown.wait_until_drained()
        await runs.drain(0)
        await runs.close()
        await events.close()
        await gateway.close()
        await engine.close()
        await store.close()

    app = FastAPI(
        title="Parallel agents",
        version=settings.app_version,
        lifespan=lifespan,
        responses=PROBLEM_RESPONSES,
        docs_url="/docs" if settings.debug else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.debug else None,
    )
    add_problem_handlers(app)
    # `Security` only documents the two ways: AuthenticatedRoute checks them before the body is read.
    ways = [
        Security(HTTPBearer(auto_error=False)),
        Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
    ]
    app.include_router(login)
    app.include_router(keys, dependencies=ways)
    app.include_router(runs_router, dependencies=ways)
    app.include_router(operations, prefix="/api/v1")
    app.include_router(operations, include_in_schema=False)
    if STATIC.is_dir():
        app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


# --- Users and keys ---

login = APIRouter(prefix="/api/v1/auth", route_class=LoginRoute, tags=["auth"])
keys = APIRouter(prefix="/api/v1/auth/keys", route_class=AuthenticatedRoute, tags=["auth"])


@login.post("/register", status_code=201)
async def register(request: Request, body: Credentials) -> UserInfo:
    """Make a user."""
    user = User(username=body.username, password_hash=await request.state.auth.hash(body.password))
    try:
        await request.state.store.add(user)
    except Conflict:
        raise HTTPException(409, "This name is taken.") from None
    return UserInfo(id=user.id, username=user.username)


@login.post("/login")
async def log_in(request: Request, body: Credentials) -> Token:
    """A JWT, which expires."""
    token = await request.state.auth.login(body.username, body.password)
    return Token(access_token=token, expires_in=request.state.settings.token_seconds)


@keys.post("", status_code=201)
async def create_key(request: Request, body: KeyRequest) -> NewKey:
    """An API key for X-API-Key. It is shown only here: the store has its hash."""
    row, key = Authenticator.new_key(request.state.user.id, body.name)
    await request.state.store.add(row)
    return NewKey(**row.model_dump(), key=key)


@keys.get("")
async def list_keys(request: Request) -> list[KeyInfo]:
    return [KeyInfo(**row.model_dump()) for row in await request.state.store.keys(request.state.user.id)]


@keys.delete("/{key_id}", status_code=204)
async def revoke_key(request: Request, key_id: str) -> None:
    if not await request.state.store.delete_key(request.state.user.id, key_id):
        raise HTTPException(404, "There is no such key.")


# --- Runs ---

runs_router = APIRouter(prefix="/api/v1/runs", route_class=AuthenticatedRoute, tags=["runs"])


async def find_run(request: Request, run_id: str) -> Run:
    """A run of this user. Raises a 404 for a run that does not exist or is another user's."""
    structlog.contextvars.bind_contextvars(run_id=run_id)
    run: Run | None = await request.state.store.run(run_id)
    if run is None or run.user_id != request.state.user.id:
        raise HTTPException(404, "There is no such run.")
    return run


async def describe(request: Request, *rows: Run) -> list[RunInfo]:
    variations = await request.state.store.variations(*(row.id for row in rows))
    return [run_info(row, [each for each in variations if each.run_id == row.id]) for row in rows]


@runs_router.post("", status_code=202)
async def create_run(
    request: Request,
    response: Response,
    body: RunRequest,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> RunInfo:
    """Start a run. The same Idempotency-Key and body give the run that was started before."""
    settings: Settings = request.state.settings
    manager: RunManager = request.state.runs
    user_id, digest = request.state.user.id, hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    if request.state.shutdown.requested:
        raise STOPPING
    run = await earlier_run(request, idempotency_key, digest)
    if run is None:
        if body.variations > settings.max_variations:
            raise HTTPException(422, f"A run has at most {settings.max_variations} variations.")
        await manager.repositories.check(body.repository)
        facts = body.model_dump(include={"repository", "prompt", "ref", "seed"})
        run = Run(
            **facts,
            user_id=user_id,
            engine=settings.engine,
            idempotency_key=idempotency_key,
            body_digest=digest,
        )
        try:
            await manager.start(run, body.variations, body.strategies or settings.strategies)
        except QuotaExceeded:
            detail = f"You have too many variations that run or wait: {settings.max_variations_per_user} may."
            raise HTTPException(429, detail, {"Retry-After": "5"}) from None
        except Conflict:  # another request with this key was faster
            run = await earlier_run(request, idempotency_key, digest)
            if run is None:
                raise
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    return (await describe(request, run))[0]


async def earlier_run(request: Request, key: str | None, digest: str) -> Run | None:
    run: Run | None = await request.state.store.run_of_key(request.state.user.id, key) if key else None
    if run and run.body_digest != digest:
        raise HTTPException(409, "This Idempotency-Key was used with another body.")
    return run


@runs_router.get("")
async def list_runs(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(pattern="^[0-9a-f]{28}$")] = None,
) -> RunPage:
    """The newest runs first. `next_cursor` gives the next page, also when new runs have come meanwhile."""
    rows: Sequence[Run] = await request.state.store.runs(request.state.user.id, cursor, limit + 1)
    told = await describe(request, *rows[:limit])
    return RunPage(runs=told, next_cursor=told[-1].id if len(rows) > limit else None)


@runs_router.get("/{run_id}")
async def get_run(request: Request, run_id: str) -> RunInfo:
    """A run and its variations."""
    return (await describe(request, await find_run(request, run_id)))[0]


@runs_router.get("/{run_id}/results")
async def get_results(request: Request, run_id: str) -> ResultTable:
    """The variations in a table, the best first: tests that pass, then the smaller patch, then time."""
    run = await find_run(request, run_id)
    return ResultTable(rows=sorted(await request.state.store.variations(run.id), key=rank))


def rank(row: VariationInfo) -> tuple[Any, ...]:
    failed = row.tests_failed if row.tests_failed is not None else float("inf")
    changed = row.lines_added + row.lines_removed
    return (
        row.state != "passed",
        failed,
        -(row.tests_passed or 0),
        changed,
        row.seconds or float("inf"),
        row.n,
    )


@runs_router.post("/{run_id}/cancel", status_code=202)
async def cancel_run(request: Request, run_id: str) -> RunInfo:
    """Stop all variations of a run. When this answers, their containers are gone."""
    run = await find_run(request, run_id)
    await request.state.runs.cancel(run.id)
    return (await describe(request, await find_run(request, run_id)))[0]


@runs_router.delete("/{run_id}", status_code=204)
async def delete_run(request: Request, run_id: str) -> None:
    """Delete a run that has ended, with its events and patches."""
    run = await find_run(request, run_id)
    if run.state in UNFINISHED or run.id in request.state.runs.active:
        raise HTTPException(409, "The run is going on. Cancel it first.")
    await request.state.store.delete_run(run.id)


@runs_router.get(
    "/{run_id}/stream",
    response_class=StreamingResponse,
    responses={
        200: {"description": "A stream of events", "content": {"text/event-stream": {}}},
        204: {"description": "Last-Event-ID is the last event: do not connect again"},
    },
)
async def stream_run(
    request: Request, run_id: str, last_event_id: Annotated[str, Header(pattern="^[0-9]{1,18}$")] = "0"
) -> Response:
    """The events of all variations, from the first or after Last-Event-ID. The last is `done` or `error`."""
    run = await find_run(request, run_id)
    after, readers, user_id = int(last_event_id), request.state.readers, request.state.user.id
    if run.id not in request.state.runs.active:
        last = await request.state.store.last_event(run.id)
        if last is None or (last.id <= after and last.type in LAST_EVENTS):
            return Response(status_code=204)
    if readers[user_id] >= request.state.settings.max_readers_per_user:
        raise HTTPException(429, "You read too many streams of events at once.", {"Retry-After": "1"})

    async def counted() -> AsyncIterator[bytes]:
        readers[user_id] += 1
        try:
            with telemetry.readers.track_inprogress():
                async with aclosing(request.state.events.follow(run.id, after)) as pieces:
                    async for piece in pieces:
                        yield piece
        finally:
            readers[user_id] -= 1

    return StreamingResponse(counted(), headers=STREAM_HEADERS, media_type="text/event-stream")


@runs_router.get("/{run_id}/variations/{n}/log", response_class=StreamingResponse)
async def get_log(request: Request, run_id: str, n: Number) -> Response:
    """What a variation printed: its text as it is, and its events as JSON lines."""
    run = await find_run(request, run_id)

    async def lines() -> AsyncIterator[bytes]:
        after = 0
        while rows := await request.state.store.events(run.id, after, LOG_PAGE, n):
            after = rows[-1].id
            yield b"".join(f"{row.type} {row.data}\n".encode() for row in rows)

    headers = {"Content-Disposition": f'attachment; filename="{run.id}-{n}.log"'}
    return StreamingResponse(lines(), media_type="text/plain; charset=utf-8", headers=headers)


@runs_router.get("/{run_id}/variations/{n}/patch")
async def get_patch(request: Request, run_id: str, n: Number) -> Response:
    """What a variation changed, as a patch for `git apply`."""
    run = await find_run(request, run_id)
    patch = await request.state.store.patch(run.id, n)
    if patch is None:
        raise HTTPException(404, "This variation has no patch: it has not ended by itself, or there is none.")
    headers = {"Content-Disposition": f'attachment; filename="{run.id}-{n}.patch"'}
    return Response(patch, media_type="text/x-diff; charset=utf-8", headers=headers)
