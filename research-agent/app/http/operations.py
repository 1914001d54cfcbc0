"""Routes for operators and browsers: health, readiness, metrics, API documentation, and the web page."""

import asyncio
import time
from pathlib import Path
from typing import Any

import openai
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles

from app import telemetry
from app.agent import Agent
from app.config import Settings
from app.research.fetch import FetchFailed
from app.research.search import Search
from app.runs.stores.base import Store, StoreError

STATIC = Path(__file__).parents[1] / "static"
PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


class RevalidatedFiles(StaticFiles):
    """Static files that a browser revalidates each time, so that it never shows an old version."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


class Health:
    """Checks the model and the store, and keeps the last known result."""

    def __init__(self, settings: Settings, agent: Agent, store: Store) -> None:
        self.settings, self.agent, self.store = settings, agent, store
        self.started_at = time.monotonic()
        self.checked_at = float("-inf")
        self.last_known = {"model": "unknown", "store": "unknown"}

    async def check(self) -> dict[str, str]:
        """Check the dependencies at most once a second. Each is "ok" or "unreachable"."""
        now = time.monotonic()
        if now - self.checked_at > 1:
            self.checked_at = now
            model, store = await asyncio.gather(self.check_model(), self.check_store())
            self.last_known = {"model": model, "store": store}
        return self.last_known

    async def check_model(self) -> str:
        try:
            async with asyncio.timeout(2):
                await self.agent.model.root_async_client.with_options(max_retries=0).models.list()
        # The last three: something answers at this URL, but it is not this API.
        except (TimeoutError, openai.OpenAIError, ValueError, TypeError, AttributeError):
            return "unreachable"
        return "ok"

    async def check_store(self) -> str:
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
    """Liveness: this process turns its event loop. Awaits nothing, and shows the last known results."""
    state: Health = request.state.health
    return {
        "status": "stopping" if request.state.shutdown.requested else "healthy",
        "version": state.settings.app_version,
        "model": state.settings.model_name,
        "uptime_seconds": round(time.monotonic() - state.started_at, 2),
        "dependencies": state.last_known,
    }


@operations.head("/ready", include_in_schema=False)
@operations.get("/ready")
async def ready(request: Request) -> dict[str, Any]:
    """Readiness: the model and the store answer, and no stop was requested. 503 otherwise."""
    if request.state.shutdown.requested:
        raise HTTPException(503, "This server is about to stop.", {"Retry-After": "1"})
    dependencies = await request.state.health.check()
    for name, state in dependencies.items():
        if state != "ok":
            raise HTTPException(503, f"The {name} is {state}.", {"Retry-After": "1"})
    return {"ready": True, "agent": "ready", "dependencies": dependencies}


@operations.head("/metrics", include_in_schema=False)
@operations.get("/metrics", response_class=PlainTextResponse)
async def metrics() -> Response:
    """Metrics in the text format of Prometheus."""
    return Response(telemetry.metrics(), media_type="text/plain; version=1.0.0; charset=utf-8")


@operations.head("/", include_in_schema=False)
@operations.get("/", include_in_schema=False)
async def page() -> FileResponse:
    headers = {"Content-Security-Policy": PAGE_CSP, "Cache-Control": "no-cache"}
    return FileResponse(STATIC / "index.html", headers=headers)


@operations.get("/source", include_in_schema=False)
async def source(request: Request, url: str) -> PlainTextResponse:
    """Return a page that only the search server stores, such as one of the course; it is not on the web."""
    search: Search = request.state.search
    try:
        text = await search.stored_page(url)
    except FetchFailed:
        raise HTTPException(502, "The search server did not answer.") from None
    if text is None:
        raise HTTPException(404, "The search server has no such page.")
    return PlainTextResponse(text)


@operations.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """Swagger UI from files of this server, so that a browser asks no other site."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title=request.state.settings.app_name,
        swagger_js_url="swagger/swagger-ui-bundle.js",
        swagger_css_url="swagger/swagger-ui.css",
        swagger_favicon_url="swagger/favicon-32x32.png",
    )
