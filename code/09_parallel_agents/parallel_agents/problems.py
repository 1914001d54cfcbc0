"""Problems: every error as application/problem+json (RFC 9457). The text of an exception stays in the log."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from parallel_agents.models import Problem
from parallel_agents.repositories import BadRepository

PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem",
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
}
STOPPING = HTTPException(503, "The server is stopping.", {"Retry-After": "5"})


def problem_response(request: Request, error: StarletteHTTPException, errors: Any = None) -> JSONResponse:
    status = error.status_code
    facts: dict[str, Any] = {"title": HTTPStatus(status).phrase, "status": status, "detail": error.detail}
    told = Problem(**facts, request_id=request.state.request_id, errors=errors)
    body = told.model_dump(exclude_none=True)
    return JSONResponse(body, status, error.headers, "application/problem+json")


def add_problem_handlers(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return problem_response(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [{"field": ".".join(map(str, e["loc"][1:])), "message": e["msg"]} for e in error.errors()]
        return problem_response(request, HTTPException(422, "The request is not valid."), errors)

    @app.exception_handler(BadRepository)
    async def bad_repository(request: Request, error: BadRepository) -> JSONResponse:
        errors = [{"field": "repository", "message": error.reason}]
        return problem_response(request, HTTPException(422, "The repository cannot be used."), errors)

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> JSONResponse:
        return problem_response(request, HTTPException(500, "Something went wrong; the log has the details."))
