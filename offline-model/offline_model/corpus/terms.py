"""Terms: the stems of words, and the words of a question that say what it is about."""

import re
import sqlite3
from itertools import pairwise
from keyword import iskeyword

# Longer runs of letters and digits are cut.
WORD = re.compile(r"[^\W_]{1,64}")
# How many words are remembered with their stems.
CACHE_SIZE = 100_000

# Words in questions, and the words that Python's documentation uses instead.
SYNONYMS = {
    "dictionary": "dict", "string": "str", "integer": "int", "asynchronous": "async", "catch": "handle",
}  # fmt: skip
SCRATCH_INDEX = """
create virtual table scratch using fts5(words, tokenize='porter ascii');
create virtual table terms using fts5vocab(scratch, 'instance');
"""

# Verbs that count as terms only if the question has no other content words.
WEAK_VERBS = frozenset("explain give know learn look make use understand work write".split())  # noqa: SIM905

# Words that do not name the subject of a question.
STOP_WORDS = frozenset(
    """hey hi hello dear a about after again all also an and any are as ask at be because been before
    being both but by can could describe did do does doing don each else etc ever every explain few for
    from get give given go happen happens had has have he help her here him his how i if in instead into
    is it its just kindly know learn let like ll look make many may me mean means might mine more most
    much must my need no not now of off on one only or other our out over own please possible purpose re
    really s same say she should show so some something such t tell than thank thanks that the their
    them then there these they thing this those to too understand until up us use used uses using usage
    useful ve very want was way we well were what when where whether which while who why will with work
    works would write you your briefly short shortly sentence sentences simple simply word words english
    term terms question answer difference differ differs different compare compared versus vs
    between example examples python""".split()  # noqa: SIM905
)
# After a Python keyword, one of these words shows that the keyword is meant, as in `with statement`.
SYNTAX_WORDS = frozenset(
    {"statement", "statements", "clause", "keyword", "loop", "loops", "block", "operator"}
)

DEFINITION = re.compile(
    r"^\W*(?:please |can you |could you )*"
    r"(?:what(?:'s| is| are| an?)|define|explain|describe|tell me about)\b"
    r"|^\W*what (?:do|does) .{1,80} (?:do|mean|stand for)\W*$",
    re.IGNORECASE,
)
CLAUSE = re.compile(r",|\b(?:when|while|if)\b", re.IGNORECASE)


class PorterStemmer:
    """The Porter stemmer of SQLite's full-text search.

    SQLite offers it only as a tokenizer. Words are therefore put into a scratch index, and the terms that the
    index made of them are read back: 60 microseconds a call, and 2 for each further word.
    """

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.connection.executescript(SCRATCH_INDEX)
        self.known: dict[str, str] = {}
        self.synonyms: dict[str, str] = {}
        words, others = self.stem(list(SYNONYMS)), self.stem(list(SYNONYMS.values()))
        self.synonyms = dict(zip(words, others, strict=True))
        self.known.clear()

    def stem(self, words: list[str]) -> list[str]:
        """The stem of each word, in order."""
        if len(self.known) > CACHE_SIZE:
            self.known.clear()
        new = list({word for word in words if word not in self.known})
        if new:
            self.learn(new)
        return [self.known[word] for word in words]

    def learn(self, words: list[str]) -> None:
        self.connection.execute("insert into scratch values (?)", (" ".join(words),))
        terms = [term for (term,) in self.connection.execute("select term from terms order by offset")]
        self.known.update(zip(words, (self.synonyms.get(term, term) for term in terms), strict=True))
        self.connection.execute("delete from scratch")


stemmer = PorterStemmer()


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def stems(text: str) -> list[str]:
    """The stem of each word of a text, in order."""
    return stemmer.stem(words_of(text))


def content_words(text: str) -> list[str]:
    """The words of a text without stop words, as they are written."""
    return [word for word in words_of(text) if word not in STOP_WORDS]


def terms(text: str) -> list[str]:
    """The stems of a question's content words, each once, in order. `with` counts in `the with statement`."""
    words = words_of(text)
    found = content_words(text) or [word for word in words if word in WEAK_VERBS]
    for word, following in pairwise(words):
        if iskeyword(word) and following in SYNTAX_WORDS:
            # The language reference calls a for loop the for statement.
            found = [*(each for each in found if each not in {word, following}), word, "statement"]
    return list(dict.fromkeys(stemmer.stem(found)))


def topic(question: str) -> tuple[str, bool]:
    """The part of a question that names its subject, and whether it asks for a definition.

    A definition's subject ends where a clause begins: `What is a lease, and who has it?`
    """
    defines = DEFINITION.match(question) is not None
    return (CLAUSE.split(question, maxsplit=1)[0] if defines else question), defines
