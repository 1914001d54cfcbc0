"""Lookup: quote the best passage of the corpus with its source, or say that the corpus has no answer."""

import re

from offline_model.conversation import Conversation, Reply
from offline_model.research.query_planning import plan_queries

ORDER = 80

OPENINGS = ["", "In short: ", "From the documentation: ", "Here is what my books say: ", "Briefly: "]
KNOWN = "the pages of this course and Python's own documentation"
REFUSALS = [
    f"I do not know: I can only answer from {KNOWN}, and I found nothing about this there.",
    f"My books say nothing about this: all I know is {KNOWN}.",
    f"I cannot answer that, because I know only {KNOWN}.",
]
MAX_QUESTIONS = 4
# Only such a text can hold several questions.
SEVERAL_QUESTIONS = re.compile(r"\b(?:and|vs|versus|compar\w+|differ\w*)\b|[.?!;]\s+\S|\n", re.IGNORECASE)


def reply(conversation: Conversation) -> Reply:
    length = 3 - conversation.seed // len(OPENINGS) % 2
    answers: dict[str, str] = {}
    for question in split_questions(conversation):
        for found in conversation.corpus.search(question)[:1]:
            if found.answers:
                answers.setdefault(
                    f"{found.title} ({found.location})", " ".join(found.best_sentences(length))
                )
    if not answers:
        return Reply(conversation.choose(REFUSALS))
    sources = "\n".join(f"Source: [{number}] {source}" for number, source in enumerate(answers, start=1))
    return Reply(conversation.choose(OPENINGS) + "\n\n".join([*answers.values(), sources]))


def split_questions(conversation: Conversation) -> tuple[str, ...]:
    """The questions in the text. A comparison is one question if a passage compares the two things."""
    question = conversation.question
    if not SEVERAL_QUESTIONS.search(question):
        return (question,)
    plan = plan_queries(question)
    best = conversation.corpus.search(question)[:1] if plan.compares else []
    if any(found.defines for found in best):
        return (question,)
    return plan.questions[:MAX_QUESTIONS]
