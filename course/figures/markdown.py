"""Markdown: puts the figures and numbers of records into pages.

In a page, generated text stands between `<!-- figure: NAME -->` and `<!-- /figure -->`, and a number in a
sentence is `<!-- value: NAME.path.to.number|.1f -->1.5<!-- /value -->` (the format may be left out).
"""

import re
from pathlib import Path
from typing import Any

from course.figures.records import RECORD, BadRecord, Bars, Layers, Record, Series, Timeline, load, number
from course.paths import ROOT


def table(record: Record) -> str:
    """The record's numbers as a Markdown table; empty for a diagram."""
    match record:
        case Bars(series=series):
            ratios = [s for s in series if s.ratio]
            head = [record.unit, *(s.name for s in series), *(f"{s.name}, ratio" for s in ratios)]
            rows = [
                [group, *(_spread(s, g) for s in series), *(f"{number(s.ratio[g])} x" for s in ratios)]
                for g, group in enumerate(record.groups)
            ]
            if record.target:
                head.append(record.target.label)
                rows = [[*row, number(value)] for row, value in zip(rows, record.target.values, strict=True)]
        case Timeline():
            head = ["what", "from (s)", "to (s)"]
            spans = [(span, "") for span in record.marks]
            spans += [(span, f"{lane.name}: ") for lane in record.lanes for span in lane.spans]
            rows = [[f"{lane}{s.label or ''}", number(s.start), _number(s.end)] for s, lane in spans]
        case Layers() if record.measured:
            head = ["layer", record.unit]
            rows = [[layer.label, _number(layer.size)] for layer in record.layers]
        case _:
            return ""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *rows])


def has_rounds(record: Record) -> bool:
    """Whether ratios are medians of each round's ratio, and may differ from the ratio of the medians."""
    return isinstance(record, Bars) and any(series.ratio and series.low for series in record.series)


def _number(value: float | None) -> str:
    return "" if value is None else number(value)


def _spread(series: Series, group: int) -> str:
    text = number(series.values[group])
    both = series.low and series.high
    return f"{text} ({number(series.low[group])}–{number(series.high[group])})" if both else text


FIGURE = re.compile(r"<!-- figure: ([\w-]+) -->(?:(?!<!-- figure: ).)*?<!-- /figure -->", re.S)

RATIOS = "; a ratio is the median of the rounds' own ratios, not the ratio of the medians"

VALUE = re.compile(r"<!-- value: ([\w-]+)\.([\w.-]+)(?:\|([\w.,+%]+))? -->[^<]*<!-- /value -->")


def embed(page_text: str, figures: Path = ROOT / "docs" / "figures") -> str:
    """The text with its figures and numbers brought up to date. Raises `BadRecord` when one cannot be."""

    def picture(found: re.Match[str]) -> str:
        record = load(found[1], figures)
        parts = [f"<!-- figure: {found[1]} -->\n![{record.alt}](figures/{found[1]}.svg)", table(record)]
        if measured := record.measured:
            versions = ", ".join(f"{what} {version}" for what, version in measured.versions.items())
            how = f"{measured.how}{RATIOS if has_rounds(record) else ''}"
            parts.append(f"*Measured {measured.when}: {how}. On {measured.on}; {versions}.*")
        return "\n\n".join(filter(None, parts)) + "\n<!-- /figure -->"

    def value(found: re.Match[str]) -> str:
        name, path, form = found.groups()
        at: Any = RECORD.dump_python(load(name, figures), by_alias=True)
        try:
            for key in path.split("."):
                at = at[int(key)] if isinstance(at, list) else at[key]
            text = format(at, form) if form else number(at)
        except (KeyError, IndexError, TypeError, ValueError):
            raise BadRecord(f"docs/figures/{name}.json has no such number: {path}") from None
        return f"<!-- value: {name}.{path}{f'|{form}' if form else ''} -->{text}<!-- /value -->"

    text = VALUE.sub(value, FIGURE.sub(picture, page_text))
    for kind, whole in (("figure", FIGURE), ("value", VALUE)):
        if text.count(f"<!-- {kind}:") != len(whole.findall(text)):
            raise BadRecord(f"a <!-- {kind}: NAME --> is misspelt or has no <!-- /{kind} -->")
    return text
