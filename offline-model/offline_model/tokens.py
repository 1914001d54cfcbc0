"""Tokens: pieces of text that are counted, paced and streamed, and that join to exactly the text."""

import re

# A word (or seven characters of it) with the space before it, a run of signs, or one white character.
# Every character is one of the three, so nothing is ever lost.
PIECE = re.compile(r" ?\w{1,7}| ?[^\w\s]{1,4}|\s")

TOKENS_PER_MESSAGE = 4


def split(text: str) -> list[str]:
    return PIECE.findall(text)


def count(text: str) -> int:
    return len(PIECE.findall(text))
