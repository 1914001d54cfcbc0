"""Tool results: recognise search results and fetched pages by their form."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from offline_model.conversation import ToolResult
from offline_model.corpus.plain_text import prose_sentences
from offline_model.corpus.terms import stems
from offline_model.research.documents import INJECTED_INSTRUCTION, MAX_CHARACTERS, clean_sentences

MAX_RESULTS = 50

SEARCH_WORDS = frozenset(stems("search lookup retrieve find wiki wikipedia web internet knowledge browse"))
RESULT_START = re.compile(r"^\[(\d{1,4})\] ", re.MULTILINE)
PAGE_HEAD = re.compile(r"\[(\d{1,4})\] [^\n]*\n(?:https?://\S+\n)?")
NO_RESULTS = re.compile(r"^\W*(?:no|nothing|0)\b.{0,20}\b(?:results?|found|matches)\b", re.IGNORECASE)
FAILURE = re.compile(
    r"^.{0,80}\b(?:could not|may not|cannot|can't|failed|refused|not allowed|error|timed out)\b",
    re.IGNORECASE,
)
NO_STEPS_LEFT_RESULT = re.compile(r"^\W*no (?:more )?steps\b.{0,20}\bleft\b", re.IGNORECASE)


@dataclass(frozen=True)
class SearchResult:
    """One result of a search, with the number that citations use."""

    number: int
    title: str
    url: str
    snippet: str


@dataclass(frozen=True)
class SearchStep:
    query: str
    outcome: Literal["ok", "empty", "failed"]
    results: tuple[SearchResult, ...] = ()


@dataclass(frozen=True)
class FetchedPage:
    """A page. `text` is empty when the page could not be read; `number` is 0 when it has none."""

    url: str
    number: int
    text: str


@dataclass(frozen=True)
class ResearchResults:
    """`exhausted`: a tool said that no steps are left."""

    searches: tuple[SearchStep, ...]
    pages: tuple[FetchedPage, ...]
    exhausted: bool

    @property
    def sources(self) -> int:
        return sum(len(search.results) for search in self.searches)

    @property
    def steps(self) -> int:
        return len(self.searches) + len(self.pages)


def read_results(results: list[ToolResult]) -> ResearchResults | None:
    """None when a result is of another kind of tool."""
    searches: list[SearchStep] = []
    pages: list[FetchedPage] = []
    exhausted = False
    numbers: dict[str, int] = {}
    for result in results:
        values = [value for value in result.call.arguments.values() if isinstance(value, str)]
        if len(values) != 1:
            return None
        (argument,), text = values, result.text
        if NO_STEPS_LEFT_RESULT.match(text):
            exhausted = True
        elif argument.startswith(("http://", "https://")) and not is_search(result):
            pages.append(read_page(argument, text, numbers))
        elif (found := read_search(argument, text)) is not None and (found.results or is_search(result)):
            searches.append(found)
            numbers.update({each.url: each.number for each in found.results})
        else:
            return None
    return ResearchResults(tuple(searches), tuple(pages), exhausted)


def is_search(result: ToolResult) -> bool:
    return not SEARCH_WORDS.isdisjoint(stems(result.call.name))


def read_search(query: str, text: str) -> SearchStep | None:
    if results := parse_results(text[:MAX_CHARACTERS]):
        return SearchStep(query, "ok", results)
    if not text.strip() or text.strip() == "[]" or NO_RESULTS.match(text):
        return SearchStep(query, "empty")
    if text.lstrip()[:1] in {"{", "["}:
        # The intent `tool_answers` reads JSON.
        return None
    return SearchStep(query, "failed") if FAILURE.match(text) else None


@lru_cache(maxsize=512)
def parse_results(text: str) -> tuple[SearchResult, ...]:
    """Results of the form `[1] Title`, the URL on the next line, then a snippet."""
    _, *parts = RESULT_START.split(text)
    found = []
    for number, body in list(zip(parts[::2], parts[1::2], strict=True))[:MAX_RESULTS]:
        title, _, rest = body.partition("\n")
        url, _, snippet = rest.partition("\n")
        if url.startswith(("http://", "https://")):
            found.append(SearchResult(int(number), title.strip(), url.strip(), snippet.strip()))
    return tuple(found)


def read_page(url: str, text: str, numbers: dict[str, int]) -> FetchedPage:
    head = PAGE_HEAD.match(text)
    # Trust the number that the search gave this URL, not the one that the page claims.
    number = numbers.get(url) or (int(head[1]) if head else 0)
    if head is None and FAILURE.match(text) and len(text) < 500:
        return FetchedPage(url, number, "")
    return FetchedPage(url, number, text[head.end() if head else 0 :].strip())


def quotable_sentences(text: str) -> list[str]:
    """The sentences of a text, each once, without those that are instructions for a model."""
    plain = without_markup(text[:MAX_CHARACTERS])
    prose = [each for each in prose_sentences(plain) if not INJECTED_INSTRUCTION.search(each)]
    return list(dict.fromkeys(prose or clean_sentences(plain)))


def without_markup(text: str) -> str:
    """Remove code blocks, block quote marks (`>`) and repeated blank lines."""
    lines, listing = [""], False
    for line in text.splitlines():
        plain = line.removeprefix(">").rstrip()
        if plain.startswith(("```", "~~~")):
            listing, plain = not listing, ""
        if not listing and (plain or lines[-1]):
            lines.append(plain)
    return "\n".join(lines)
