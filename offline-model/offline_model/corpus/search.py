"""The library: which passages answer a question, and whether any does."""

import math
import re
import sqlite3
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

from offline_model.corpus.index import open_index
from offline_model.corpus.query_terms import content_words, terms, topic
from offline_model.corpus.ranking import Entry, Found, Judge

# How many passages of a search are judged.
CANDIDATES = 12
RAREST = 4
MOST_RESULTS = 8
SHORT = 2
MOST_PAGE = 200_000
# Nobody asks more at once; a longer text is searched by the rarest terms of its beginning.
MOST_TERMS = 16

IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[A-Za-z_]\w+")


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
        self.headings: dict[frozenset[str], list[int]] = {}
        for number, title in connection.execute("select id, title from passages where kind <> 'library'"):
            self.headings.setdefault(frozenset(terms(title.rpartition(": ")[2])), []).append(number)
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
        every = self.find(query)
        if len(terms(query)) <= SHORT and not topic(query)[1]:
            # A word or two: first of all what that is.
            every = self.find(f"What is {query}?") + every
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

    def find(self, question: str, most: int = CANDIDATES) -> list[Found]:
        """Passages that speak of what is asked, best first; those that answer it stand before the others."""
        judge = self.judge(question)
        known = sorted(
            (term for term in judge.weights if term in self.frequency), key=self.frequency.__getitem__
        )
        if all(term.isdigit() for term in known):
            return []
        hits = self.called_whole(question) if judge.defines else {}
        hits = hits or self.candidates(judge, known)
        found = [judge.read(self.entry(number)) for number in hits]
        return sorted(found, key=lambda each: (not each.direct, -each.score))[:most]

    def judge(self, question: str) -> Judge:
        about, defines = topic(question)
        weights = {term: self.weight(term) for term in terms(about) or terms(question)}
        if len(weights) > MOST_TERMS:
            rarest = sorted(weights, key=weights.__getitem__, reverse=True)[:MOST_TERMS]
            weights = {term: weights[term] for term in rarest}
        total = sum(weights.values())
        words = set(IDENTIFIER.findall(question))
        exact = {word for word in words if word[1:] != word[1:].lower() or "_" in word}
        # "asyncio gather" names asyncio.gather too.
        names = {word.lower() for word in words - exact} | {
            ".".join(pair) for pair in pairwise(content_words(question))
        }
        names |= {word.removesuffix(ending) for word in names if "." not in word for ending in ("s", "es")}
        shares = {term: weight / total for term, weight in weights.items()}
        return Judge(shares, names, exact, defines)

    def candidates(self, judge: Judge, known: list[str]) -> dict[int, None]:
        """Passages that may answer: things of this name, sections of this heading, a search's results."""
        hits = self.named(judge) | dict.fromkeys(self.headings.get(frozenset(judge.weights), ()))
        if judge.defines:
            # Running text defines; a docstring does so for the thing of its name.
            hits |= self.query(" AND ".join(f'"{term}"' for term in known[:RAREST]), self.told)
        return hits if judge.defines and hits else hits | self.matching(known)

    def called_whole(self, question: str) -> dict[int, None]:
        """What is called by its whole name, such as `json.dumps`, needs no search."""
        words = [word.lower() for word in IDENTIFIER.findall(question) if "." in word]
        return {number: None for word in words for number in self.titles.get(word, ())}

    def matching(self, known: list[str]) -> dict[int, None]:
        """Passages with all of the rarest terms; when there is none, with the rarest or the next two.

        Any passage that covers half of a question has one of these, and a search for any term at all
        would rank half of the books.
        """
        first, *others = [f'"{term}"' for term in known[:RAREST]]
        hits = self.query(" AND ".join([first, *others]))
        if not hits and others:
            hits = self.query(first + (f" OR ({others[0]} AND {others[1]})" if len(others) > 1 else ""))
        return hits

    def query(self, words: str, below: int = 2**31) -> dict[int, None]:
        """Passages by number, the most relevant first."""
        found = self.connection.execute(
            "select rowid from words where words match ? and rowid < ? "
            "order by bm25(words, 8.0, 1.0) limit ?",
            (words, below, CANDIDATES),
        )
        return dict.fromkeys(number for (number,) in found)

    def named(self, judge: Judge) -> dict[int, None]:
        """Things of the library whose whole or last name stands in the question."""
        hits: dict[int, None] = {}
        for name in sorted(judge.names | {name.lower() for name in judge.exact}):
            hits |= dict.fromkeys(self.titles.get(name, ()))
            if judge.defines:
                hits |= dict.fromkeys(self.called.get(name, ())[:CANDIDATES])
        return hits

    def read_entry(self, number: int) -> Entry:
        title, place, kind, url, sentences, lines = self.connection.execute(
            "select title, place, kind, url, sentences, stems from passages where id = ?", (number,)
        ).fetchone()
        return Entry(title, place, kind, url, sentences.split("\n"), lines.split("\n"))


def open_library(books: Path | None) -> Library:
    return Library(open_index(books))
