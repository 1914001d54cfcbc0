"""Looking it up: the best passage of the books, a few of its sentences, and where they stand."""

from offline_model.books.judge import Found
from offline_model.conversation import Conversation, Reply

OPENINGS = ["", "In short: ", "From the documentation: ", "Here is what my books say: ", "Briefly: "]
LONGEST = 700


def reply(conversation: Conversation) -> Reply | None:
    found = conversation.library.search(conversation.question)
    if not found:
        return None
    best = found[0]
    opening = conversation.choose(OPENINGS)
    if not best.direct:
        opening = "I found no direct answer, but this speaks of it: "
    length = 3 - conversation.seed // len(OPENINGS) % 2
    return Reply(f"{opening}{excerpt(best, length)}\n\nSource: [1] {best.title} ({best.place})")


def excerpt(found: Found, length: int) -> str:
    """Whole sentences from where the answer begins; a very long one stands alone."""
    said = ""
    for sentence in found.sentences[found.start : found.start + length]:
        if said and len(said) + len(sentence) > LONGEST:
            break
        said = f"{said} {sentence}".strip()
    return said
