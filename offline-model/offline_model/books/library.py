"""The library: which passage answers a question, and whether any does."""

import math
import re
import sqlite3
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from offline_model.books.index import open_index
from offline_model.books.words import said, stems, terms

CANDIDATES = 16
RAREST = 4
COVERED = 0.5
IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[A-Za-z_]\w+")
DEFINITION = re.compile(
    r"^\W*(?:please |can you |could you )*(?:what(?:'s| is| are| does| do)|define|explain|describe|"
    r"tell me about)\b",
    re.IGNORECASE,
)
FIELDS = "id, title, place, kind, sentences, heading, stems"

Row = tuple[int, str, str, str, str, str, str, float]


@dataclass(frozen=True, slots=True)
class Found:
    """A passage with how well it answers. `start` is the sentence to begin with.

    `direct` is false when neither its title nor any sentence of it is about the thing that is asked for.
    """

    title: str
    place: str
    kind: str
    sentences: list[str]
    start: int
    score: float
    direct: bool


class Library:
    """Search over the index. Every answer is the same for the same question."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.size: int = connection.execute("select count(*) from passages").fetchone()[0]
        self.frequency: dict[str, int] = dict(connection.execute("select term, doc from vocabulary"))
        self.search = lru_cache(maxsize=512)(self.find)

    def weight(self, term: str) -> float:
        """A term's weight: rare words say most (inverse document frequency)."""
        return math.log(1 + self.size / (1 + self.frequency.get(term, 0)))

    def find(self, question: str) -> list[Found]:
        """Passages that cover enough of the question, best first."""
        asked = terms(question)
        known = sorted((term for term in asked if term in self.frequency), key=self.frequency.__getitem__)
        if not known:
            return []
        weights = {term: self.weight(term) for term in asked}
        words = set(IDENTIFIER.findall(question))
        # "asyncio gather" names asyncio.gather too.
        names = {word.lower() for word in words} | {".".join(pair) for pair in pairwise(said(question))}
        whole = f" {' '.join(stems(question))} "
        judge = Judge(weights, words, names, whole, DEFINITION.match(question) is not None)
        rows = {row[0]: row for row in [*self.matching(known), *self.named(names)]}
        found = [each for row in rows.values() if (each := judge.judge(row)) is not None]
        return sorted(found, key=lambda each: -each.score)

    def matching(self, known: list[str]) -> list[Row]:
        """Passages with all of the rarest terms, else with any of them."""
        quoted = [f'"{term}"' for term in known[:RAREST]]
        rows = self.query(" AND ".join(quoted))
        if len(rows) < 4 and len(quoted) > 1:
            rows += self.query(" OR ".join(quoted))
        return rows

    def query(self, words: str) -> list[Row]:
        return self.connection.execute(
            f"select {FIELDS}, relevance from passages join ("  # noqa: S608 - FIELDS is a constant
            "select rowid, bm25(words, 8.0, 1.0) as relevance from words where words match ?"
            " order by relevance limit ?) as best on passages.id = best.rowid",
            (words, CANDIDATES),
        ).fetchall()

    def named(self, names: set[str]) -> list[Row]:
        """Passages whose title is a name that stands in the question."""
        marks = ", ".join("?" * len(names))
        return self.connection.execute(
            f"select {FIELDS}, 0.0 from passages where title collate nocase in ({marks})",  # noqa: S608
            sorted(names),
        ).fetchall()


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges passages for one question."""

    weights: dict[str, float]
    words: set[str]
    names: set[str]
    whole: str
    defines: bool

    def judge(self, row: Row) -> Found | None:
        _, title, place, kind, sentences, heading, stems, relevance = row
        total = sum(self.weights.values())
        covered = self.share(heading + stems) / total
        named = title.lower() in self.names and not (title.islower() and "." not in title)
        if covered < COVERED and not named:
            return None
        texts, lines = sentences.split("\n"), stems.split("\n")
        in_title = self.share(heading) / total
        shares = [self.share(line) / total for line in lines]
        if kind == "library":
            # A docstring's first line is about the thing in the title without saying its name.
            shares[0] = max(shares[0], in_title)
        about = [at for at, line in enumerate(lines) if self.is_definition(line)] if self.defines else []
        start = about[0] if about else opening(texts, shares, kind, in_title)
        score = 3 * covered + max(shares) - relevance / 20 + self.title_score(title, kind, heading, in_title)
        direct = in_title >= COVERED or bool(about) or (max(shares) >= COVERED and not self.defines)
        return Found(title, place, kind, texts, start, score + 1.5 * bool(about), direct)

    def title_score(self, title: str, kind: str, heading: str, in_title: float) -> float:
        """How well the title alone fits: best when it is named, good when it says nothing else."""
        words = heading.split()
        precise = sum(word in self.weights for word in words) / max(1, len(words))
        score = 2 * in_title * (precise if kind == "library" else 0.5 + precise) + 2 * precise
        if title.lower() in self.names and ("." in title or precise == 1):
            score += 6
        elif precise == 1 and in_title > 0.99:
            score += 1.5
        if heading.endswith(self.whole):
            score += 4
        last = title.rpartition(".")[2]
        score += 0.5 * (last in self.words or title in self.words) + 0.5 * (
            kind == "library" and "." not in title
        )
        return (
            score
            + {"page": 0.6, "manual": 1.0 if self.defines else 0.3, "library": 0.0}[kind]
            - 0.2 * title.count(".")
        )

    def share(self, line: str) -> float:
        return sum(weight for term, weight in self.weights.items() if f" {term} " in line)

    def is_definition(self, line: str) -> bool:
        """`A generator is ...`: all that is asked for stands before the verb, and little else."""
        before, verb, after = line.partition(" is ")
        if not verb or len(before) > 60:
            before, verb, after = line.partition(" are ")
        words = before.split()
        if (
            not verb
            or len(words) > len(self.weights) + 2
            or after.startswith(("not ", "also ", "now ", "no "))
        ):
            return False
        return all(term in words for term in self.weights)


UNFINISHED = re.compile(
    r"^(?:it|its|this|these|those|that|they|their|he|she|such|otherwise|however|but|then|also|and|or|so|"
    r"if so|if not|for instance|for example|therefore|thus|hence|instead|note|similarly|moreover|furthermore|"
    r"in (?:this|that|such|contrast|particular|addition|both)|additionally|as (?:such|a result)|"
    r"the (?:latter|former|other|same|above))\b",
    re.IGNORECASE,
)


def opening(texts: list[str], shares: list[float], kind: str, in_title: float) -> int:
    """The sentence to begin with: what follows says most, and it does not hang on a sentence before it."""
    best, start = -10.0, 0
    for at, text in enumerate(texts):
        value = sum(shares[at : at + 3]) + shares[at]
        if at == 0:
            # A docstring's first line is its summary, and a section's first sentence its subject.
            value += 3 if kind == "library" else 0.4 + 2 * in_title
        elif UNFINISHED.match(text):
            value -= 0.8
        if value > best:
            best, start = value, at
    return start


def open_library(books: Path | None) -> Library:
    return Library(open_index(books))
