"""Markup: Markdown and reStructuredText as plain, whole sentences."""

import re
import textwrap

ROLE = re.compile(r":[a-z:]+:`~?\.?([^`<]+?)(?:\s*<[^`>]*>)?`")
# None of these looks past the sign that opens the next one, so that no text takes long.
LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)|<(https?://[^<>]*)>")
REFERENCE = re.compile(r"\[([^\[\]\n]+)\]\[[^\[\]]*\]|\[\^?\d+\]_?")
MARKS = re.compile(r"\*\*([^*\n]+)\*\*|(?<![\w*])\*([^*\s][^*\n]*?)\*(?![\w*])|``([^`]+)``|`([^`]+)`_{0,2}")
TAG = re.compile(r"</?[a-zA-Z][^<>\n]*>|<!--[^<]*?-->")
END = re.compile(r"(?<=[.!?])([\"')\]]*)\s+(?=[\"'(“`/]?[A-Z0-9]|/[a-z])")
ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Mr|Dr|approx|resp|No|Fig)|\b[A-Z])\.$")
FIELD = re.compile(r"^\s*(?:[:@.]|>>>|\.\.\.|\|)")
# Remarks that mean nothing outside their page.
REMARK = re.compile(
    r"^(?:(?:New|Changed) in version|Deprecated since|Copyright|Author|Thanks to|Written by|See |For more|"
    r"Added in)"
)
BULLET = re.compile(r"^(?:[*•\-]|\d+[.)])\s+")
# A capital, or the name of a thing and its verb: `default is the default value.`
BEGINNING = re.compile(
    r"[^\sa-z]*[A-Z\d]|[\"'“`(]?[\w.()]+[\"'”`]?\s+(?:is|are|must|can|may|should|has|will|does|returns?)\s"
)
POINTER = re.compile(r"\s*\((?:see|described in|which see)\b[^()]*\)", re.IGNORECASE)
LONGEST = 500


def inline(text: str) -> str:
    """One paragraph without its marks."""
    text = TAG.sub("", text)
    text = LINK.sub(lambda m: m[1] or m[2] or "", text)
    text = REFERENCE.sub(lambda m: m[1] or "", text)
    text = ROLE.sub(r"\1", text)
    text = MARKS.sub(lambda m: m[1] or m[2] or m[3] or m[4], text)
    return POINTER.sub("", " ".join(text.split()))


def sentences(paragraph: str) -> list[str]:
    """A paragraph's whole sentences; what does not end like one is none."""
    found = []
    for part in split(inline(paragraph)):
        sentence = BULLET.sub("", part.strip())
        if is_sentence(sentence):
            found.append(sentence)
    return found


def split(text: str) -> list[str]:
    """At the ends of sentences, but not after `e.g.` or an initial."""
    parts, start = [], 0
    for end in END.finditer(text):
        if not ABBREVIATION.search(text, max(start, end.start() - 10), end.start()):
            parts.append(text[start : end.end(1)])
            start = end.end()
    return [*parts, text[start:]]


def is_sentence(text: str) -> bool:
    """Whether it begins and ends like one, says something, and can stand outside its page."""
    whole = text[-1:] in {".", "!", "?"} and text.count("(") == text.count(")") and text.count('"') % 2 == 0
    return (
        whole and 12 <= len(text) <= LONGEST and BEGINNING.match(text) is not None and not REMARK.match(text)
    )


def paragraphs(text: str) -> list[str]:
    """Blocks of running text. Indented blocks (code, grammar, tables) and field lists are left out."""
    blocks = re.split(r"\n\s*\n", textwrap.dedent(text))
    return [block for block in blocks if is_prose(block)]


def is_prose(block: str) -> bool:
    lines = block.strip("\n").splitlines()
    if not lines or lines[0].startswith("    ") or any(FIELD.match(line) for line in lines):
        return False
    return "::=" not in block and "    " not in block.strip()
