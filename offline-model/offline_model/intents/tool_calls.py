"""Tool calls: choose the tools that the question needs, and fill in their arguments."""

from offline_model.conversation.documents import documents_for
from offline_model.conversation.messages import Conversation, Reply, Tool, ToolCall
from offline_model.conversation.slot_filling import SlotValues
from offline_model.conversation.tool_selection import (
    can_fill_arguments,
    is_answer_tool,
    is_named,
    is_relevant,
    is_search_tool,
)
from offline_model.corpus.terms import stems
from offline_model.intents import greeting, memory
from offline_model.json_schema.generator import generate
from offline_model.json_schema.schemas import InvalidSchema
from offline_model.json_schema.validator import validator_of

ORDER = 30

SEARCH_REQUEST = frozenset(stems("search google browse"))


def reply(conversation: Conversation) -> Reply | None:
    if not conversation.tools or conversation.tool_choice == "none":
        return None
    if conversation.forced_tool:
        return Reply(calls=tuple(forced_calls(conversation, conversation.forced_tool)))
    calls = [call for tool in needed_tools(conversation) for call in calls_of(conversation, tool)]
    left = remaining_calls(conversation, calls)
    if left:
        return Reply(calls=tuple(left))
    return (
        None if calls or conversation.results or conversation.wants_json else ask_for_arguments(conversation)
    )


def ask_for_arguments(conversation: Conversation) -> Reply | None:
    """Say which arguments are missing, instead of making them up."""
    for tool in conversation.tools:
        if is_named(tool, conversation.question) or is_relevant(tool, conversation.question):
            needs = " and ".join(tool.required)
            return Reply(f"To use {tool.name} I need to know: {needs}.") if needs else None
    return None


def needed_tools(conversation: Conversation) -> list[Tool]:
    """Tools that the question names or is about; else a search tool, unless the question is small talk."""
    if greeting.reply(conversation) or memory.reply(conversation):
        return []
    tools = [tool for tool in conversation.tools if not is_answer_tool(tool)]
    named = [tool for tool in tools if is_named(tool, conversation.question)]
    relevant = named or [tool for tool in tools if is_relevant(tool, conversation.question)]
    fillable = [tool for tool in relevant if can_fill_arguments(conversation, tool)]
    search_tools = [tool for tool in tools if is_search_tool(tool) and tool not in fillable]
    if fillable:
        asks_to_search = set(stems(conversation.question)) & SEARCH_REQUEST
        return fillable + (search_tools[:1] if asks_to_search else [])
    return search_tools[:1]


def calls_of(conversation: Conversation, tool: Tool) -> list[ToolCall]:
    """One call, or one for each of several places, names or numbers in the question."""
    values = SlotValues(conversation, [], fill_from_documents=False)
    try:
        arguments = generate(tool.schema, values, conversation.seed)
    except InvalidSchema:
        return []
    if len(tool.required) != 1:
        return [ToolCall(tool.name, arguments)]
    name = tool.required[0]
    several = values.all_values(name, tool.properties.get(name, {}))
    validator = validator_of(tool.schema)
    candidates = [{**arguments, name: value} for value in several] or [arguments]
    return [ToolCall(tool.name, each) for each in candidates if validator.is_valid(each)]


def forced_calls(conversation: Conversation, tool: Tool) -> list[ToolCall]:
    """Calls of a tool that must be called, if need be with values from the corpus."""
    calls = calls_of(conversation, tool) if can_fill_arguments(conversation, tool) else []
    if calls:
        return calls
    values = SlotValues(conversation, documents_for(conversation), fill_from_documents=False)
    return [ToolCall(tool.name, generate(tool.schema, values, conversation.seed))]


def remaining_calls(conversation: Conversation, calls: list[ToolCall]) -> list[ToolCall]:
    """The needed calls that were not made yet.

    Every earlier call of a tool counts as one of its needed calls, even if its arguments differ.
    """
    left: list[ToolCall] = []
    for name in dict.fromkeys(call.name for call in calls):
        of_tool = [call for call in calls if call.name == name]
        made = [result.call for result in conversation.results if result.call.name == name]
        left += [call for call in of_tool if call not in made][: max(0, len(of_tool) - len(made))]
    return left
