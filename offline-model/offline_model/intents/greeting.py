"""Greetings and small talk: say what this model is."""

import re

from offline_model.conversation.messages import Conversation, Reply

ORDER = 60

SMALL_TALK = re.compile(
    r"\W*(?:(?:hello|hi|hey|hallo|greetings|good (?:morning|day|afternoon|evening))(?:\s+there)?"
    r"|how are you\b.*|thanks?(?: you)?.*|bye|goodbye|who are you|what are you|what can you do|help)\W*",
    re.IGNORECASE,
)


def reply(conversation: Conversation) -> Reply | None:
    if not is_small_talk(conversation.question):
        return None
    opening = conversation.choose(["Hello!", "Hi!", "Good day!", "Welcome!"])
    return Reply(
        f"{opening} I am the offline model of this course. I answer from the course's pages and "
        "from Python's own documentation, and I say so when they do not have an answer."
    )


def is_small_talk(question: str) -> bool:
    return SMALL_TALK.fullmatch(question) is not None
