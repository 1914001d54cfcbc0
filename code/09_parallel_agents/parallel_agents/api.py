"""The app: its parts, its lifespan, and the routes for users and runs."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

import sqlalchemy as sa
import structlog
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from sqlmodel import col, select

from parallel_agents import telemetry
from parallel_agents.auth import Authenticator, CurrentUser, limit_strangers, new_key
from parallel_agents.config import Settings
from parallel_agents.engines import make_engine
from parallel_agents.event_log import EventLog
from parallel_agents.gateway import Gateway
from parallel_agents.models import (
    UNFINISHED,
    ApiKey,
    Credentials,
    Event,
    KeyInfo,
    KeyRequest,
    NewKey,
    Patch,
    ResultTable,
    Run,
    RunInfo,
    RunPage,
    RunRequest,
    Token,
    User,
    UserInfo,
    Variation,
    VariationInfo,
)
from parallel_agents.operations import STATIC, Health, operations
from parallel_agents.problems import PROBLEM_RESPONSES, STOPPING, add_problem_handlers
from parallel_agents.runs import QuotaExceeded, RunManager, ShuttingDown
from parallel_agents.server import BodyLimitMiddleware, Shutdown
from parallel_agents.store import Conflict, Store

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no proxy may buffer events
Number = Annotated[int, Path(ge=1, le=2**31)]


def create_app(settings: Settings, shutdown: Shutdown) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        store, gateway = Store(settings.database), Gateway(settings)
        events, engine = EventLog(store), make_engine(settings, gateway)
        runs = RunManager(settings, store, events, engine, gateway)
        await store.open()
        await gateway.open(await engine.gateway_host())
        events.open()
        await runs.open()
        shutdown.drain = runs.drain
        yield {
            "settings": settings,
            "store": store,
            "events": events,
            "runs": runs,
            "auth": Authenticator(settings, store),
            "shutdown": shutdown,
            "health": Health(settings, store, engine),
        }
        await shutdown.wait_until_drained()
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
    app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes)
    for router in (strangers, keys, runs_router):
        app.include_router(router)
    app.include_router(operations, prefix="/api/v1")
    app.include_router(operations, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


# --- Users and keys ---

strangers = APIRouter(prefix="/api/v1/auth", dependencies=[Depends(limit_strangers)], tags=["auth"])
keys = APIRouter(prefix="/api/v1/auth/keys", tags=["auth"])


@strangers.post("/register", status_code=201)
async def register(request: Request, body: Credentials) -> UserInfo:
    """Register a user."""
    user = User(username=body.username, password_hash=await request.state.auth.hash(body.password))
    try:
        await request.state.store.add(user)
    except Conflict:
        raise HTTPException(409, "This name is taken.") from None
    return user


@strangers.post("/login")
async def log_in(request: Request, body: Credentials) -> Token:
    """A JWT, which expires."""
    token = await request.state.auth.login(body.username, body.password)
    return Token(access_token=token, expires_in=request.state.settings.token_seconds)


@keys.post("", status_code=201)
async def create_key(request: Request, user: CurrentUser, body: KeyRequest) -> NewKey:
    """An API key for X-API-Key. It is shown only here: the store has its hash."""
    row, key = new_key(user.id, body.name)
    await request.state.store.add(row)
    return NewKey(**row.model_dump(), key=key)


@keys.get("")
async def list_keys(request: Request, user: CurrentUser) -> Sequence[KeyInfo]:
    found: Sequence[ApiKey] = await request.state.store.all(select(ApiKey).where(ApiKey.user_id == user.id))
    return found


@keys.delete("/{key_id}", status_code=204)
async def revoke_key(request: Request, user: CurrentUser, key_id: str) -> None:
    own = sa.delete(ApiKey).where(col(ApiKey.id) == key_id, col(ApiKey.user_id) == user.id)
    if not await request.state.store.write(own):
        raise HTTPException(404, "There is no such key.")


# --- Runs ---

runs_router = APIRouter(prefix="/api/v1/runs", tags=["runs"])


async def find_run(request: Request, user: CurrentUser, run_id: str) -> Run:
    """A run of this user. Raises a 404 for a run that does not exist or is another user's."""
    structlog.contextvars.bind_contextvars(run_id=run_id)
    run: Run | None = await request.state.store.get(Run, run_id)
    if run is None or run.user_id != user.id:
        raise HTTPException(404, "There is no such run.")
    return run


OwnRun = Annotated[Run, Depends(find_run)]


async def describe(request: Request, *runs: Run) -> list[RunInfo]:
    found = await request.state.store.variations(*(run.id for run in runs))
    return [
        RunInfo(
            **run.model_dump(),
            stream_url=f"/api/v1/runs/{run.id}/stream",
            variations=[each for each in found if each.run_id == run.id],
        )
        for run in runs
    ]


