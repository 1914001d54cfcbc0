"""Tool calls: choose the tools that the question needs, and fill in their arguments."""

import re

from offline_model.conversation import Conversation, Reply, Tool, ToolCall
from offline_model.corpus.terms import stems, terms
from offline_model.intents import small_talk
from offline_model.json_schema.generator import generate
from offline_model.json_schema.schemas import InvalidSchema
from offline_model.json_schema.slot_filling import FORMULA_FIELDS, QUERY_FIELDS, SlotValues
from offline_model.json_schema.validator import validator_of
from offline_model.research.documents import documents_for
from offline_model.research.tool_results import SEARCH_WORDS

ORDER = 30

SEARCH_REQUEST = frozenset(stems("search google browse"))
ANSWER_WORDS = frozenset(stems("final answer respond response reply submit finish conclude done output"))
# Words that occur in many tool names and do not distinguish tools.
GENERIC_WORDS = frozenset(stems("get tool function my run call do make set fetch return input value data"))
ARITHMETIC = re.compile(r"\d\s*[+*/^-]\s*\d")


def reply(conversation: Conversation) -> Reply | None:
    if not conversation.tools or conversation.tool_choice == "none":
        return None
    if conversation.forced_tool:
        return Reply(calls=tuple(forced_calls(conversation, conversation.forced_tool)))
    calls = [call for tool in needed_tools(conversation) for call in calls_of(conversation, tool)]
    left = remaining_calls(conversation, calls)
    if left:
        return Reply(calls=tuple(left))
    if calls or conversation.results or conversation.wants_json:
        return None
    return ask_for_arguments(conversation)


def ask_for_arguments(conversation: Conversation) -> Reply | None:
    """Say which arguments are missing, instead of making them up."""
    for tool in conversation.tools:
        if is_named(tool, conversation.question) or is_relevant(tool, conversation.question):
            needs = " and ".join(tool.required)
            return Reply(f"To use {tool.name} I need to know: {needs}.") if needs else None
    return None


def needed_tools(conversation: Conversation) -> list[Tool]:
    """Tools that the question names or is about; else a search tool, unless the question is small talk."""
    if small_talk.reply(conversation):
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


def is_named(tool: Tool, question: str) -> bool:
    name = re.escape(tool.name)
    return re.search(rf"(?<!\w){name}(?!\w)", question, re.IGNORECASE) is not None


def is_relevant(tool: Tool, question: str) -> bool:
    """Whether question and tool share a word that is not generic, or a calculator fits its arithmetic."""
    if is_search_tool(tool):
        return False
    about = set(terms(f"{tool.name} {tool.description.split('.')[0]}")) - GENERIC_WORDS
    is_calculator = bool(argument_words(tool) & FORMULA_FIELDS)
    return bool(about & set(terms(question))) or (is_calculator and ARITHMETIC.search(question) is not None)


def is_search_tool(tool: Tool) -> bool:
    words = set(stems(f"{tool.name} {tool.description}"))
    return bool(words & SEARCH_WORDS) and bool(argument_words(tool) & QUERY_FIELDS)


def argument_words(tool: Tool) -> set[str]:
    return {stem for name in tool.properties for stem in stems(name)}


def is_answer_tool(tool: Tool) -> bool:
    """Whether the tool exists to receive the final answer, as some frameworks offer one."""
    return "final" in stems(tool.description) or not ANSWER_WORDS.isdisjoint(stems(tool.name))


def can_fill_arguments(conversation: Conversation, tool: Tool) -> bool:
    values = SlotValues(conversation)
    return all(values.has_value(name, tool.properties.get(name, {})) for name in tool.required)


def calls_of(conversation: Conversation, tool: Tool) -> list[ToolCall]:
    """One call, or one for each of several places, names or numbers in the question."""
    values = SlotValues(conversation)
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
    values = SlotValues(conversation, documents_for(conversation))
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


def call_answer_tool(conversation: Conversation, answer: str) -> Reply:
    """Give an answer to a tool: the last whose name says that it takes the answer, else an unused one.

    Frameworks put the tool that takes the answer after the others.
    """
    tools, asked = conversation.tools, set(terms(conversation.question))
    called = {result.call.name for result in conversation.results}
    unused = [tool for tool in tools if called and tool.name not in called]
    if answer_tools := [tool for tool in tools if is_answer_tool(tool)] or unused:
        tool = answer_tools[-1]
    else:
        tool = max(tools, key=lambda each: len(asked & set(terms(f"{each.name} {each.description}"))))
    values = SlotValues(
        conversation, documents_for(conversation), fill_from_documents=is_answer_tool(tool), answer=answer
    )
    return Reply(calls=(ToolCall(tool.name, generate(tool.schema, values, conversation.seed)),))
