"""Reports: answer each question from the results, and cite a source after each sentence."""

from functools import lru_cache

from offline_model.conversation import Conversation
from offline_model.corpus.ranking import Hit, TokenizedPassage
from offline_model.corpus.terms import stems
from offline_model.research.documents import end_sentence
from offline_model.research.query_planning import QueryPlan
from offline_model.research.tool_results import ResearchResults, quotable_sentences


def write_report(
    conversation: Conversation, plan: QueryPlan, results: ResearchResults, steps_are_used_up: bool
) -> str:
    """The answer, or one sentence that says why there is none."""
    length = 3 + conversation.seed % 2
    numbers = {result.url: result.number for search in results.searches for result in search.results}
    numbers |= {page.url: page.number for page in results.pages}
    answers = [
        best_answer(conversation, question, passages)
        for question, passages in passages_by_question(plan, results).items()
    ]
    paragraphs = list(
        dict.fromkeys(
            " ".join(cite(sentence, numbers[answer.url]) for sentence in answer.best_sentences(length))
            for answer in answers
            if answer is not None
        )
    )
    if not paragraphs:
        return reason_for_no_answer(results)
    inferred = []
    if plan.compares and len(paragraphs) > 1:
        one, other = plan.queries
        inferred = [
            f"Inferred: none of these sources compares {one} with {other}; each describes one of them."
        ]
    return "\n\n".join([*paragraphs, *notes(plan, results, steps_are_used_up), *inferred])


def cite(sentence: str, number: int) -> str:
    return f"{end_sentence(sentence)} [{number}]" if number else end_sentence(sentence)


def passages_by_question(plan: QueryPlan, results: ResearchResults) -> dict[str, list[TokenizedPassage]]:
    """The passages for each question: of each URL the page if it was read, else the snippet.

    A reworded search belongs to the question whose search found nothing.
    """
    read = {page.url: page.text for page in results.pages if page.text}
    if plan.urls:
        return {plan.questions[0]: [to_passage(url, url, text) for url, text in read.items()]}
    questions = dict(zip(plan.queries, plan.questions, strict=True))
    without_results = (search.query for search in results.searches if not search.results)
    reworded = plan.queries[0] if plan.exhaustive else next(without_results, plan.queries[0])
    passages: dict[str, list[TokenizedPassage]] = {}
    for search in results.searches:
        query = search.query if search.query in plan.queries else reworded
        passages.setdefault(questions.get(query, plan.questions[0]), []).extend(
            to_passage(result.url, result.title, read.get(result.url) or result.snippet)
            for result in search.results
        )
    return passages


@lru_cache(maxsize=512)
def to_passage(url: str, title: str, text: str) -> TokenizedPassage:
    sentences = [each for each in quotable_sentences(text) if each != title] or [title]
    return TokenizedPassage(
        title, "", "course", url, sentences, [" ".join(stems(each)) for each in sentences]
    )


def best_answer(conversation: Conversation, question: str, passages: list[TokenizedPassage]) -> Hit | None:
    """The passage with the highest score among those that answer the question; None if there is none.

    Of several passages with the same score, the first.
    """
    ranker = conversation.corpus.ranker(question)
    hits = [ranker.rank(passage) for passage in passages]
    return max((each for each in hits if each.answers), key=lambda each: each.score, default=None)


def notes(plan: QueryPlan, results: ResearchResults, steps_are_used_up: bool) -> list[str]:
    """A paragraph about failed searches, unread pages and missing steps, if there are any."""
    lines = [
        f'The search for "{search.query}" {"failed" if search.outcome == "failed" else "found nothing"}.'
        for search in results.searches
        if search.outcome != "ok"
    ]
    lines += [f"The page {page.url} could not be read." for page in results.pages if not page.text]
    if steps_are_used_up:
        tried = {search.query for search in results.searches}
        missing = [f'"{query}"' for query in plan.queries if query not in tried]
        lines.append("No steps were left, so this is what was found until then.")
        lines += [f"Not looked up: {', '.join(missing)}."] if missing and not plan.urls else []
    return [" ".join(dict.fromkeys(lines))] if lines else []


def reason_for_no_answer(results: ResearchResults) -> str:
    if not results.steps:
        return "No steps were left to search with, so I cannot answer this."
    if any(search.outcome == "failed" for search in results.searches):
        return "The search failed, so I cannot answer this."
    if not results.searches:
        return "The page could not be read, so I cannot answer this."
    if not results.sources:
        tried = " or ".join(f'"{search.query}"' for search in results.searches)
        return f"The search found nothing for {tried}, so I cannot answer this."
    return "I do not know: nothing that the search found answers this."
