"""An inquiry: what a question wants to know, as the queries that a search engine is asked."""

import re
from dataclasses import dataclass
from functools import lru_cache

from offline_model.conversation.extraction import SPELLED
from offline_model.conversation.messages import Conversation
from offline_model.corpus.query_terms import SYNTAX, terms, topic
from offline_model.corpus.stemming import stems

OWN_LIMIT = 5
MOST_WORDS = 8

DEEP = re.compile(r"\bas deeply as (?:you|possible)|\bexhaustively\b", re.IGNORECASE)
# "Research as deeply as you can:" says how, not what.
DEEPLY = re.compile(rf"^[^:\n]{{0,60}}(?:{DEEP.pattern})[^:\n]*:", re.IGNORECASE)
VERBATIM = re.compile(r"\bsearch for:\s*([^\n]+)", re.IGNORECASE)
URL = re.compile(r"https?://[^\s\"'<>)\]]*[^\s\"'<>)\].,;:!?]")
LIMIT = re.compile(rf"\bat most (\d+|{'|'.join(SPELLED)}) (?:tool )?(?:steps?|calls?)\b", re.IGNORECASE)
# Each arm has the two things that are held against each other.
COMPARED = re.compile(
    r"\bbetween (.{1,100}?) and (.{1,100})|\bcompar\w+ (?:of )?(.{1,100}?) (?:and|with|to) (.{1,100})"
    r"|(.{1,100}?) (?:vs\.?|versus) (.{1,100})"
    r"|\bhow (?:do|does|is|are) (.{1,100}?) (?:differ|different) from (.{1,100})",
    re.IGNORECASE,
)
SENTENCES = re.compile(r"(?<=[.?!;]) |\n(?: ?[-*] | ?\d+[.)] )?")
PARTS = re.compile(
    r",? and (?=(?:also )?(?:what|how|why|when|where|which|who|does|is|are|can)\b)", re.IGNORECASE
)
ASKING = re.compile(r"\W*(?:what|how|why|when|where|which|who)\b", re.IGNORECASE)
PRONOUN = re.compile(r"\b(?:it|its|they|them|their|this|these|those|one)\b", re.IGNORECASE)
WORD = re.compile(r"\w[\w.+#\-]*\w|\w")
ENOUGH = 2
# Words that say what is to be done with the answer.
TASK = frozenset(
    """research report summary summarise summarize overview detail details investigate compare list page
    sources exhaustively deeply article essay find search am better""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Inquiry:
    """`queries` has one for each of the `questions` that are asked; `urls` are pages that they name."""

    queries: tuple[str, ...]
    questions: tuple[str, ...]
    compares: bool
    deep: bool
    urls: tuple[str, ...]


@lru_cache(maxsize=512)
def inquiry(question: str) -> Inquiry:
    deep = DEEP.search(question) is not None
    urls = tuple(dict.fromkeys(URL.findall(question)))
    if verbatim := VERBATIM.search(question):
        query = verbatim[1].strip()
        return Inquiry((query,), (query,), False, deep, ())
    bare = re.sub(r"[^\S\n]+", " ", DEEPLY.sub("", question))
    if compared := COMPARED.search(bare):
        one, other = (words(f"What is {side}?") for side in compared.groups() if side)
        if one and other:
            # "a liveness and a readiness probe" are both probes.
            one += other[-1:] if len(one) == 1 < len(other) else []
            queries = (" ".join(one), " ".join(other))
            return Inquiry(queries, tuple(f"What is {query}?" for query in queries), True, deep, urls)
    subject = ""
    found: dict[str, str] = {}
    sentences = [part for part in SENTENCES.split(bare) if part]
    asking = [part for part in sentences if "?" in part]
    for part in [part for sentence in asking or sentences for part in PARTS.split(sentence)]:
        said = words(topic(part)[0])
        if said and subject and PRONOUN.search(part):
            said = [*subject.split(), *said]
            part = f"{part} ({subject})"
        if said:
            query = " ".join(said[:MOST_WORDS])
            subject = subject or query
            found.setdefault(query, part)
    found = found or {question.strip()[:80]: question}
    return Inquiry(tuple(found), tuple(found.values()), False, deep, urls)


def words(text: str) -> list[str]:
    """The words of a text that say what it is about, as they are written, each once."""
    every, about = WORD.findall(URL.sub("", text)), {*terms(text), *SYNTAX}
    kept = list(dict.fromkeys(word for word in every if about & {word.lower(), *stems(word)}))
    what = [word for word in kept if word.lower() not in TASK]
    # Of "What is a list?" the list is not what is to be done.
    return (what or (kept if ASKING.match(text) else []))[:MOST_WORDS]


def reworded(conversation: Conversation, query: str) -> str:
    """Another query for the same: fewer words, those that are known; or the whole question."""
    said, frequency = words(query), conversation.corpus.frequency
    known = [word for word in said if any(stem in frequency for stem in stems(word))] or said
    telling = sorted(known, key=lambda word: -conversation.corpus.weight(stems(word)[0]))
    kept = telling[: min(ENOUGH, len(said) - 1)]
    shorter = " ".join(word for word in said if word in kept)
    return shorter or conversation.question.strip()[:80]


def limit_of(conversation: Conversation) -> int:
    """How many steps may be taken: what the system prompt says, else what this model thinks enough."""
    told = [
        found for turn in conversation.turns if turn.role == "system" for found in LIMIT.findall(turn.text)
    ]
    if not told:
        return OWN_LIMIT
    return int(told[-1]) if told[-1].isdigit() else SPELLED.index(told[-1].lower())