@runs_router.post("", status_code=202)
async def create_run(
    request: Request,
    response: Response,
    user: CurrentUser,
    body: RunRequest,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> RunInfo:
    """Start a run. The same Idempotency-Key and body give the run that was started before."""
    settings: Settings = request.state.settings
    manager: RunManager = request.state.runs
    digest = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    if request.state.shutdown.requested:
        raise STOPPING
    run = await earlier_run(request, user, idempotency_key, digest)
    if run is None:
        if body.variations > settings.max_variations:
            raise HTTPException(422, f"A run has at most {settings.max_variations} variations.")
        await manager.repositories.check(body.repository)
        facts = body.model_dump(include={"repository", "prompt", "ref", "seed"})
        facts |= {"idempotency_key": idempotency_key, "body_digest": digest}
        run = Run(**facts, user_id=user.id, engine=settings.engine)
        try:
            await manager.start(run, body.variations, body.strategies or settings.strategies)
        except ShuttingDown:
            raise STOPPING from None
        except (QuotaExceeded, Conflict):  # another request with this key may have been faster
            run = await earlier_run(request, user, idempotency_key, digest)
            if run is None:
                most = settings.max_variations_per_user
                detail = f"You have too many variations that run or wait: {most} may."
                raise HTTPException(429, detail, {"Retry-After": "5"}) from None
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    return (await describe(request, run))[0]


async def earlier_run(request: Request, user: User, key: str | None, digest: str) -> Run | None:
    same = select(Run).where(Run.user_id == user.id, Run.idempotency_key == key)
    run: Run | None = await request.state.store.first(same) if key else None
    if run and run.body_digest != digest:
        raise HTTPException(409, "This Idempotency-Key was used with another body.")
    return run


@runs_router.get("")
async def list_runs(
    request: Request,
    user: CurrentUser,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(pattern="^[0-9a-f]{28}$")] = None,
) -> RunPage:
    """The newest runs first. `next_cursor` gives the next page, also when new runs have come meanwhile."""
    page = select(Run).where(Run.user_id == user.id).order_by(col(Run.id).desc()).limit(limit + 1)
    rows: Sequence[Run] = await request.state.store.all(page.where(Run.id < cursor) if cursor else page)
    runs = await describe(request, *rows[:limit])
    return RunPage(runs=runs, next_cursor=runs[-1].id if len(rows) > limit else None)


@runs_router.get("/{run_id}")
async def get_run(request: Request, run: OwnRun) -> RunInfo:
    """A run and its variations."""
    return (await describe(request, run))[0]


@runs_router.get("/{run_id}/results")
async def get_results(request: Request, run: OwnRun) -> ResultTable:
    """The variations in a table, the best first: tests that pass, then the smaller patch, then time."""
    return ResultTable(rows=sorted(await request.state.store.variations(run.id), key=rank))


def rank(row: VariationInfo) -> tuple[Any, ...]:
    never = float("inf")
    failed = never if row.tests_failed is None else row.tests_failed
    changed = row.lines_added + row.lines_removed
    return row.state != "passed", failed, -(row.tests_passed or 0), changed, row.seconds or never, row.n


@runs_router.post("/{run_id}/cancel", status_code=202)
async def cancel_run(request: Request, user: CurrentUser, run: OwnRun) -> RunInfo:
    """Stop all variations of a run. When this answers, their containers are gone."""
    await request.state.runs.cancel(run.id)
    return (await describe(request, await find_run(request, user, run.id)))[0]


@runs_router.delete("/{run_id}", status_code=204)
async def delete_run(request: Request, run: OwnRun) -> None:
    """Delete a run that has ended, with its events and patches."""
    if run.state in UNFINISHED or run.id in request.state.runs.active:
        raise HTTPException(409, "The run is going on. Cancel it first.")
    await request.state.store.write(sa.delete(Run).where(col(Run.id) == run.id))


@runs_router.get(
    "/{run_id}/stream",
    response_class=StreamingResponse,
    responses={
        200: {"description": "A stream of events", "content": {"text/event-stream": {}}},
        204: {"description": "Last-Event-ID is the last event: do not connect again"},
    },
)
async def stream_run(
    request: Request, run: OwnRun, last_event_id: Annotated[str, Header(pattern="^[0-9]{1,18}$")] = "0"
) -> Response:
    """The events of all variations, from the first or after Last-Event-ID. The last is `done`."""
    after = int(last_event_id)
    if run.id not in request.state.runs.active:
        last = await request.state.store.last_event(run.id)
        if last is None or last.id <= after:
            return Response(status_code=204)

    async def events() -> AsyncIterator[bytes]:
        with telemetry.readers.track_inprogress():
            async with aclosing(request.state.events.follow(run.id, after)) as pieces:
                async for piece in pieces:
                    yield piece

    return StreamingResponse(events(), headers=STREAM_HEADERS, media_type="text/event-stream")


@runs_router.get("/{run_id}/variations/{n}/log", response_class=PlainTextResponse)
async def get_log(request: Request, run: OwnRun, n: Number) -> Response:
    """What a variation printed, and its other events: one in each line, with its type and its JSON."""
    if await request.state.store.get(Variation, {"run_id": run.id, "n": n}) is None:
        raise HTTPException(404, "There is no such variation.")

    async def lines() -> AsyncIterator[str]:
        after = 0
        while rows := await request.state.store.events(run.id, after, Event.variation == n):
            after = rows[-1].id
            yield "".join(f"{row.type} {row.data}\n" for row in rows)

    headers = {"Content-Disposition": f'attachment; filename="{run.id}-{n}.log"'}
    return StreamingResponse(lines(), media_type="text/plain; charset=utf-8", headers=headers)


@runs_router.get(
    "/{run_id}/variations/{n}/patch",
    response_class=Response,
    responses={200: {"content": {"text/x-diff": {}}}},
)
async def get_patch(request: Request, run: OwnRun, n: Number) -> Response:
    """What a variation changed, as a patch for `git apply`."""
    found: Patch | None = await request.state.store.get(Patch, (run.id, n))
    if found is None:
        raise HTTPException(404, "This variation has no patch: it has not ended by itself, or there is none.")
    headers = {"Content-Disposition": f'attachment; filename="{run.id}-{n}.patch"'}
    return Response(found.patch, media_type="text/x-diff; charset=utf-8", headers=headers)
