"""Small talk: greetings, and questions about what was said earlier in the conversation."""

import re
from collections.abc import Callable, Iterable

from offline_model.conversation import Conversation, Reply
from offline_model.corpus.terms import stems, terms
from offline_model.json_schema.extraction import sentences_in
from offline_model.json_schema.slot_filling import SlotValues

ORDER = 60

GREETING = re.compile(
    r"\W*(?:(?:hello|hi|hey|hallo|greetings|good (?:morning|day|afternoon|evening))(?:\s+there)?"
    r"|how are you\b.*|thanks?(?: you)?.*|bye|goodbye|who are you|what are you|what can you do|help)\W*",
    re.IGNORECASE,
)
STATEMENT = re.compile(
    r"^(?:my|i am|i'm|i live|i work|i like|i have|we are|our|remember|note that|call me)\b", re.IGNORECASE
)
OWN_FACT = re.compile(r"^(?:what|which|who|where|when)(?:'s| is| are| was)\s+(?:my|our)\b", re.IGNORECASE)
EARLIER_MESSAGE = re.compile(
    r"\bwhat did i (?:just )?(?:ask|say|tell)|\bmy (?:last|previous|first) (?:question|message)", re.I
)
# Instructions in a system prompt are not facts to quote.
SYSTEM_INSTRUCTION = re.compile(
    r"^(?:you|your|answer|always|never|do|don't|use|be|keep|respond|reply|give|if|when|write|cite|only|please|act|"
    r"help|return|the user)\b",
    re.IGNORECASE,
)
# The share of a question's terms, by weight, that a sentence must have.
MIN_COVERAGE = 0.75


def reply(conversation: Conversation) -> Reply | None:
    question = conversation.question
    if GREETING.fullmatch(question):
        opening = conversation.choose(["Hello!", "Hi!", "Good day!", "Welcome!"])
        return Reply(
            f"{opening} I am the offline model of this course. I answer from the course's pages and "
            "from Python's own documentation, and I say so when they do not have an answer."
        )
    if EARLIER_MESSAGE.search(question):
        earlier = [turn.text for turn in conversation.turns if turn.role == "user"][:-1]
        if earlier:
            at = 0 if "first" in question.lower() else -1
            return Reply(f"You said: “{earlier[at].strip()}”")
    if STATEMENT.match(question) and not question.rstrip().endswith("?"):
        return Reply(
            conversation.choose(["Noted", "Understood", "All right"])
            + ": I can use that in this conversation."
        )
    if len(conversation.turns) == 1 and conversation.turns[0].text == question:
        return not_said(question)
    return stated_value(conversation) or quotation(conversation) or not_said(question)


def stated_value(conversation: Conversation) -> Reply | None:
    """The value of a key in the conversation: `Which city?` for {"city": "Paris"}."""
    covers = coverage_test(conversation)
    asked = set(terms(conversation.question))
    for key, value in SlotValues(conversation).pairs:
        if describes_tool(key, conversation) or value.endswith("?"):
            continue
        named = stems(key)
        if named and asked.issuperset(named) and covers([*named, *stems(value)]):
            words = key.replace("_", " ").replace("-", " ").strip()
            return Reply(f"The {words} is {value}, as this conversation says.")
    return None


def quotation(conversation: Conversation) -> Reply | None:
    """A sentence of an earlier turn, quoted."""
    covers = coverage_test(conversation)
    for turn in reversed(conversation.turns[:-1]):
        if turn.role not in {"user", "system"}:
            continue
        for said in sentences_in(turn.text):
            if (
                said.endswith("?")
                or said == conversation.question
                or (turn.role == "system" and SYSTEM_INSTRUCTION.match(said))
                or describes_tool(said, conversation)
            ):
                continue
            if covers(stems(said)):
                who = "You said" if turn.role == "user" else "The instructions of this conversation say"
                return Reply(f"{who}: “{said}”")
    return None


def describes_tool(text: str, conversation: Conversation) -> bool:
    """Whether a line of a prompt says what a tool does, as in `- weather: Weather of a city.`"""
    name = text.lstrip("-* `").partition(":")[0].rstrip("`")
    return name in {tool.name for tool in conversation.tools}


def coverage_test(conversation: Conversation) -> Callable[[Iterable[str]], bool]:
    """A test whether words cover the question."""
    weights = {term: conversation.corpus.weight(term) for term in terms(conversation.question)}
    enough = MIN_COVERAGE * sum(weights.values())
    return lambda words: sum(weights.get(stem, 0) for stem in set(words)) >= enough > 0


def not_said(question: str) -> Reply | None:
    if OWN_FACT.match(question):
        return Reply("You have not told me that in this conversation, so I cannot know it.")
    return None


def is_small_talk(question: str) -> bool:
    """Whether a text greets, or asks about or states something of the user or of the conversation itself."""
    if GREETING.fullmatch(question) or EARLIER_MESSAGE.search(question) or OWN_FACT.match(question):
        return True
    return STATEMENT.match(question) is not None and "?" not in question
