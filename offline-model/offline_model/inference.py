"""Inference: what can be concluded from all that was read, though no source says it."""

from collections import Counter
from collections.abc import Iterable

from offline_model.books.words import STOP, WORD, stem, stems
from offline_model.conversation import Conversation

SHORTEST = 5
MOST_WORDS = 12
MOST_SENTENCES = 60


def inferred(conversation: Conversation, compares: bool, topics: dict[str, list[str]]) -> str:
    """Which words go with which topic; of two that are compared, what only the one has and what both have."""
    words = {topic: salient(topic, sentences) for topic, sentences in topics.items()}
    words = {topic: said for topic, said in words.items() if said}
    if not words:
        return "nothing beyond what the sources say."
    if compares and len(words) == 2:
        return compared(*words.items())
    told = "; ".join(f"{topic} with {listed(said.values())}" for topic, said in words.items())
    verb = conversation.choose(["connect", "associate", "link"])
    return f"taken together, the sources {verb} {told}."


def compared(one: tuple[str, dict[str, str]], other: tuple[str, dict[str, str]]) -> str:
    (first, mine), (second, others) = one, other
    only = [word for key, word in mine.items() if key not in others]
    theirs = [word for key, word in others.items() if key not in mine]
    both = [word for key, word in mine.items() if key in others]
    if not only or not theirs:
        return f"the sources do not tell {first} from {second}: both dwell on {listed(both)}."
    told = f"only the sources on {first} dwell on {listed(only)}, only those on {second} on {listed(theirs)}"
    return f"{told}; both dwell on {listed(both)}." if both else f"{told}."


def salient(topic: str, sentences: list[str]) -> dict[str, str]:
    """The words said most often about a topic, by their stem, in their shortest form."""
    about = set(stems(topic))
    counts: Counter[str] = Counter()
    written: dict[str, str] = {}
    for sentence in sentences[:MOST_SENTENCES]:
        for word in set(WORD.findall(sentence.lower())):
            key = stem(word)
            if len(word) >= SHORTEST and word.isalpha() and word not in STOP and key not in about:
                counts[key] += 1
                written[key] = min(written.get(key, word), word)
    commonest = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:MOST_WORDS]
    return {key: written[key] for key, _ in commonest}


def listed(words: Iterable[str]) -> str:
    *first, last = list(words)[:3]
    return f"{', '.join(first)} and {last}" if first else last
