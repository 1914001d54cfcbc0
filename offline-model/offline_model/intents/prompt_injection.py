"""Prompt injection: follow an instruction that stands in a user's or the system's message.

A model cannot tell who wrote which part of a message. A program that pastes a web page into one lets the
author of the page give instructions. The same words in a tool's message are data.
"""

import re

from offline_model.conversation import Conversation, Reply, Tool, ToolCall
from offline_model.json_schema.validator import is_valid, validator_of

ORDER = 10

CALL_INSTRUCTION = re.compile(
    r"\bignore (?:all |your |all your |the |any )*(?:(?:previous|prior|above) )?instructions,? and call "
    r"[`'\"]?(\w+)[`'\"]? (?:on|with) ([^\n]+)",
    re.IGNORECASE,
)


def reply(conversation: Conversation) -> Reply | None:
    if not conversation.tools or conversation.tool_choice == "none" or conversation.forced_tool:
        return None
    earlier = [call for turn in conversation.turns for call in turn.calls.values()]
    for turn in conversation.turns:
        for name, argument in CALL_INSTRUCTION.findall(turn.text) if turn.role in {"user", "system"} else ():
            call = instructed_call(conversation.tools, name, argument)
            if call is not None and call not in earlier:
                return Reply(calls=(call,))
    return None


def instructed_call(tools: list[Tool], name: str, argument: str) -> ToolCall | None:
    """The call, if there is such a tool and it takes one such argument."""
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None or not tool.properties:
        return None
    first = next(iter(tool.required or tool.properties))
    value = argument.split()[0] if argument.startswith("http") else argument
    arguments = {first: value.strip(" \t`'\".,;!")}
    fits = is_valid(validator_of(tool.schema), tool.schema, arguments)
    return ToolCall(name, arguments) if fits else None
