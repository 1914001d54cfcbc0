"""Using results: an answer from what the tools returned, with their sources, and nothing they did not say."""

import json
import re

from offline_model.conversation.documents import Source, clean, parsed, returned_by
from offline_model.conversation.messages import Conversation, Reply, Result
from offline_model.corpus.query_terms import terms
from offline_model.corpus.stemming import stems

ERROR = re.compile(
    r"^\W*(?:\w*error\b|exception\b|traceback\b|failed\b|failure\b|could not\b|timed? ?out\b)", re.IGNORECASE
)
MOST_SENTENCES = 4
MOST_PLAIN = 400


def reply(conversation: Conversation) -> Reply | None:
    if not conversation.results:
        return None
    errors = [result for result in conversation.results if error_of(result)]
    good = [result for result in conversation.results if result not in errors]
    sources = [source for result in good for source in returned_by(result) if source.sentences]
    plain = [line for result in good if not returned_by(result) for line in [reported(result)] if line]
    parts = [cited(conversation, sources)] if sources else []
    parts += [" ".join(plain)] if plain else []
    parts += [f"The tool {each.call.name} reported an error: {error_of(each)}" for each in errors]
    if good and not sources and not plain:
        parts.insert(0, "The tools returned nothing that answers this.")
    return Reply("\n\n".join(parts))


def error_of(result: Result) -> str:
    """The error in a result, as one line; empty when there is none."""
    value = parsed(result.text)
    if isinstance(value, dict) and value.get("error"):
        problem = value["error"]
        text = problem.get("message", problem) if isinstance(problem, dict) else problem
        return one_line(str(text))
    return one_line(result.text) if ERROR.match(result.text) else ""


def one_line(text: str) -> str:
    line = " ".join(clean(text)) or "no details were given"
    line = line[:MOST_PLAIN].rstrip()
    return line if line[-1] in ".!?" else f"{line}."


def cited(conversation: Conversation, sources: list[Source]) -> str:
    """The sentences that say most about the question, each with its source's number, then the sources."""
    asked = set(terms(conversation.question))
    every = [
        (len(asked & set(stems(sentence))) - at / 10, number, sentence)
        for number, source in enumerate(sources)
        for at, sentence in enumerate(source.sentences)
    ]
    best = sorted(every, key=lambda each: -each[0])[: MOST_SENTENCES - conversation.seed % 2]
    ranks = {number: rank for rank, (_, number, _) in reversed(list(enumerate(best)))}
    best.sort(key=lambda each: (ranks[each[1]], sources[each[1]].sentences.index(each[2])))
    numbers = list(dict.fromkeys(number for _, number, _ in best))
    said = dict.fromkeys(f"{closed(sentence)} [{numbers.index(number) + 1}]" for _, number, sentence in best)
    lines = [
        f"[{place + 1}] {sources[number].title}"
        + (f" ({sources[number].place})" if sources[number].place else "")
        for place, number in enumerate(numbers)
    ]
    return " ".join(said) + "\n\nSources:\n" + "\n".join(lines)


def closed(sentence: str) -> str:
    return sentence if sentence[-1] in ".!?…" else f"{sentence} ..."


def reported(result: Result) -> str:
    """A plain result in a sentence: `get_weather(location: Paris): It is sunny.`"""
    value = parsed(result.text)
    if (
        isinstance(value, dict)
        and len(value) == 1
        and isinstance(next(iter(value.values())), str | int | float)
    ):
        text = str(next(iter(value.values())))
    elif isinstance(value, dict):
        text = ", ".join(f"{key}: {json.dumps(each, ensure_ascii=False)}" for key, each in value.items())
    else:
        text = " ".join(clean(result.text))
    if not text.strip():
        return ""
    given = ", ".join(f"{key}: {each}" for key, each in result.call.arguments.items())
    made = f"{result.call.name} ({given})" if given else result.call.name
    text = text.strip()[:MOST_PLAIN]
    return f"{made} returned: {text if text[-1] in '.!?' else text + '.'}"
