"""Judging: how well a passage answers a question, and with which sentence to begin."""

import re
from dataclasses import dataclass

from offline_model.books.words import STOP

COVERED = 0.5

UNFINISHED = re.compile(
    r"^(?:it|its|this|these|those|that|they|their|he|she|such|otherwise|however|but|then|also|and|or|so|"
    r"if so|if not|for instance|for example|therefore|thus|hence|instead|note|similarly|moreover|furthermore|"
    r"in (?:this|that|such|contrast|particular|addition|both)|additionally|as (?:such|a result)|"
    r"the (?:latter|former|other|same|above))\b",
    re.IGNORECASE,
)


class Entry:
    """A passage as it was indexed: its sentences, and the stems of its title and of each sentence."""

    __slots__ = ("heading", "kind", "lines", "named", "place", "sentences", "title", "url", "words")

    def __init__(
        self,
        title: str,
        place: str,
        kind: str,
        sentences: list[str],
        url: str,
        heading: str,
        lines: list[str],
    ) -> None:
        self.title, self.place, self.kind, self.sentences, self.url = title, place, kind, sentences, url
        self.heading, self.lines = heading, lines
        self.named = heading.split()
        self.words = frozenset(self.named).union(*(line.split() for line in lines))


@dataclass(frozen=True, slots=True)
class Found:
    """A passage that answers. `start` is the sentence to begin with.

    `direct` is false when neither its title nor any sentence of it is about the thing that is asked for.
    """

    title: str
    place: str
    url: str
    sentences: list[str]
    start: int
    score: float
    direct: bool


@dataclass(frozen=True, slots=True)
class Judge:
    """One question: its terms with their weights, the names in it, and whether it asks what something is.

    `least` is the part of it, by weight, that one of the few pages of the course must cover to be looked at.
    """

    weights: dict[str, float]
    words: set[str]
    names: set[str]
    said: set[str]
    whole: str
    phrase: str
    defines: bool
    least: float

    def means(self, entry: Entry) -> bool:
        """Whether a thing of the library is what is asked for, and not one that has the word in its name."""
        name = entry.title.rpartition(".")[2].lower()
        return entry.kind != "library" or any(
            word.startswith(name) and len(word) <= len(name) + 2 for word in self.said
        )

    def rate(self, entry: Entry, relevance: float) -> float:
        """How well title and text fit, seen from afar; 0 when the passage is about something else."""
        title, words = entry.title, entry.words
        covered = sum([weight for term, weight in self.weights.items() if term in words])
        named = title.lower() in self.names
        if covered < (self.least if entry.kind == "page" else COVERED) and not (
            named and ("." in title or not title.islower())
        ):
            return 0
        precise = self.precision(entry)
        in_title = self.share(entry.heading)
        score = 3 * covered - relevance / 20 + 2 * precise
        score += 2 * in_title * (precise if entry.kind == "library" else 0.5 + precise)
        if named and ("." in title or precise == 1):
            # A dotted name is meant as one; `list` or `exception` may be the plain English word.
            score += 6 if "." in title or (title in self.words and not title.islower()) else 2
        elif precise == 1 and in_title > 0.99:
            score += 1.5
        if entry.heading.endswith(self.whole):
            score += 4
        if self.defines and not self.means(entry):
            score -= 2
        return score + self.preference(title, entry.kind)

    def precision(self, entry: Entry) -> float:
        """The part of the title that was asked for; the small words of a heading do not count."""
        named, weights = entry.named, self.weights
        if entry.kind != "library":
            named = [word for word in named if word not in STOP or word in weights]
        return len([word for word in named if word in weights]) / max(1, len(named))

    def preference(self, title: str, kind: str) -> float:
        """The course before the manual before the library, and its front rooms before its back rooms."""
        if kind != "library":
            return 0.6 if kind == "page" else 1.0 if self.defines else 0.3
        exact = title in self.words or title.rpartition(".")[2] in self.words
        whole = "." in title and title in self.words
        return 1.5 * whole + 0.5 * exact + 0.5 * ("." not in title) - 0.2 * title.count(".")

    def read(self, entry: Entry, score: float) -> Found:
        """A second, closer look, at every sentence."""
        shares = [self.share(line) for line in entry.lines]
        in_title = self.share(entry.heading)
        if entry.kind == "library":
            # A docstring's first line is about the thing in the title without saying its name.
            shares[0] = max(shares[0], in_title)
        best = max(shares)
        # A docstring defines its thing by its summary; elsewhere a sentence may do so anywhere.
        told = enumerate(entry.lines) if self.defines and entry.kind != "library" else ()
        about = next((at for at, line in told if self.is_definition(line)), None)
        start = opening(entry.sentences, shares, entry.kind, in_title) if about is None else about
        direct = about is not None or max(in_title, 0 if self.defines else best) >= COVERED
        direct = direct and (self.means(entry) or not self.defines)
        score += best + (0 if about is None else 1.5) + any(self.phrase in line for line in entry.lines)
        return Found(entry.title, entry.place, entry.url, entry.sentences, start, score, direct)

    def share(self, line: str) -> float:
        """The part of the question, by weight, that stands in a line."""
        total = 0.0
        for term, weight in self.weights.items():
            if f" {term} " in line:
                total += weight
        return total

    def is_definition(self, line: str) -> bool:
        """`A generator is ...`: all that is asked for stands before the verb, and little else."""
        before, verb, after = line.partition(" is ")
        if not verb or len(before) > 60:
            before, verb, after = line.partition(" are ")
        words = before.split()
        if not verb or len(words) > len(self.weights) + 2:
            return False
        return all(term in words for term in self.weights) and not after.startswith(("not ", "also ", "now "))


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
