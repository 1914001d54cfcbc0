"""A report: sentences of what was found, each with its source's number, and what is inferred from them."""

from collections.abc import Iterable
from dataclasses import dataclass

from offline_model.books.judge import UNFINISHED
from offline_model.books.words import stems, terms
from offline_model.conversation import Conversation
from offline_model.findings import Findings, Search, sentences
from offline_model.inference import inferred
from offline_model.inquiry import Inquiry
from offline_model.skills.lookup import excerpt

ALONE, EACH = 3, 2
# How much of the weight of a query's words a sentence must have to speak of it; what each sentence and source
# before it costs it; and what it costs to hang on the sentence before.
COVERED, AWAY, HANGING = 0.45, 0.03, 0.5


@dataclass(frozen=True)
class Quote:
    """A sentence of a source. `place` orders sentences: by source, then as they stand in it."""

    text: str
    title: str
    number: int
    place: tuple[int, int]


def report(conversation: Conversation, asked: Inquiry, found: Findings, over: bool) -> str:
    """The answer; empty when nothing was found that could be quoted."""
    topics = {each.query: quotes(found, each) for each in found.searches if each.entries}
    if asked.deep:
        topics = {asked.queries[0]: [quote for every in topics.values() for quote in every]}
    if asked.urls:
        topics[" ".join(asked.queries)] = page_quotes(found, dict.fromkeys(asked.urls, ""))
    topics = {query: best(conversation, query, every) for query, every in topics.items()}
    length = EACH if len(topics) > 1 else ALONE + conversation.seed % 2
    said: set[str] = set()
    paragraphs = []
    for every in topics.values():
        chosen = [each for each in every if each.text not in said][:length]
        said.update(each.text for each in chosen)
        if chosen:
            paragraphs.append(" ".join(cited(each) for each in sorted(chosen, key=lambda each: each.place)))
    if not paragraphs:
        return ""
    known = {query: [each.text for each in every] for query, every in topics.items()}
    conclusion = f"Inferred: {inferred(conversation, asked.compares, known)}"
    return "\n\n".join([*paragraphs, *remarks(asked, found, over), conclusion])


def cited(quote: Quote) -> str:
    whole = quote.text if quote.text[-1] in ".!?…" else f"{quote.text} ..."
    return f"{whole} [{quote.number}]" if quote.number else whole


def quotes(found: Findings, search: Search) -> list[Quote]:
    """What the results of one search say: the pages of it that were read, then the snippets of the others."""
    titles = {entry.url: entry.title for entry in search.entries}
    read = page_quotes(found, titles)
    numbers = {quote.number for quote in read}
    return read + [
        Quote(text, entry.title, entry.number, (len(found.pages) + rank, at))
        for rank, entry in enumerate(search.entries)
        if entry.number not in numbers
        for at, text in enumerate(sentences(entry.snippet))
    ]


def page_quotes(found: Findings, titles: dict[str, str]) -> list[Quote]:
    """What those of these pages say that were read."""
    return [
        Quote(text, titles[page.url], page.number, (rank, at))
        for rank, page in enumerate(found.pages)
        if page.url in titles
        for at, text in enumerate(each for each in sentences(page.text) if each != titles[page.url])
    ]


def best(conversation: Conversation, query: str, every: list[Quote]) -> list[Quote]:
    """The quotes that speak of the query, those that say most first."""
    weights = {term: conversation.library.weight(term) for term in terms(query)}
    total = sum(weights.values()) or 1.0

    def worth(quote: Quote) -> float:
        rank, at = quote.place
        # A page begins with what it is about, and may leave out its name.
        told = set(stems(quote.text if at else f"{quote.title} {quote.text}"))
        share = sum(weight for term, weight in weights.items() if term in told) / total
        if share < COVERED:
            return 0
        return share - AWAY * (at + rank) - HANGING * bool(UNFINISHED.match(quote.text))

    rated = [(worth(quote), quote) for quote in every]
    return [quote for value, quote in sorted(rated, key=lambda each: -each[0]) if value]


def remarks(asked: Inquiry, found: Findings, over: bool) -> Iterable[str]:
    """What the reader must know of how the answer came about."""
    lines = [
        f'The search for "{each.query}" {"failed" if each.outcome == "failed" else "found nothing"}.'
        for each in found.searches
        if each.outcome != "ok"
    ]
    lines += [f"The page {page.url} could not be read." for page in found.pages if not page.text]
    if over:
        tried = {each.query for each in found.searches}
        missing = [f'"{query}"' for query in asked.queries if query not in tried]
        lines.append("No steps were left, so this is what was found until then.")
        lines += [f"Not looked up: {', '.join(missing)}."] if missing and not asked.urls else []
    return [" ".join(lines)] if lines else []


def unsourced(conversation: Conversation, found: Findings) -> str:
    """An answer without any source says so first."""
    if not found.steps:
        why = "No steps were left to search with"
    elif any(each.outcome == "failed" for each in found.searches):
        why = "The search failed"
    elif found.searches and not any(each.entries for each in found.searches):
        tried = " or ".join(f'"{each.query}"' for each in found.searches)
        why = f"The search found nothing for {tried}"
    else:
        why = "Nothing that was found answers this"
    known = conversation.library.search(conversation.question)
    own = (
        f"what I know myself, without a source: {excerpt(known[0], 2)}"
        if known
        else "nothing; I do not know it either."
    )
    return f"{why}, so no source stands behind this answer.\n\nInferred: {own}"
