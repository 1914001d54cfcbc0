"""Looking it up: the best passage of the books, a few of its sentences, and where they stand."""

from offline_model.books.library import Found
from offline_model.conversation import Conversation, Reply


def reply(conversation: Conversation) -> Reply | None:
    found = conversation.library.search(conversation.question)
    if not found:
        return None
    best = found[0]
    return Reply(f"{excerpt(best, 3)}\n\nSource: [1] {best.title} ({best.place})")


def excerpt(found: Found, length: int) -> str:
    """The run of whole sentences that says most about the question."""
    starts = range(max(1, len(found.sentences) - length + 1))
    start = max(starts, key=lambda at: sum(found.shares[at : at + length]) + (0.3 if at == 0 else 0))
    return " ".join(found.sentences[start : start + length])
