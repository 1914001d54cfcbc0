"""Extraction: find numbers, names, places, quotations, keys and values in a text."""

import json
import re
from typing import Any

from offline_model.corpus.plain_text import split_sentences

Number = int | float

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|\.\d)")
QUOTED = re.compile(r"(?<!\w)(['\"])(.+?)\1(?!\w)|[“‘«「](.+?)[”’»」]")
# `Ada Lovelace` in `Ada Lovelace is 36`, but not `It` in `It is late`.
SUBJECT = re.compile(
    r"(?:^|[.:\n]\s*)(?!(?:What|Who|Where|When|Which|Why|How|It|This|That|There|He|She|The|My)\b)"
    r"((?:[A-Z][\w'’\-]*\s+)+)(?:is|was|has|lives|works)\b"
)
NAMED = re.compile(r"\b(?:named|called|name is|titled)\s+([\w.\-]+(?:\s+[A-Z][\w.\-]*)*)")
PLACE = re.compile(
    r"\b(?:in|at|near|from|to)\s+((?:[^\W\d_a-z][\w'’\-]*)(?:,?\s+(?:[^\W\d_a-z][\w'’\-]*))*"
    r"(?:(?:,|\s+and|\s+or|,\s*and)\s+(?:in\s+|at\s+)?[^\W\d_a-z][\w'’\-]*"
    r"(?:\s+[^\W\d_a-z][\w'’\-]*)*)*)"
)
PREDICATE = re.compile(r"\s+(?:is|are|was|were|has|costs?|lives|works|with|who|from|in|at)\b|\s*[(:=–—]")
ASIDES = (re.compile(r"\s[-–—]\s+(.+)"), re.compile(r"\(([^()]+)\)"))
EXPRESSION_CHARACTERS = re.compile(r"[-(]*\d[-\d\s.+*/%^()]*")
OPERATION = re.compile(r"[\d)]\s*[-+*/%^]\s*[-(]*\d")
PAIR = re.compile(
    r"(?:^|[\n,;{]|\bthe |\bmy )[ \t]*[\"']?([A-Za-z][\w \-]{0,40}?)[\"']?\s*(?::|=|\bis\b)\s*([^\n,;{}]+)",
    re.I,
)
FORMAT_PATTERNS = {
    "email": re.compile(r"(?<![\w.+\-])[\w.+\-]+@[\w\-]+(?:\.[\w\-]+)+"),
    "uri": re.compile(r"https?://[^\s\"'<>)\]]+"),
    "date": re.compile(r"\b\d{4}-\d{2}-\d{2}\b"),
}


def pairs_in(text: str) -> list[tuple[str, str]]:
    """Keys and values: of JSON objects first, then of `key: value` and `my key is value`."""
    found = [pair for value in json_objects_in(text) for pair in key_values(value)]
    return found + [(m[1], m[2].strip(" .'\"")) for m in PAIR.finditer(text)]


def quoted_in(text: str) -> list[str]:
    return [m[2] or m[3] for m in QUOTED.finditer(text)]


def names_in(text: str) -> list[str]:
    return [name.strip(" .'\"") for name in NAMED.findall(text) + SUBJECT.findall(text)]


def subject_of(text: str) -> str:
    """The subject of a few words: `Ada` in `Ada is 36`, `apples` in `3 apples`."""
    words = NUMBER.sub("", PREDICATE.split(text.strip(), maxsplit=1)[0]).split()
    return " ".join(words) or text


def asides_in(text: str) -> list[str]:
    """Remarks after a dash or in brackets."""
    return [match[1].rstrip(" \t.!?") for form in ASIDES if (match := form.search(text))]


def expressions_in(text: str) -> list[str]:
    """Arithmetic expressions."""
    runs = (run.rstrip(" \t\n.+-*/%^(") for run in EXPRESSION_CHARACTERS.findall(text))
    return [run for run in runs if OPERATION.search(run)]


def places_in(text: str) -> list[str]:
    """Each place on its own; `San Francisco, CA` is one place."""
    found: list[str] = []
    for match in PLACE.finditer(text):
        joined = re.sub(r",\s+([A-Z]{2})\b", r"\0\1", match[1])
        for part in re.split(r",\s*and\s+|,\s+|\s+and\s+|\s+or\s+", joined):
            found.append(re.sub(r"^(?:in|at)\s+", "", part).replace("\0", ", ").strip(" .?!,"))
    return [place for place in dict.fromkeys(found) if place]


def numbers_in(text: str) -> list[Number]:
    found = (match.replace(",", "") for match in NUMBER.findall(text))
    return [float(digits) if "." in digits else int(digits) for digits in found if len(digits) < 300]


def json_objects_in(text: str) -> list[Any]:
    """The JSON objects inside a text."""
    decoder, at = json.JSONDecoder(), text.find("{")
    found: list[Any] = []
    for _ in range(200):
        if at < 0:
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        found.append(value)
        at = text.find("{", end)
    return found


def key_values(value: Any, key: str = "") -> list[tuple[str, str]]:
    """The members of a JSON value, nested ones too, as pairs of key and text."""
    if isinstance(value, dict):
        return [pair for name, member in value.items() for pair in key_values(member, str(name))]
    if isinstance(value, list):
        if all(isinstance(each, str | int | float) for each in value):
            return [(key, ", ".join(map(str, value)))]
        return [pair for member in value for pair in key_values(member, key)]
    if value is None or not key:
        return []
    return [(key, json.dumps(value) if isinstance(value, bool) else str(value))]


def sentences_in(text: str) -> list[str]:
    return [part.strip() for line in text.splitlines() for part in split_sentences(line) if part.strip()]
