"""Suspicion: which mutation to try first, from the tests' output, the lines they ran, and the strategy.

GenProg (Le Goues et al. 2012) weighs lines by the tests that run them; the numbers in a listing are the
agent's own measurement. How a test failed says which kinds of mistake are likely: a difference of one is
rarely a wrong name.
"""

import random
import re
from difflib import SequenceMatcher

from offline_model.repair.listings import Listing
from offline_model.repair.mutations import Mutation

Candidate = tuple[Listing, Mutation]

# How often a mistake of this kind is the one, compared to the others.
LIKELIHOOD = {
    "comparison": 0.9, "logic": 0.8, "return": 0.8, "arithmetic": 0.8, "off by one": 0.7,
    "operand order": 0.7, "condition": 0.6, "constant": 0.6, "assignment": 0.5, "argument order": 0.5,
    "name": 0.5, "variable": 0.3,
}  # fmt: skip
# What a test's output has in it, and the kinds of mistake that this makes more likely.
SYMPTOMS = {
    r"\bassert None\b|'NoneType'|\bNone (?:==|is not|!=)": {"return": 2.0},
    r"\bIndexError\b|out of range": {"off by one": 1.5, "comparison": 1.3},
    r"\bassert (?:not )?(?:True|False)\b|(?:True|False) ==": {
        "comparison": 1.3,
        "logic": 1.3,
        "condition": 1.3,
    },
    r"\bZeroDivisionError\b|\bRecursionError\b": {"condition": 1.4, "comparison": 1.4},
    r"\bTypeError\b": {"argument order": 1.5, "return": 1.3},
    r"At index \d+ diff|more items?\b": {"off by one": 1.3, "comparison": 1.3},
}
COMPARED_NUMBERS = re.compile(r"\bassert (-?\d+(?:\.\d+)?) == (-?\d+(?:\.\d+)?)")
UNMEASURED, IN_TRACEBACK, JITTER = 0.5, 1.5, 0.15


def symptoms_in(output: str) -> dict[str, float]:
    """A factor for each kind of mistake that the tests' output makes more likely."""
    factors: dict[str, float] = {}
    for pattern, kinds in SYMPTOMS.items():
        if re.search(pattern, output):
            factors |= kinds
    for got, wanted in COMPARED_NUMBERS.findall(output):
        near = abs(float(got) - float(wanted)) == 1
        factors |= {"off by one": 1.5} if near else {"arithmetic": 1.2, "operand order": 1.4}
    return factors


def ranked(
    candidates: list[Candidate], output: str, frames: set[tuple[str, int]], strategy: str, seed: int
) -> list[Candidate]:
    """The candidates, best first. Another seed gives those that are about equally good another order.

    A strategy is `most suspicious line first`, `smallest edit first`, or any other.
    """
    factors = symptoms_in(output)

    def key(candidate: Candidate) -> tuple[float, ...]:
        listing, mutation = candidate
        suspicion = listing.suspicion.get(mutation.line, 0.0 if listing.suspicion else UNMEASURED)
        if (listing.file.rpartition("/")[2], mutation.line) in frames:
            suspicion *= IN_TRACEBACK
        chance = random.Random(f"{seed} {mutation.line} {mutation.replacement}")  # noqa: S311  # not a secret
        likelihood = LIKELIHOOD[mutation.kind] * factors.get(mutation.kind, 1)
        score = (suspicion + 0.05) * likelihood * chance.uniform(1 - JITTER, 1 + JITTER)
        if "smallest edit" in strategy:
            return (edit_size(listing, mutation), -score)
        return (-suspicion, -score) if "suspicious line" in strategy else (-score,)

    return sorted(candidates, key=key)


def edit_size(listing: Listing, mutation: Mutation) -> int:
    """How many characters a mutation takes away or adds."""
    before = listing.lines[mutation.line - listing.start]
    blocks = SequenceMatcher(None, before, mutation.replacement, autojunk=False).get_matching_blocks()
    return len(before) + len(mutation.replacement) - 2 * sum(block.size for block in blocks)
