"""Records: `docs/figures/NAME.json` holds what a figure shows, and is drawn as `NAME.svg`.

Every record has `title`, `kind`, `alt` (one sentence for readers who cannot see the picture) and, if its
numbers were measured, `measured` {how, on, when, versions}; `values` may hold named numbers for the prose.

bars      unit, groups [name], series [{name, values, low?, high?, ratio?}], target? {label, values};
          each list has one number per group; `ratio` is to the first series, measured side by side
timeline  lanes [{name, spans [{start, end?, label?, tone?}]}], marks? [{start, label}] across all lanes;
          in seconds; a span without an end is a moment
layers    unit?, layers [{label, size?, note?, tone?}], the first at the bottom, as a Dockerfile stacks them
graph     boxes [{id, title, rows?, at [x, y], size [width, height], tone?}], arrows? [{from, to, label?, at?,
          dashed?}], on a grid of half inches, 16 wide, y downwards; a box of tone "frame" is a dashed frame
          around others; `at` of an arrow (0 to 1) is its place along the sides that face each other
"""

import hashlib
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from course.errors import CourseError

Tone = Literal["plain", "blue", "orange", "green", "purple", "red", "frame"]
PlainText = Annotated[str, Field(pattern=r"^[^\n\r|<>\[\]]+$")]  # no character that is markup in a page


class BadRecord(CourseError, ValueError):
    """A record does not validate, or a page refers to something that no record has."""


class RecordModel(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Measured(RecordModel):
    how: PlainText
    on: PlainText
    when: date
    versions: dict[PlainText, PlainText]


class FigureRecord(RecordModel):
    title: PlainText
    alt: PlainText
    measured: Measured | None = None
    values: dict[str, float] = {}


class Series(RecordModel):
    name: PlainText
    values: list[float]
    low: list[float] = []
    high: list[float] = []
    ratio: list[float] = []


class TargetLine(RecordModel):
    label: PlainText
    values: list[float]


class Bars(FigureRecord):
    kind: Literal["bars"]
    unit: PlainText
    groups: Annotated[list[PlainText], Field(min_length=1)]
    series: Annotated[list[Series], Field(min_length=1, max_length=6)]
    target: TargetLine | None = None

    @model_validator(mode="after")
    def one_number_a_group(self) -> Self:
        lists = [numbers for s in self.series for numbers in (s.values, s.low, s.high, s.ratio) if numbers]
        lists += [self.target.values] if self.target else []
        if any(len(numbers) != len(self.groups) for numbers in lists):
            raise ValueError(f"every list of numbers needs {len(self.groups)}, one a group")
        return self


class Span(RecordModel):
    start: float
    end: float | None = None
    label: PlainText | None = None
    tone: Tone = "blue"


class Lane(RecordModel):
    name: PlainText
    spans: list[Span]


class Timeline(FigureRecord):
    kind: Literal["timeline"]
    lanes: Annotated[list[Lane], Field(min_length=1)]
    marks: list[Span] = []


class Layer(RecordModel):
    label: PlainText
    size: float | None = None
    note: PlainText | None = None
    tone: Tone = "blue"


class Layers(FigureRecord):
    kind: Literal["layers"]
    unit: PlainText = "MB"
    layers: Annotated[list[Layer], Field(min_length=1)]


class Box(RecordModel):
    id: str
    title: PlainText
    rows: list[PlainText] = []
    at: tuple[float, float]
    size: tuple[float, float]
    tone: Tone = "plain"


class Arrow(RecordModel):
    source: str = Field(alias="from")
    target: str = Field(alias="to")
    label: PlainText | None = None
    at: float = 0.5
    dashed: bool = False


class Graph(FigureRecord):
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
    """The record NAME. Raises `BadRecord` when it does not exist or does not validate."""
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
