"""Research: search, read the best pages, then answer with citations, within a limited number of steps."""

import re

from offline_model.conversation.messages import Conversation, Reply
from offline_model.conversation.tool_selection import (
    can_fill_arguments,
    is_answer_tool,
    is_named,
    is_relevant,
)
from offline_model.intents.greeting import is_small_talk
from offline_model.intents.memory import is_about_user
from offline_model.research.query_planning import plan_queries
from offline_model.research.report import write_report
from offline_model.research.steps import ResearchTools, find_research_tools, next_calls
from offline_model.research.tool_results import read_results

ORDER = 20

SENTENCE = re.compile(r"[^.!?\n]+")
NO_STEPS_LEFT_PROMPT = re.compile(
    r"\bsteps\b.{0,30}\bused up\b|\bno (?:more )?steps\b.{0,20}\bleft\b"
    r"|\b(?:is|was) (?:the|your) last step\b",
    re.IGNORECASE,
)
# "When the steps are used up" does not say that they are.
CONDITION = re.compile(r"\s*(?:[-*] )?(?:if|when|once|until)\b", re.IGNORECASE)


def reply(conversation: Conversation) -> Reply | None:
    results = read_results(conversation.results)
    if results is None or conversation.forced_tool:
        return None
    tools = find_research_tools(conversation.tools)
    must_answer = says_no_steps_left(conversation)
    if not (tools or must_answer or results.sources or (results.steps and not conversation.tools)):
        return None
    if not asks_for_knowledge(conversation, tools):
        return None
    plan = plan_queries(conversation.question)
    must_answer = (
        must_answer or results.exhausted or not conversation.tools or conversation.tool_choice == "none"
    )
    calls = [] if must_answer or tools is None else next_calls(conversation, plan, results, tools)
    if calls:
        return Reply(calls=tuple(calls if conversation.parallel_tool_calls else calls[:1]))
    if conversation.wants_json:
        return None
    return Reply(write_report(conversation, plan, results, must_answer))


def asks_for_knowledge(conversation: Conversation, tools: ResearchTools | None) -> bool:
    """False for small talk, for questions about the user, and for questions that another tool answers."""
    question = conversation.question
    if is_small_talk(question) or is_about_user(question):
        return False
    own = {tools.search.name, tools.fetch.name} if tools else set()
    others = [tool for tool in conversation.tools if tool.name not in own and not is_answer_tool(tool)]
    return not any(
        is_named(tool, question) or (is_relevant(tool, question) and can_fill_arguments(conversation, tool))
        for tool in others
    )


def says_no_steps_left(conversation: Conversation) -> bool:
    """Whether a system message, or the last message if it is the user's, says that it is time to answer."""
    texts = [turn.text for turn in conversation.turns if turn.role == "system"]
    last = conversation.turns[-1]
    texts += [last.text] if last.role == "user" else []
    return any(
        NO_STEPS_LEFT_PROMPT.search(sentence) and not CONDITION.match(sentence)
        for text in texts
        if "step" in text
        for sentence in SENTENCE.findall(text)
    )
