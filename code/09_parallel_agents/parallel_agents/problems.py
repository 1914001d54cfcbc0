"""Problems: every error as application/problem+json (RFC 9457). The text of an exception stays in the log."""

import json
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from parallel_agents.engines.base import EngineDown
from parallel_agents.models import Problem
from parallel_agents.repositories import BadRepository

PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem",
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
}
STOPPING = HTTPException(503, "The server is stopping.", {"Retry-After": "5"})


def problem(request: Request, error: StarletteHTTPException, errors: Any = None) -> dict[str, Any]:
    title, request_id = HTTPStatus(error.status_code).phrase, request.state.request_id
    told = Problem(
        title=title, status=error.status_code, detail=error.detail, request_id=request_id, errors=errors
    )
    return told.model_dump(exclude_none=True)


def problem_response(request: Request, error: StarletteHTTPException, errors: Any = None) -> Response:
    body = json.dumps(problem(request, error, errors))
    return Response(body, error.status_code, error.headers, media_type="application/problem+json")


def add_problem_handlers(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: StarletteHTTPException) -> Response:
        return problem_response(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> Response:
        errors = [{"field": ".".join(map(str, e["loc"][1:])), "message": e["msg"]} for e in error.errors()]
        return problem_response(request, HTTPException(422, "The request is not valid."), errors)

    @app.exception_handler(BadRepository)
    async def bad_repository(request: Request, error: BadRepository) -> Response:
        errors = [{"field": "repository", "message": error.reason}]
        return problem_response(request, HTTPException(422, "The repository cannot be used."), errors)

    @app.exception_handler(EngineDown)
    async def engine_down(request: Request, error: EngineDown) -> Response:
        return problem_response(
            request, HTTPException(503, "The engine cannot be reached.", {"Retry-After": "5"})
        )

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        # Starlette sends this response from outside of RequestContextMiddleware, so the id is added here.
        headers = {"X-Request-ID": request.state.request_id}
        return problem_response(
            request, HTTPException(500, "Something went wrong; the log has the details.", headers)
        )
