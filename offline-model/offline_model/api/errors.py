"""Errors as OpenAI sends them, {"error": {message, type, param, code}}, and the mapping of others to them."""

import json
from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from offline_model.api.requests import CompletionRequest
from offline_model.delivery.call_log import LoggedCall
from offline_model.delivery.faults import DeliveryOptions
from offline_model.intents.errors import UnusableSchema

# Names that pydantic gives to the members of a union.
UNION_MEMBERS = {"str", "list", "int", "float", "bool", "NamedToolChoice", "AllowedToolChoice"}


class ApiError(Exception):
    """An error response. `param` names the field at fault; clients compare `code`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}, indent=2).encode()


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


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
        return bad_request(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
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


def from_schema_error(problem: Exception, request: CompletionRequest) -> ApiError:
    """The error of an intent that cannot generate a value for one of the request's schemas."""
    if not isinstance(problem, UnusableSchema):
        return bad_request(f"Invalid schema: {problem}.", None, "invalid_schema")
    if problem.tool is not None:
        message = f"Invalid schema for function '{problem.tool}': {problem}."
        return bad_request(message, "tools", "invalid_function_parameters")
    wanted = request.response_format.json_schema if request.response_format else None
    name = wanted.name if wanted else "object"
    return bad_request(
        f"Invalid schema for response_format '{name}': {problem}.", "response_format", "invalid_schema"
    )


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
