"""A report: what the sources say to each question, every sentence with its source's number."""

from functools import lru_cache

from offline_model.conversation.messages import Conversation
from offline_model.corpus.passage import Hit, TokenizedPassage
from offline_model.corpus.stemming import stems
from offline_model.research.query_planning import Inquiry
from offline_model.research.tool_results import Findings, sentences


def report(conversation: Conversation, asked: Inquiry, found: Findings, over: bool) -> str:
    """The answer; one plain sentence when the sources have none."""
    length = 3 + conversation.seed % 2
    numbers = {entry.url: entry.number for each in found.searches for entry in each.entries}
    numbers |= {page.url: page.number for page in found.pages}
    answers = {query: answer(conversation, query, each) for query, each in sources(asked, found).items()}
    paragraphs = list(
        dict.fromkeys(
            " ".join(cited(text, numbers[best.url]) for text in best.best_sentences(length))
            for best in answers.values()
            if best is not None
        )
    )
    if not paragraphs:
        return unanswered(found)
    if asked.compares and len(paragraphs) > 1:
        one, other = asked.queries
        over_both = (
            f"Inferred: none of these sources compares {one} with {other}; each describes one of them."
        )
        return "\n\n".join([*paragraphs, *remarks(asked, found, over), over_both])
    return "\n\n".join([*paragraphs, *remarks(asked, found, over)])


def cited(text: str, number: int) -> str:
    whole = text if text[-1] in ".!?…" else f"{text} ..."
    return f"{whole} [{number}]" if number else whole


def sources(asked: Inquiry, found: Findings) -> dict[str, list[TokenizedPassage]]:
    """The texts that were found for each question: of each URL the page if it was read, else the snippet.

    A search in other words stands for one that found nothing.
    """
    read = {page.url: page.text for page in found.pages if page.text}
    if asked.urls:
        return {asked.questions[0]: [tokenized_passage(url, url, text) for url, text in read.items()]}
    poor = next((each.query for each in found.searches if not each.entries), asked.queries[0])
    told: dict[str, list[TokenizedPassage]] = {}
    for each in found.searches:
        query = each.query if each.query in asked.queries else asked.queries[0] if asked.deep else poor
        question = dict(zip(asked.queries, asked.questions, strict=True)).get(query, asked.questions[0])
        told.setdefault(question, []).extend(
            tokenized_passage(entry.url, entry.title, read.get(entry.url) or entry.snippet)
            for entry in each.entries
        )
    return told


@lru_cache(maxsize=512)
def tokenized_passage(url: str, title: str, text: str) -> TokenizedPassage:
    told = [each for each in sentences(text) if each != title] or [title]
    return TokenizedPassage(title, "", "course", url, told, [" ".join(stems(each)) for each in told])


def answer(conversation: Conversation, question: str, entries: list[TokenizedPassage]) -> Hit | None:
    """What answers best, of the texts that answer at all; the search's order decides between equals."""
    ranker = conversation.corpus.ranker(question)
    hits = [ranker.rank(entry) for entry in entries]
    return max((each for each in hits if each.answers), key=lambda each: each.score, default=None)


def remarks(asked: Inquiry, found: Findings, over: bool) -> list[str]:
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
    return [" ".join(dict.fromkeys(lines))] if lines else []


def unanswered(found: Findings) -> str:
    """One plain sentence, and why."""
    if not found.steps:
        return "No steps were left to search with, so I cannot answer this."
    if any(each.outcome == "failed" for each in found.searches):
        return "The search failed, so I cannot answer this."
    if not found.searches:
        return "The page could not be read, so I cannot answer this."
    if not found.sources:
        tried = " or ".join(f'"{each.query}"' for each in found.searches)
        return f"The search found nothing for {tried}, so I cannot answer this."
    return "I do not know: nothing that the search found answers this."
