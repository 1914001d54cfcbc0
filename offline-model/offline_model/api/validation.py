"""Validate a request: rules that concern several fields, and features that this model does not have."""

import json
from collections.abc import Iterator
from typing import Any

from offline_model.api.errors import ApiError, bad_request
from offline_model.api.message_validation import message_problems
from offline_model.api.requests import AllowedToolChoice, CompletionRequest, NamedToolChoice
from offline_model.json_schema.references import InvalidSchema
from offline_model.json_schema.strict_mode import strict_mode_error
from offline_model.json_schema.validator import validator_of


def check(request: CompletionRequest) -> None:
    """Raise an ApiError for the first problem."""
    for problem in find_problems(request):
        raise problem


def find_problems(request: CompletionRequest) -> Iterator[ApiError]:
    yield from unsupported_parameters(request)
    yield from parameter_conflicts(request)
    yield from message_problems(request.messages)


def unsupported_parameters(request: CompletionRequest) -> Iterator[ApiError]:
    """Parameters that would change the answer, and that this model cannot honour."""
    unsupported = {
        "n": request.n not in (None, 1),
        "logprobs": bool(request.logprobs),
        "top_logprobs": bool(request.top_logprobs),
        "logit_bias": bool(request.logit_bias),
        "modalities": request.modalities not in (None, ["text"]),
        "audio": request.audio is not None,
        "prediction": request.prediction is not None,
        "web_search_options": request.web_search_options is not None,
        "moderation": request.moderation is not None,
        "functions": request.functions is not None,
        "function_call": request.function_call is not None,
    }
    for name, given in unsupported.items():
        if given:
            instead = ": use 'tools' and 'tool_choice'" if name.startswith("function") else ""
            yield bad_request(
                f"Unsupported value: the offline model cannot honour '{name}'{instead}.",
                name,
                "unsupported_value",
            )


def parameter_conflicts(request: CompletionRequest) -> Iterator[ApiError]:
    if request.stream_options is not None and not request.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield bad_request(message, "stream_options")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        yield bad_request(message, "max_tokens", "invalid_parameter_combination")
    if request.stop == "" or (isinstance(request.stop, list) and "" in request.stop):
        yield bad_request("Invalid 'stop': empty string. Expected at least one character.", "stop")
    for name in ("tool_choice", "parallel_tool_calls"):
        if getattr(request, name) is not None and not request.tools:
            yield bad_request(f"'{name}' is only allowed when 'tools' are specified.", name)
    choice = request.tool_choice
    chosen = [choice] if isinstance(choice, NamedToolChoice) else []
    chosen += choice.allowed_tools.tools if isinstance(choice, AllowedToolChoice) else []
    offered = {tool.function.name for tool in request.tools or []}
    for name in [tool.function.name for tool in chosen]:
        if name not in offered:
            yield bad_request(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice")
    yield from schema_problems(request)
    yield from response_format_problems(request)


def schema_problems(request: CompletionRequest) -> Iterator[ApiError]:
    """Each schema must be a valid JSON Schema that describes an object."""
    for number, tool in enumerate(request.tools or []):
        if tool.function.parameters:
            problem = schema_problem(tool.function.parameters, tool.function.strict)
            if problem:
                message = f"Invalid schema for function '{tool.function.name}': {problem}."
                yield bad_request(
                    message, f"tools[{number}].function.parameters", "invalid_function_parameters"
                )
    wanted = request.response_format.json_schema if request.response_format else None
    if wanted is not None and wanted.schema_ is not None:
        problem = schema_problem(wanted.schema_, wanted.strict)
        if problem:
            message = f"Invalid schema for response_format '{wanted.name}': {problem}."
            yield bad_request(message, "response_format", "invalid_schema")


def schema_problem(schema: dict[str, Any], strict: bool | None) -> str:
    """The problem of a schema, or an empty string. A schema with `$ref` or `allOf` needs no `type`."""
    try:
        validator_of(schema)
    except InvalidSchema as problem:
        return str(problem)
    if schema.get("type") != "object" and not schema.keys() & {"$ref", "allOf"}:
        got = json.dumps(schema.get("type"))
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: {got}'"
    return strict_mode_error(schema) if strict else ""


def response_format_problems(request: CompletionRequest) -> Iterator[ApiError]:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return
    if wanted.type == "json_schema":
        if wanted.json_schema is None:
            name = "response_format.json_schema"
            yield bad_request(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        elif wanted.json_schema.schema_ is None:
            name = "response_format.json_schema.schema"
            yield bad_request(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        return
    if not any("json" in str(message.content).lower() for message in request.messages):
        yield bad_request(
            "'messages' must contain the word 'json' in some form, "
            "to use 'response_format' of type 'json_object'.",
            "messages",
        )
