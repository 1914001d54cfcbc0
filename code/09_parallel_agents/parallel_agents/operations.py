"""Routes for operators and browsers: health, readiness, metrics, and the web page."""

import asyncio
import time
from pathlib import Path
from typing import Any

import prometheus_client as prometheus
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
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
        self.settings, self.checks = settings, {"store": store.check, "engine": engine.check}
        self.started_at, self.checked_at = time.monotonic(), float("-inf")
        self.last_known = dict.fromkeys(self.checks, "unknown")

    async def check(self) -> dict[str, str]:
        """Check the dependencies at most once a second. Each is "ok" or "unreachable"."""
        if time.monotonic() - self.checked_at > 1:
            self.checked_at = time.monotonic()
            for name, check in self.checks.items():
                try:
                    async with asyncio.timeout(3):
                        await check()
                    self.last_known[name] = "ok"
                except (TimeoutError, SQLAlchemyError, EngineDown):
                    self.last_known[name] = "unreachable"
        return self.last_known


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


@operations.get("/metrics", response_class=PlainTextResponse)
async def metrics() -> Response:
    """Metrics in Prometheus's text format."""
    return Response(prometheus.generate_latest(), media_type=prometheus.CONTENT_TYPE_LATEST)


@operations.get("/", include_in_schema=False)
async def page() -> FileResponse:
    headers = {"Content-Security-Policy": PAGE_CSP, "Cache-Control": "no-cache"}
    return FileResponse(STATIC / "index.html", headers=headers)
