"""Search: which passages of the corpus answer a question, and whether any of them does."""

import math
import re
import sqlite3
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

from offline_model.corpus.index import open_index
from offline_model.corpus.ranking import Hit, Ranker, TokenizedPassage
from offline_model.corpus.terms import content_words, terms, topic

# How many passages of a full-text search are ranked.
MAX_CANDIDATES = 24
# The full-text search asks for the rarest terms of a question only.
RAREST_TERMS = 4
# A long question is ranked by its rarest terms.
MAX_TERMS = 16
# Results of the web search, and characters of a page.
MAX_RESULTS, MAX_PAGE = 8, 200_000
# A web search with at most this many terms first searches for "What is ...?".
MAX_DEFINITION_TERMS = 2

IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[A-Za-z_]\w+")


class Corpus:
    """Search over the index. The same question always gets the same hits."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        connection.execute("pragma cache_size = -32768")
        self.connection = connection
        self.size: int = connection.execute("select count(*) from passages").fetchone()[0]
        self.frequency: dict[str, int] = dict(connection.execute("select term, doc from vocabulary"))
        # Numbers of passages of the library, by whole name and by its last part.
        self.by_name: dict[str, list[int]] = {}
        self.by_last_name: dict[str, list[int]] = {}
        for number, title in connection.execute("select id, title from passages where kind = 'library'"):
            self.by_name.setdefault(title.lower(), []).append(number)
            self.by_last_name.setdefault(title.rpartition(".")[2].lower(), []).append(number)
        # The course and the language reference come first in the index.
        self.first_in_library = min(map(min, self.by_name.values()))
        self.passage = cache(self.read_passage)
        self.search = lru_cache(maxsize=512)(self.find)
        self.web_results = lru_cache(maxsize=2048)(self.find_web_results)
        self.page = lru_cache(maxsize=256)(self.read_page)

    def weight(self, term: str) -> float:
        """The inverse document frequency of a term: rare words weigh more."""
        return math.log(1 + self.size / (1 + self.frequency.get(term, 0)))

    def find_web_results(self, query: str) -> list[Hit]:
        """The results that a search engine shows: the best passage of each URL."""
        hits = self.find(query)
        if len(terms(query)) <= MAX_DEFINITION_TERMS and not topic(query)[1]:
            hits = self.find(f"What is {query}?") + hits
        by_url: dict[str, Hit] = {}
        for hit in hits:
            by_url.setdefault(hit.url, hit)
        return list(by_url.values())[:MAX_RESULTS]

    def read_page(self, url: str) -> str:
        """The text of a section, or of the whole page when the URL has no anchor; empty for an unknown URL.

        The section of a class is followed by its methods.
        """
        page, _, anchor = url.partition("#")
        rows = self.connection.execute(
            "select url, title, text from sections where page = ? order by id", (page,)
        )
        sections = [
            f"# {title}\n\n{text.strip()}"
            for address, title, text in rows
            if not anchor or address == url or address.startswith(f"{url}.")
        ]
        return "\n\n".join(sections)[:MAX_PAGE]

    def find(self, question: str) -> list[Hit]:
        """Ranked passages. Those that answer the question come first."""
        ranker = self.ranker(question)
        known = sorted(
            (term for term in ranker.weights if term in self.frequency), key=self.frequency.__getitem__
        )
        if all(term.isdigit() for term in known):
            return []
        numbers = self.with_dotted_name(question) if ranker.asks_definition else {}
        numbers = numbers or self.candidates(ranker, known)
        hits = [ranker.rank(self.passage(number)) for number in numbers]
        return sorted(hits, key=lambda hit: (not hit.answers, -hit.score))[:MAX_CANDIDATES]

    def ranker(self, question: str) -> Ranker:
        subject, asks_definition = topic(question)
        weights = {term: self.weight(term) for term in terms(subject) or terms(question)}
        rarest = sorted(weights, key=weights.__getitem__, reverse=True)[:MAX_TERMS]
        weights = {term: weight for term, weight in weights.items() if term in rarest}
        total = sum(weights.values())
        words = set(IDENTIFIER.findall(question))
        exact_names = {word for word in words if word[1:] != word[1:].lower() or "_" in word}
        names = {word.lower() for word in words - exact_names}
        # "asyncio gather" is a name of asyncio.gather too.
        names |= {".".join(pair) for pair in pairwise(content_words(question))}
        # "What are dataclasses?" names dataclass.
        names |= {word.removesuffix(ending) for word in names if "." not in word for ending in ("s", "es")}
        shares = {term: weight / total for term, weight in weights.items()}
        return Ranker(shares, names, exact_names, asks_definition)

    def candidates(self, ranker: Ranker, known: list[str]) -> dict[int, None]:
        """Numbers of passages to rank: by name, and by full-text search."""
        numbers = self.with_name(ranker)
        if ranker.asks_definition:
            # Only prose is searched: a docstring defines nothing but its own module, class or function, and
            # `with_name` has found those.
            every = " AND ".join(f'"{term}"' for term in known[:RAREST_TERMS])
            numbers |= self.full_text(every, before=self.first_in_library)
        return numbers if ranker.asks_definition and numbers else numbers | self.with_terms(known)

    def with_dotted_name(self, question: str) -> dict[int, None]:
        """Passages whose whole name stands in the question, such as `json.dumps`."""
        names = [word.lower() for word in IDENTIFIER.findall(question) if "." in word]
        return {number: None for name in names for number in self.by_name.get(name, ())}

    def with_name(self, ranker: Ranker) -> dict[int, None]:
        """Passages of the library whose whole or last name stands in the question."""
        numbers: dict[int, None] = {}
        for name in sorted(ranker.names | {name.lower() for name in ranker.exact_names}):
            numbers |= dict.fromkeys(self.by_name.get(name, ()))
            if ranker.asks_definition:
                numbers |= dict.fromkeys(self.by_last_name.get(name, ())[:MAX_CANDIDATES])
        return numbers

    def with_terms(self, known: list[str]) -> dict[int, None]:
        """Passages that contain all of the rarest terms.

        If there are none: passages with the rarest term, or with both the second and the third.

        A search for any of the terms would rank half of the corpus.
        """
        first, *others = [f'"{term}"' for term in known[:RAREST_TERMS]]
        numbers = self.full_text(" AND ".join([first, *others]))
        if not numbers and others:
            more = f" OR ({others[0]} AND {others[1]})" if len(others) > 1 else ""
            numbers = self.full_text(first + more)
        return numbers

    def full_text(self, query: str, before: int = 2**31) -> dict[int, None]:
        """Numbers of passages below `before`, the most relevant first; a word in a heading counts 8 times."""
        rows = self.connection.execute(
            "select rowid from passage_words where passage_words match ? and rowid < ? "
            "order by bm25(passage_words, 8.0, 1.0) limit ?",
            (query, before, MAX_CANDIDATES),
        )
        return dict.fromkeys(number for (number,) in rows)

    def read_passage(self, number: int) -> TokenizedPassage:
        title, location, kind, url, sentences, lines = self.connection.execute(
            "select title, location, kind, url, sentences, stems from passages where id = ?", (number,)
        ).fetchone()
        return TokenizedPassage(title, location, kind, url, sentences.split("\n"), lines.split("\n"))


def open_corpus(pages: Path | None) -> Corpus:
    """The corpus of these pages (a folder of Markdown files) and of Python's own documentation."""
    return Corpus(open_index(pages))
