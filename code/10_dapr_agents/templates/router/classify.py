"""Which agent a query is for: multinomial naive Bayes over a few labelled phrases.

C. D. Manning, P. Raghavan and H. Schütze, "Introduction to Information Retrieval" (2008), chapter 13.
"""

import re
from collections import Counter
from math import exp, log

PHRASES = {
    "concept": [
        "how do for loops work", "what is a list", "explain list comprehensions",
        "what does self mean in a class", "difference between a tuple and a list",
        "when should i use a dictionary",
        "explain recursion to me",
        "what are decorators", "why do functions return values", "how does scope work in python",
        "tell me about generators", "what is an exception", "explain variables and types",
    ],
    "debug": [
        "my code does not work", "i get an error", "why does this raise a type error",
        "it crashes with a key error",
        "my program hangs in an endless loop", "this prints the wrong result", "help me fix this bug",
        "index out of range in my loop", "name is not defined", "syntax error near the colon",
        "i get a traceback and do not understand it", "unexpected output none", "my function fails",
    ],
    "exercise": [
        "give me an exercise about loops", "i want to practice functions", "a coding challenge please",
        "another task", "quiz me on dictionaries", "something harder to practice",
        "i need a problem to solve",
        "train recursion with me", "grade my submission", "check my solution", "next exercise",
        "homework for strings", "give me a hint for this exercise",
    ],
}  # fmt: skip
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
