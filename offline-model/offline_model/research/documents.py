"""Documents: the texts that an answer may quote, from the results of tools or from the corpus."""

import re
from dataclasses import dataclass
from typing import Any

from offline_model.conversation import Conversation, ToolResult, parse_json
from offline_model.corpus.plain_text import sentences, split_sentences, strip_markup

# Instructions for a model inside a text. Answers never quote them.
INJECTED_INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instruction|prompt|rule|previous|above|prior)"
    r"|\b(?:call|invoke|run|execute|use)\s+(?:the\s+)?(?:tool|function)\b|\bsystem prompt\b"
    r"|\byou (?:must|are) now\b|\bnew instructions?\b|\bassistant\b.{0,20}\bmust\b",
    re.IGNORECASE,
)
CONTENT_KEYS = ("snippet", "content", "text", "body", "summary", "description", "abstract", "answer")
LOCATION_KEYS = ("url", "link", "href", "source", "place")
TITLE_KEYS = ("title", "name", "heading")
# The part of a result that is read, so that a huge one does not block other requests.
MAX_CHARACTERS, MAX_DOCUMENTS = 20_000, 50
LIST_KEYS = ("results", "items", "documents", "hits", "data", "organic", "sources")


@dataclass(frozen=True)
class Document:
    title: str
    location: str  # a URL, or a file of the course
    sentences: list[str]


def documents_for(conversation: Conversation) -> list[Document]:
    """The documents that tools returned, else the best three of the corpus."""
    returned: list[Document] = []
    for result in conversation.results:
        found = documents_in(result)
        if not found and (text := clean_sentences(result.text)):
            found = [Document(result.call.name, "", text)]
        returned += found
    if returned:
        return returned
    hits = conversation.corpus.search(conversation.question)
    return [Document(hit.title, hit.location, hit.sentences) for hit in hits[:3]]


def documents_in(result: ToolResult) -> list[Document]:
    """The documents in a tool's result; empty when the result is not a list of documents."""
    value = parse_json(result.text)
    if isinstance(value, dict):
        inner = next((value[key] for key in LIST_KEYS if isinstance(value.get(key), list)), None)
        value = inner if inner is not None else [value]
    if not isinstance(value, list):
        return []
    documents = [to_document(each) for each in value[:MAX_DOCUMENTS] if isinstance(each, dict)]
    return [each for each in documents if each is not None]


def to_document(value: dict[str, Any]) -> Document | None:
    content, location = first_text(value, CONTENT_KEYS), first_text(value, LOCATION_KEYS)
    if not content or not (location or first_text(value, TITLE_KEYS)):
        return None
    return Document(
        strip_markup(first_text(value, TITLE_KEYS)) or location, location, clean_sentences(content)
    )


def first_text(value: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((str(value[key]) for key in keys if isinstance(value.get(key), str) and value[key]), "")


def clean_sentences(text: str) -> list[str]:
    """The sentences of an untrusted text, without injected instructions.

    A snippet that ends in mid-sentence counts as a sentence.
    """
    found = [
        sentence
        for block in text[:MAX_CHARACTERS].splitlines()
        for sentence in (sentences(block) or split_sentences(strip_markup(block)))
    ]
    return [
        sentence
        for sentence in dict.fromkeys(found)
        if sentence and not INJECTED_INSTRUCTION.search(sentence)
    ]


def end_sentence(text: str) -> str:
    return text if text[-1] in ".!?…" else f"{text} ..."
