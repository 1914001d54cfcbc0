"""Looking it up: the best passage of the books, a few of its sentences, and where they stand."""

import re

from offline_model.conversation.messages import Conversation, Reply
from offline_model.research.query_planning import inquiry

OPENINGS = ["", "In short: ", "From the documentation: ", "Here is what my books say: ", "Briefly: "]
MOST_QUESTIONS = 4
# Only such a text is worth taking apart.
SEVERAL = re.compile(r"\b(?:and|vs|versus|compar\w+|differ\w*)\b|[.?!;]\s+\S|\n", re.IGNORECASE)


def reply(conversation: Conversation) -> Reply | None:
    """An answer to each of the questions that are asked, from the passage that answers it."""
    length = 3 - conversation.seed // len(OPENINGS) % 2
    answers: dict[str, str] = {}
    for question in questions(conversation):
        for found in conversation.corpus.search(question)[:1]:
            if found.answers:
                answers.setdefault(
                    f"{found.title} ({found.location})", " ".join(found.best_sentences(length))
                )
    if not answers:
        return None
    sources = "\n".join(f"Source: [{number}] {source}" for number, source in enumerate(answers, start=1))
    return Reply(conversation.choose(OPENINGS) + "\n\n".join([*answers.values(), sources]))


def questions(conversation: Conversation) -> tuple[str, ...]:
    """What is asked, one by one; two things that a passage compares are one question."""
    question = conversation.question
    if not SEVERAL.search(question):
        return (question,)
    asked = inquiry(question)
    best = conversation.corpus.search(question)[:1] if asked.compares else []
    if any(found.defines for found in best):
        return (question,)
    return asked.questions[:MOST_QUESTIONS]
