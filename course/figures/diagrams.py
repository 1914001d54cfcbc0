"""Diagrams: layers, and graphs of boxes and arrows. Coordinates are inches."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from course.figures.charts import WIDTH
from course.figures.colours import FILL_COLOURS, LINE_COLOURS, MUTED
from course.figures.records import Graph, Layers, Record, number


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
    shape.set(
        facecolor=FILL_COLOURS[tone], edgecolor=LINE_COLOURS[tone], linestyle="--" if tone == "frame" else "-"
    )
    axes.add_patch(shape)


def draw_layers(record: Layers, figure: Figure) -> None:
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
            axes.plot([0.15, end], [top + row - 0.1] * 2, color=LINE_COLOURS[layer.tone])
            axes.text(width - 0.05, middle, f"{number(layer.size)} {record.unit}", ha="right", va="center")


def draw_graph(record: Graph, figure: Figure) -> None:
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
        start, end = _arrow_ends(areas[arrow.source], areas[arrow.target], arrow.at)
        line = {"arrowstyle": "-|>", "color": MUTED, "shrinkA": 1, "shrinkB": 1, "linewidth": 1.3}
        axes.annotate("", end, start, arrowprops=line | {"linestyle": "--" if arrow.dashed else "-"})
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        upright = abs(start[0] - end[0]) < abs(start[1] - end[1])
        place = (x + 0.08, y, "left", "center") if upright else (x, y - 0.05, "center", "bottom")
        axes.text(*place[:2], arrow.label or "", color=MUTED, ha=place[2], va=place[3])


def _arrow_ends(a: tuple[float, ...], b: tuple[float, ...], at: float) -> list[tuple[float, float]]:
    """Where an arrow leaves box `a` and meets box `b`: straight across the sides that face each other."""
    near = [(a[i + 2], b[i]) if a[i + 2] <= b[i] else (a[i], b[i + 2]) for i in (0, 1)]
    for i in (1, 0):  # side by side, then one above the other, then from corner to corner
        low, high = max(a[i], b[i]), min(a[i + 2], b[i + 2])
        if low < high:
            near[i] = (low + (high - low) * at,) * 2
            break
    return list(zip(*near, strict=True))
