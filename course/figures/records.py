"""Figures: a record `docs/figures/NAME.json` is drawn as `NAME.svg`, and shown in pages with its numbers.

Every record has `title`, `kind`, `alt` (one sentence for those who cannot see the picture) and, if its
numbers were measured, `measured` {how, on, when, versions}; `values` may hold named numbers for the prose.

bars      unit, groups [name], series [{name, values, low?, high?, ratio?}], target? {label, values};
          each list has one number a group; `ratio` is to the first series, measured side by side
timeline  lanes [{name, spans [{start, end?, label?, tone?}]}], marks? [{start, label}] across all lanes;
          in seconds; a span without an end is a moment
layers    unit?, layers [{label, size?, note?, tone?}], the first at the bottom, as a Dockerfile stacks them
graph     boxes [{id, title, rows?, at [x, y], size [width, height], tone?}], arrows? [{from, to, label?, at?,
          dashed?}], on a grid of half inches, 16 wide, y downwards; a box of tone "frame" is a dashed frame
          round others; `at` of an arrow (0 to 1) is its place along the sides that face each other

In a page, generated text stands between `<!-- figure: NAME -->` and `<!-- /figure -->`, and a number in a
sentence is `<!-- value: NAME.path.to.number|.1f -->1.5<!-- /value -->` (the format may be left out).
"""

import hashlib
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from course.processes import Failed

ROOT = Path(__file__).resolve().parents[1]
Tone = Literal["plain", "blue", "orange", "green", "purple", "red", "frame"]
Line = Annotated[str, Field(pattern=r"^[^\n\r|<>\[\]]+$")]  # nothing that would be markup in a page


class BadRecord(Failed, ValueError):
    """A record does not validate, or a page asks for what no record has."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Measured(Strict):
    how: Line
    on: Line
    when: date
    versions: dict[Line, Line]


class Base(Strict):
    title: Line
    alt: Line
    measured: Measured | None = None
    values: dict[str, float] = {}


class Series(Strict):
    name: Line
    values: list[float]
    low: list[float] = []
    high: list[float] = []
    ratio: list[float] = []


class Target(Strict):
    label: Line
    values: list[float]


class Bars(Base):
    kind: Literal["bars"]
    unit: Line
    groups: Annotated[list[Line], Field(min_length=1)]
    series: Annotated[list[Series], Field(min_length=1, max_length=6)]
    target: Target | None = None

    @model_validator(mode="after")
    def one_number_a_group(self) -> Self:
        lists = [numbers for s in self.series for numbers in (s.values, s.low, s.high, s.ratio) if numbers]
        lists += [self.target.values] if self.target else []
        if any(len(numbers) != len(self.groups) for numbers in lists):
            raise ValueError(f"every list of numbers needs {len(self.groups)}, one a group")
        return self


class Span(Strict):
    start: float
    end: float | None = None
    label: Line | None = None
    tone: Tone = "blue"


class Lane(Strict):
    name: Line
    spans: list[Span]


class Timeline(Base):
    kind: Literal["timeline"]
    lanes: Annotated[list[Lane], Field(min_length=1)]
    marks: list[Span] = []


class Layer(Strict):
    label: Line
    size: float | None = None
    note: Line | None = None
    tone: Tone = "blue"


class Layers(Base):
    kind: Literal["layers"]
    unit: Line = "MB"
    layers: Annotated[list[Layer], Field(min_length=1)]


class Box(Strict):
    id: str
    title: Line
    rows: list[Line] = []
    at: tuple[float, float]
    size: tuple[float, float]
    tone: Tone = "plain"


class Arrow(Strict):
    source: str = Field(alias="from")
    target: str = Field(alias="to")
    label: Line | None = None
    at: float = 0.5
    dashed: bool = False


class Graph(Base):
    kind: Literal["graph"]
    boxes: Annotated[list[Box], Field(min_length=1)]
    arrows: list[Arrow] = []

    @model_validator(mode="after")
    def arrows_join_boxes(self) -> Self:
        unknown = {end for a in self.arrows for end in (a.source, a.target)} - {box.id for box in self.boxes}
        if unknown:
            raise ValueError(f"no box is called {', '.join(sorted(unknown))}")
        return self


Record = Bars | Timeline | Layers | Graph
RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def load(name: str, figures: Path) -> Record:
    """The record NAME; a BadRecord of one line when there is none or it does not validate."""
    try:
        return RECORD.validate_json((figures / f"{name}.json").read_bytes())
    except FileNotFoundError:
        raise BadRecord(f"there is no record docs/figures/{name}.json") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the record"
        raise BadRecord(f"docs/figures/{name}.json is not a record: {where}: {first['msg']}") from None


def digest(record: Record) -> str:
    return hashlib.sha256(RECORD.dump_json(record, by_alias=True, exclude_unset=True)).hexdigest()


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(record: Record) -> str:
    """The record's numbers as a Markdown table; nothing for a picture of an idea."""
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
    """Whether ratios were formed round by round, and so may differ from those of the medians in their row."""
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
    """The page with its figures and numbers brought up to date; a one-line BadRecord if they cannot be."""

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


def draw_all(root: Path = ROOT) -> list[Path]:
    """Draws every record; returns the pictures that changed."""
    from course.drawing import draw  # here, because matplotlib is no part of a learner's set-up

    changed = []
    for path in sorted((root / "docs" / "figures").glob("*.json")):
        picture, svg = path.with_suffix(".svg"), draw(load(path.stem, path.parent))
        if not picture.exists() or picture.read_text("utf-8") != svg:
            picture.write_text(svg, "utf-8", newline="\n")
            changed.append(picture)
    return changed


def problems(root: Path = ROOT) -> list[str]:
    """Where records, pictures and pages disagree, a line each; it needs no matplotlib."""
    figures = root / "docs" / "figures"
    found = [_stale(path) for path in sorted(figures.glob("*.json"))]
    for picture in sorted(figures.glob("*.svg")):
        if not picture.with_suffix(".json").exists():
            found.append(f"docs/figures/{picture.name} has no record {picture.stem}.json")
    for page in sorted((root / "docs").glob("*.md")):
        try:
            if embed(text := page.read_text("utf-8"), figures) != text:
                found.append(f"docs/{page.name} shows a figure that differs from its record: make docs")
        except BadRecord as error:
            found.append(f"docs/{page.name}: {error}")
    return [line for line in found if line]


def _stale(path: Path) -> str | None:
    """What is wrong with a record or its picture, if anything is."""
    picture = path.with_suffix(".svg")
    try:
        record = load(path.stem, path.parent)
    except BadRecord as error:
        return str(error)
    if not picture.exists():
        return f"docs/figures/{picture.name} is not drawn yet: make figures"
    if f"sha256:{digest(record)}" not in picture.read_text("utf-8"):
        return f"docs/figures/{picture.name} was drawn from another record: make figures"
    return None
