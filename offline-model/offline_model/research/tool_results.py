"""Findings: what a search and a reader of pages gave back, told by the form of their results."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from offline_model.api.requests import Tool
from offline_model.conversation.documents import ORDER, clean
from offline_model.conversation.messages import Result
from offline_model.conversation.tool_selection import SEARCHING
from offline_model.corpus.plain_text import prose_sentences
from offline_model.corpus.stemming import stems

MOST_TEXT = 20_000
MOST_ENTRIES = 50

START = re.compile(r"^\[(\d{1,4})\] ", re.MULTILINE)
HEADED = re.compile(r"\[(\d{1,4})\] [^\n]*\n(?:https?://\S+\n)?")
NOTHING = re.compile(r"^\W*(?:no|nothing|0)\b.{0,20}\b(?:results?|found|matches)\b", re.IGNORECASE)
UNREAD = re.compile(
    r"^.{0,80}\b(?:could not|may not|cannot|can't|failed|refused|not allowed|error|timed out)\b",
    re.IGNORECASE,
)
LAST = re.compile(r"^\W*no (?:more )?steps\b.{0,20}\bleft\b", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One result of a search, with the number it is cited by."""

    number: int
    title: str
    url: str
    snippet: str


@dataclass(frozen=True)
class Search:
    query: str
    outcome: Literal["ok", "empty", "failed"]
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page that was asked for. `text` is empty when it could not be had, `number` is 0 when it has none."""

    url: str
    number: int
    text: str


@dataclass(frozen=True)
class Kit:
    """The two tools of research, each with the argument that carries what is looked for."""

    search: Tool
    query: str
    fetch: Tool
    url: str


@dataclass(frozen=True)
class Findings:
    searches: tuple[Search, ...]
    pages: tuple[Page, ...]
    exhausted: bool
    """A tool itself said that no steps are left."""

    @property
    def sources(self) -> int:
        return sum(len(search.entries) for search in self.searches)

    @property
    def steps(self) -> int:
        return len(self.searches) + len(self.pages)


def read(results: list[Result]) -> Findings | None:
    """None when the results are those of other tools."""
    searches: list[Search] = []
    pages: list[Page] = []
    exhausted = False
    numbers: dict[str, int] = {}
    for result in results:
        values = [value for value in result.call.arguments.values() if isinstance(value, str)]
        if len(values) != 1:
            return None
        (given,), text = values, result.text
        if LAST.match(text):
            exhausted = True
        elif given.startswith(("http://", "https://")) and not searching(result):
            pages.append(page(given, text, numbers))
        elif (found := search(given, text)) is not None and (found.entries or searching(result)):
            searches.append(found)
            numbers.update({entry.url: entry.number for entry in found.entries})
        else:
            return None
    return Findings(tuple(searches), tuple(pages), exhausted)


def searching(result: Result) -> bool:
    return not SEARCHING.isdisjoint(stems(result.call.name))


def search(query: str, text: str) -> Search | None:
    if entries := numbered(text[:MOST_TEXT]):
        return Search(query, "ok", entries)
    if not text.strip() or text.strip() == "[]" or NOTHING.match(text):
        return Search(query, "empty")
    if text.lstrip()[:1] in {"{", "["}:
        # JSON is read by other skills.
        return None
    return Search(query, "failed") if UNREAD.match(text) else None


@lru_cache(maxsize=512)
def numbered(text: str) -> tuple[Entry, ...]:
    """Entries of the form `[1] Title`, its URL on the second line, then a snippet."""
    _, *parts = START.split(text)
    found = []
    for number, body in list(zip(parts[::2], parts[1::2], strict=True))[:MOST_ENTRIES]:
        title, _, rest = body.partition("\n")
        url, _, snippet = rest.partition("\n")
        if url.startswith(("http://", "https://")):
            found.append(Entry(int(number), title.strip(), url.strip(), snippet.strip()))
    return tuple(found)


def page(url: str, text: str, numbers: dict[str, int]) -> Page:
    head = HEADED.match(text)
    # The search said which number this URL has; a page might say anything.
    number = numbers.get(url) or (int(head[1]) if head else 0)
    if head is None and UNREAD.match(text) and len(text) < 500:
        return Page(url, number, "")
    return Page(url, number, text[head.end() if head else 0 :].strip())


def sentences(text: str) -> tuple[str, ...]:
    """A text's sentences, whether its lines are wrapped or not, without any that wants to be obeyed."""
    return sentences_of(text[:MOST_TEXT])


@lru_cache(maxsize=512)
def sentences_of(text: str) -> tuple[str, ...]:
    told = running(text)
    found = [each for each in prose_sentences(told) if not ORDER.search(each)] or clean(told)
    return tuple(dict.fromkeys(found))


def running(text: str) -> str:
    """A text without listings, marks of quotation and more than one blank line at a time."""
    lines, listing = [""], False
    for line in text.splitlines():
        plain = line.removeprefix(">").rstrip()
        if plain.startswith(("```", "~~~")):
            listing, plain = not listing, ""
        if not listing and (plain or lines[-1]):
            lines.append(plain)
    return "\n".join(lines)
