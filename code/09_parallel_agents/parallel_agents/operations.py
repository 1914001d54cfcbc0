"""Routes for operators and browsers: health, readiness, metrics, and the web page."""

import asyncio
import time
from pathlib import Path
from typing import Any

import prometheus_client as prometheus
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse
from sqlalchemy.exc import SQLAlchemyError

from parallel_agents.config import Settings
from parallel_agents.engines.base import Engine, EngineDown
from parallel_agents.problems import STOPPING
from parallel_agents.store import Store

STATIC = Path(__file__).parent / "static"
PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
operations = APIRouter(tags=["operations"])


class Health:
    """Checks the store and the engine, and keeps the last known result."""

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        self.settings, self.store, self.engine = settings, store, engine
        self.started_at, self.checked_at = time.monotonic(), float("-inf")
        self.last_known = {"store": "unknown", "engine": "unknown"}

    async def check(self) -> dict[str, str]:
        """Check the dependencies at most once a second. Each is "ok" or "unreachable"."""
        if time.monotonic() - self.checked_at > 1:
            self.checked_at = time.monotonic()
            names = ("store", "engine")
            found = await asyncio.gather(*(self.check_one(name) for name in names))
            self.last_known = dict(zip(names, found, strict=True))
        return self.last_known

    async def check_one(self, name: str) -> str:
        try:
            async with asyncio.timeout(3):
                await (self.store.ping() if name == "store" else self.engine.check())
        except (TimeoutError, SQLAlchemyError, EngineDown):
            return "unreachable"
        return "ok"


@operations.head("/health", include_in_schema=False)
@operations.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Liveness: this process turns its event loop. Awaits nothing, and shows the last known results."""
    state: Health = request.state.health
    return {
        "status": "stopping" if request.state.shutdown.requested else "healthy",
        "version": state.settings.app_version,
        "engine": state.settings.engine,
        "uptime_seconds": round(time.monotonic() - state.started_at, 2),
        "dependencies": state.last_known,
    }


@operations.head("/ready", include_in_schema=False)
@operations.get("/ready")
async def ready(request: Request) -> dict[str, Any]:
    """Readiness: the store and the engine answer, and no stop was requested. 503 otherwise."""
    if request.state.shutdown.requested:
        raise STOPPING
    dependencies = await request.state.health.check()
    for name, state in dependencies.items():
        if state != "ok":
            raise HTTPException(503, f"The {name} is {state}.", {"Retry-After": "1"})
    return {"ready": True, "dependencies": dependencies}


@operations.get("/metrics")
async def metrics() -> Response:
    """Metrics in Prometheus's text format."""
    return Response(prometheus.generate_latest(), media_type=prometheus.CONTENT_TYPE_LATEST)


@operations.get("/", include_in_schema=False)
async def page() -> Response:
    if not (STATIC / "index.html").exists():
        raise HTTPException(404, "There is no page.")
    headers = {"Content-Security-Policy": PAGE_CSP, "Cache-Control": "no-cache"}
    return FileResponse(STATIC / "index.html", headers=headers)
