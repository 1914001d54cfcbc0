"""Which agent a query is for: multinomial naive Bayes over a few labelled phrases.

C. D. Manning, P. Raghavan and H. Schütze, "Introduction to Information Retrieval" (2008), chapter 13.
"""

import re
import tomllib
from collections import Counter
from math import exp, log
from pathlib import Path

PHRASES: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("phrases.toml").read_text("utf-8"))
TRACEBACK = re.compile(r"^\W*Traceback \(most recent call last\)|^\s*File \".+\", line \d+", re.MULTILINE)
MAX_WORDS = 200  # of a query; the rest says no more about its kind


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())[:MAX_WORDS]


COUNTS = {label: Counter(word for phrase in PHRASES[label] for word in words(phrase)) for label in PHRASES}
VOCABULARY = set().union(*COUNTS.values())


def classify(query: str) -> tuple[str, float]:
    """The most likely label and its probability, from 1/3 to 1. A traceback is certainly one for debug."""
    if TRACEBACK.search(query):
        return "debug", 1.0
    known = [word for word in words(query) if word in VOCABULARY]
    scores = {}
    for label, counts in COUNTS.items():
        total = counts.total() + len(VOCABULARY)
        scores[label] = sum(log((counts[word] + 1) / total) for word in known)
    best = max(scores, key=lambda label: scores[label])
    return best, 1 / sum(exp(score - scores[best]) for score in scores.values())
