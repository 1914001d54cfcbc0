"""The library: which passages answer a question, and whether any does."""

import math
import re
import sqlite3
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

from offline_model.books.index import open_index
from offline_model.books.judge import COVERED, Entry, Found, Judge
from offline_model.books.words import said, stems, terms

# How many passages are looked at from afar, and how many of them closely.
CANDIDATES = 12
CLOSELY = 4
RAREST = 4
FEW = 1
MOST_RESULTS = 8
# Who searches by a few words looks through the results; who asks a question wants its answer.
COVERED_BY_RESULTS = 0.45
SHORT = 2
MOST_PAGE = 200_000
# Nobody asks more at once; a longer text is searched by the rarest terms of its beginning.
MOST_TERMS = 16

IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[A-Za-z_]\w+")
DEFINITION = re.compile(
    r"^\W*(?:please |can you |could you )*(?:what(?:'s| is| are| does| do)|define|explain|describe|"
    r"tell me about)\b",
    re.IGNORECASE,
)


class Library:
    """Search over the index. Every answer is the same for the same question."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        connection.execute("pragma cache_size = -32768")
        self.connection = connection
        self.size: int = connection.execute("select count(*) from passages").fetchone()[0]
        self.frequency: dict[str, int] = dict(connection.execute("select term, doc from vocabulary"))
        self.titles: dict[str, list[int]] = {}
        self.called: dict[str, list[int]] = {}
        for number, title in connection.execute("select id, title from passages where kind = 'library'"):
            self.titles.setdefault(title.lower(), []).append(number)
            self.called.setdefault(title.rpartition(".")[2].lower(), []).append(number)
        self.headings: dict[str, list[int]] = {}
        for number, title in connection.execute("select id, title from passages where kind = 'page'"):
            self.headings.setdefault(" ".join(stems(title.rpartition(": ")[2])), []).append(number)
        # Pages and manual come first in the index.
        self.told = min(map(min, self.titles.values()))
        self.entry = cache(self.read_entry)
        self.search = lru_cache(maxsize=512)(self.find)
        self.results = lru_cache(maxsize=2048)(self.find_results)
        self.page = lru_cache(maxsize=256)(self.read_page)

    def weight(self, term: str) -> float:
        """A term's weight: rare words say most (inverse document frequency)."""
        return math.log(1 + self.size / (1 + self.frequency.get(term, 0)))

    def find_results(self, query: str) -> list[Found]:
        """What a search engine shows: of each URL the best passage, best first."""
        every = self.find(query, MOST_RESULTS, COVERED_BY_RESULTS)
        if len(terms(query)) <= SHORT and not DEFINITION.match(query):
            # A word or two: first of all what that is.
            every = self.find(f"What is {query}?", MOST_RESULTS, COVERED_BY_RESULTS) + every
        found: dict[str, Found] = {}
        for each in every:
            found.setdefault(each.url, each)
        return list(found.values())[:MOST_RESULTS]

    def read_page(self, url: str) -> str:
        """The text of a section, or of a page when the URL names no section; empty when there is none such.

        A section of the library has the members of its class after it.
        """
        page, _, anchor = url.partition("#")
        rows = self.connection.execute(
            "select url, title, text from sections where page = ? order by id", (page,)
        )
        members = f"{url}."
        told = [
            f"# {title}\n\n{text.strip()}"
            for at, title, text in rows
            if not anchor or at == url or at.startswith(members)
        ]
        return "\n\n".join(told)[:MOST_PAGE]

    def find(self, question: str, closely: int = CLOSELY, least: float = COVERED) -> list[Found]:
        """Passages that cover enough of the question, best first; the best few are looked at closely."""
        asked = terms(question)
        known = sorted((term for term in asked if term in self.frequency), key=self.frequency.__getitem__)
        if not known:
            return []
        judge = self.judge(question, asked if len(asked) <= MOST_TERMS else known[:MOST_TERMS], least)
        hits = self.named(judge.names)
        if judge.defines:
            # Running text defines; a docstring does so for the thing of this name.
            called = [number for word in said(question) for number in self.called.get(word, ())]
            hits |= dict.fromkeys(called[:CANDIDATES], 0.0)
            hits |= self.query(" AND ".join(f'"{term}"' for term in known[:RAREST]), self.told)
        hits = hits if judge.defines and hits else hits | self.matching(known)
        hits |= dict.fromkeys(self.headings.get(judge.whole.strip(), ()), 0.0)  # the question itself
        entries = [(self.entry(number), relevance) for number, relevance in hits.items()]
        rated = [(judge.rate(entry, relevance), entry) for entry, relevance in entries]
        rated.sort(key=lambda each: -each[0])
        found = [judge.read(entry, rate) for rate, entry in rated[:closely] if rate]
        return sorted(found, key=lambda each: -each.score)

    def judge(self, question: str, asked: list[str], least: float) -> Judge:
        weights = {term: self.weight(term) for term in asked}
        total = sum(weights.values())
        words = set(IDENTIFIER.findall(question))
        # "asyncio gather" names asyncio.gather too.
        names = {word.lower() for word in words} | {".".join(pair) for pair in pairwise(said(question))}
        return Judge(
            {term: weight / total for term, weight in weights.items()},
            words,
            names,
            {name.rpartition(".")[2] for name in names},
            f" {' '.join(stems(question))} ",
            f" {' '.join(asked)} ",
            DEFINITION.match(question) is not None,
            least,
        )

    def matching(self, known: list[str]) -> dict[int, float]:
        """Passages with all of the rarest terms; when they are few, also with the rarest or the next two.

        Any passage that covers half of a question has one of these, and a search for any term at all
        would rank half of the books.
        """
        first, *others = [f'"{term}"' for term in known[:RAREST]]
        hits = self.query(" AND ".join([first, *others]))
        if len(hits) < FEW and others:
            pair = f" OR ({others[0]} AND {others[1]})" if len(others) > 1 else ""
            hits = self.query(first + pair) | hits
        return hits

    def query(self, words: str, below: int = 2**31) -> dict[int, float]:
        """Passages by number, with their relevance (the lower the better)."""
        found = self.connection.execute(
            "select rowid, bm25(words, 8.0, 1.0) from words where words match ? and rowid < ? "
            "order by 2 limit ?",
            (words, below, CANDIDATES),
        )
        return dict(found.fetchall())

    def named(self, names: set[str]) -> dict[int, float]:
        """Passages whose title is a name that stands in the question."""
        return {number: 0.0 for name in names if name in self.titles for number in self.titles[name]}

    def read_entry(self, number: int) -> Entry:
        title, place, kind, sentences, url, heading, lines = self.connection.execute(
            "select title, place, kind, sentences, url, heading, stems from passages where id = ?", (number,)
        ).fetchone()
        return Entry(title, place, kind, sentences.split("\n"), url, heading, lines.split("\n"))


def open_library(books: Path | None) -> Library:
    return Library(open_index(books))
