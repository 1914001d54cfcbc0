"""Problems: every error as application/problem+json (RFC 9457). The text of an exception stays in the log."""

import json
import logging
from http import HTTPStatus
from typing import Any

import openai
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from modules.chat import ModelBrokeOff
from modules.session import EngineDown
from modules.tools.calls import Overloaded
from modules.tools.core import ToolFailed

log = logging.getLogger("uvicorn.error")


class Stopping(Exception):
    """The server was told to stop."""


def translate(error: Exception) -> tuple[int, str, dict[str, Any]]:
    """The status and the detail of the problem for an exception, and what the problem has besides."""
    match error:
        case HTTPException():
            return error.status_code, error.detail, {}
        case ToolFailed():
            status = 504 if error.exit_code == 124 else 502
            return status, error.reason, {"exit_code": error.exit_code, "stderr": error.stderr}
        case RequestValidationError() | ValidationError():
            skip = isinstance(error, RequestValidationError)  # "body" or "query"
            faults = [(".".join(map(str, each["loc"][skip:])), each["msg"]) for each in error.errors()]
            errors = [{"field": field, "message": message} for field, message in faults]
            return 422, "The request is not valid.", {"errors": errors}
        case Stopping():
            return 503, "The server is stopping.", {}
        case EngineDown():
            return 503, "Dagger's engine cannot be reached.", {}
        case Overloaded():
            return 503, "Too many tool calls are waiting.", {}
        case TimeoutError() | openai.APITimeoutError():
            return 504, "The model and its tools did not finish in time.", {}
        case openai.OpenAIError() | ModelBrokeOff():
            log.error("the model failed: %r", error)
            return 502, "The model failed, or could not be reached.", {}
    return 500, "Something went wrong; the log has the details.", {}


def problem(request: Request, error: Exception) -> dict[str, Any]:
    status, detail, more = translate(error)
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return body | {"request_id": request.state.request_id} | more


async def problem_response(request: Request, error: Exception) -> Response:
    body = problem(request, error)
    headers = {"Retry-After": "1"} if body["status"] == 503 else getattr(error, "headers", None)
    if headers == {"Allow": "GET"}:
        headers = {"Allow": "GET, HEAD"}
    return Response(json.dumps(body), body["status"], headers, media_type="application/problem+json")


TOOLS = (ValidationError, ToolFailed, EngineDown, Overloaded)
MODEL = (TimeoutError, openai.OpenAIError, ModelBrokeOff)
HANDLERS: dict[Any, Any] = dict.fromkeys(
    (HTTPException, RequestValidationError, *TOOLS, *MODEL, Stopping, Exception), problem_response
)
