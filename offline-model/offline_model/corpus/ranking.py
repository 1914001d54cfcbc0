"""Judging: whether a passage answers a question, how well, and with which of its sentences."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from offline_model.corpus.query_terms import STOP_WORDS, terms
from offline_model.corpus.stemming import stems

# How much of a question, by weight, a passage must speak of; and a name, to be what the question is about.
ALL, COVERED, MAINLY, PARTLY = 0.99, 0.55, 0.5, 0.4
WINDOW = 3
# Fewer words are a remark, and no sentence that defines.
SHORT = 6
LONGEST = 700

UNFINISHED = re.compile(
    r"^(?:it|its|this|these|those|that|they|their|he|she|such|otherwise|however|but|then|also|and|or|so|"
    r"if so|if not|for instance|for example|therefore|thus|hence|instead|note|similarly|moreover|furthermore|"
    r"in (?:this|that|such|contrast|particular|addition|both)|additionally|as (?:such|a result)|"
    r"the (?:latter|former|other|same|above))\b",
    re.IGNORECASE,
)
# As stems: `A generator is ...`, `Graceful shutdown means ...`.
VERBS = frozenset(stems("is are means mean refers"))
STOP_STEMS = frozenset(stems(" ".join(STOP_WORDS)))
ARTICLES = {"a", "an", "the"}
# The course before the manual before the library, and its front rooms before its back rooms.
PREFERENCE, DEPTH = {"page": 0.6, "manual": 0.4, "library": 0.0}, 0.15


class Entry:
    """A passage as it is judged: `own` are the terms of its heading, `lines` the stems of each sentence."""

    __slots__ = ("kind", "lines", "own", "place", "sentences", "sets", "title", "url", "words")

    def __init__(
        self, title: str, place: str, kind: str, url: str, sentences: list[str], lines: Iterable[str]
    ) -> None:
        self.title, self.place, self.kind, self.url, self.sentences = title, place, kind, url, sentences
        self.lines = [line.split() for line in lines]
        self.sets = [frozenset(line) for line in self.lines]
        self.own = frozenset(terms(title.rpartition(": ")[2])) or frozenset(stems(title))
        self.words = self.own.union(stems(title))


@dataclass(frozen=True, slots=True)
class Found:
    """A passage with its sentences in the order in which they answer.

    `direct` says whether they do; `defined`, whether one has all that is asked for as its subject.
    """

    title: str
    place: str
    url: str
    sentences: list[str]
    order: list[int]
    score: float
    direct: bool
    defined: bool

    def best(self, length: int) -> list[str]:
        """The best sentences, as they stand in the passage; a very long one stands alone."""
        chosen: list[int] = []
        for at in self.order[:length]:
            if chosen and sum(len(self.sentences[each]) for each in [*chosen, at]) > LONGEST:
                break
            chosen.append(at)
        return [self.sentences[at] for at in sorted(chosen)]


@dataclass(frozen=True, slots=True)
class Judge:
    """One question: its terms with their weights, the names in it, and whether it asks what something is.

    `names` are in lower case; `exact` are those with capitals inside, which are meant as they are written.
    """

    weights: dict[str, float]
    names: set[str]
    exact: set[str]
    defines: bool

    def read(self, entry: Entry) -> Found:
        own = self.share(entry.own)
        precise = sum(term in self.weights for term in entry.own) / max(1, len(entry.own))
        shares = [self.share(line) for line in entry.sets]
        # A docstring is about the thing it is named for, and tells of nothing else.
        told = entry.kind != "library" or own > 0
        if entry.kind == "library":
            shares[0] = max(shares[0], own)
        least = ALL if self.defines and told else 2
        about = [
            self.about(line) if share >= least else 0 for line, share in zip(entry.lines, shares, strict=True)
        ]
        defined = max(about)
        meant = self.named(entry, own) or (entry.kind != "library" and min(own, precise) >= ALL)
        start = about.index(defined) if defined or meant else self.opening(entry, shares, own)
        order = self.order(entry, start)
        covered = self.share(entry.words.union(*[entry.sets[at] for at in order[:WINDOW]]))
        if self.defines:
            direct = defined > 0 or (len(self.weights) > 1 and own >= PARTLY and covered >= ALL)
        else:
            direct = told and covered >= COVERED
        score = (3 * meant + 2 * own) * precise + covered + max(shares) + defined
        score += PREFERENCE[entry.kind] - DEPTH * entry.title.count(".")
        found = (entry.title, entry.place, entry.url, entry.sentences, order, score)
        return Found(*found, direct=meant or direct, defined=defined > 0)

    def share(self, words: frozenset[str]) -> float:
        """The part of the question, by weight, that is among the words."""
        return sum([weight for term, weight in self.weights.items() if term in words])

    def named(self, entry: Entry, own: float) -> bool:
        """Whether the question calls this passage's thing by its name."""
        whole, last = entry.title, entry.title.rpartition(".")[2]
        if whole in self.exact or ("." in whole and whole.lower() in self.names):
            return True
        if entry.kind != "library" or own < MAINLY:
            return False
        return (
            last in self.exact or whole.lower() in self.names or (self.defines and last.lower() in self.names)
        )

    def about(self, line: list[str]) -> float:
        """Whether what is asked for is a sentence's subject: `Uvicorn runs`, or better `A generator is`."""
        asked = list(self.weights)
        for verb, called in pairwise(line):
            if called == "call" and verb in VERBS:  # A function that yields is called a generator.
                named = [word for word in line[line.index(called) + 1 :] if word not in ARTICLES]
                return 1.5 if named[: len(asked)] == asked else 0
        said = [word for word in line if word not in STOP_STEMS or word in VERBS or word in self.weights]
        first = said[: len(asked) + 1]
        if len(line) < SHORT or first[0] not in asked or [word for word in first if word in asked] != asked:
            return 0
        return 1.5 if VERBS & set(first[1:]) else 0.5

    def opening(self, entry: Entry, shares: list[float], own: float) -> int:
        """The sentence to begin with: it and the next say most, and it hangs on none before it."""
        best, start = -10.0, 0
        for at, text in enumerate(entry.sentences):
            value = sum(shares[at : at + WINDOW]) + shares[at]
            if at == 0:
                # A docstring's first line is its summary, and a section's first sentence its subject.
                value += 3 if entry.kind == "library" else 0.4 + 2 * own
            elif UNFINISHED.match(text):
                value -= 0.8
            if value > best:
                best, start = value, at
        return start

    def order(self, entry: Entry, start: int) -> list[int]:
        """First the opening, then what speaks of the terms that are missing, then what follows."""
        order, missing = [start], self.weights.keys() - entry.words - entry.sets[start]
        for at in [*range(start + 1, min(start + 8, len(entry.sets))), *range(max(0, start - 4), start)]:
            if missing & entry.sets[at]:
                order.append(at)
                missing -= entry.sets[at]
        return order + [at for at in range(start + 1, min(start + 5, len(entry.sets))) if at not in order]
