"""Obeying: an order that stands in a user's or the system's message is followed, whoever really wrote it.

A model cannot tell who wrote which part of a message. A program that pastes a web page into one lets the
page's author give orders; in a tool's message the same words are data.
"""

import re

from offline_model.api.requests import Tool, ToolChoice
from offline_model.conversation.messages import Call, Conversation, Reply, arguments_of
from offline_model.conversation.tool_selection import properties, schema_of
from offline_model.json_schema.validator import validator_of

OVERRIDE = re.compile(
    r"\bignore (?:all |your |all your |the |any )*(?:(?:previous|prior|above) )?instructions,? and call "
    r"[`'\"]?(\w+)[`'\"]? (?:on|with) ([^\n]+)",
    re.IGNORECASE,
)


def reply(conversation: Conversation) -> Reply | None:
    choice = conversation.choice
    if not conversation.tools or choice == "none" or isinstance(choice, ToolChoice):
        return None
    made = [
        Call(call.function.name, arguments_of(call.function.arguments))
        for message in conversation.request.messages
        for call in message.tool_calls or []
    ]
    for turn in conversation.turns:
        for name, argument in OVERRIDE.findall(turn.text) if turn.role in {"user", "system"} else ():
            call = ordered(conversation.tools, name, argument)
            if call is not None and call not in made:
                return Reply(calls=(call,))
    return None


def ordered(tools: list[Tool], name: str, argument: str) -> Call | None:
    """The call, when there is such a tool and it takes one such argument."""
    tool = next((tool for tool in tools if tool.function.name == name), None)
    if tool is None or not properties(tool):
        return None
    first = next(iter(schema_of(tool).get("required") or properties(tool)))
    plain = argument.split()[0] if argument.startswith("http") else argument
    arguments = {first: plain.strip(" \t`'\".,;!")}
    return Call(name, arguments) if validator_of(schema_of(tool)).is_valid(arguments) else None
