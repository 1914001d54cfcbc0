"""Tool answers: answer from the results of tools, with their sources."""

import json
import re

from offline_model.conversation import Conversation, Reply, ToolResult, parse_json
from offline_model.corpus.terms import stems, terms
from offline_model.research.documents import Document, clean_sentences, documents_in, end_sentence

ORDER = 50

ERROR = re.compile(
    r"^\W*(?:\w*error\b|exception\b|traceback\b|failed\b|failure\b|could not\b|timed? ?out\b)", re.IGNORECASE
)
MAX_SENTENCES = 4
MAX_TEXT_CHARACTERS = 400


def reply(conversation: Conversation) -> Reply | None:
    if not conversation.results:
        return None
    errors = [result for result in conversation.results if error_of(result)]
    successful = [result for result in conversation.results if result not in errors]
    documents = [document for result in successful for document in documents_in(result) if document.sentences]
    texts = [describe(result) for result in successful if not documents_in(result)]
    text = " ".join(each for each in texts if each)
    parts = [quote(conversation, documents)] if documents else []
    parts += [text] if text else []
    parts += [f"The tool {each.call.name} reported an error: {error_of(each)}" for each in errors]
    if successful and not documents and not text:
        parts.insert(0, "The tools returned nothing that answers this.")
    return Reply("\n\n".join(parts))


def error_of(result: ToolResult) -> str:
    """The error that a tool reports, as one line; empty when it reports none."""
    value = parse_json(result.text)
    if isinstance(value, dict) and value.get("error"):
        problem = value["error"]
        text = problem.get("message", problem) if isinstance(problem, dict) else problem
        return one_line(str(text))
    return one_line(result.text) if ERROR.match(result.text) else ""


def one_line(text: str) -> str:
    line = " ".join(clean_sentences(text)) or "no details were given"
    return with_full_stop(line[:MAX_TEXT_CHARACTERS].rstrip())


def with_full_stop(text: str) -> str:
    return text if text[-1] in ".!?" else f"{text}."


def quote(conversation: Conversation, documents: list[Document]) -> str:
    """The sentences closest to the question, each with the number of its document, then the documents."""
    asked = set(terms(conversation.question))
    every = [
        (len(asked & set(stems(sentence))) - at / 10, number, sentence)
        for number, document in enumerate(documents)
        for at, sentence in enumerate(document.sentences)
    ]
    best = sorted(every, key=lambda each: -each[0])[: MAX_SENTENCES - conversation.seed % 2]
    numbers = list(dict.fromkeys(number for _, number, _ in best))
    quoted = dict.fromkeys(
        f"{end_sentence(sentence)} [{numbers.index(number) + 1}]" for _, number, sentence in best
    )
    lines = [
        f"[{place + 1}] {documents[number].title}"
        + (f" ({documents[number].location})" if documents[number].location else "")
        for place, number in enumerate(numbers)
    ]
    return " ".join(quoted) + "\n\nSources:\n" + "\n".join(lines)


def describe(result: ToolResult) -> str:
    """A result that is no document, in a sentence: `get_weather (location: Paris) returned: It is sunny.`"""
    value = parse_json(result.text)
    only = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else None
    if isinstance(only, str | int | float):
        text = str(only)
    elif isinstance(value, dict):
        text = ", ".join(f"{key}: {json.dumps(each, ensure_ascii=False)}" for key, each in value.items())
    else:
        text = " ".join(clean_sentences(result.text))
    if not text.strip():
        return ""
    given = ", ".join(f"{key}: {each}" for key, each in result.call.arguments.items())
    made = f"{result.call.name} ({given})" if given else result.call.name
    return f"{made} returned: {with_full_stop(text.strip()[:MAX_TEXT_CHARACTERS])}"
