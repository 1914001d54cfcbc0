"""Research: search, read the best pages, then answer with citations, within a limited number of steps."""

import re
from dataclasses import dataclass

from offline_model.conversation import Conversation, Reply, Tool, ToolCall
from offline_model.corpus.terms import stems
from offline_model.intents.small_talk import is_small_talk
from offline_model.intents.tool_calls import (
    can_fill_arguments,
    is_answer_tool,
    is_named,
    is_relevant,
    is_search_tool,
)
from offline_model.json_schema.slot_filling import QUERY_FIELDS
from offline_model.research.query_planning import QueryPlan, plan_queries, reword_query, step_limit
from offline_model.research.report import write_report
from offline_model.research.tool_results import ResearchResults, read_results

ORDER = 20

SENTENCE = re.compile(r"[^.!?\n]+")
NO_STEPS_LEFT_PROMPT = re.compile(
    r"\bsteps\b.{0,30}\bused up\b|\bno (?:more )?steps\b.{0,20}\bleft\b"
    r"|\b(?:is|was) (?:the|your) last step\b",
    re.IGNORECASE,
)
# "When the steps are used up" does not say that they are.
CONDITION = re.compile(r"\s*(?:[-*] )?(?:if|when|once|until)\b", re.IGNORECASE)

FETCH_WORDS = frozenset(stems("fetch read open visit browse load download page url"))
URL_FIELDS = frozenset(stems("url uri link address"))
ASPECTS = ("definition", "history", "examples", "limits", "alternatives", "mistakes", "cost", "standards")


@dataclass(frozen=True)
class ResearchTools:
    """A tool that searches and one that fetches pages, each with the name of its argument."""

    search: Tool
    query_argument: str
    fetch: Tool
    url_argument: str

    def search_for(self, query: str) -> ToolCall:
        return ToolCall(self.search.name, {self.query_argument: query})

    def fetch_page(self, url: str) -> ToolCall:
        return ToolCall(self.fetch.name, {self.url_argument: url})


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
    must_answer |= results.exhausted or not conversation.tools or conversation.tool_choice == "none"
    if tools and not must_answer and (calls := next_calls(conversation, plan, results, tools)):
        return Reply(calls=tuple(calls))
    if conversation.wants_json:
        return None
    return Reply(write_report(conversation, plan, results, must_answer))


def asks_for_knowledge(conversation: Conversation, tools: ResearchTools | None) -> bool:
    """False for small talk, for questions about the user, and for questions that another tool answers."""
    question = conversation.question
    if is_small_talk(question):
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


def find_research_tools(tools: list[Tool]) -> ResearchTools | None:
    """The two tools, if both are offered and each needs one argument only."""
    fetch_tools = [tool for tool in tools if set(stems(f"{tool.name} {tool.description}")) & FETCH_WORDS]
    search = first_with_argument(QUERY_FIELDS, [tool for tool in tools if is_search_tool(tool)])
    fetch = first_with_argument(URL_FIELDS, fetch_tools)
    return ResearchTools(*search, *fetch) if search and fetch else None


def first_with_argument(words: frozenset[str], tools: list[Tool]) -> tuple[Tool, str] | None:
    """The first tool that has an argument with one of the words in its name, and that requires no other."""
    for tool in tools:
        names = [name for name in tool.properties if set(stems(name)) & words]
        if names and set(tool.required) <= set(names[:1]):
            return tool, names[0]
    return None


def next_calls(
    conversation: Conversation, plan: QueryPlan, results: ResearchResults, tools: ResearchTools
) -> list[ToolCall]:
    """The next calls; none when it is time to answer."""
    if plan.exhaustive:
        return [next_exhaustive_call(plan, results, tools)]
    read = {page.url for page in results.pages}
    if plan.urls:
        calls = [tools.fetch_page(url) for url in plan.urls if url not in read]
    else:
        calls = next_searches(conversation, plan, results, tools)
        calls = calls or [tools.fetch_page(url) for url in best_urls(results) if url not in read]
    return calls[: max(0, step_limit(conversation) - results.steps)]


def next_searches(
    conversation: Conversation, plan: QueryPlan, results: ResearchResults, tools: ResearchTools
) -> list[ToolCall]:
    """Search for each query of the plan. Then reword one query that gave no results, and search once more."""
    tried = [search.query for search in results.searches]
    left = [query for query in plan.queries if query not in tried]
    if left or not all(query in plan.queries for query in tried):
        return [tools.search_for(query) for query in left]
    poor = [search.query for search in results.searches if search.outcome != "ok"][:1]
    reworded = [(query, reword_query(conversation, query)) for query in poor]
    return [tools.search_for(other) for query, other in reworded if other != query]


def best_urls(results: ResearchResults) -> list[str]:
    """The first result of each search that no earlier search has contributed."""
    chosen: list[str] = []
    for search in results.searches:
        chosen += [result.url for result in search.results if result.url not in chosen][:1]
    return chosen


def next_exhaustive_call(plan: QueryPlan, results: ResearchResults, tools: ResearchTools) -> ToolCall:
    """Search, read, search with another word, read, and so on; only the client's limit ends this."""
    read = {page.url for page in results.pages}
    unread = [
        result.url for search in results.searches for result in search.results if result.url not in read
    ]
    number = len(results.searches)
    if unread and number > len(results.pages):
        return tools.fetch_page(unread[0])
    tried = {search.query for search in results.searches}
    new = next((query for query in plan.queries if query not in tried), None)
    return tools.search_for(new or f"{plan.queries[0]} {ASPECTS[number % len(ASPECTS)]}")
