"""Query planning: turn a question into queries for a search engine."""

import re
from dataclasses import dataclass
from functools import lru_cache

from offline_model.conversation import Conversation
from offline_model.corpus.terms import SYNTAX_WORDS, stems, terms, topic

DEFAULT_STEPS = 5
MAX_QUERY_WORDS = 8

EXHAUSTIVE = re.compile(r"\bas deeply as (?:you|possible)|\bexhaustively\b", re.IGNORECASE)
# "Research as deeply as you can:" says how to search, so it is removed before the terms are read.
EXHAUSTIVE_PREFIX = re.compile(rf"^[^:\n]{{0,60}}(?:{EXHAUSTIVE.pattern})[^:\n]*:", re.IGNORECASE)
LITERAL_QUERY = re.compile(r"\bsearch for:\s*([^\n]+)", re.IGNORECASE)
URL = re.compile(r"https?://[^\s\"'<>)\]]*[^\s\"'<>)\].,;:!?]")
STEP_LIMIT = re.compile(r"\bat most (\d{1,6}) (?:tool )?(?:steps?|calls?)\b", re.IGNORECASE)
# The groups of each alternative are the two things that are compared.
COMPARISON = re.compile(
    r"\bbetween (.{1,100}?) and (.{1,100})|\bcompar\w+ (?:of )?(.{1,100}?) (?:and|with|to) (.{1,100})"
    r"|(.{1,100}?) (?:vs\.?|versus) (.{1,100})"
    r"|\bhow (?:do|does|is|are) (.{1,100}?) (?:differ|different) from (.{1,100})",
    re.IGNORECASE,
)
SENTENCES = re.compile(r"(?<=[.?!;]) |\n(?: ?[-*] | ?\d+[.)] )?")
PARTS = re.compile(
    r",? and (?=(?:also )?(?:what|how|why|when|where|which|who|does|is|are|can)\b)", re.IGNORECASE
)
PRONOUN = re.compile(r"\b(?:it|its|they|them|their|this|these|those|one)\b", re.IGNORECASE)
WORD = re.compile(r"\w[\w.+#\-]*\w|\w")
REWORDED_QUERY_WORDS = 2


@dataclass(frozen=True)
class QueryPlan:
    """One query for each question.

    `exhaustive`: keep searching until the client's step limit. `urls`: pages that the text names.
    """

    queries: tuple[str, ...]
    questions: tuple[str, ...]
    compares: bool
    exhaustive: bool
    urls: tuple[str, ...]


@lru_cache(maxsize=512)
def plan_queries(question: str) -> QueryPlan:
    exhaustive = EXHAUSTIVE.search(question) is not None
    urls = tuple(dict.fromkeys(URL.findall(question)))
    if literal := LITERAL_QUERY.search(question):
        query = literal[1].strip()
        return QueryPlan((query,), (query,), False, exhaustive, ())
    bare = re.sub(r"[^\S\n]+", " ", EXHAUSTIVE_PREFIX.sub("", question))
    if queries := compared_things(bare):
        return QueryPlan(queries, tuple(f"What is {query}?" for query in queries), True, exhaustive, urls)
    found = questions_by_query(bare) or {question.strip()[:80]: question}
    return QueryPlan(tuple(found), tuple(found.values()), False, exhaustive, urls)


def compared_things(text: str) -> tuple[str, ...]:
    """The two things that a text compares, or nothing."""
    compared = COMPARISON.search(text)
    if not compared:
        return ()
    one, other = (subject_words(f"What is {side}?") for side in compared.groups() if side)
    if not one or not other:
        return ()
    return " ".join(one), " ".join(other)


def questions_by_query(text: str) -> dict[str, str]:
    """Each question of a text, or each sentence if it asks none, by its query.

    A question with a pronoun gets the words of the first query as well: `What is a lease? Who renews it?`
    """
    subject = ""
    found: dict[str, str] = {}
    sentences = [part for part in SENTENCES.split(text) if part]
    asking = [part for part in sentences if "?" in part]
    for part in [part for sentence in asking or sentences for part in PARTS.split(sentence)]:
        words = subject_words(topic(part)[0])
        if words and subject and PRONOUN.search(part):
            words = [*subject.split(), *words]
            part = f"{part} ({subject})"
        if words:
            query = " ".join(words[:MAX_QUERY_WORDS])
            subject = subject or query
            found.setdefault(query, part)
    return found


def subject_words(text: str) -> list[str]:
    """The words that a text is about, as they are written, each once."""
    every, about = WORD.findall(URL.sub("", text)), {*terms(text), *SYNTAX_WORDS}
    kept = dict.fromkeys(word for word in every if about & {word.lower(), *stems(word)})
    return list(kept)[:MAX_QUERY_WORDS]


def reword_query(conversation: Conversation, query: str) -> str:
    """A shorter query, of the rarest words that the corpus knows; else the whole question."""
    words, frequency = subject_words(query), conversation.corpus.frequency
    known = [word for word in words if any(stem in frequency for stem in stems(word))] or words
    rarest = sorted(known, key=lambda word: -conversation.corpus.weight(stems(word)[0]))
    kept = rarest[: min(REWORDED_QUERY_WORDS, len(words) - 1)]
    shorter = " ".join(word for word in words if word in kept)
    return shorter or conversation.question.strip()[:80]


def step_limit(conversation: Conversation) -> int:
    """The number of steps that the system prompt allows, else DEFAULT_STEPS."""
    prompt = "\n".join(turn.text for turn in conversation.turns if turn.role == "system")
    limits = STEP_LIMIT.findall(prompt)
    return int(limits[-1]) if limits else DEFAULT_STEPS
