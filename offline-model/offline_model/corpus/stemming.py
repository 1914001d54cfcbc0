"""Stemming: remove English endings, so that `stopped` matches `stopping`."""

import re
import sqlite3

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


class PorterStemmer:
    """The Porter stemmer of SQLite's full-text search.

    SQLite offers it only as a tokenizer. Words are therefore put into a scratch index, and the terms that the
    index made of them are read back: 60 microseconds a call, and 2 for each further word.
    """

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        try:
            self.connection.executescript(SCRATCH_INDEX)
        except sqlite3.OperationalError as error:
            raise ImportError(f"This Python's SQLite cannot search full text: {error}") from None
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
