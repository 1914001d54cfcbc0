"""Remembering: the conversation itself is a book, and what was said in it can be asked for."""

import re
from collections.abc import Callable, Iterable

from offline_model.conversation.extraction import sentences_of
from offline_model.conversation.messages import Conversation, Reply
from offline_model.conversation.slot_filling import Evidence
from offline_model.corpus.query_terms import terms
from offline_model.corpus.stemming import stems

TOLD = re.compile(
    r"^(?:my|i am|i'm|i live|i work|i like|i have|we are|our|remember|note that|call me)\b", re.IGNORECASE
)
PERSONAL = re.compile(r"\b(?:my|me|i|our|we)\b", re.IGNORECASE)
MINE = re.compile(r"^(?:what|which|who|where|when)(?:'s| is| are| was)\s+(?:my|our)\b", re.IGNORECASE)
BEFORE = re.compile(
    r"\bwhat did i (?:just )?(?:ask|say|tell)|\bmy (?:last|previous|first) (?:question|message)", re.I
)
# How system prompts give orders; an order is not a fact to be quoted.
ORDERS = re.compile(
    r"^(?:you|your|answer|always|never|do|don't|use|be|keep|respond|reply|give|if|when|write|cite|only|please|act|"
    r"help|return|the user)\b",
    re.IGNORECASE,
)
ENOUGH, PERSONALLY = 0.75, 0.5


def reply(conversation: Conversation) -> Reply | None:
    question = conversation.question
    if BEFORE.search(question):
        earlier = [turn.text for turn in conversation.turns if turn.role == "user"][:-1]
        if earlier:
            at = 0 if "first" in question.lower() else -1
            return Reply(f"You said: “{earlier[at].strip()}”")
    if TOLD.match(question) and not question.rstrip().endswith("?"):
        return Reply(
            conversation.choose(["Noted", "Understood", "All right"])
            + ": I can use that in this conversation."
        )
    if len(conversation.turns) == 1 and conversation.turns[0].text == question:
        return never_said(question)
    return fact(conversation) or sentence(conversation) or never_said(question)


def fact(conversation: Conversation) -> Reply | None:
    """The value of a key that the context gave: `Which city?` for {"city": "Paris"}."""
    covered = coverage(conversation)
    asked = set(terms(conversation.question))
    for key, value in Evidence(conversation, [], generous=False).pairs:
        named = stems(key)
        if named and asked.issuperset(named) and covered([*named, *stems(value)]):
            words = key.replace("_", " ").replace("-", " ").strip()
            return Reply(f"The {words} is {value}, as this conversation says.")
    return None


def sentence(conversation: Conversation) -> Reply | None:
    """What somebody said in an earlier turn, quoted."""
    covered = coverage(conversation)
    for turn in reversed(conversation.turns[:-1]):
        if turn.role not in {"user", "system"}:
            continue
        for said in sentences_of(turn.text):
            if (
                said.endswith("?")
                or said == conversation.question
                or (turn.role == "system" and ORDERS.match(said))
            ):
                continue
            if covered(stems(said)):
                who = "You said" if turn.role == "user" else "The instructions of this conversation say"
                return Reply(f"{who}: “{said}”")
    return None


def coverage(conversation: Conversation) -> Callable[[Iterable[str]], bool]:
    """Whether what was said speaks of what is asked; of oneself one asks more loosely."""
    weights = {term: conversation.corpus.weight(term) for term in terms(conversation.question)}
    least = PERSONALLY if PERSONAL.search(conversation.question) else ENOUGH
    enough = least * sum(weights.values())
    return lambda said: sum(weights.get(stem, 0) for stem in set(said)) >= enough > 0


def never_said(question: str) -> Reply | None:
    if MINE.match(question):
        return Reply("You have not told me that in this conversation, so I cannot know it.")
    return None
