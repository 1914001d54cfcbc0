"""Offered tools: which of them a question speaks of, and whether it says what they need."""

import re
from typing import Any

from offline_model.api.requests import Tool
from offline_model.conversation.messages import Conversation
from offline_model.conversation.slot_filling import FORMULA, QUERY, Evidence
from offline_model.corpus.query_terms import terms
from offline_model.corpus.stemming import stems

SEARCHING = frozenset(stems("search lookup retrieve find wiki wikipedia web internet knowledge browse"))
SYNONYMS = {"plu": "add", "sum": "add", "minu": "subtract"}
ANSWERING = frozenset(stems("final answer respond response reply submit finish conclude done output"))
# Verbs and nouns that most tools have in their names and that therefore say nothing.
EMPTY = frozenset(stems("get tool function my run call do make set fetch return input value data"))


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
    numeric = [part for part in properties(tool).values() if str(part.get("type")) in NUMERIC]
    return bool(asked & about) or (
        arithmetic and (bool(takes & FORMULA) or (len(numeric) > 1 and "add" in about))
    )


NUMERIC = {"number", "integer"}


def searches(tool: Tool) -> bool:
    words = stems(f"{tool.function.name} {tool.function.description or ''}")
    takes = {stem for name in properties(tool) for stem in stems(name)}
    return bool(set(words) & SEARCHING) and bool(takes & QUERY)


def takes_answer(tool: Tool) -> bool:
    """Whether a framework offers a tool so that the answer is passed to it."""
    told = {*stems(tool.function.name), *({"final"} & set(stems(tool.function.description or "")))}
    return not ANSWERING.isdisjoint(told)


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


def schema_of(tool: Tool) -> dict[str, Any]:
    return tool.function.parameters or {"type": "object", "properties": {}}


def properties(tool: Tool) -> dict[str, Any]:
    found = schema_of(tool).get("properties", {})
    return {name: part if isinstance(part, dict) else {} for name, part in found.items()}
