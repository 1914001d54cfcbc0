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
import io
import re
from datetime import date
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
WIDTH, LETTER = 8.0, 0.08  # inches: the picture, and a letter of its text

# Okabe and Ito's palette, which the colour-blind can tell apart: a tint to write on and the full colour, and
# after the colon what each becomes where the reader's screen is dark.
TONES = {
    "plain": ("#f3f5f7:#21262d", "#6a737d:#8b949e"),
    "blue": ("#dcebf7:#12324a", "#0072b2:#56b4e9"),
    "orange": ("#fdf0d5:#40310f", "#b97f00:#e69f00"),
    "green": ("#d9f0e8:#0f3b2e", "#00855f:#2fbf95"),
    "purple": ("#f6e4ee:#43233a", "#b0568a:#dc8fb8"),
    "red": ("#fbe3d6:#4a2412", "#d55e00:#f0813c"),
}
INKS = ("#1f2328:#e6edf3", "#57606a:#9da7b3", "#d0d7de:#3d444d")
DARK = [pair.split(":") for pair in (*INKS, *(pair for tone in TONES.values() for pair in tone))]
INK, MUTED, FAINT = (pair[:7] for pair in INKS)
TINT = {"frame": "none"} | {tone: pair[0][:7] for tone, pair in TONES.items()}
FULL = {"frame": MUTED} | {tone: pair[1][:7] for tone, pair in TONES.items()}
BARS = ("blue", "orange", "green", "purple", "plain", "red")
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"

Tone = Literal["plain", "blue", "orange", "green", "purple", "red", "frame"]
Line = Annotated[str, Field(pattern=r"^[^\n\r|<>\[\]]+$")]  # nothing that would be markup in a page


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
    """The record NAME; a ValueError of one line when there is none or it does not validate."""
    try:
        return RECORD.validate_json((figures / f"{name}.json").read_bytes())
    except FileNotFoundError:
        raise ValueError(f"there is no record docs/figures/{name}.json") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the record"
        raise ValueError(f"docs/figures/{name}.json is not a record: {where}: {first['msg']}") from None


