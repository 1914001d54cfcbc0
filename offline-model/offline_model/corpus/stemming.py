"""Words: how a text becomes the terms that are indexed and searched."""

import re
from functools import lru_cache
from itertools import pairwise
from keyword import iskeyword

# Longer words are none; what is kept of each is bounded.
WORD = re.compile(r"[^\W_]{1,64}")

# These say what a question is about only when nothing else in it does.
VERBS = frozenset("explain give know learn look make use understand work write".split())  # noqa: SIM905

# Words that say how something is asked, not what about.
STOP = frozenset(
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


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """A word without its English ending: crude, but the same for books and questions."""
    if word in SAME:
        return SAME[word]
    if len(word) <= 3 or not word.isascii() or word.endswith("ss"):
        return word
    for ending, instead in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return undoubled(word[: -len(ending)]) + instead
    return word.removesuffix("e")


# What Python's documentation calls by a shorter name.
SAME = {
    "dictionary": "dict", "dictionaries": "dict", "string": "str", "strings": "str", "integer": "int",
    "integers": "int", "asynchronous": "async", "asynchronously": "async", "catch": "handl",
    "catching": "handl", "caught": "handl", "hung": "hang",
}  # fmt: skip

ENDINGS = (
    ("ization", "iz"), ("ations", "at"), ("ation", "at"), ("ators", "at"), ("ator", "at"),
    ("ies", "y"), ("ing", ""), ("ings", ""), ("edly", ""), ("ed", ""), ("es", ""), ("s", ""), ("ly", ""),
)  # fmt: skip


def undoubled(word: str) -> str:
    """`stopp` as `stop`, so that stopping and stop meet."""
    doubled = len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls"
    return word[:-1] if doubled else word.removesuffix("e")


def stems(text: str) -> list[str]:
    return [stem(word) for word in WORD.findall(text.lower())]


def said(text: str) -> list[str]:
    """The words a question is about, as they are said."""
    return [word for word in WORD.findall(text.lower()) if word not in STOP]


def terms(text: str) -> list[str]:
    """The stems a question is about, each once, in order. `with` counts in `the with statement`."""
    words = WORD.findall(text.lower())
    found = [word for word in words if word not in STOP] or [word for word in words if word in VERBS]
    for word, following in pairwise(words):
        if iskeyword(word) and following in SYNTAX:
            # A for loop is what the manual calls the for statement.
            found = [*(each for each in found if each not in {word, following}), word, "statement"]
        elif word in PREFIX and iskeyword(following):
            found.append(following)
    return list(dict.fromkeys(stem(word) for word in found))


# The words that tell a keyword of Python from the English word.
SYNTAX = frozenset({"statement", "statements", "clause", "keyword", "loop", "loops", "block", "operator"})
PREFIX = frozenset({"async", "yield"})


DEFINITION = re.compile(
    r"^\W*(?:please |can you |could you )*"
    r"(?:what(?:'s| is| are| an?)|define|explain|describe|tell me about)\b"
    r"|^\W*what (?:do|does) .{1,80} (?:do|mean|stand for)\W*$",
    re.IGNORECASE,
)

CLAUSE = re.compile(r",|\b(?:when|while|if)\b", re.IGNORECASE)


def topic(question: str) -> tuple[str, bool]:
    """What a question is about, and whether it asks what that is.

    What is asked for ends where a clause begins: `What is a lease, and who has it?`
    """
    defines = DEFINITION.match(question) is not None
    return (CLAUSE.split(question, maxsplit=1)[0] if defines else question), defines
