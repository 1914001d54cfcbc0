"""Ranking: whether a passage answers a question, how well, and with which of its sentences."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from offline_model.corpus.terms import STOP_WORDS, stems, terms

# Coverage is the share of the question's terms, by weight, that a text contains.
# A definition covers the whole question; 0.99 allows for rounding.
FULL_COVERAGE = 0.99
# The least coverage of any other answer.
MIN_ANSWER_COVERAGE = 0.55
# The least coverage of a docstring's heading if the question gives only a part of its name.
MIN_NAME_COVERAGE = 0.5
# The least coverage of a heading whose passage answers a request for a definition by covering it in full.
MIN_HEADING_COVERAGE = 0.4
# How many sentences together have to cover the question.
WINDOW = 3
# How many sentences before and after the first one are searched for a missing term.
BEFORE, AFTER = 4, 8
# Characters of an answer.
MAX_ANSWER_LENGTH = 700
# The least number of words in a definition.
MIN_DEFINITION_WORDS = 6

# Sentences that begin so refer to the sentence before.
DEPENDENT = re.compile(
    r"^(?:it|its|this|these|those|that|they|their|he|she|such|otherwise|however|but|then|also|and|or|so|"
    r"if so|if not|for instance|for example|therefore|thus|hence|instead|note|similarly|moreover|furthermore|"
    r"in (?:this|that|such|contrast|particular|addition|both)|additionally|as (?:such|a result)|"
    r"the (?:latter|former|other|same|above))\b",
    re.IGNORECASE,
)
# The verbs of `A generator is ...` and `Graceful shutdown means ...`.
DEFINING_VERBS = frozenset(stems("is are means mean refers"))
STOP_STEMS = frozenset(stems(" ".join(STOP_WORDS)))
ARTICLES = {"a", "an", "the"}
# The course ranks before the language reference, and that before the library.
KIND_SCORE = {"course": 0.6, "reference": 0.4, "library": 0.0}
# Subtracted for each dot in a name: `json.loads` ranks before `json.decoder.JSONDecoder`.
DOT_PENALTY = 0.15


class TokenizedPassage:
    """A passage with the stems of its title and of each sentence."""

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


@dataclass(frozen=True, slots=True)
class Ranker:
    """Scores passages for one question.

    `weights` has the question's terms; their weights sum to 1. `names` has the names in it, in lower case.
    `exact_names` are written with capitals or underscores, and are compared as they are written.
    """

    weights: dict[str, float]
    names: set[str]
    exact_names: set[str]
    asks_definition: bool

    def rank(self, passage: TokenizedPassage) -> Hit:
        heading = self.coverage(passage.heading_terms)
        matched = sum(term in self.weights for term in passage.heading_terms)
        precision = matched / max(1, len(passage.heading_terms))
        in_library = passage.kind == "library"
        # A docstring is relevant only if the question contains a word of its module, class or function name.
        relevant = not in_library or heading > 0
        shares = [self.coverage(words) for words in passage.sentence_terms]
        if in_library:
            shares[0] = max(shares[0], heading)
        subjects = self.subject_scores(passage, shares) if relevant else [0.0]
        definition = max(subjects)
        named = self.is_named(passage, heading) or (
            not in_library and min(heading, precision) >= FULL_COVERAGE
        )
        start = (
            subjects.index(definition)
            if definition or named
            else self.start_sentence(passage, shares, heading)
        )
        order = self.sentence_order(passage, start)
        covered = self.coverage(
            passage.title_terms.union(*[passage.sentence_terms[at] for at in order[:WINDOW]])
        )
        if self.asks_definition:
            answers = definition > 0 or (
                len(self.weights) > 1 and heading >= MIN_HEADING_COVERAGE and covered >= FULL_COVERAGE
            )
        else:
            answers = relevant and covered >= MIN_ANSWER_COVERAGE
        score = (3 * named + 2 * heading) * precision + covered + max(shares) + definition
        score += KIND_SCORE[passage.kind] - DOT_PENALTY * passage.title.count(".")
        return Hit(
            passage.title, passage.location, passage.url, passage.sentences, order, score,
            answers=named or answers, defines=definition > 0,
        )  # fmt: skip

    def coverage(self, words: frozenset[str]) -> float:
        """The part of the question, by weight, that is among the words."""
        return sum([weight for term, weight in self.weights.items() if term in words])

    def is_named(self, passage: TokenizedPassage, heading: float) -> bool:
        """Whether the question has the name of this passage's module, class or function."""
        whole, last = passage.title, passage.title.rpartition(".")[2]
        if whole in self.exact_names or ("." in whole and whole.lower() in self.names):
            return True
        if passage.kind != "library" or heading < MIN_NAME_COVERAGE:
            return False
        return (
            last in self.exact_names
            or whole.lower() in self.names
            or (self.asks_definition and last.lower() in self.names)
        )

    def subject_scores(self, passage: TokenizedPassage, shares: list[float]) -> list[float]:
        """For each sentence, whether it defines the subject of a question that asks for a definition."""
        if not self.asks_definition:
            return [0.0]
        return [
            self.subject_score(line) if share >= FULL_COVERAGE else 0.0
            for line, share in zip(passage.sentence_stems, shares, strict=True)
        ]

    def subject_score(self, line: list[str]) -> float:
        """1.5 if the question's terms are the subject of a defining verb, as in `A generator is ...`.

        0.5 if they are the subject of another verb; else 0.
        """
        asked = list(self.weights)
        for verb, called in pairwise(line):
            if called == "call" and verb in DEFINING_VERBS:  # A function that yields is called a generator.
                named = [word for word in line[line.index(called) + 1 :] if word not in ARTICLES]
                return 1.5 if named[: len(asked)] == asked else 0
        content = [
            word for word in line if word not in STOP_STEMS or word in DEFINING_VERBS or word in self.weights
        ]
        first = content[: len(asked) + 1]
        in_order = first[0] in asked and [word for word in first if word in asked] == asked
        if len(line) < MIN_DEFINITION_WORDS or not in_order:
            return 0
        return 1.5 if DEFINING_VERBS & set(first[1:]) else 0.5

    def start_sentence(self, passage: TokenizedPassage, shares: list[float], heading: float) -> int:
        """The index of the sentence where the answer starts.

        Prefer one that, with the next two, covers most of the question, and that does not refer to an earlier
        sentence.
        """
        best, start = -10.0, 0
        for at, text in enumerate(passage.sentences):
            value = sum(shares[at : at + WINDOW]) + shares[at]
            if at == 0:
                # The first line of a docstring is its summary; a section often begins with its subject.
                value += 3 if passage.kind == "library" else 0.4 + 2 * heading
            elif DEPENDENT.match(text):
                value -= 0.8
            if value > best:
                best, start = value, at
        return start

    def sentence_order(self, passage: TokenizedPassage, start: int) -> list[int]:
        """The first sentence, then those near it that have a missing term, then those that follow it."""
        words = passage.sentence_terms
        order, missing = [start], self.weights.keys() - passage.title_terms - words[start]
        for at in [*range(start + 1, min(start + AFTER, len(words))), *range(max(0, start - BEFORE), start)]:
            if missing & words[at]:
                order.append(at)
                missing -= words[at]
        return order + [at for at in range(start + 1, min(start + 5, len(words))) if at not in order]
