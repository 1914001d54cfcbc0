"""Calling tools: which of those offered the question needs, and with what arguments."""

from offline_model.api.errors import bad_request
from offline_model.api.requests import Tool, ToolChoice
from offline_model.conversation.documents import background
from offline_model.conversation.messages import Call, Conversation, Reply
from offline_model.conversation.slot_filling import Evidence
from offline_model.conversation.tool_selection import (
    can_fill,
    named_in,
    properties,
    schema_of,
    searches,
    spoken_of,
    takes_answer,
)
from offline_model.corpus.stemming import stems
from offline_model.intents import greeting, memory
from offline_model.json_schema.generator import generate
from offline_model.json_schema.references import InvalidSchema
from offline_model.json_schema.validator import validator_of


def reply(conversation: Conversation) -> Reply | None:
    choice = conversation.choice
    if not conversation.tools or choice == "none":
        return None
    if isinstance(choice, ToolChoice):
        tool = next(tool for tool in conversation.tools if tool.function.name == choice.function.name)
        return calls(conversation, forced(conversation, tool))
    wanted = [call for tool in needed(conversation) for call in made(conversation, tool)]
    left = not_yet(conversation, wanted)
    if left:
        return calls(conversation, left)
    return None if wanted or conversation.results or conversation.wants_json else lacking(conversation)


def lacking(conversation: Conversation) -> Reply | None:
    """A tool is wanted but cannot be called: say what it needs, rather than make it up."""
    for tool in conversation.tools:
        if named_in(tool, conversation.question) or spoken_of(tool, conversation.question):
            needs = " and ".join(schema_of(tool).get("required", []))
            return Reply(f"To use {tool.function.name} I need to know: {needs}.") if needs else None
    return None


def calls(conversation: Conversation, found: list[Call]) -> Reply:
    one = conversation.request.parallel_tool_calls is False
    return Reply(calls=tuple(found[:1] if one else found))


def needed(conversation: Conversation) -> list[Tool]:
    """Tools that are spoken of; else one that searches, when something is asked that is not small talk."""
    if greeting.reply(conversation) or memory.reply(conversation):
        return []
    tools = [tool for tool in conversation.tools if not takes_answer(tool)]
    named = [tool for tool in tools if named_in(tool, conversation.question)]
    spoken = named or [tool for tool in tools if spoken_of(tool, conversation.question)]
    fillable = [tool for tool in spoken if can_fill(conversation, tool)]
    searching = [tool for tool in tools if searches(tool) and tool not in fillable]
    if fillable:
        asks_for_it = set(stems(conversation.question)) & {"search", "googl", "brows"}
        return fillable + (searching[:1] if asks_for_it else [])
    return searching[:1]


def made(conversation: Conversation, tool: Tool) -> list[Call]:
    """One call, or one for each of several places, names or numbers."""
    evidence = Evidence(conversation, [], generous=False)
    try:
        arguments = generate(schema_of(tool), evidence, conversation.seed)
    except InvalidSchema:
        return []
    required = schema_of(tool).get("required", [])
    if len(required) != 1:
        return [Call(tool.function.name, arguments)]
    name = required[0]
    several = evidence.several(name, properties(tool).get(name, {}))
    checker = validator_of(schema_of(tool))
    all_of_them = [{**arguments, name: value} for value in several] or [arguments]
    return [Call(tool.function.name, each) for each in all_of_them if checker.is_valid(each)]


def forced(conversation: Conversation, tool: Tool) -> list[Call]:
    """A call that must be made, from the books where the conversation has nothing to fill it with."""
    found = made(conversation, tool) if can_fill(conversation, tool) else []
    if found:
        return found
    evidence = Evidence(conversation, background(conversation), generous=False)
    try:
        arguments = generate(schema_of(tool), evidence, conversation.seed)
    except InvalidSchema as problem:
        message = f"Invalid schema for function '{tool.function.name}': {problem}."
        raise bad_request(message, "tools", "invalid_function_parameters") from None
    return [Call(tool.function.name, arguments)]


def not_yet(conversation: Conversation, wanted: list[Call]) -> list[Call]:
    """What is still to be called: never the same again, never more often than there is something to ask."""
    left: list[Call] = []
    for name in dict.fromkeys(call.name for call in wanted):
        of_tool = [call for call in wanted if call.name == name]
        done = [result.call for result in conversation.results if result.call.name == name]
        left += [call for call in of_tool if call not in done][: max(0, len(of_tool) - len(done))]
    return left
