"""What may be asked: the rules between fields that a schema of single fields cannot say."""

import json
from collections.abc import Iterator
from typing import Any

from offline_model.errors import ApiError, bad_request
from offline_model.requests import CompletionRequest, Message, ToolChoice
from offline_model.schemas.check import validator_of
from offline_model.schemas.references import BadSchema

UNSEEN = {"image_url": "images", "input_audio": "audio", "file": "files such as PDFs"}


def check(request: CompletionRequest) -> None:
    """Raise the ApiError that OpenAI (or honesty) demands, or return."""
    for problem in problems(request):
        raise problem


def problems(request: CompletionRequest) -> Iterator[ApiError]:
    yield from unanswerable(request)
    yield from combinations(request)
    for number, message in enumerate(request.messages):
        yield from message_problems(message, f"messages[{number}]")
    yield from history(request.messages)


def unanswerable(request: CompletionRequest) -> Iterator[ApiError]:
    """What this model would have to lie about."""
    refused = {
        "n": request.n not in (None, 1),
        "logprobs": bool(request.logprobs),
        "top_logprobs": bool(request.top_logprobs),
        "logit_bias": bool(request.logit_bias),
        "modalities": request.modalities not in (None, ["text"]),
        "audio": request.audio is not None,
        "prediction": request.prediction is not None,
        "web_search_options": request.web_search_options is not None,
        "functions": request.functions is not None,
        "function_call": request.function_call is not None,
    }
    for name, given in refused.items():
        if given:
            instead = ": use 'tools' and 'tool_choice'" if name.startswith("function") else ""
            yield bad_request(
                f"Unsupported value: the offline model cannot honour '{name}'{instead}.",
                name,
                "unsupported_value",
            )


def combinations(request: CompletionRequest) -> Iterator[ApiError]:
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
    if isinstance(choice, ToolChoice):
        offered = {tool.function.name for tool in request.tools or []}
        if choice.function.name not in offered:
            message = f"Tool choice '{choice.function.name}' not found in 'tools' parameter."
            yield bad_request(message, "tool_choice")
    yield from schemas(request)
    yield from formats(request)


def schemas(request: CompletionRequest) -> Iterator[ApiError]:
    """Every schema must be one, and describe an object."""
    for number, tool in enumerate(request.tools or []):
        if tool.function.parameters:
            problem = schema_problem(tool.function.parameters)
            if problem:
                message = f"Invalid schema for function '{tool.function.name}': {problem}."
                yield bad_request(
                    message, f"tools[{number}].function.parameters", "invalid_function_parameters"
                )
    wanted = request.response_format.json_schema if request.response_format else None
    if wanted is not None and wanted.schema_ is not None:
        problem = schema_problem(wanted.schema_)
        if problem:
            message = f"Invalid schema for response_format '{wanted.name}': {problem}."
            yield bad_request(message, "response_format", "invalid_schema")


def schema_problem(schema: dict[str, Any]) -> str:
    """What is wrong with a schema, or nothing. A schema that only refers to another may be of any type."""
    try:
        validator_of(schema)
    except BadSchema as problem:
        return str(problem)
    if schema.get("type") != "object" and not schema.keys() & {"$ref", "allOf"}:
        got = json.dumps(schema.get("type"))
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: {got}'"
    return ""


def formats(request: CompletionRequest) -> Iterator[ApiError]:
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


def message_problems(message: Message, param: str) -> Iterator[ApiError]:
    if isinstance(message.content, list):
        for number, part in enumerate(message.content):
            yield from part_problems(part.type, part.text, part.refusal, f"{param}.content[{number}]")
    if message.content is None and not message.tool_calls and message.refusal is None:
        yield bad_request(
            f"Invalid value for '{param}.content': expected a string, got null.",
            f"{param}.content",
            "invalid_type",
        )
    if message.role == "tool" and message.tool_call_id is None:
        name = f"{param}.tool_call_id"
        yield bad_request(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if message.role != "assistant" and message.tool_calls is not None:
        yield bad_request(
            f"Unknown parameter: '{param}.tool_calls'.", f"{param}.tool_calls", "unknown_parameter"
        )
    if message.tool_calls == []:
        yield bad_request(f"Invalid '{param}.tool_calls': empty array.", f"{param}.tool_calls", "empty_array")


def part_problems(kind: str, text: str | None, refusal: str | None, param: str) -> Iterator[ApiError]:
    if kind in UNSEEN:
        message = f"The offline model reads text only: it cannot see or hear {UNSEEN[kind]}."
        yield bad_request(message, param, "unsupported_content")
    elif kind not in {"text", "refusal"}:
        yield bad_request(
            f"Invalid value: '{kind}'. Supported values are: 'text'.", f"{param}.type", "invalid_value"
        )
    elif (text if kind == "text" else refusal) is None:
        name = f"{param}.{kind}"
        yield bad_request(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


def history(messages: list[Message]) -> Iterator[ApiError]:
    """Every tool call is answered right after it, and every tool message answers one."""
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
