"""Passages: a few sentences of one source under one title, as they are read, ranked and found."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from offline_model.corpus.query_terms import terms
from offline_model.corpus.stemming import stems

# Characters of an answer.
MAX_ANSWER_LENGTH = 700

SourceKind = Literal["course", "reference", "library"]


@dataclass(frozen=True, slots=True)
class Passage:
    """`location` is what a reader opens: `docs/01-basic-api.md#run-it` or `pydoc json.dumps`.

    `url` is the same section on the web. `text` is the whole section as it is written. A long section becomes
    several passages, and only the first of them has the text.
    """

    title: str
    location: str
    kind: SourceKind
    sentences: tuple[str, ...]
    url: str
    text: str


class TokenizedPassage:
    """A passage with the stems of its title and of each sentence."""

    __slots__ = (
        "heading_terms", "kind", "location", "sentence_stems", "sentence_terms", "sentences", "title",
        "title_terms", "url",
    )  # fmt: skip

    def __init__(
        self, title: str, location: str, kind: str, url: str, sentences: list[str], lines: Iterable[str]
    ) -> None:
        """`lines` has the stems of each sentence, with a space between them."""
        self.title, self.location, self.kind, self.url, self.sentences = title, location, kind, url, sentences
        self.sentence_stems = [line.split() for line in lines]
        self.sentence_terms = [frozenset(line) for line in self.sentence_stems]
        self.heading_terms = frozenset(terms(title.rpartition(": ")[2])) or frozenset(stems(title))
        self.title_terms = self.heading_terms.union(stems(title))


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found, with the numbers of its sentences in the order in which they answer.

    `answers` says whether they answer the question; `defines`, whether the whole subject of the question is
    the subject of a sentence.
    """

    title: str
    location: str
    url: str
    sentences: list[str]
    order: list[int]
    score: float
    answers: bool
    defines: bool

    def best_sentences(self, count: int) -> list[str]:
        """At most `count` sentences, in the passage's order, and fewer when they are long."""
        chosen: list[int] = []
        for at in self.order[:count]:
            if chosen and sum(len(self.sentences[each]) for each in [*chosen, at]) > MAX_ANSWER_LENGTH:
                break
            chosen.append(at)
        return [self.sentences[at] for at in sorted(chosen)]
