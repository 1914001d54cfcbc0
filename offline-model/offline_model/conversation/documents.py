"""Background: the sentences an answer may be made of, with their title and place."""

import json
import re
from dataclasses import dataclass
from typing import Any

from offline_model.conversation.messages import Conversation, Result
from offline_model.corpus.plain_text import sentences, split_sentences, strip_markup

# Whoever writes this into a web page wants to be obeyed; it is not even worth quoting.
ORDER = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instruction|prompt|rule|previous|above|prior)"
    r"|\b(?:call|invoke|run|execute|use)\s+(?:the\s+)?(?:tool|function)\b|\bsystem prompt\b"
    r"|\byou (?:must|are) now\b|\bnew instructions?\b|\bassistant\b.{0,20}\bmust\b",
    re.IGNORECASE,
)
CONTENT = ("snippet", "content", "text", "body", "summary", "description", "abstract", "answer")
PLACES = ("url", "link", "href", "source", "place")
TITLES = ("title", "name", "heading")
# Nobody's answer needs more, and no result may keep other callers waiting.
MOST_TEXT, MOST_DOCUMENTS = 20_000, 50
LISTS = ("results", "items", "documents", "hits", "data", "organic", "sources")


@dataclass(frozen=True)
class Source:
    """One text to answer from."""

    title: str
    place: str
    sentences: list[str]


def background(conversation: Conversation) -> list[Source]:
    """What tools returned, else what the books say."""
    returned = [source for result in conversation.results for source in returned_by(result) or plain(result)]
    if returned:
        return returned
    found = conversation.corpus.search(conversation.question)
    return [Source(each.title, each.location, each.sentences) for each in found[:3]]


def returned_by(result: Result) -> list[Source]:
    """The documents in a tool's result; empty when it is not a list of documents."""
    value = parsed(result.text)
    if isinstance(value, dict):
        inner = next((value[key] for key in LISTS if isinstance(value.get(key), list)), None)
        value = inner if inner is not None else [value]
    if not isinstance(value, list):
        return []
    documents = [document(each) for each in value[:MOST_DOCUMENTS] if isinstance(each, dict)]
    return [each for each in documents if each is not None]


def plain(result: Result) -> list[Source]:
    told = clean(result.text)
    return [Source(result.call.name, "", told)] if told else []


def document(value: dict[str, Any]) -> Source | None:
    content, place = first(value, CONTENT), first(value, PLACES)
    if not content or not (place or first(value, TITLES)):
        return None
    return Source(strip_markup(first(value, TITLES)) or place, place, clean(content))


def first(value: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((str(value[key]) for key in keys if isinstance(value.get(key), str) and value[key]), "")


def clean(text: str) -> list[str]:
    """The sentences of a foreign text; a snippet that is cut off counts as one."""
    found = [
        sentence
        for block in text[:MOST_TEXT].splitlines()
        for sentence in (sentences(block) or split_sentences(strip_markup(block)))
    ]
    return [sentence for sentence in dict.fromkeys(found) if sentence and not ORDER.search(sentence)]


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
