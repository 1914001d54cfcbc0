"""Charts: bars and timelines."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course.figures.colours import FAINT, FILL_COLOURS, INK, LINE_COLOURS, MUTED
from course.figures.records import Bars, Record, Timeline, number

WIDTH, LETTER = 8.0, 0.08  # inches: the width of the picture, and of a letter
BARS = ("blue", "orange", "green", "purple", "plain", "red")


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


def draw_bars(record: Bars, figure: Figure) -> None:
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
            axes.barh(y, end, height=0.7, color=LINE_COLOURS[BARS[n]])
            text = number(end) + (f"  ({number(series.ratio[g])} x)" if series.ratio else "")
            if series.low and series.high:
                end = max(end, series.high[g])
                axes.plot([series.low[g], end], [y, y], color=INK, linewidth=1.4)
            if record.target and 0 <= record.target.values[g] - end < 0.15 * max(numbers):
                end = record.target.values[g]  # the text stands clear of the target's line
            axes.annotate(text, (end, y), (5, 0), textcoords="offset points", va="center")
        if record.target:
            ends = (g * block + several, (g + 1) * block - 0.1)
            axes.plot(
                [record.target.values[g]] * 2, ends, color=LINE_COLOURS["red"], linewidth=1.6, linestyle="--"
            )
    if record.target:
        note, place = f"- - {record.target.label}", ("axes fraction", "offset points")
        axes.annotate(note, (1, 0), (0, -22), *place, color=LINE_COLOURS["red"], ha="right", va="top")


def draw_timeline(record: Timeline, figure: Figure) -> None:
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
            axes.plot([span.start], [y], marker="D", markersize=6, color=LINE_COLOURS[span.tone])
        else:
            bar = axes.barh(y, span.end - span.start, 0.7, span.start, color=FILL_COLOURS[span.tone])
            bar[0].set_edgecolor(LINE_COLOURS[span.tone])
        x = span.start + (width / 2 if inside else width + 0.08) / second
        axes.text(x, y, span.label or "", va="center", ha="center" if inside else "left")
    for n, mark in enumerate(marks):
        axes.axvline(mark.start, color=LINE_COLOURS["red"], linewidth=1.4, linestyle="--", zorder=0.9)
        y = -0.3 - 0.48 * (len(marks) - 1 - n)
        before = mark.start * second + len(mark.label or "") * LETTER > WIDTH - left - 0.3
        axes.text(mark.start, y, mark.label or "", va="center", ha="right" if before else "left")
