"""Research: search, read the best pages, then answer with citations, within a bounded number of steps."""

import re

from offline_model.api.requests import Tool, ToolChoice
from offline_model.conversation.messages import Call, Conversation, Reply
from offline_model.conversation.slot_filling import QUERY
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
from offline_model.research import tool_results
from offline_model.research.query_planning import Inquiry, inquiry, limit_of, reworded
from offline_model.research.report import report
from offline_model.research.tool_results import Findings, Kit

READS = frozenset(stems("fetch read open visit browse load download page url"))
ADDRESS = frozenset(stems("url uri link address"))
SENTENCE = re.compile(r"[^.!?\n]+")
USED_UP = re.compile(
    r"\bsteps\b.{0,30}\bused up\b|\bno (?:more )?steps\b.{0,20}\bleft\b"
    r"|\b(?:is|was) (?:the|your) last step\b",
    re.IGNORECASE,
)
# "When the steps are used up" does not say that they are.
CONDITION = re.compile(r"\s*(?:[-*] )?(?:if|when|once|until)\b", re.IGNORECASE)
ASPECTS = ("definition", "history", "examples", "limits", "alternatives", "mistakes", "cost", "standards")


def reply(conversation: Conversation) -> Reply | None:
    kit = kit_of(conversation.tools)
    found = tool_results.read(conversation.results)
    over = used_up(conversation)
    if found is None:
        return None
    if kit is None and not over and (conversation.tools or not found.steps) and not found.sources:
        return None
    if not is_inquiry(conversation, kit):
        return None
    asked = inquiry(conversation.question)
    if isinstance(conversation.choice, ToolChoice):
        return None
    over = over or found.exhausted or not conversation.tools or conversation.choice == "none"
    calls = [] if over or kit is None else next_calls(conversation, asked, found, kit)
    if calls:
        return Reply(calls=tuple(calls[:1] if conversation.request.parallel_tool_calls is False else calls))
    if conversation.wants_json:
        return None
    return Reply(report(conversation, asked, found, over))


def kit_of(tools: list[Tool]) -> Kit | None:
    """A tool that searches and one that reads pages, when both are offered and need nothing else."""
    search = next(((tool, name) for tool in tools if searches(tool) for name in takes(tool, QUERY)), None)
    fetch = next(
        (
            (tool, name)
            for tool in tools
            if set(stems(f"{tool.function.name} {tool.function.description or ''}")) & READS
            for name in takes(tool, ADDRESS)
        ),
        None,
    )
    return Kit(*search, *fetch) if search and fetch else None


def takes(tool: Tool, kind: frozenset[str]) -> list[str]:
    """The argument of this kind, when it is all that the tool needs."""
    names = [name for name in properties(tool) if set(stems(name)) & kind]
    return names[:1] if set(schema_of(tool).get("required", [])) <= set(names[:1]) else []


def is_inquiry(conversation: Conversation, kit: Kit | None) -> bool:
    """Whether knowledge is asked for: no small talk, nothing about the user, nothing for another tool."""
    question = conversation.question
    if greeting.GREETING.fullmatch(question) or memory.BEFORE.search(question):
        return False
    if memory.MINE.match(question) or (memory.TOLD.match(question) and "?" not in question):
        return False
    own = {kit.search.function.name, kit.fetch.function.name} if kit else set()
    others = [tool for tool in conversation.tools if tool.function.name not in own and not takes_answer(tool)]
    return not any(
        named_in(tool, question) or (spoken_of(tool, question) and can_fill(conversation, tool))
        for tool in others
    )


def used_up(conversation: Conversation) -> bool:
    """Whether the system or the user, if it speaks last, says that it is time to answer."""
    told = [turn.text for turn in conversation.turns if turn.role == "system"]
    last = conversation.turns[-1]
    told += [last.text] if last.role == "user" else []
    return any(
        USED_UP.search(sentence) and not CONDITION.match(sentence)
        for text in told
        if "step" in text
        for sentence in SENTENCE.findall(text)
    )


def next_calls(conversation: Conversation, asked: Inquiry, found: Findings, kit: Kit) -> list[Call]:
    """What is to be done next; nothing when it is time to answer."""
    if asked.deep:
        return [endless(asked, found, kit)]
    left = limit_of(conversation) - found.steps
    read = {page.url for page in found.pages}
    if asked.urls:
        wanted = [fetch(kit, url) for url in asked.urls if url not in read]
        return wanted[: max(0, left)]
    tried = [search.query for search in found.searches]
    wanted = [search(kit, query) for query in asked.queries if query not in tried]
    if not wanted and all(query in asked.queries for query in tried):
        poor = [each.query for each in found.searches if each.outcome != "ok"]
        wanted = [
            search(kit, other) for query in poor[:1] if (other := reworded(conversation, query)) != query
        ]
    if not wanted:
        wanted = [fetch(kit, url) for url in best_pages(found) if url not in read]
    return wanted[: max(0, left)]


def best_pages(found: Findings) -> list[str]:
    """Of each search the first result that no search before it has chosen."""
    chosen: list[str] = []
    for each in found.searches:
        chosen += [entry.url for entry in each.entries if entry.url not in chosen][:1]
    return chosen


def endless(asked: Inquiry, found: Findings, kit: Kit) -> Call:
    """Search, read, search with another word, read, ... : only a limit from outside ends this."""
    read = {page.url for page in found.pages}
    unread = [entry.url for each in found.searches for entry in each.entries if entry.url not in read]
    if unread and len(found.searches) > len(found.pages):
        return fetch(kit, unread[0])
    tried = {each.query for each in found.searches}
    new = next((query for query in asked.queries if query not in tried), None)
    number = len(found.searches)
    return search(kit, new or f"{asked.queries[0]} {ASPECTS[number % len(ASPECTS)]}")


def search(kit: Kit, query: str) -> Call:
    return Call(kit.search.function.name, {kit.query: query})


def fetch(kit: Kit, url: str) -> Call:
    return Call(kit.fetch.function.name, {kit.url: url})
