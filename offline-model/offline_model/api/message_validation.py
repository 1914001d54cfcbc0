"""Validate messages: the fields of each role, and one tool message for each tool call."""

from collections.abc import Iterator

from offline_model.api.errors import ApiError, bad_request
from offline_model.api.requests import ChatMessage

UNSUPPORTED_PARTS = {"image_url": "images", "input_audio": "audio", "file": "files such as PDFs"}


def message_problems(messages: list[ChatMessage]) -> Iterator[ApiError]:
    for number, message in enumerate(messages):
        yield from problems_of(message, f"messages[{number}]")
    yield from tool_call_problems(messages)


def problems_of(message: ChatMessage, param: str) -> Iterator[ApiError]:
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
    if kind in UNSUPPORTED_PARTS:
        message = f"The offline model reads text only: it cannot see or hear {UNSUPPORTED_PARTS[kind]}."
        yield bad_request(message, param, "unsupported_content")
    elif kind not in {"text", "refusal"}:
        yield bad_request(
            f"Invalid value: '{kind}'. Supported values are: 'text'.", f"{param}.type", "invalid_value"
        )
    elif (text if kind == "text" else refusal) is None:
        name = f"{param}.{kind}"
        yield bad_request(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


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
