"""Summarise a table, CSV or a JSON list of objects: rows, columns, and a bar chart as SVG."""

import csv
import io
import json
import math
import statistics
import sys
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

MISSING = ("", None)


def rows(text: str, form: str) -> list[dict[str, Any]]:
    if form == "csv":
        return list(csv.DictReader(io.StringIO(text), restkey="(more)"))
    table = json.loads(text)
    if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
        sys.exit("The JSON is not a list of objects.")
    return table


def number(value: Any) -> float | None:
    """The value as a number; None for a text, and for "nan" and "inf", which JSON does not have."""
    try:
        return found if math.isfinite(found := float(value)) else None
    except (TypeError, ValueError, OverflowError):
        return None


def summarise(name: str, values: list[Any]) -> dict[str, Any]:
    """Count the values of a column; with numbers alone, also their range and mean."""
    there = [value for value in values if value not in MISSING]
    numbers = [found for value in there if (found := number(value)) is not None]
    summary = {"name": name, "values": len(there), "missing": len(values) - len(there)}
    summary["distinct"] = len({str(value) for value in there})
    if there and len(numbers) == len(there):
        return summary | {"min": min(numbers), "max": max(numbers), "mean": statistics.fmean(numbers)}
    return summary


def bars(values: list[Any]) -> list[tuple[str, int]]:
    """At most ten bars: a histogram of numbers, or the most frequent values."""
    numbers = [found for value in values if (found := number(value)) is not None]
    if not values or len(numbers) < len(values) or len(set(numbers)) <= 10:
        return [(str(value), count) for value, count in Counter(map(str, values)).most_common(10)]
    low, step = min(numbers), max(numbers) / 10 - min(numbers) / 10
    counts = Counter(min(9, int(each / step - low / step)) for each in numbers)
    return [(f"{low + bin * step:.4g} to {low + (bin + 1) * step:.4g}", counts[bin]) for bin in range(10)]


def printable(text: str, most: int) -> str:
    """The start of a text, for SVG: XML has no control characters."""
    return escape("".join(filter(str.isprintable, text))[:most])


def chart(title: str, drawn: list[tuple[str, int]]) -> str:
    """A horizontal bar chart as SVG."""
    longest = max((count for _, count in drawn), default=1)
    parts = [f'<text x="10" y="20" font-weight="bold">{printable(title, 60)}</text>']
    for at, (label, count) in enumerate(drawn):
        y = 35 + 24 * at
        parts.append(f'<text x="140" y="{y + 14}" text-anchor="end">{printable(label, 18)}</text>')
        width = round(300 * count / longest, 1)
        parts.append(f'<rect x="150" y="{y}" width="{width}" height="18" fill="#4878a8"/>')
        parts.append(f'<text x="{155 + width}" y="{y + 14}">{count}</text>')
    size = f'width="500" height="{45 + 24 * len(drawn)}" font-family="sans-serif" font-size="13"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>'


given = json.loads(Path(sys.argv[1]).read_text())
table = rows(given["table"], given["format"])
if not table:
    sys.exit("The table has no rows.")
names = list(dict.fromkeys(name for row in table for name in row))
columns = {name: [row.get(name) for row in table] for name in names}
drawn = given["column"] or next(iter(names), "")
if drawn not in columns:
    sys.exit(f"There is no column {drawn!r}. There are: {', '.join(names)}.")
values = [value for value in columns[drawn] if value not in MISSING]
summary = [summarise(name, values) for name, values in columns.items()]
print(json.dumps({"rows": len(table), "columns": summary, "chart": chart(drawn, bars(values))}))
