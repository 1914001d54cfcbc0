"""Errors as OpenAI sends them, {"error": {message, type, param, code}}, and the mapping of others to them."""

import asyncio
import json
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from offline_model.api.requests import CompletionRequest, NamedToolChoice
from offline_model.delivery.call_log import LoggedCall
from offline_model.delivery.faults import DeliveryOptions
from offline_model.delivery.streaming import Receive, Send
from offline_model.json_schema.schemas import InvalidSchema

DISCARD_SECONDS = 1.0  # for reading what a client still sends after an error
# Names that pydantic gives to the members of a union.
UNION_MEMBERS = {"str", "list", "int", "float", "bool", "NamedToolChoice", "AllowedToolChoice"}

Scope = MutableMapping[str, Any]


@dataclass(eq=False)
class ApiError(Exception):
    """An error response. `param` names the field at fault; clients compare `code`."""

    status: int
    message: str
    kind: str = field(default="invalid_request_error", kw_only=True)
    param: str | None = field(default=None, kw_only=True)
    code: str | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}, indent=2).encode()


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def missing_parameter(param: str) -> ApiError:
    return bad_request(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def from_validation(problem: ValidationError) -> ApiError:
    """The first error, because OpenAI's format names one field."""
    detail = problem.errors(include_url=False, include_context=False)[0]
    if detail["type"] == "json_invalid":
        return bad_request(
            "We could not parse the JSON body of your request. The API expects a JSON payload, "
            f"but what was sent is not valid JSON ({detail['msg']})."
        )
    param = field_path(detail)
    if detail["type"] == "missing":
        return missing_parameter(param)
    if detail["type"] == "extra_forbidden":
        return bad_request(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if detail["type"] == "unsupported":
        return bad_request(f"Unsupported value: '{param}': {detail['msg']}.", param, "unsupported_value")
    if not param:
        return bad_request(f"Invalid request body: {detail['msg']}.", None, "invalid_type")
    code = "invalid_type" if detail["type"].endswith("_type") else "invalid_value"
    return bad_request(f"Invalid value for '{param}': {detail['msg']}.", param, code)


def field_path(detail: ErrorDetails) -> str:
    """The path of a field, such as `messages[0].content`, without the names of union members."""
    path = ""
    for step in detail["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif detail["type"] == "extra_forbidden" or (step.isidentifier() and step not in UNION_MEMBERS):
            path += f".{step}" if path else step
    return path


def from_schema_error(problem: InvalidSchema, request: CompletionRequest) -> ApiError:
    """The error of an intent that cannot generate a value for one of the request's schemas."""
    if isinstance(request.tool_choice, NamedToolChoice):
        message = f"Invalid schema for function '{request.tool_choice.function.name}': {problem}."
        return bad_request(message, "tools", "invalid_function_parameters")
    wanted = request.response_format
    if wanted is not None and wanted.type != "text":
        name = wanted.json_schema.name if wanted.json_schema else "object"
        message = f"Invalid schema for response_format '{name}': {problem}."
        return bad_request(message, "response_format", "invalid_schema")
    return bad_request(f"Invalid schema: {problem}.", None, "invalid_schema")


def raise_fault(options: DeliveryOptions, call: LoggedCall) -> None:
    """Raise the error that the options ask for."""
    if options.fault == "401":
        key = dict(call.headers)[b"authorization"].decode("latin-1").split()[-1]
        message = f"Incorrect API key provided: {key}."  # some servers really quote it
        raise ApiError(401, message, code="invalid_api_key")
    if options.fault == "429":
        raise ApiError(
            429,
            f"Rate limit reached for {call.model}. Please try again in {options.retry_after}s.",
            kind="requests",
            code="rate_limit_exceeded",
            headers={"retry-after": str(options.retry_after)},
        )
    if options.fault == "500":
        message = "The server had an error while processing your request. Sorry about that!"
        raise ApiError(500, message, kind="server_error")


class ErrorResponse(Response):
    """An error; before it closes the connection, it reads what the client is still sending."""

    media_type = "application/json"

    def __init__(self, problem: ApiError) -> None:
        super().__init__(problem.body(), problem.status, problem.headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        closing = "connection" in self.headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": closing})
        if closing:
            await discard(receive)
            await send({"type": "http.response.body", "body": b""})


async def handle_api_error(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, ApiError)
    return ErrorResponse(problem)


async def handle_http_exception(request: Request, problem: Exception) -> Response:
    """Starlette's own 404 and 405 in OpenAI's format."""
    assert isinstance(problem, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    message = f"Not allowed: {where}"
    if problem.status_code == 404:
        message = f"Invalid URL ({where}). This server has /v1/chat/completions and /v1/models."
    return ErrorResponse(ApiError(problem.status_code, message, headers=problem.headers))


async def discard(receive: Receive) -> None:
    """Read and drop the rest of a body for a moment.

    Closing a connection with unread data resets it, and many clients then lose the response as well.
    """
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        return
