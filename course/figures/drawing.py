"""Drawing: a record as SVG, by matplotlib, legible on light and on dark pages."""

import io
import re
from html import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from course.figures import Bars, Graph, Layers, Record, Timeline, digest, number

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


def draw(record: Record) -> str:
    """The record as SVG: the same bytes for the same record."""
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


def _chart(figure: Figure, record: Record, height: float, left: float, top: float = 0.5) -> Axes:
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


def _bars(record: Bars, figure: Figure) -> None:
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


def _timeline(record: Timeline, figure: Figure) -> None:
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


def _canvas(figure: Figure, record: Record, height: float) -> Axes:
    """Axes over the whole picture, in inches, y downwards."""
    figure.set_size_inches(WIDTH, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    axes.text(0.1, 0.25, record.title, weight="bold", size=11, va="center")
    return axes


def _box(axes: Axes, x: float, y: float, width: float, height: float, tone: str) -> None:
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.07", linewidth=1.2)
    shape.set(facecolor=TINT[tone], edgecolor=FULL[tone], linestyle="--" if tone == "frame" else "-")
    axes.add_patch(shape)


def _layers(record: Layers, figure: Figure) -> None:
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


def _graph(record: Graph, figure: Figure) -> None:
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
