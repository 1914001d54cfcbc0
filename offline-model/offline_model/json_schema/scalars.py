"""Numbers and strings that fit a schema."""

import itertools
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import rstr

from offline_model.json_schema.schemas import InvalidSchema

Number = int | float

MAX_LENGTH = 20_000
# The repetitions that are generated beyond the minimum of a pattern.
MAX_EXTRA_REPEATS = 4

# Examples for the formats that OpenAI supports and for `uri`, from the ranges that RFC 2606, 5737 and 3849
# reserve for examples.
FORMAT_EXAMPLES: dict[str, Callable[[int], str]] = {
    "date": lambda n: f"2026-{n // 28 % 12 + 1:02}-{n % 28 + 1:02}",
    "time": lambda n: f"{n // 60 % 24:02}:{n % 60:02}:00Z",
    "date-time": lambda n: f"2026-{n // 28 % 12 + 1:02}-{n % 28 + 1:02}T12:00:00Z",
    "duration": lambda n: f"PT{n + 1}H",
    "email": lambda n: f"reader{n or ''}@example.org",
    "hostname": lambda n: f"host{n or ''}.example.org",
    "ipv4": lambda n: f"192.0.2.{n % 254 + 1}",
    "ipv6": lambda n: f"2001:db8::{n + 1:x}",
    "uri": lambda n: f"https://example.org/{n or ''}",
    "uuid": lambda n: f"00000000-0000-4000-8000-{n:012x}",
}


def numbers(schema: dict[str, Any], offered: Iterable[Number], whole: bool, seed: int) -> Iterator[Number]:
    """Candidates, best first: numbers from the conversation, then numbers that fit the bounds."""
    for number in itertools.chain(offered, numbers_in_bounds(schema, whole, seed)):
        # A whole float is the same number in JSON as an integer.
        if isinstance(number, float) and number.is_integer() and abs(number) <= 2**53:
            yield int(number)
        elif isinstance(number, int) or (math.isfinite(number) and not whole):
            yield number


def numbers_in_bounds(schema: dict[str, Any], whole: bool, seed: int) -> Iterator[Number]:
    low = max((schema[key] for key in ("minimum", "exclusiveMinimum") if key in schema), default=None)
    high = min((schema[key] for key in ("maximum", "exclusiveMaximum") if key in schema), default=None)
    step = schema.get("multipleOf")
    if step:
        yield from multiples(step, low, high, seed)
        return
    start = low if low is not None else min(1, high) if high is not None else 1
    candidates: list[Number] = [start + seed % 7, start, start + 1, math.ceil(start), math.floor(start)]
    if low is not None and high is not None:
        middle = low / 2 + high / 2
        candidates = [math.floor(middle) + seed % 2 if whole else middle, *candidates]
    if high is not None:
        candidates += [(start + high) / 2, high, high - 1, math.floor(high)]
    yield from candidates


def multiples(step: Number, low: Number | None, high: Number | None, seed: int) -> Iterator[Number]:
    exact = Fraction(str(step))
    first = math.ceil(Fraction(str(low)) / exact) if low is not None else 0
    if low is None and high is not None:
        first = min(0, math.floor(Fraction(str(high)) / exact))
    for count in [first + seed % 5, *range(first, first + 40)]:
        value = exact * count
        yield int(value) if value.denominator == 1 else float(value)


class ShortRepeats(random.Random):
    """Keeps repetitions short, so that `.*` gives a few characters and `(a{999}){999}` is refused."""

    left = 2_000

    def randint(self, a: int, b: int) -> int:
        self.left -= a + 1
        if self.left < 0:
            raise InvalidSchema("the pattern asks for a text that is too long")
        return super().randint(a, max(a, min(b, a + MAX_EXTRA_REPEATS)))


def strings(schema: dict[str, Any], offered: Iterable[str], seed: int) -> Iterator[str]:
    """Candidates, best first. `offered` are texts from the conversation."""
    low = max(0, int(schema.get("minLength", 0)))
    high = min(int(schema.get("maxLength", MAX_LENGTH)), MAX_LENGTH)
    if low > high:
        raise InvalidSchema(f"no text has at least {low} and at most {high} characters")
    fixed = "pattern" in schema or schema.get("format") in FORMAT_EXAMPLES
    for text in itertools.islice(offered, 40):
        if fixed or low <= len(text) <= high:
            yield text
    if make := FORMAT_EXAMPLES.get(schema.get("format", "")):
        yield from (make(seed + number) for number in range(8))
    yield from by_pattern(schema, low, seed)
    for text in offered:
        yield fitted(text, low, high)
    yield fitted("Not known." if seed == 0 else f"Not known ({seed}).", low, high)


def by_pattern(schema: dict[str, Any], low: int, seed: int) -> Iterator[str]:
    pattern = schema.get("pattern")
    if pattern is None:
        return
    for number in range(12):
        # Each seed repeats another number of times, so that one may reach the minimal length.
        chance = ShortRepeats(f"{seed}/{number}")
        try:
            text = rstr.Rstr(chance).xeger(pattern)
        except (re.error, KeyError, IndexError, ValueError, TypeError, RecursionError, OverflowError):
            return
        yield text
        if low > len(text) and not pattern.endswith("$"):
            yield text + text[-1:] * (low - len(text))


def fitted(text: str, low: int, high: int) -> str:
    """The text, cut at a word if it is too long, repeated if it is too short."""
    text = text or "-"
    if len(text) > high:
        cut = text[:high]
        short = cut.rsplit(" ", 1)[0]
        text = short if low <= len(short) and short else cut
    return text if len(text) >= low else " ".join([text] * (low // len(text) + 1))[:low]