def digest(record: Record) -> str:
    return hashlib.sha256(RECORD.dump_json(record, by_alias=True, exclude_unset=True)).hexdigest()


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def draw(record: Record) -> str:
    """The record as SVG: the same bytes for the same record, legible on light and on dark pages."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    about = {"Title": record.title, "Description": f"record sha256:{digest(record)}"}
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(), io.StringIO() as file:
        mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "course", "text.parse_math": False})
        mpl.rcParams.update({"font.family": ["DejaVu Sans"], "font.size": 9, "text.color": INK})
        figure = Figure()
        match record:
            case Bars():
                _bars(record, figure)
            case Timeline():
                _timeline(record, figure)
            case Layers():
                _layers(record, figure)
            case Graph():
                _graph(record, figure)
        figure.savefig(file, format="svg", transparent=True, metadata=about | nothing)
        return _legible(file.getvalue(), record)


def _legible(svg: str, record: Record) -> str:
    """Adds what matplotlib does not know: words for screen readers, colours for dark pages, common fonts."""
    swaps = [(kind, *pair) for kind in ("fill", "stroke") for pair in DARK]
    rules = "".join(f'[style*="{kind}: {old}"]{{{kind}:{new}!important}}' for kind, old, new in swaps)
    head = f"<title>{escape(record.title)}</title><desc>{escape(record.alt)}</desc>"
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    svg = re.sub(r"(<svg[^>]*)>", rf'\1 role="img">\n {head}\n {style}', svg, count=1)
    return re.sub(r"[ \t]+$", "", svg.replace("'DejaVu Sans'", FONTS), flags=re.M)


def _chart(figure: "Figure", record: Record, height: float, left: float, top: float = 0.5) -> "Axes":
    """Axes for `height` inches of content, in seconds or a unit across and rows downwards."""
    total = top + height + 0.55
    figure.set_size_inches(WIDTH, total)
    figure.text(0.1 / WIDTH, 1 - 0.25 / total, record.title, weight="bold", size=11, va="center")
    axes = figure.add_axes((left / WIDTH, 0.55 / total, 1 - (left + 0.3) / WIDTH, height / total))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _bars(record: Bars, figure: "Figure") -> None:
    several = len(record.series) > 1  # then each group has a heading above its bars
    names = [s.name if several else group for group in record.groups for s in record.series]
    block = len(record.series) + 1.1 * several
    places = [(g, s) for g, _ in enumerate(record.groups) for s, _ in enumerate(record.series)]
    rows = [g * block + s + (1.5 if several else 0.5) for g, s in places]
    axes = _chart(figure, record, 0.3 * block * len(record.groups), 0.3 + LETTER * max(map(len, names)))
    numbers = [n for s in record.series for n in s.values + s.high]
    numbers += record.target.values if record.target else []
    axes.set(xlim=(0, max(numbers) * 1.25 or 1), ylim=(block * len(record.groups), 0))
    axes.set_xlabel(record.unit, color=MUTED)
    axes.set_yticks(rows, names)
    for g, group in enumerate(record.groups):
        axes.text(0, g * block + 0.6, group if several else "", weight="bold", va="center")
        for n, series in enumerate(record.series):
            y, end = rows.pop(0), series.values[g]
            axes.barh(y, end, height=0.7, color=FULL[BARS[n]])
            text = number(end) + (f"  ({number(series.ratio[g])} x)" if series.ratio else "")
            if series.low and series.high:
                end = max(end, series.high[g])
                axes.plot([series.low[g], end], [y, y], color=INK, linewidth=1.4)
            if record.target and 0 <= record.target.values[g] - end < 0.15 * max(numbers):
                end = record.target.values[g]  # the text stands clear of the target's line
            axes.annotate(text, (end, y), (5, 0), textcoords="offset points", va="center")
        if record.target:
            ends = (g * block + several, (g + 1) * block - 0.1)
            axes.plot([record.target.values[g]] * 2, ends, color=FULL["red"], linewidth=1.6, linestyle="--")
    if record.target:
        note, place = f"- - {record.target.label}", ("axes fraction", "offset points")
        axes.annotate(note, (1, 0), (0, -22), *place, color=FULL["red"], ha="right", va="top")


def _timeline(record: Timeline, figure: "Figure") -> None:
    lanes, marks = record.lanes, record.marks
    left = 0.3 + LETTER * max(len(lane.name) for lane in lanes)
    axes = _chart(figure, record, 0.42 * len(lanes), left, 0.55 + 0.2 * len(marks))
    spans = [*marks, *(span for lane in lanes for span in lane.spans)]
    longest = max(span.end or span.start for span in spans) or 1
    second = (WIDTH - left - 0.3) / (longest * 1.15)  # inches
    axes.set(xlim=(0, longest * 1.15), ylim=(len(lanes), 0))
    axes.set_xlabel("seconds", color=MUTED)
    axes.set_yticks([i + 0.5 for i, _ in enumerate(lanes)], [lane.name for lane in lanes])
    for y, span in ((i + 0.5, span) for i, lane in enumerate(lanes) for span in lane.spans):
        width = ((span.end or span.start) - span.start) * second
        inside = span.end is not None and len(span.label or "") * LETTER < width
        if span.end is None:
            axes.plot([span.start], [y], marker="D", markersize=6, color=FULL[span.tone])
        else:
            bar = axes.barh(y, span.end - span.start, 0.7, span.start, color=TINT[span.tone])
            bar[0].set_edgecolor(FULL[span.tone])
        x = span.start + (width / 2 if inside else width + 0.08) / second
        axes.text(x, y, span.label or "", va="center", ha="center" if inside else "left")
    for n, mark in enumerate(marks):
        axes.axvline(mark.start, color=FULL["red"], linewidth=1.4, linestyle="--", zorder=0.9)
        y = -0.3 - 0.48 * (len(marks) - 1 - n)
        before = mark.start * second + len(mark.label or "") * LETTER > WIDTH - left - 0.3
        axes.text(mark.start, y, mark.label or "", va="center", ha="right" if before else "left")


def _canvas(figure: "Figure", record: Record, height: float) -> "Axes":
    """Axes over the whole picture, in inches, y downwards."""
    figure.set_size_inches(WIDTH, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    axes.text(0.1, 0.25, record.title, weight="bold", size=11, va="center")
    return axes


def _box(axes: "Axes", x: float, y: float, width: float, height: float, tone: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.07", linewidth=1.2)
    shape.set(facecolor=TINT[tone], edgecolor=FULL[tone], linestyle="--" if tone == "frame" else "-")
    axes.add_patch(shape)


def _layers(record: Layers, figure: "Figure") -> None:
    row, width = 0.5, WIDTH - 0.2
    axes = _canvas(figure, record, 0.6 + row * len(record.layers))
    biggest = max(layer.size or 0 for layer in record.layers) or 1
    for n, layer in enumerate(reversed(record.layers)):
        top, middle = 0.5 + n * row, 0.5 + n * row + row / 2 - 0.03
        _box(axes, 0.1, top, width, row - 0.06, layer.tone)
        axes.text(0.25, middle - 0.09 * bool(layer.note), layer.label, weight="bold", va="center")
        axes.text(0.25, middle + 0.1, layer.note or "", va="center")
        if layer.size is not None:
            end = 0.15 + (width - 0.1) * layer.size / biggest
            axes.plot([0.15, end], [top + row - 0.1] * 2, color=FULL[layer.tone])
            axes.text(width - 0.05, middle, f"{number(layer.size)} {record.unit}", ha="right", va="center")


def _graph(record: Graph, figure: "Figure") -> None:
    cell, top = 0.5, 0.5
    axes = _canvas(figure, record, top + cell * max(box.at[1] + box.size[1] for box in record.boxes) + 0.1)
    areas = {}
    for box in record.boxes:
        x, y, width, height = box.at[0] * cell, top + box.at[1] * cell, box.size[0] * cell, box.size[1] * cell
        areas[box.id] = (x, y, x + width, y + height)
        _box(axes, x, y, width, height, box.tone)
        if box.tone == "frame":
            axes.text(x + 0.12, y + 0.18, box.title, color=MUTED, va="center")
            continue
        first = y + height / 2 - 0.1 * len(box.rows)
        axes.text(x + width / 2, first, box.title, weight="bold", ha="center", va="center")
        for n, text in enumerate(box.rows, 1):
            axes.text(x + width / 2, first + 0.2 * n, text, ha="center", va="center")
    for arrow in record.arrows:
        start, end = _ends(areas[arrow.source], areas[arrow.target], arrow.at)
        line = {"arrowstyle": "-|>", "color": MUTED, "shrinkA": 1, "shrinkB": 1, "linewidth": 1.3}
        axes.annotate("", end, start, arrowprops=line | {"linestyle": "--" if arrow.dashed else "-"})
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        upright = abs(start[0] - end[0]) < abs(start[1] - end[1])
        place = (x + 0.08, y, "left", "center") if upright else (x, y - 0.05, "center", "bottom")
        axes.text(*place[:2], arrow.label or "", color=MUTED, ha=place[2], va=place[3])


def _ends(a: tuple[float, ...], b: tuple[float, ...], at: float) -> list[tuple[float, float]]:
    """Where an arrow leaves box `a` and meets box `b`: straight across the sides that face each other."""
    near = [(a[i + 2], b[i]) if a[i + 2] <= b[i] else (a[i], b[i + 2]) for i in (0, 1)]
    for i in (1, 0):  # side by side, then one above the other, then from corner to corner
        low, high = max(a[i], b[i]), min(a[i + 2], b[i + 2])
        if low < high:
            near[i] = (low + (high - low) * at,) * 2
            break
    return list(zip(*near, strict=True))


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


def _number(value: float | None) -> str:
    return "" if value is None else number(value)


def _spread(series: Series, group: int) -> str:
    text = number(series.values[group])
    both = series.low and series.high
    return f"{text} ({number(series.low[group])}–{number(series.high[group])})" if both else text


FIGURE = re.compile(r"<!-- figure: ([\w-]+) -->(?:(?!<!-- figure: ).)*?<!-- /figure -->", re.S)
VALUE = re.compile(r"<!-- value: ([\w-]+)\.([\w.-]+)(?:\|([\w.,+%]+))? -->[^<]*<!-- /value -->")


def embed(page_text: str, figures: Path = ROOT / "docs" / "figures") -> str:
    """The page with its figures and numbers brought up to date; a one-line ValueError if they cannot be."""

    def picture(found: re.Match[str]) -> str:
        record = load(found[1], figures)
        parts = [f"<!-- figure: {found[1]} -->\n![{record.alt}](figures/{found[1]}.svg)", table(record)]
        if measured := record.measured:
            versions = ", ".join(f"{what} {version}" for what, version in measured.versions.items())
            parts.append(f"*Measured {measured.when}: {measured.how}. On {measured.on}; {versions}.*")
        return "\n\n".join(filter(None, parts)) + "\n<!-- /figure -->"

    def value(found: re.Match[str]) -> str:
        name, path, form = found.groups()
        at: Any = RECORD.dump_python(load(name, figures), by_alias=True)
        try:
            for key in path.split("."):
                at = at[int(key)] if isinstance(at, list) else at[key]
            text = format(at, form) if form else number(at)
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"docs/figures/{name}.json has no such number: {path}") from None
        return f"<!-- value: {name}.{path}{f'|{form}' if form else ''} -->{text}<!-- /value -->"

    text = VALUE.sub(value, FIGURE.sub(picture, page_text))
    for kind, whole in (("figure", FIGURE), ("value", VALUE)):
        if text.count(f"<!-- {kind}:") != len(whole.findall(text)):
            raise ValueError(f"a <!-- {kind}: NAME --> is misspelt or has no <!-- /{kind} -->")
    return text


def draw_all(root: Path = ROOT) -> list[Path]:
    """Draws every record; returns the pictures that changed."""
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
        except ValueError as error:
            found.append(f"docs/{page.name}: {error}")
    return [line for line in found if line]


def _stale(path: Path) -> str | None:
    """What is wrong with a record or its picture, if anything is."""
    picture = path.with_suffix(".svg")
    try:
        record = load(path.stem, path.parent)
    except ValueError as error:
        return str(error)
    if not picture.exists():
        return f"docs/figures/{picture.name} is not drawn yet: make figures"
    if f"sha256:{digest(record)}" not in picture.read_text("utf-8"):
        return f"docs/figures/{picture.name} was drawn from another record: make figures"
    return None
