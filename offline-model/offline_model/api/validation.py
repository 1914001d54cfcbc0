"""Validate a request: rules that concern several fields or messages, and features that this model lacks."""

import json
from collections.abc import Iterator
from typing import Any

from offline_model.api.errors import ApiError, bad_request, missing_parameter
from offline_model.api.requests import (
    AllowedToolChoice,
    ChatMessage,
    CompletionRequest,
    ContentPart,
    NamedToolChoice,
)
from offline_model.json_schema.schemas import InvalidSchema
from offline_model.json_schema.validator import strict_mode_error, validator_of

# Each with the one value, beside null, that does not change the answer.
UNSUPPORTED_PARAMETERS: dict[str, Any] = {
    "n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "modalities": ["text"], "audio": None,
    "prediction": None, "web_search_options": None, "moderation": None, "functions": None,
    "function_call": None,
}  # fmt: skip
UNSUPPORTED_PARTS = {"image_url": "images", "input_audio": "audio", "file": "files such as PDFs"}


def check(request: CompletionRequest) -> None:
    """Raise an ApiError for the first problem."""
    for rule in (unsupported_parameters, parameter_conflicts, message_problems):
        for problem in rule(request):
            raise problem


def unsupported_parameters(request: CompletionRequest) -> Iterator[ApiError]:
    """Parameters that would change the answer, and that this model cannot honour."""
    for name, harmless in UNSUPPORTED_PARAMETERS.items():
        if getattr(request, name) not in (None, harmless):
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
        function, param = tool.function, f"tools[{number}].function.parameters"
        if function.parameters and (problem := schema_problem(function.parameters, function.strict)):
            message = f"Invalid schema for function '{function.name}': {problem}."
            yield bad_request(message, param, "invalid_function_parameters")
    wanted = request.response_format.json_schema if request.response_format else None
    if wanted and wanted.schema_ is not None and (problem := schema_problem(wanted.schema_, wanted.strict)):
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
    if wanted is None:
        return
    if wanted.type == "json_schema" and wanted.json_schema is None:
        yield missing_parameter("response_format.json_schema")
    elif wanted.type == "json_schema" and wanted.json_schema and wanted.json_schema.schema_ is None:
        yield missing_parameter("response_format.json_schema.schema")
    elif wanted.type == "json_object" and not any(
        "json" in message.text.lower() for message in request.messages
    ):
        yield bad_request(
            "'messages' must contain the word 'json' in some form, "
            "to use 'response_format' of type 'json_object'.",
            "messages",
        )


def message_problems(request: CompletionRequest) -> Iterator[ApiError]:
    for number, message in enumerate(request.messages):
        yield from problems_of(message, f"messages[{number}]")
    yield from tool_call_problems(request.messages)


def problems_of(message: ChatMessage, param: str) -> Iterator[ApiError]:
    if isinstance(message.content, list):
        for number, part in enumerate(message.content):
            yield from part_problems(part, f"{param}.content[{number}]")
    if message.content is None and not message.tool_calls and message.refusal is None:
        yield bad_request(
            f"Invalid value for '{param}.content': expected a string, got null.",
            f"{param}.content",
            "invalid_type",
        )
    if message.role == "tool" and message.tool_call_id is None:
        yield missing_parameter(f"{param}.tool_call_id")
    if message.role != "assistant" and message.tool_calls is not None:
        yield bad_request(
            f"Unknown parameter: '{param}.tool_calls'.", f"{param}.tool_calls", "unknown_parameter"
        )
    if message.tool_calls == []:
        yield bad_request(f"Invalid '{param}.tool_calls': empty array.", f"{param}.tool_calls", "empty_array")


def part_problems(part: ContentPart, param: str) -> Iterator[ApiError]:
    kind = part.type
    if kind in UNSUPPORTED_PARTS:
        message = f"The offline model reads text only: it cannot see or hear {UNSUPPORTED_PARTS[kind]}."
        yield bad_request(message, param, "unsupported_content")
    elif kind not in {"text", "refusal"}:
        yield bad_request(
            f"Invalid value: '{kind}'. Supported values are: 'text'.", f"{param}.type", "invalid_value"
        )
    elif (part.text if kind == "text" else part.refusal) is None:
        yield missing_parameter(f"{param}.{kind}")


def tool_call_problems(messages: list[ChatMessage]) -> Iterator[ApiError]:
    """Tool messages directly follow the calls that they answer, one for each call."""
    open_calls: dict[str, int] = {}
    for number, message in enumerate(messages):
        if message.role == "tool":
            if open_calls.pop(message.tool_call_id or "", None) is None:
                yield bad_request(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceding message "
                    "with 'tool_calls'.",
                    f"messages[{number}].role",
                )
            continue
        yield from unanswered(open_calls)
        open_calls = {call.id: number for call in message.tool_calls or []}
    yield from unanswered(open_calls)


def unanswered(open_calls: dict[str, int]) -> Iterator[ApiError]:
    if open_calls:
        yield bad_request(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            "'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(open_calls),
            f"messages[{next(iter(open_calls.values()))}].tool_calls",
        )
