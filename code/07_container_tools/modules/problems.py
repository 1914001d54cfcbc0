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
RETRY = {"Retry-After": "1"}
UNEXPECTED = HTTPException(500, "Something went wrong; the log has the details.")


def translate(error: Exception) -> tuple[HTTPException, dict[str, Any]]:
    """The HTTP error for an exception, and what its problem has besides."""
    match error:
        case HTTPException():
            return error, {}
        case ToolFailed():
            status = 504 if error.exit_code == 124 else 502
            return HTTPException(status, error.reason), {"exit_code": error.exit_code, "stderr": error.stderr}
        case RequestValidationError() | ValidationError():
            skip = isinstance(error, RequestValidationError)  # "body" or "query"
            fields = [
                {"field": ".".join(map(str, e["loc"][skip:])), "message": e["msg"]} for e in error.errors()
            ]
            return HTTPException(422, "The request is not valid."), {"errors": fields}
        case EngineDown():
            return HTTPException(503, "Dagger's engine cannot be reached.", RETRY), {}
        case Overloaded():
            return HTTPException(503, "Too many tool calls are waiting.", RETRY), {}
        case TimeoutError() | openai.APITimeoutError():
            return HTTPException(504, "The model and its tools did not finish in time."), {}
        case openai.OpenAIError() | ModelBrokeOff():
            log.error("the model failed: %r", error)
            return HTTPException(502, "The model failed, or could not be reached."), {}
    return UNEXPECTED, {}


def problem(request: Request, error: Exception) -> dict[str, Any]:
    http, more = translate(error)
    body = {"type": "about:blank", "title": HTTPStatus(http.status_code).phrase, "status": http.status_code}
    return body | {"detail": http.detail, "request_id": request.state.request_id} | more


async def problem_response(request: Request, error: Exception) -> Response:
    body, headers = problem(request, error), translate(error)[0].headers
    if headers == {"Allow": "GET"}:
        headers = {"Allow": "GET, HEAD"}
    return Response(json.dumps(body), body["status"], headers, media_type="application/problem+json")


KNOWN = (HTTPException, RequestValidationError, ValidationError, ToolFailed, EngineDown, Overloaded)
HANDLERS: dict[Any, Any] = dict.fromkeys(
    (*KNOWN, TimeoutError, openai.OpenAIError, ModelBrokeOff, Exception), problem_response
)
