"""Calling tools: which of those offered the question needs, and with what arguments."""

import re
from typing import Any

from offline_model.background import background
from offline_model.books.words import stems, terms
from offline_model.conversation import Call, Conversation, Reply
from offline_model.errors import bad_request
from offline_model.evidence import FORMULA, QUERY, Evidence
from offline_model.requests import Tool, ToolChoice
from offline_model.schemas.check import validator_of
from offline_model.schemas.fill import fill
from offline_model.schemas.references import BadSchema
from offline_model.skills import greeting, remember

SEARCHING = frozenset(stems("search lookup retrieve find wiki wikipedia web internet knowledge browse"))
SYNONYMS = {"plu": "add", "sum": "add", "minu": "subtract"}
# Verbs and nouns that most tools have in their names and that therefore say nothing.
EMPTY = frozenset(stems("get tool function my run call do make set fetch return input value data"))


def reply(conversation: Conversation) -> Reply | None:
    choice = conversation.request.tool_choice
    if not conversation.tools or choice == "none":
        return None
    if isinstance(choice, ToolChoice):
        tool = next(tool for tool in conversation.tools if tool.function.name == choice.function.name)
        return calls(conversation, forced(conversation, tool))
    wanted = [call for tool in needed(conversation) for call in made(conversation, tool)]
    left = not_yet(conversation, wanted)
    if choice == "required":
        return calls(conversation, left or wanted or forced(conversation, likeliest(conversation)))
    if left:
        return calls(conversation, left)
    return None if wanted or conversation.results else lacking(conversation)


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
    if greeting.reply(conversation) or remember.reply(conversation):
        return []
    named = [tool for tool in conversation.tools if named_in(tool, conversation.question)]
    spoken = named or [tool for tool in conversation.tools if spoken_of(tool, conversation.question)]
    fillable = [tool for tool in spoken if can_fill(conversation, tool)]
    searching = [tool for tool in conversation.tools if searches(tool) and tool not in fillable]
    if fillable:
        asks_for_it = set(stems(conversation.question)) & {"search", "googl", "brows"}
        return fillable + (searching[:1] if asks_for_it else [])
    return searching[:1]


def named_in(tool: Tool, question: str) -> bool:
    name = re.escape(tool.function.name)
    return re.search(rf"(?<!\w){name}(?!\w)", question, re.IGNORECASE) is not None


def spoken_of(tool: Tool, question: str) -> bool:
    """Whether question and tool share a word that says something, or it is the tool's kind of input."""
    if searches(tool):
        return False
    asked = {SYNONYMS.get(term, term) for term in stems(question)} & (
        set(terms(question)) | set(SYNONYMS.values())
    )
    about = set(terms(f"{tool.function.name} {(tool.function.description or '').split('.')[0]}")) - EMPTY
    arithmetic = re.search(r"\d\s*[+*/^-]\s*\d", question) is not None
    takes = {stem for name in properties(tool) for stem in stems(name)}
    numeric = [
        part
        for part in properties(tool).values()
        if isinstance(part, dict) and str(part.get("type")) in NUMERIC
    ]
    return bool(asked & about) or (
        arithmetic and (bool(takes & FORMULA) or (len(numeric) > 1 and "add" in about))
    )


NUMERIC = {"number", "integer"}


def searches(tool: Tool) -> bool:
    words = stems(f"{tool.function.name} {tool.function.description or ''}")
    takes = {stem for name in properties(tool) for stem in stems(name)}
    return bool(set(words) & SEARCHING) and bool(takes & QUERY)


def can_fill(conversation: Conversation, tool: Tool) -> bool:
    evidence = Evidence(conversation, [], generous=False)
    parts = properties(tool)
    return all(evidence.finds(name, parts.get(name, {})) for name in schema_of(tool).get("required", []))


def likeliest(conversation: Conversation) -> Tool:
    """Which tool is called when one must be: the one that shares most words with the question."""
    asked = set(terms(conversation.question))
    return max(
        conversation.tools,
        key=lambda tool: len(asked & set(terms(f"{tool.function.name} {tool.function.description or ''}"))),
    )


def made(conversation: Conversation, tool: Tool) -> list[Call]:
    """One call, or one for each of several places, names or numbers."""
    try:
        arguments = fill(schema_of(tool), Evidence(conversation, [], generous=False), conversation.seed)
    except BadSchema:
        return []
    required = schema_of(tool).get("required", [])
    if len(required) != 1:
        return [Call(tool.function.name, arguments)]
    name = required[0]
    several = Evidence(conversation, [], generous=False).several(name, properties(tool).get(name, {}))
    checker = validator_of(schema_of(tool))
    all_of_them = [{**arguments, name: value} for value in several] or [arguments]
    return [Call(tool.function.name, each) for each in all_of_them if checker.is_valid(each)]


def forced(conversation: Conversation, tool: Tool) -> list[Call]:
    """A call that must be made, from the books where the conversation has nothing to fill it with."""
    found = made(conversation, tool) if can_fill(conversation, tool) else []
    if found:
        return found
    try:
        arguments = fill(
            schema_of(tool),
            Evidence(conversation, background(conversation), generous=False),
            conversation.seed,
        )
    except BadSchema as problem:
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


def schema_of(tool: Tool) -> dict[str, Any]:
    return tool.function.parameters or {"type": "object", "properties": {}}


def properties(tool: Tool) -> dict[str, Any]:
    found = schema_of(tool).get("properties", {})
    return found if isinstance(found, dict) else {}
