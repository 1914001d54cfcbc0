"""Tool selection: which of the tools a question needs, and whether it holds their arguments."""

import re

from offline_model.conversation.messages import Conversation, Tool
from offline_model.conversation.slot_filling import FORMULA_FIELDS, QUERY_FIELDS, SlotValues
from offline_model.corpus.terms import stems, terms

SEARCH_WORDS = frozenset(stems("search lookup retrieve find wiki wikipedia web internet knowledge browse"))
ANSWER_WORDS = frozenset(stems("final answer respond response reply submit finish conclude done output"))
# Words that occur in many tool names and do not distinguish tools.
GENERIC_WORDS = frozenset(stems("get tool function my run call do make set fetch return input value data"))


def is_named(tool: Tool, question: str) -> bool:
    name = re.escape(tool.name)
    return re.search(rf"(?<!\w){name}(?!\w)", question, re.IGNORECASE) is not None


def is_relevant(tool: Tool, question: str) -> bool:
    """Whether question and tool share a word that is not generic, or a calculator fits its arithmetic."""
    if is_search_tool(tool):
        return False
    asked = set(terms(question))
    about = set(terms(f"{tool.name} {tool.description.split('.')[0]}")) - GENERIC_WORDS
    arithmetic = re.search(r"\d\s*[+*/^-]\s*\d", question) is not None
    takes = {stem for name in tool.properties for stem in stems(name)}
    return bool(asked & about) or (arithmetic and bool(takes & FORMULA_FIELDS))


def is_search_tool(tool: Tool) -> bool:
    words = stems(f"{tool.name} {tool.description}")
    takes = {stem for name in tool.properties for stem in stems(name)}
    return bool(set(words) & SEARCH_WORDS) and bool(takes & QUERY_FIELDS)


def is_answer_tool(tool: Tool) -> bool:
    """Whether the tool exists to receive the final answer, as some frameworks offer one."""
    words = {*stems(tool.name), *({"final"} & set(stems(tool.description)))}
    return not ANSWER_WORDS.isdisjoint(words)


def can_fill_arguments(conversation: Conversation, tool: Tool) -> bool:
    values = SlotValues(conversation, [], fill_from_documents=False)
    return all(values.has_value(name, tool.properties.get(name, {})) for name in tool.required)


def most_relevant_tool(conversation: Conversation) -> Tool:
    """The tool that shares most words with the question."""
    asked = set(terms(conversation.question))
    return max(
        conversation.tools,
        key=lambda tool: len(asked & set(terms(f"{tool.name} {tool.description}"))),
    )
