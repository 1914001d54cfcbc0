"""Errors as OpenAI sends them: a status and {"error": {message, type, param, code}}."""

import json
from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails


class ApiError(Exception):
    """An answer that is an error. `param` names the field at fault, `code` is what programs look at."""

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
    """OpenAI names one field, so the first error speaks for all."""
    detail = problem.errors(include_url=False, include_context=False)[0]
    if detail["type"] == "json_invalid":
        return bad_request(
            "We could not parse the JSON body of your request. The API expects a JSON payload, "
            f"but what was sent is not valid JSON ({detail['msg']})."
        )
    param = field(detail)
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


def field(detail: ErrorDetails) -> str:
    """`messages[0].content`, from pydantic's tuple, without the names it gives the arms of a union."""
    path = ""
    for step in detail["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif detail["type"] == "extra_forbidden" or (step.isidentifier() and step not in ARMS):
            path += f".{step}" if path else step
    return path


ARMS = {"str", "list", "int", "float", "bool", "ToolChoice", "AllowedToolChoice"}
