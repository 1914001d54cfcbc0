"""Tokens: pieces of text that are counted, paced and streamed, and that join to exactly the text."""

import re
from functools import lru_cache

# A word (or seven characters of it) with the space before it, a run of signs, or one white character.
# Every character is one of the three, so nothing is ever lost.
PIECE = re.compile(r" ?\w{1,7}| ?[^\w\s]{1,4}|\s")

TOKENS_PER_MESSAGE = 4
LONGEST_KEPT = 20_000


def split(text: str) -> list[str]:
    return PIECE.findall(text)


def count(text: str) -> int:
    return counted(text) if len(text) <= LONGEST_KEPT else len(PIECE.findall(text))


@lru_cache(maxsize=512)
def counted(text: str) -> int:
    """Each call of a conversation repeats all that was said before."""
    return len(PIECE.findall(text))
