"""Numbers that fit a schema: within its bounds, and multiples of its multipleOf."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

Number = int | float


def numbers(schema: dict[str, Any], offered: Iterable[Number], whole: bool, seed: int) -> Iterator[Number]:
    """Candidates, best first: numbers from the conversation, then numbers that fit the bounds."""
    for number in offered:
        yield from as_number(number, whole)
    low, high = (
        bound(schema, "minimum", "exclusiveMinimum", 1),
        bound(schema, "maximum", "exclusiveMaximum", -1),
    )
    step = schema.get("multipleOf")
    if step:
        yield from multiples(step, low, high, whole, seed)
        return
    start = low if low is not None else min(1, high) if high is not None else 1
    candidates: list[Number] = [start + seed % 7, start, start + 1, math.ceil(start), math.floor(start)]
    if low is not None and high is not None:
        middle = low / 2 + high / 2
        candidates = [math.floor(middle) + seed % 2 if whole else middle, *candidates]
    if high is not None:
        candidates += [(start + high) / 2, high, high - 1, math.floor(high)]
    for candidate in candidates:
        yield from as_number(candidate, whole)


def bound(schema: dict[str, Any], closed: str, open_: str, step: int) -> Number | None:
    values = [schema[key] for key in (closed, open_) if key in schema]
    if not values:
        return None
    return max(values) if step > 0 else min(values)  # type: ignore[no-any-return]


def as_number(number: Number, whole: bool) -> Iterator[Number]:
    """The number if it is of the kind; a whole float as an integer, which is the same number in JSON."""
    if isinstance(number, float) and not math.isfinite(number):
        return
    if isinstance(number, int) or not number.is_integer() or abs(number) > 2**53:
        if not (whole and isinstance(number, float)):
            yield number
    else:
        yield int(number)


def multiples(
    step: Number, low: Number | None, high: Number | None, whole: bool, seed: int
) -> Iterator[Number]:
    exact = Fraction(str(step))
    first = math.ceil(Fraction(str(low)) / exact) if low is not None else 0
    if low is None and high is not None:
        first = min(0, math.floor(Fraction(str(high)) / exact))
    for count in [first + seed % 5, *range(first, first + 40)]:
        value = exact * count
        yield from as_number(int(value) if value.denominator == 1 else float(value), whole)
