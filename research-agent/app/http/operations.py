"""Beside the research: health, readiness, metrics, the API's own page, and the web page."""

import asyncio
import time
from pathlib import Path
from typing import Any

import openai
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse

from app import telemetry
from app.agent import Agent
from app.config import Settings
from app.research.fetch import FetchFailed
from app.research.search import Search
from app.runs.stores.base import Store, StoreError

STATIC = Path(__file__).parents[1] / "static"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


class Health:
    """What is known of the things that this app depends on."""

    def __init__(self, settings: Settings, agent: Agent, store: Store) -> None:
        self.settings, self.agent, self.store = settings, agent, store
        self.started_at = time.monotonic()
        self.checked_at = float("-inf")
        self.known = {"model": "unknown", "store": "unknown"}

    async def check(self) -> dict[str, str]:
        """Ask each for a sign of life, at most once a second: "ok" or "unreachable"."""
        now = time.monotonic()
        if now - self.checked_at > 1:
            self.checked_at = now
            model, store = await asyncio.gather(self.model(), self.ping())
            self.known = {"model": model, "store": store}
        return self.known

    async def model(self) -> str:
        try:
            async with asyncio.timeout(2):
                await self.agent.model.root_async_client.with_options(max_retries=0).models.list()
        except (TimeoutError, openai.OpenAIError, ValueError, TypeError, AttributeError):  # or is no such API
            return "unreachable"
        return "ok"

    async def ping(self) -> str:
        try:
            async with asyncio.timeout(2):
                await self.store.ping()
        except (TimeoutError, StoreError):
            return "unreachable"
        return "ok"


operations = APIRouter(include_in_schema=True, tags=["operations"])


@operations.head("/health", include_in_schema=False)
@operations.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Liveness: this process turns its event loop. Awaits nothing; shows what was last known."""
    known: Health = request.state.health
    return {
        "status": "stopping" if request.state.stop.asked else "healthy",
        "version": known.settings.app_version,
        "model": known.settings.model_name,
        "uptime_seconds": round(time.monotonic() - known.started_at, 2),
        "dependencies": known.known,
    }


@operations.head("/ready", include_in_schema=False)
@operations.get("/ready")
async def ready(request: Request) -> dict[str, Any]:
    """Readiness: all that this app depends on answers, and nobody has asked us to stop; else 503."""
    if request.state.stop.asked:
        raise HTTPException(503, "This server is about to stop.", {"Retry-After": "1"})
    for name, state in (known := await request.state.health.check()).items():
        if state != "ok":
            raise HTTPException(503, f"The {name} is {state}.", {"Retry-After": "1"})
    return {"ready": True, "agent": "ready", "dependencies": known}


@operations.head("/metrics", include_in_schema=False)
@operations.get("/metrics", response_class=PlainTextResponse)
async def metrics() -> Response:
    """Prometheus's text format."""
    return Response(telemetry.metrics(), media_type="text/plain; version=1.0.0; charset=utf-8")


@operations.head("/", include_in_schema=False)
@operations.get("/", include_in_schema=False)
async def page() -> FileResponse:
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
    return FileResponse(STATIC / "index.html", headers=headers)


@operations.get("/source", include_in_schema=False)
async def source(request: Request, url: str) -> PlainTextResponse:
    """A page that the search server itself has, such as one of the course: it is nowhere in the web."""
    search: Search = request.state.search
    try:
        text = await search.own_page(url)
    except FetchFailed:
        raise HTTPException(502, "The search server did not answer.") from None
    if text is None:
        raise HTTPException(404, "The search server has no such page.")
    return PlainTextResponse(text)


@operations.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The API's own page, of parts that this server has: no other site is asked for anything."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title=request.state.settings.app_name,
        swagger_js_url="swagger/swagger-ui-bundle.js",
        swagger_css_url="swagger/swagger-ui.css",
        swagger_favicon_url="swagger/favicon-32x32.png",
    )
