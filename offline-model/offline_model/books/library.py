"""The library: which passage answers a question, and whether any does."""

import math
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from offline_model.books.index import open_index
from offline_model.books.words import terms

CANDIDATES = 12
RAREST = 4
COVERED = 0.6


@dataclass(frozen=True, slots=True)
class Found:
    """A passage with how well it covers the question (0 to 1) and each sentence's share of it."""

    title: str
    place: str
    kind: str
    sentences: list[str]
    shares: list[float]
    coverage: float
    score: float


class Library:
    """Search over the index. Every answer is the same for the same question."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.size: int = connection.execute("select count(*) from passages").fetchone()[0]
        self.frequency: dict[str, int] = dict(connection.execute("select term, doc from vocabulary"))

    def weight(self, term: str) -> float:
        """A term's weight: rare words say most (inverse document frequency)."""
        return math.log(1 + self.size / (1 + self.frequency.get(term, 0)))

    def search(self, question: str) -> list[Found]:
        """Passages that cover enough of the question, best first."""
        asked = terms(question)
        known = sorted((term for term in asked if term in self.frequency), key=self.frequency.__getitem__)
        if not known:
            return []
        weights = {term: self.weight(term) for term in asked}
        rows = self.rows(" AND ".join(f'"{t}"' for t in known[:RAREST])) or self.rows(
            " OR ".join(f'"{t}"' for t in known[:RAREST])
        )
        found = [self.judge(row, weights) for row in rows]
        found = [each for each in found if each.coverage >= COVERED]
        return sorted(found, key=lambda each: -each.score)

    def rows(self, query: str) -> list[tuple[str, str, str, str, str, float]]:
        return self.connection.execute(
            "select title, place, kind, sentences, stems, rank from passages join ("
            "select rowid, bm25(words, 6.0, 1.0) as rank from words where words match ? order by rank limit ?"
            ") as best on passages.id = best.rowid order by rank",
            (query, CANDIDATES),
        ).fetchall()

    def judge(self, row: tuple[str, str, str, str, str, float], weights: dict[str, float]) -> Found:
        title, place, kind, sentences, stems, rank = row
        heading = terms(title)
        total = sum(weights.values())
        shares = [
            sum(weight for term, weight in weights.items() if f" {term} " in line) / total
            for line in stems.split("\n")
        ]
        coverage = sum(w for term, w in weights.items() if f" {term} " in stems or term in heading) / total
        score = coverage * 10 - rank / 10 + (1 if kind == "page" else 0)
        return Found(title, place, kind, sentences.split("\n"), shares, coverage, score)


def open_library(books: Path | None) -> Library:
    return Library(open_index(books))
