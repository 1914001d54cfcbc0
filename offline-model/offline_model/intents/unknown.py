"""Unknown: say in one sentence that the corpus has no answer."""

from offline_model.conversation.messages import Conversation, Reply

ORDER = 90

KNOWN = "the pages of this course and Python's own documentation"


def reply(conversation: Conversation) -> Reply | None:
    return Reply(
        conversation.choose(
            [
                f"I do not know: I can only answer from {KNOWN}, and I found nothing about this there.",
                f"My books say nothing about this: all I know is {KNOWN}.",
                f"I cannot answer that, because I know only {KNOWN}.",
            ]
        )
    )
