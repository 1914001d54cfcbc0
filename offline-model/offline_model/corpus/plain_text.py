"""Plain text: the whole sentences of Markdown and reStructuredText, without markup."""

import re
import textwrap
from collections.abc import Iterator

ROLE = re.compile(r":[a-z:]+:`~?\.?([^`<]+?)(?:\s*<[^`>]*>)?`")
# None of these patterns matches across another opening mark, so matching takes linear time.
LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)|<(https?://[^<>]*)>")
FOOTNOTE = re.compile(r"\[([^\[\]\n]+)\]\[[^\[\]]*\]|\[\^?\d+\]_?")
EMPHASIS = re.compile(
    r"\*\*([^*\n]+)\*\*|(?<![\w*])\*([^*\s][^*\n]*?)\*(?![\w*])|``([^`]+)``|`([^`]+)`_{0,2}"
)
TAG = re.compile(r"</?[a-zA-Z][^<>\n]*>|<!--[^<]*?-->")
SENTENCE_END = re.compile(r"(?<=[.!?])([\"')\]]*)\s+(?=[\"'(“`/]?[A-Z0-9]|/[a-z])")
ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Mr|Dr|approx|resp|No|Fig)|\b[A-Z])\.$")
FIELD_LIST = re.compile(r"^\s*(?:[:@.]|>>>|\.\.\.|\|)")
# Boilerplate that is useless outside its page, such as "New in version".
BOILERPLATE = re.compile(
    r"^(?:(?:New|Changed) in version|Deprecated since|Copyright|Author|Thanks to|Written by|See |For more|"
    r"Added in)"
)
BULLET = re.compile(r"^(?:[*•\-]|\d+[.)])\s+")
LIST_ITEM_OR_QUOTE = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+|^\s*>\s?", re.MULTILINE)
# A capital letter, or a name and its verb: `default is the default value.`
SENTENCE_START = re.compile(
    r"[^\sa-z]*[A-Z\d]|[\"'“`(]?[\w.()]+[\"'”`]?\s+(?:is|are|must|can|may|should|has|will|does|returns?)\s"
)
CROSS_REFERENCE = re.compile(r"\s*\((?:see|described in|which see)\b[^()]*\)", re.IGNORECASE)
MAX_LENGTH = 500


def strip_markup(text: str) -> str:
    """One paragraph without links, emphasis, roles and tags."""
    text = TAG.sub("", text)
    text = LINK.sub(lambda m: m[1] or m[2] or "", text)
    text = FOOTNOTE.sub(lambda m: m[1] or "", text)
    text = ROLE.sub(r"\1", text)
    text = EMPHASIS.sub(lambda m: m[1] or m[2] or m[3] or m[4], text)
    return CROSS_REFERENCE.sub("", " ".join(text.split()))


def prose_sentences(section: str) -> Iterator[str]:
    """The sentences of a section's paragraphs and list items, without its tables."""
    for paragraph in paragraphs(LIST_ITEM_OR_QUOTE.sub("\n\n", section)):
        if not paragraph.lstrip().startswith("|"):
            yield from sentences(paragraph)


def sentences(paragraph: str) -> list[str]:
    """The whole sentences of a paragraph; fragments are left out."""
    found = []
    for part in split_sentences(strip_markup(paragraph)):
        sentence = BULLET.sub("", part.strip())
        if is_sentence(sentence):
            found.append(sentence)
    return found


def split_sentences(text: str) -> list[str]:
    """Split a text after each sentence, but not after `e.g.` or an initial."""
    parts, start = [], 0
    for end in SENTENCE_END.finditer(text):
        if not ABBREVIATION.search(text, max(start, end.start() - 10), end.start()):
            parts.append(text[start : end.end(1)])
            start = end.end()
    return [*parts, text[start:]]


def is_sentence(text: str) -> bool:
    """Whether a text begins and ends like a sentence and makes sense outside its page."""
    whole = text[-1:] in {".", "!", "?"} and text.count("(") == text.count(")") and text.count('"') % 2 == 0
    return (
        whole
        and 12 <= len(text) <= MAX_LENGTH
        and SENTENCE_START.match(text) is not None
        and not BOILERPLATE.match(text)
    )


def paragraphs(text: str) -> list[str]:
    """The paragraphs of prose. Indented blocks (code, grammar, tables) and field lists are left out."""
    blocks = re.split(r"\n\s*\n", textwrap.dedent(text))
    return [block for block in blocks if is_prose(block)]


def is_prose(block: str) -> bool:
    lines = block.strip("\n").splitlines()
    if not lines or lines[0].startswith("    ") or any(FIELD_LIST.match(line) for line in lines):
        return False
    return "::=" not in block and "    " not in block.strip()
