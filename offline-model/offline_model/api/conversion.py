"""Convert the body of a request into the conversation that intents read."""

import re
from typing import Any

from offline_model.api.requests import (
    AllowedToolChoice,
    ChatMessage,
    CompletionRequest,
    FunctionTool,
    NamedToolChoice,
)
from offline_model.conversation.messages import Conversation, Tool, ToolCall, Turn, parse_json
from offline_model.corpus.search import Corpus

CALL_IN_TEXT = re.compile(r"Calling tools:.*?'name': '([^']+)'", re.DOTALL)


def to_conversation(request: CompletionRequest, corpus: Corpus) -> Conversation:
    tools, choice = [to_tool(tool) for tool in request.tools or []], request.tool_choice or "auto"
    forced_tool = None
    if isinstance(choice, NamedToolChoice):
        forced_tool = next(tool for tool in tools if tool.name == choice.function.name)
        choice = "auto"
    elif isinstance(choice, AllowedToolChoice):
        allowed = {tool.function.name for tool in choice.allowed_tools.tools}
        tools = [tool for tool in tools if tool.name in allowed]
        choice = choice.allowed_tools.mode
    response_format = request.response_format
    json_schema = response_format.json_schema if response_format else None
    return Conversation(
        corpus,
        to_turns(request.messages),
        tools,
        choice,
        forced_tool,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        wants_json=response_format is not None and response_format.type != "text",
        response_schema=json_schema.schema_ if json_schema else None,
        seed=request.seed or 0,
    )


def to_tool(tool: FunctionTool) -> Tool:
    function = tool.function
    schema = function.parameters or {"type": "object", "properties": {}}
    return Tool(function.name, function.description or "", schema)


def to_turns(messages: list[ChatMessage]) -> list[Turn]:
    """Convert messages to turns.

    Tool calls and tool results that smolagents writes as plain text are recognised as such.
    """
    turns: list[Turn] = []
    for turn in map(to_turn, messages):
        before = turns[-1] if turns else turn
        if turn.role == "assistant" and (called := CALL_IN_TEXT.match(turn.text)):
            turn = Turn("assistant", "", {called[1]: ToolCall(called[1], {})})
        elif turn.role == "user" and before.calls and turn.text.startswith("Observation:"):
            turn = Turn(
                "tool", turn.text.removeprefix("Observation:").strip(), call_id=next(iter(before.calls))
            )
        turns.append(turn)
    return turns


def to_turn(message: ChatMessage) -> Turn:
    role = "system" if message.role == "developer" else message.role
    calls = {
        call.id: ToolCall(call.function.name, arguments_of(call.function.arguments))
        for call in message.tool_calls or []
    }
    return Turn(role, text_of(message), calls, message.tool_call_id)


def text_of(message: ChatMessage) -> str:
    """The text of a message, its parts joined."""
    if message.content is None:
        return ""
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text or part.refusal or "" for part in message.content)


def arguments_of(text: str) -> dict[str, Any]:
    value = parse_json(text)
    return value if isinstance(value, dict) else {}
