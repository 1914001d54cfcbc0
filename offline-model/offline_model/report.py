"""A report: sentences of what was found, each with its source's number, and what is inferred from them."""

from collections.abc import Iterable
from dataclasses import dataclass

from offline_model.books.judge import UNFINISHED
from offline_model.books.words import stems, terms
from offline_model.conversation import Conversation
from offline_model.findings import Findings, Search, sentences
from offline_model.inference import inferred
from offline_model.inquiry import Inquiry, words
from offline_model.skills.lookup import excerpt

ALONE, EACH = 3, 2
# How much of the weight of a query's words a sentence must have; more of them, when other words found it.
COVERED, HALF = 0.45, 0.5
# What it costs a sentence to stand behind each other sentence and source, and to hang on the one before it.
AWAY, HANGING = 0.03, 0.5


@dataclass(frozen=True)
class Quote:
    """A sentence of a source. `place` orders sentences: by source, then as they stand in it."""

    text: str
    title: str
    number: int
    place: tuple[int, int]


def report(conversation: Conversation, asked: Inquiry, found: Findings, over: bool) -> str:
    """The answer; empty when nothing was found that could be quoted."""
    read = {query: quotes(found, searches) for query, searches in by_query(asked, found).items()}
    direct = {each.query for each in found.searches if each.entries}
    topics = {
        query: best(conversation, query, every, COVERED if query in direct else HALF)
        for query, every in read.items()
    }
    if asked.urls:
        topics["the question"] = page_quotes(found, dict.fromkeys(asked.urls, ""))
    length = EACH if len(topics) > 1 else ALONE + conversation.seed % 2
    said: set[str] = set()
    paragraphs = []
    for every in topics.values():
        new = {each.text: each for each in reversed(every) if each.text not in said}
        chosen = list(reversed(new.values()))[:length]
        said.update(each.text for each in chosen)
        if chosen:
            paragraphs.append(" ".join(cited(each) for each in sorted(chosen, key=lambda each: each.place)))
    if not paragraphs:
        return ""
    known = {query: [each.text for each in every] for query, every in topics.items()}
    conclusion = f"Inferred: {inferred(conversation, asked.compares, known)}"
    return "\n\n".join([*paragraphs, *remarks(asked, found, over, read), conclusion])


def cited(quote: Quote) -> str:
    whole = quote.text if quote.text[-1] in ".!?…" else f"{quote.text} ..."
    return f"{whole} [{quote.number}]" if quote.number else whole


def by_query(asked: Inquiry, found: Findings) -> dict[str, list[Search]]:
    """The searches that found something, by what they are for: one in other words stands for a poor one."""
    poor = next((each.query for each in found.searches if not each.entries), asked.queries[0])
    found_for: dict[str, list[Search]] = {}
    for each in found.searches:
        query = each.query if each.query in asked.queries else asked.queries[0] if asked.deep else poor
        found_for.setdefault(query, []).extend([each] if each.entries else [])
    return found_for


def quotes(found: Findings, searches: list[Search]) -> list[Quote]:
    """What the results of some searches say: the pages that were read, then the snippets of the others."""
    entries = {entry.url: entry for each in searches for entry in each.entries}
    read = page_quotes(found, {url: entry.title for url, entry in entries.items()})
    numbers = {quote.number for quote in read}
    return read + [
        Quote(text, entry.title, entry.number, (len(found.pages) + rank, at))
        for rank, entry in enumerate(entries.values())
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


def best(conversation: Conversation, query: str, every: list[Quote], least: float) -> list[Quote]:
    """The quotes that speak of the query, those that say most first, then what follows upon them."""
    weights = {term: conversation.library.weight(term) for term in terms(query)}
    total = sum(weights.values()) or 1.0
    rated: list[tuple[float, Quote]] = []
    before, source = 0.0, -1
    for quote in every:
        rank, at = quote.place
        told = heard(quote, weights)
        share = sum(weight for term, weight in weights.items() if term in told) / total
        if share >= least:
            value = 1 + share - HANGING * bool(UNFINISHED.match(quote.text))
        else:
            value = before - HANGING if rank == source else 0
        before, source = value, rank
        if value > 0:
            rated.append((value - AWAY * (at + rank), quote))
    return [quote for _, quote in sorted(rated, key=lambda each: -each[0])]


def heard(quote: Quote, weights: dict[str, float]) -> set[str]:
    """The stems of a sentence. A text begins with what it is about, and may leave out its name."""
    told = set(stems(quote.text))
    if quote.place[1] == 0:
        named = terms(quote.title.rpartition(": ")[2])
        told.update(named if sum(term in weights for term in named) * 2 > len(named) else ())
    return told


def remarks(asked: Inquiry, found: Findings, over: bool, read: dict[str, list[Quote]]) -> Iterable[str]:
    """What the reader must know of how the answer came about."""
    lines = [
        f'The search for "{each.query}" {"failed" if each.outcome == "failed" else "found nothing"}.'
        for each in found.searches
        if each.outcome != "ok"
    ]
    lines += [f"The page {page.url} could not be read." for page in found.pages if not page.text]
    for query, every in read.items():
        said = {stem for quote in every for stem in stems(f"{quote.title} {quote.text}")}
        unsaid = [f'"{word}"' for word in words(query) if every and not said.issuperset(stems(word))]
        lines += [f"No source speaks of {' or '.join(unsaid)}."] if unsaid else []
    if over:
        tried = {each.query for each in found.searches}
        missing = [f'"{query}"' for query in asked.queries if query not in tried]
        lines.append("No steps were left, so this is what was found until then.")
        lines += [f"Not looked up: {', '.join(missing)}."] if missing and not asked.urls else []
    return [" ".join(dict.fromkeys(lines))] if lines else []


def unsourced(conversation: Conversation, found: Findings) -> str:
    """An answer without any source says so first."""
    if not found.steps:
        why = "No steps were left to search with"
    elif any(each.outcome == "failed" for each in found.searches):
        why = "The search failed"
    elif not found.searches:
        why = "The page could not be read"
    elif not found.sources:
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
