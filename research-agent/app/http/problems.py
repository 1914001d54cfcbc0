"""Turn every error into a problem (RFC 9457). The text of an exception stays in the log."""

import json
from http import HTTPMethod, HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match, Mount

from app.http.reader_limit import TooManyReaders
from app.models import Problem
from app.runs.stores.base import StoreDown, StoreError, TooManyRuns

log = structlog.stdlib.get_logger("research-agent")
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


def problem_response(
    request: Request, error: StarletteHTTPException, errors: list[dict[str, str]] | None = None
) -> Response:
    problem = Problem(
        title=HTTPStatus(error.status_code).phrase,
        status=error.status_code,
        detail=error.detail,
        request_id=request.state.request_id,
        errors=errors,
    )
    body, media_type = json.dumps(problem.model_dump(exclude_none=True)), "application/problem+json"
    return Response(body, error.status_code, error.headers, media_type=media_type)


def allowed_methods(request: Request) -> list[str]:
    """Return the methods for which the path of this request has a route."""
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    scopes = [dict(request.scope) | {"method": method} for method in HTTPMethod]
    allowed = [scope["method"] for scope in scopes if any(r.matches(scope)[0] is Match.FULL for r in routes)]
    return allowed or ["GET", "HEAD"]  # of static files


def add_problem_handlers(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: StarletteHTTPException) -> Response:
        if error.status_code == 405:  # Starlette names the methods of one route, not of all with this path
            error = HTTPException(405, error.detail, {"Allow": ", ".join(allowed_methods(request))})
        return problem_response(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> Response:
        errors = [{"field": ".".join(map(str, e["loc"][1:])), "message": e["msg"]} for e in error.errors()]
        return problem_response(request, HTTPException(422, "The request is not valid."), errors)

    @app.exception_handler(TooManyRuns)
    async def too_many_runs(request: Request, error: TooManyRuns) -> Response:
        detail = "You have too many unfinished runs."
        return problem_response(request, HTTPException(429, detail, {"Retry-After": "1"}))

    @app.exception_handler(TooManyReaders)
    async def too_many_readers(request: Request, error: TooManyReaders) -> Response:
        detail = "You read too many streams of events at once."
        return problem_response(request, HTTPException(429, detail, {"Retry-After": "1"}))

    @app.exception_handler(StoreError)
    async def store_failed(request: Request, error: StoreError) -> Response:
        log.error("the store failed", error=f"{type(error).__name__}: {error}")
        reason = "is down" if isinstance(error, StoreDown) else "is full, or rejected this request"
        return problem_response(request, HTTPException(503, f"The run store {reason}.", {"Retry-After": "1"}))

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        # Starlette sends this response from outside of RequestContextMiddleware, so the id is added here.
        headers = {"X-Request-ID": request.state.request_id}
        return problem_response(
            request, HTTPException(500, "Something went wrong; the log has the details.", headers)
        )
